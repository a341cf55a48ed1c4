"""What a run writes down: readable lines, numbers that survive a kill, and curves."""

import contextlib
import errno
import fcntl
import json
import logging
import math
import os
import re
import struct
import termios
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.disk import file_size_limit
from reports.curves import plot_training_curves
from reports.tensorboard_log import TensorBoardLog
from utils import log_files
from utils import logging as run_logging
from utils.logging import RunLog, read_metrics, setup_logging


class Clock:
    """time.monotonic, moved by hand."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(run_logging.time, "monotonic", lambda: self.now)


class Terminal:
    """A real one, in place of stdout."""

    def __init__(self, monkeypatch, columns):
        self.reader, writer = os.openpty()
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.stdout = os.fdopen(writer, "w", encoding="utf-8")
        monkeypatch.setattr("sys.stdout", self.stdout)

    def shown(self):
        print(end="\0", file=self.stdout, flush=True)
        text = b""
        while not text.endswith(b"\0"):  # the kernel hands it over in pieces, in its own time
            text += os.read(self.reader, 1 << 16)
        self.stdout.close()
        os.close(self.reader)
        return text[:-1].decode()


@pytest.fixture(autouse=True)
def no_handlers_left():
    yield
    logger = logging.getLogger("lqface")
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()


def run_log(folder, rank=0, first_step=0, tensorboard=False):
    setup_logging(folder, rank)
    mirrors = [TensorBoardLog(folder / "tensorboard", first_step)] if tensorboard and rank == 0 else []
    return RunLog(
        folder, rank=rank, total_steps=5000, global_batch=64, first_step=first_step, mirrors=mirrors
    )


def log_step(log, step, loss=12.345, **scalars):
    log.log_step(step, epoch=1.2, loss=loss, lr=0.05, **scalars)


def wait(log, clock, seconds):
    with log.waiting():
        clock.now += seconds


def result(mean=0.9, xnorm=21.5):
    numbers = {"val": 0.5, "far": 0.001, "rate_in_words": "TAR 0.5000 at FAR 0.0010", "xnorm": xnorm}
    return SimpleNamespace(accuracy=np.array([mean - 0.02, mean + 0.02]), **numbers)


def test_a_line_says_step_loss_rate_speed_wait_remaining_time_and_memory(tmp_path, monkeypatch, capsys):
    clock = Clock(monkeypatch)
    monkeypatch.setattr(run_logging, "peak_memory_mib", lambda: 1229.0)
    log = run_log(tmp_path)
    clock.now += 9.7
    wait(log, clock, 0.3)
    log_step(log, 100)
    expected = (
        "step 100/5000  epoch 1.2  loss 12.345  lr 0.0500  640 img/s  wait 3%  ETA 0:08:10  mem 1.2 GiB"
    )
    assert re.fullmatch(r"\d\d:\d\d:\d\d  " + re.escape(expected) + "\n", capsys.readouterr().out)
    assert (tmp_path / "train.log").read_text().endswith(expected + "\n")


def test_every_number_of_a_step_reaches_the_metrics_at_once(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    log = run_log(tmp_path)
    clock.now += 1.5
    wait(log, clock, 0.5)
    log_step(log, 10, loss=torch.tensor(3.5), ce=torch.tensor(3.25))
    (line,) = read_metrics(tmp_path / "metrics.jsonl")  # before close: flushed
    assert line.pop("memory_mib") > 10
    expected = {"kind": "train", "step": 10, "epoch": 1.2, "loss": 3.5, "lr": 0.05}
    assert line == expected | {"images_per_second": 320.0, "data_wait": 0.25, "ce": 3.25}


def test_speed_leaves_out_evaluations_and_what_restarts_the_clock(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    log = run_log(tmp_path)
    clock.now += 1
    log_step(log, 10)
    clock.now += 60  # an evaluation
    log.log_eval(10, {"lfw": result()})
    clock.now += 1
    log_step(log, 20)
    clock.now += 2
    log_step(log, 30)
    clock.now += 30  # a checkpoint
    log.restart_clock(30)
    clock.now += 1
    log_step(log, 40)
    speeds = [
        line["images_per_second"] for line in read_metrics(tmp_path / "metrics.jsonl") if "loss" in line
    ]
    assert speeds == [640, 640, 320, 640]


def test_waiting_is_a_share_of_training_alone(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    log = run_log(tmp_path)
    wait(log, clock, 3)
    clock.now += 60  # an evaluation: what was waited before it belongs to steps that are not measured
    log.log_eval(5, {"lfw": result()})
    wait(log, clock, 1)
    clock.now += 3
    log_step(log, 10)
    clock.now += 4
    log_step(log, 20)
    lines = [line for line in read_metrics(tmp_path / "metrics.jsonl") if line["kind"] == "train"]
    assert [line["data_wait"] for line in lines] == [0.25, 0]


def test_an_evaluation_is_logged_with_mean_and_deviation(tmp_path, capsys):
    log = run_log(tmp_path)
    log.log_eval(10, {"lfw": result(0.9), "agedb_30": result(0.8, xnorm=None)})
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {
            "kind": "eval",
            "step": 10,
            "set": name,
            "accuracy": mean,
            "accuracy_std": std,
            "val": 0.5,
            "far": 0.001,
        }
        | ({"xnorm": 21.5} if name == "lfw" else {})
        for name, mean, std in [("lfw", 0.9, pytest.approx(0.02)), ("agedb_30", 0.8, pytest.approx(0.02))]
    ]
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("step 10  lfw       accuracy 0.9000 ± 0.0200  TAR 0.5000 at FAR 0.0010  norm 21.50")
    assert second.endswith("step 10  agedb_30  accuracy 0.8000 ± 0.0200  TAR 0.5000 at FAR 0.0010")


def test_what_is_not_finite_is_null_so_that_every_line_is_json(tmp_path):
    log = run_log(tmp_path)
    log_step(log, 10, loss=math.nan, grad_norm=math.inf)
    text = (tmp_path / "metrics.jsonl").read_text()
    line = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (line["loss"], line["grad_norm"]) == (None, None)


def test_resuming_drops_the_lines_after_the_checkpoint_and_a_cut_off_one(tmp_path):
    log = run_log(tmp_path)
    for step in (10, 20, 30):
        log_step(log, step)
        log.log_eval(step, {"lfw": result()})
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "st')  # killed while writing
    log = run_log(tmp_path, first_step=20)
    log_step(log, 25)
    log.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    steps = [(line["kind"], line["step"]) for line in map(json.loads, lines)]
    assert steps == [("train", 10), ("eval", 10), ("train", 20), ("eval", 20), ("train", 25)]


def test_a_run_that_begins_anew_begins_a_new_file(tmp_path):
    for _ in range(2):
        log = run_log(tmp_path)
        log.log_eval(0, {"lfw": result()})
        log.close()
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


def test_other_ranks_are_silent_but_for_warnings(tmp_path, capsys):
    folder = tmp_path / "run"
    logger = setup_logging(folder, rank=1)
    log = RunLog(folder, rank=1, total_steps=10, global_batch=8)
    log_step(log, 1)
    log.log_eval(1, {"lfw": result()})
    log.close()
    logger.info("not said")
    logger.warning("said")
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"\d\d:\d\d:\d\d  rank 1: said\n", err)
    assert not folder.exists()


def test_setting_up_again_does_not_repeat_lines(tmp_path, capsys):
    for name in ("a", "b"):
        setup_logging(tmp_path / name, 0).info("once")
    assert capsys.readouterr().out.count("once") == 2
    assert (tmp_path / "a" / "train.log").read_text().count("once") == 1


def test_lines_of_others_do_not_cost_the_curves(tmp_path):
    log = run_log(tmp_path)
    log_step(log, 10)
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        for line in ({}, {"loss": "low"}, {"set": 3}, {"set": "a", "accuracy": "high", "accuracy_std": 0}):
            for kind in ("train", "eval", "mine"):
                file.write(json.dumps({"kind": kind, "step": 20, **line}) + "\n")
    plot_training_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_lines_that_are_damaged_are_left_out(tmp_path):
    log = run_log(tmp_path)
    log_step(log, 10)
    log.close()
    path = tmp_path / "metrics.jsonl"
    good = path.read_bytes()
    bad = (
        good[:-40],
        bytes(100),
        b"\xff\xfe",
        b"[1]",
        b'{"kind": "train"}',
        b"null",
        b'{"step": "3"}',
        b"7",
        b"[" * 5000,
    )
    path.write_bytes(good + b"\n".join(bad) + b"\n" + good)
    assert read_metrics(path) == [json.loads(good)] * 2
    log = run_log(tmp_path, first_step=10)
    log_step(log, 20)
    log.close()
    assert [line["step"] for line in read_metrics(path)] == [10, 10, 20]
    assert len(path.read_bytes().splitlines()) == 3


def full_disk(monkeypatch, accepts: int = 0):
    """From now on os.write takes `accepts` bytes of each line, or reports a full disk."""

    def write(descriptor, data):
        if accepts:
            return real_write(descriptor, data[:accepts])
        raise OSError(errno.ENOSPC, "No space left on device")

    real_write = os.write
    monkeypatch.setattr(log_files.os, "write", write)


@pytest.mark.parametrize("accepts", [0, 10])
def test_a_full_disk_is_told_once_and_lines_are_whole_or_missing(tmp_path, monkeypatch, capsys, accepts):
    log = run_log(tmp_path)
    log_step(log, 10)
    with monkeypatch.context() as patch:
        full_disk(patch, accepts)
        for step in (20, 30):
            log_step(log, step)
    log_step(log, 40)  # there is room again
    log.close()
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [10, 40]
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 2
    assert re.findall(r"step (\d+)/", (tmp_path / "train.log").read_text()) == ["10", "40"]
    out, err = capsys.readouterr()
    told = f"cannot write {tmp_path}/metrics.jsonl: No space left on device. Training goes on; logs and"
    assert out.count("cannot write") == out.count(told) == 1
    assert re.findall(r"step (\d+)/", out) == ["10", "20", "30", "40"]
    assert err == ""


def test_a_full_disk_behind_stdout_costs_no_run(tmp_path, monkeypatch):
    log = run_log(tmp_path)
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        log_step(log, 10)
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()
    assert "step 10/5000" in (tmp_path / "train.log").read_text()


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_tensorboard_on_a_full_disk_is_told_once_without_a_traceback(tmp_path, capsys):
    log = run_log(tmp_path, tensorboard=True)
    with file_size_limit(3000):
        for step in range(10, 100, 10):
            log_step(log, step)
            log.log_eval(step, {"lfw": result()})  # flushes
        log.close()
    out, err = capsys.readouterr()
    assert out.count("cannot write") == 1
    assert f"cannot write {tmp_path}/tensorboard: File too large. Training goes on" in out
    assert "step 90/5000" in out
    assert "Traceback" not in err


def test_a_picture_that_cannot_be_drawn_is_told_and_nothing_is_left_of_it(tmp_path, capsys):
    log = run_log(tmp_path)

    def fail(error):
        def paint(file):
            file.write_text("half")
            raise error

        return paint

    assert log.draw("fine.png", lambda file: file.write_text("picture"))
    assert not log.draw("a.png", fail(OSError(errno.ENOSPC, "No space left on device")))
    assert not log.draw("b.png", fail(KeyError("lr")))
    assert not log.draw("fine.png", fail(ValueError("no point")))
    assert (tmp_path / "fine.png").read_text() == "picture"
    assert {file.name for file in tmp_path.iterdir()} == {"fine.png", "train.log", "metrics.jsonl"}
    told = re.findall(r"cannot write \S+/a.png: No space|\w+.png is not drawn: .*", capsys.readouterr().out)
    assert [line[-15:] for line in told] == ["a.png: No space", "not drawn: 'lr'", "drawn: no point"]
    other = RunLog(tmp_path / "other", rank=1, total_steps=1, global_batch=1)
    assert not other.draw("a.png", fail(AssertionError))


def run_on_a_terminal(folder, monkeypatch, columns):
    terminal = Terminal(monkeypatch, columns)
    monkeypatch.setattr(run_logging, "peak_memory_mib", lambda: 1229.0)
    clock = Clock(monkeypatch)
    log = run_log(folder, first_step=1000)
    clock.now += 97
    wait(log, clock, 3)
    log_step(log, 2500)
    log.log_eval(2500, {"lfw": result()})
    log.close()
    return terminal.shown()


LINE = "step 2500/5000  epoch 1.2  loss 12.345  lr 0.0500  960 img/s  wait 3%  ETA 0:02:47  mem 1.2 GiB"


def test_on_a_terminal_a_bar_replaces_the_lines(tmp_path, monkeypatch):
    shown = run_on_a_terminal(tmp_path, monkeypatch, columns=150)
    assert f" 50% {'█' * 8}{' ' * 8} {LINE}" in shown
    assert re.search(r"\r\d\d:\d\d:\d\d  step 2500  lfw  accuracy 0\.9000", shown)  # above the bar
    assert not re.search(r"\d\d:\d\d:\d\d  step 2500/5000", shown)  # no line for what the bar says
    assert LINE in (tmp_path / "train.log").read_text()


def test_a_narrow_terminal_never_wraps(tmp_path, monkeypatch):
    shown = run_on_a_terminal(tmp_path, monkeypatch, columns=60)
    frames = [frame for frame in re.split(r"[\r\n]+", shown) if "%" in frame]
    assert frames[-1].startswith(" 50% step 2500/5000  epoch 1.2  loss 12.345")
    assert max(map(len, frames)) < 60


def test_a_terminal_that_does_not_tell_its_width_gets_lines(tmp_path, monkeypatch):
    assert LINE in run_on_a_terminal(tmp_path, monkeypatch, columns=0)


def test_tensorboard_gets_every_number(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = run_log(tmp_path, tensorboard=True)
    log_step(log, 10, loss=2.0, ce=1.5)
    log.log_eval(10, {"lfw": result(0.75)})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    values = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    assert {"train/loss": 2.0, "train/ce": 1.5, "accuracy/lfw": 0.75}.items() <= values.items()
    assert {"train/lr", "train/images_per_second", "train/data_wait", "accuracy_std/lfw"} <= values.keys()


def png_size(path):
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n")
    return struct.unpack(">II", data[16:24])


@pytest.mark.parametrize("num_steps", [1, 2, 200])
@pytest.mark.parametrize("sets", [[], ["lfw"], ["lfw", "cfp_fp", "agedb_30"]])
def test_curves_are_drawn_of_any_number_of_points_and_sets(tmp_path, num_steps, sets):
    log = run_log(tmp_path)
    for step in range(1, num_steps + 1):
        log_step(log, step, loss=math.nan if step % 7 == 0 else 10 / step)
    log.log_eval(num_steps, {name: result(0.9) for name in sets})
    log.close()
    plot_training_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert png_size(tmp_path / "curves.png") == (1560, 962)


def test_curves_of_a_run_without_steps_are_an_error(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match="holds no training step"):
        plot_training_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
