"""Where this process stands in its run: `here`, which the run writes for those who have to say or decide it.

They are the watchdog (ranks/watchdog.py), the stop after a signal (ranks/preemption.py) and the last line
after Ctrl-C (utils/command_line.py). To write costs an attribute or two, and nothing waits.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """What this process does, in which step, and whether it is to stop.

    Attributes:
        step: the one that is being done, from 1; 0 before the first.
        saved: step of the newest checkpoint; None: there is none.
        doing: what it does, to be shown.
        arrivals: how often it has come to a collective, or begun or ended a part of the run. Ranks run the
            same program: those with the fewest arrivals are the ones that the others wait for.
        stop_wanted: the signal that has asked this rank to stop, by name; "" before.
        stop_agreed: whether any rank had been asked when the ranks last compared; equal on every rank.
    """

    def __init__(self):
        self.begin()

    def begin(self) -> None:
        """Forget an earlier run in this process."""
        self.step, self.saved, self.doing, self.arrivals = 0, None, "its start", 0
        self.stop_wanted, self.stop_agreed = "", False

    @contextmanager
    def part(self, doing: str) -> Iterator[None]:
        """While entered, `doing` is what this process does. As a decorator: during each call."""
        outside, self.doing = self.doing, doing
        self.arrivals += 1
        try:
            yield
        finally:
            self.doing = outside
            self.arrivals += 1

    def kept_and_lost(self) -> str:
        """What an end at this place keeps and loses, as a part of a message; "" before the first step."""
        if not self.step:
            return ""
        if self.saved is None:
            return "there is no checkpoint yet, so all steps are lost"
        kept, first = f"the checkpoint of step {self.saved} is kept", self.saved + 1
        if first > self.step:
            return kept
        return f"{kept}, " + (
            f"step {first} is lost" if first == self.step else f"steps {first} to {self.step} are lost"
        )


here = Progress()
