"""Who waits for whom: a thread of each rank names the rank that does not come, and ends too long a wait.

Once a second it beats (`ranks.peers`). When its process gets nowhere for long, it looks where the other ranks
are. Those that have come less far in the program are the ones it waits for; so are silent ones: stopped,
killed, or on a machine that is gone. The first of the waiting ranks says so in one line, and again after
twice the time. At the time-out, or when a collective fails, one line names them, in place of tracebacks.

The training process itself writes two or three attributes a step for this, and nothing more.
"""

import logging
import signal
import statistics
import threading
import time
from collections import deque
from datetime import timedelta
from typing import NoReturn

from ranks.peers import Peers
from ranks.preemption import SIGNALS, arrived_signals
from utils.command_line import GRACE_S, EndOfScript, explainers, interrupted
from utils.distributed import (
    change_timeout,
    connect_to_store,
    is_lost_connection,
    rank,
    world_size,
)
from utils.last_words import end_process, leave_with_others, subscribe
from utils.log_files import LOGGER_NAME
from utils.progress import here

BEAT_S = 1.0
LOOK_S = 5.0  # between two looks at the others
SILENT_S = 10.0  # without a beat: that process does not run
PATIENCE_S = 30.0  # before a line; PATIENCE_STEPS median steps if they are longer
PATIENCE_STEPS = 20
SLOW_PARTS = ("verification", "saving")  # in which some ranks may well wait while another works
SLOW_PATIENCE_S = 300.0
STORE_S = 5.0  # for an answer of the store
EXPLAIN_S, EXPLAIN_LOOK_S = 4.5, 0.5  # to find out which rank is gone, after a collective has failed


def watch_ranks(timeout_minutes: float | None = None) -> None:
    """Begin the record of where this process stands and, with several ranks, watch the others.

    Args:
        timeout_minutes: after which a wait for another rank ends the run; None: the time-out of the group.
    """
    here.begin()
    timeout = change_timeout(timeout_minutes)
    if world_size() > 1:
        peers = Peers(connect_to_store("watchdog", STORE_S), rank(), world_size())
        watchdog = Watchdog(peers, timeout)
        subscribe(watchdog.leave_note)
        explainers.append(watchdog.explain)
        watchdog.start()


class Watchdog(threading.Thread):
    """The thread of this rank; it ends when the process leaves its group."""

    def __init__(self, peers: Peers, timeout: timedelta):
        super().__init__(name="watchdog", daemon=True)
        self.peers, self.timeout_s = peers, timeout.total_seconds()
        self.prints_last_line = True  # of the run; one rank does
        self.place, self.since = (0, 0), ""  # where this rank is, and since when
        self.waited_s = self.looked_s = self.interrupted_s = self.ended_s = 0.0
        self.stepped, self.step_times = time.monotonic(), deque[float](maxlen=100)
        self.next_line_s, self.has_told, self.signal = PATIENCE_S, False, ""
        self.is_ending = self.has_left = False
        self.has_store = True

    def run(self) -> None:
        """Beat and watch every BEAT_S seconds, until the group or its store is gone."""
        last = time.monotonic()
        while world_size() > 1 and not self.has_left:
            time.sleep(BEAT_S)
            now = time.monotonic()
            passed, last = min(now - last, 2 * BEAT_S), now  # a process that was suspended has not waited
            try:
                self.peers.beat()
                if not self.is_ending:
                    self.watch(passed)
            except RuntimeError:
                return  # the store is gone, and with it rank 0 or its torchrun: the collectives will say so

    def watch(self, passed: float) -> None:
        """One turn of the thread, `passed` seconds after the one before."""
        self._heed(arrived_signals(), passed)
        if self.place != (here.step, here.arrivals):
            self._go_on()
            return
        self.waited_s += passed
        self.looked_s += passed
        if self.looked_s >= LOOK_S or self._is_too_long():
            self.peers.look(self.looked_s)
            self._judge(self.looked_s)
            self.looked_s = 0.0

    def _go_on(self) -> None:
        """This rank has got further: it waits for nobody, or for somebody else."""
        steps = here.step - self.place[0]
        if steps:
            now = time.monotonic()
            if self.place[0]:  # before the first one comes the start
                self.step_times.append((now - self.stepped) / steps)
            self.stepped = now
        if self.has_told:
            self._log(f"the wait since {self.since} is over, after {self.waited_s:.0f} s")
        self.place, self.since = (here.step, here.arrivals), time.strftime("%H:%M:%S")
        self.waited_s, self.looked_s, self.has_told = 0.0, 0.0, False
        self.next_line_s = max(PATIENCE_S, PATIENCE_STEPS * statistics.median(self.step_times or [0.0]))

    def _heed(self, arrived: set[int], passed: float) -> None:
        """Signals that the main thread may not see: it waits in a library, and handlers wait for it."""
        for number in arrived.intersection(SIGNALS):
            self.signal = signal.Signals(number).name
        if signal.SIGINT in arrived or self.interrupted_s:
            self.interrupted_s += passed
            if self.interrupted_s > GRACE_S + 1:
                end_process(interrupted(), 130)

    def _judge(self, passed: float) -> None:
        """After a look: say a line or end the process, if it is time."""
        peers, awaited = self.peers, self.peers.awaited(SILENT_S)
        silent = [other for other in awaited if other in peers.silent(SILENT_S)]
        if peers.end:
            self.ended_s += passed
            if self.ended_s > SILENT_S:  # the main thread has not found out by itself
                self._give_up(self._ended())
        if self.signal and silent:
            self._give_up(f"error: stopped by {self.signal}, waiting {self._for(silent)}")
        if awaited and self._is_too_long():
            self._give_up(f"error: waited {self.timeout_s / 60:g} minutes in vain {self._for(awaited)}")
        slow = not silent and all(peers.beats[other].doing in SLOW_PARTS for other in awaited)
        if awaited and self.waited_s >= max(self.next_line_s, SLOW_PATIENCE_S if slow else 0.0):
            self.next_line_s = 2 * self.waited_s
            if peers.is_first_of(awaited):
                self.has_told = True
                self._log(f"waiting since {self.since} ({self.waited_s:.0f} s) {self._for(awaited)}")

    def _is_too_long(self) -> bool:
        return self.waited_s >= 0.95 * self.timeout_s  # then comes torch's own time-out, with tracebacks

    def _for(self, ranks: list[int]) -> str:
        return f"for {self.peers.describe(ranks, self.peers.silent(SILENT_S))}"

    def leave_note(self, message: str, ranks_know: bool) -> None:
        """Tell the other ranks why this one ends; the first to do so prints the line for all."""
        self.has_left = self.is_ending = True
        if (
            self.has_store and not ranks_know
        ):  # else rank 0 may have left with the store, of which torch would warn at length
            self.prints_last_line = self.peers.leave_note(message)

    def _give_up(self, reason: str) -> NoReturn:
        line = _with_what_is_kept(reason)
        leave_with_others(line)
        end_process(line if self.prints_last_line else "", 1)

    def explain(self, error: Exception) -> EndOfScript | None:
        """The end of this rank after a collective has failed because of another rank; None: not for that."""
        if not is_lost_connection(error):
            return None
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it, but the search takes a while
        self.is_ending = True
        line = _with_what_is_kept(self._reason(error))
        leave_with_others(line)
        return EndOfScript(line if self.prints_last_line else "", 1)

    def _reason(self, error: Exception) -> str:
        peers = self.peers
        try:
            for _ in range(round(EXPLAIN_S / EXPLAIN_LOOK_S)):
                peers.look(EXPLAIN_LOOK_S)
                if peers.end:
                    return self._ended()
                time.sleep(EXPLAIN_LOOK_S)
        except RuntimeError:
            self.has_store = False
            return "error: rank 0 is gone, or torchrun on its machine"
        silent, timed_out = peers.silent(EXPLAIN_S - BEAT_S), "timed out" in str(error).lower()
        if silent and not timed_out:
            return f"error: lost {peers.describe(silent, silent)}: killed (out of memory?) or cut off"
        if awaited := peers.awaited(EXPLAIN_S - BEAT_S):
            return f"error: waited in vain for {peers.describe(awaited, silent)}"
        return f"error: the connection between ranks broke, but all of them run: {str(error).splitlines()[0]}"

    def _ended(self) -> str:
        """Why the rank that was the first to end has ended: the last line of its message."""
        if self.peers.end["rank"] == self.peers.rank:  # the watchdog of this rank, a moment ago
            return self.peers.end["message"]
        why = self.peers.end["message"].strip().splitlines()[-1].removeprefix("error: ")
        return f"error: rank {self.peers.end['rank']} has ended the run: {why}"

    def _log(self, line: str) -> None:
        logging.getLogger(LOGGER_NAME).warning(line)


def _with_what_is_kept(line: str) -> str:
    kept = here.kept_and_lost()
    return f"{line}; {kept}" if kept and kept not in line else line
