"""What the ranks know of one another through the store at which they met: where each is, and if it is alive.

Each rank writes where it is (`utils.progress.here`): a beat. A rank that does not run writes no new ones. The
rank that is the first to end the run leaves a note why.
"""

import json
import os
import socket
from dataclasses import asdict, dataclass

from utils.progress import here

END_KEY = "end"
SHOWN = 4  # ranks that a line names


@dataclass
class Beat:
    """What a rank says of itself; see `Progress`."""

    number: int = 0
    arrivals: int = 0
    step: int = 0
    doing: str = "its start"
    process: str = "not heard of yet"


class Peers:
    """The other ranks. Every method asks the store, or reads what the last `look` has brought.

    Args:
        store: of all ranks; a connection for this object alone.

    Attributes:
        beats: of each other rank, the newest.
        silent_s: of each other rank, the time without a new beat.
        end: {"rank", "message"} of the first rank that ended the run; None: none has.
    """

    def __init__(self, store, rank: int, world_size: int):
        self.store, self.rank = store, rank
        self.others = [other for other in range(world_size) if other != rank]
        self.beats = {other: Beat() for other in self.others}
        self.silent_s = dict.fromkeys(self.others, 0.0)
        self.own = Beat(process=f"process {os.getpid()} on {socket.gethostname()}")
        self.end: dict | None = None

    def beat(self) -> None:
        """Say where this rank is."""
        own = self.own
        own.number += 1
        own.arrivals, own.step, own.doing = here.arrivals, here.step, here.doing
        self.store.set(str(self.rank), json.dumps(asdict(own)))

    def look(self, passed: float) -> None:
        """Read the beats of the others, `passed` seconds after the last time."""
        for other in self.others:
            before = self.beats[other].number
            if self.store.check([str(other)]):
                self.beats[other] = Beat(**json.loads(self.store.get(str(other))))
            is_new = self.beats[other].number > before
            self.silent_s[other] = 0.0 if is_new else self.silent_s[other] + passed
        if self.store.check([END_KEY]):
            self.end = json.loads(self.store.get(END_KEY))

    def silent(self, seconds: float) -> list[int]:
        """The ranks without a new beat for that time."""
        return [other for other in self.others if self.silent_s[other] >= seconds]

    def awaited(self, silent_s: float) -> list[int]:
        """The ranks that this one waits for: behind the furthest, or silent. None, if it is behind itself."""
        arrivals = {other: beat.arrivals for other, beat in self.beats.items()}
        furthest = max(here.arrivals, *arrivals.values())
        if here.arrivals < furthest:
            return []
        return [r for r in self.others if arrivals[r] < furthest or self.silent_s[r] >= silent_s]

    def is_first_of(self, ranks: list[int]) -> bool:
        """Whether this rank is the lowest of those that are not in `ranks`."""
        return self.rank < min(set(self.others) - set(ranks), default=self.rank + 1)

    def describe(self, ranks: list[int], silent: list[int]) -> str:
        """ "rank 1 in step 12, reading images (process 4711 on gpu07)"; of many ranks the first few.

        Args:
            silent: those that are said to give no sign of life; they may have come further since.
        """
        named = []
        for r in ranks[:SHOWN]:
            beat = self.beats[r]
            place = f"step {beat.step}, {beat.doing}" if beat.step else beat.doing
            if r in silent:
                named.append(f"rank {r}, last seen in {place} ({beat.process}, no sign of life)")
            else:
                named.append(f"rank {r} in {place} ({beat.process})")
        more = f" and {len(ranks) - SHOWN} more" if len(ranks) > SHOWN else ""
        return ", ".join(named) + more

    def leave_note(self, message: str) -> bool:
        """Tell the others why this rank ends the run; returns whether it is the first to do so."""
        note = json.dumps({"rank": self.rank, "message": message})
        self.end = json.loads(self.store.compare_set(END_KEY, "", note))
        return self.end["rank"] == self.rank
