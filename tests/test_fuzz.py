"""The watch of `make fuzz` sees what it is to see, and a few inputs of each format do no harm."""

import mmap
import os
import time
from pathlib import Path

import pytest

from fuzz import watch
from fuzz.targets import TARGETS, build

NUM_INPUTS = 40


class Planted:
    """A reader with a fault: its only input is the name of what happens."""

    checksum = False

    def __init__(self, fault: str):
        self.name = fault

    def mutate(self, chance):
        return {"file": self.name.encode()}

    def names(self, message: str, folder: Path) -> bool:
        return str(folder) in message

    def is_sound(self, folder: Path) -> bool:
        return FAULTS[(folder / "file").read_text()](folder)


def refuse(message: str):
    raise ValueError(message)


FAULTS = {
    "same": lambda folder: True,
    "other": lambda folder: False,
    "told": lambda folder: refuse(f"{folder}/file is damaged"),
    "vague": lambda folder: refuse("it is damaged"),
    "traceback": lambda folder: {}["key"],
    # Mapped: a process that has worked before may have that much free already, which is no growth.
    "memory": lambda folder: mmap.mmap(-1, 64 << 20).write(bytes(64 << 20)) > 0,
    "hang": lambda folder: time.sleep(30),
    "crash": lambda folder: os.kill(os.getpid(), 11),
    "executed": lambda folder: (folder / "canary").write_text("!"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_watch_tells_each_fault_and_goes_on_after_it(fault, tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "SECONDS", 1)
    monkeypatch.setattr(watch, "MEMORY_MIB", 10 if fault == "memory" else 2048)
    monkeypatch.setattr(watch.resource, "setrlimit", lambda *_: None)  # 64 MiB have to be there to be seen
    counts, found = watch.watch(Planted(fault), seed=0, count=2, folder=tmp_path)
    assert counts == {fault: 2}
    assert [(each.number, each.kind) for each in found] == (
        [(0, fault), (1, fault)] if fault in watch.FAULTS else []
    )


def test_other_numbers_in_spite_of_a_checksum_are_a_fault(tmp_path):
    target = Planted("other")
    target.checksum = True
    assert watch.watch(target, 0, 1, tmp_path)[0] == {"changed": 1}


@pytest.mark.parametrize("name", TARGETS)
def test_a_few_inputs_of_each_format_do_no_harm(name, tmp_path):
    counts, faults = watch.watch(build(name), seed=0, count=NUM_INPUTS, folder=tmp_path)
    assert faults == []
    assert counts.total() == NUM_INPUTS
    assert counts["told"] > 0
