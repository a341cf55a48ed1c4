"""The demo runs every protocol: the table names each script of eval/, and a failure ends the run."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools import evaluate_demo
from tools.demo.trees import PROTOCOLS, TREES, Protocol
from tools.make_demo import VERIFICATION_SETS

EVAL = Path(__file__).parents[1] / "eval"
DATA = Path("data/demo")
MODEL = Path("run/model.pt")


def test_every_script_of_eval_is_a_protocol_of_the_demo():
    scripts = {path.stem for path in EVAL.glob("*.py") if '__name__ == "__main__"' in path.read_text()}
    missing, unknown = scripts - set(PROTOCOLS), set(PROTOCOLS) - scripts
    assert not missing, f"PROTOCOLS in tools/demo/trees.py needs a row for {', '.join(sorted(missing))}"
    assert not unknown, f"eval/ has no script {', '.join(sorted(unknown))}"


def test_every_path_of_the_table_is_drawn():
    drawn = {".", *TREES, *(f"{name}.bin" for name in VERIFICATION_SETS)}
    assert {path for protocol in PROTOCOLS.values() for path in protocol.data} <= drawn


def test_paths_are_inside_the_data_and_quick_options_come_last():
    protocol = Protocol(("a.bin", "tree"), "--list {data}/list.csv --pairs 40", quick="--pairs 20")
    line = evaluate_demo.command("eval_x", protocol, MODEL, DATA, quick=True)
    assert line == [
        *(sys.executable, str(EVAL / "eval_x.py"), "--model", "run/model.pt"),
        *("--data", "data/demo/a.bin", "data/demo/tree", "--list", "data/demo/list.csv"),
        *("--pairs", "40", "--pairs", "20"),
    ]
    assert evaluate_demo.command("eval_x", protocol, MODEL, DATA, quick=False) == line[:-2]


def run(monkeypatch, folder: Path, returncode: int = 0, reports: bool = True) -> list[str]:
    """The script, with evaluations that only end or leave a report; returns the names of those that ran."""
    ran = []

    def evaluation(line):
        name = Path(line[1]).stem
        ran.append(name)
        report = folder / f"model.pt.{name.removeprefix('eval_')}" / "report.html"
        if reports:
            report.parent.mkdir()
            report.touch()
        return subprocess.CompletedProcess(line, returncode)

    monkeypatch.setattr(evaluate_demo.subprocess, "run", evaluation)
    arguments = ["evaluate_demo.py", "--model", str(folder / "model.pt"), "--data", "data/demo"]
    monkeypatch.setattr(sys, "argv", arguments)
    evaluate_demo.main()
    return ran


def test_all_protocols_are_run_and_their_commands_shown(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, tmp_path) == list(PROTOCOLS)
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in shown] == [["python", f"eval/{name}.py"] for name in PROTOCOLS]


@pytest.mark.parametrize(
    ("outcome", "error", "message"),
    [
        ({"returncode": 3}, ValueError, r"eval/verification.py ended with code 3"),
        ({"reports": False}, FileNotFoundError, r"eval/verification.py left no report .*report.html"),
    ],
)
def test_a_protocol_that_fails_or_leaves_no_report_ends_the_run(
    monkeypatch, tmp_path, outcome, error, message
):
    with pytest.raises(error, match=message):
        run(monkeypatch, tmp_path, **outcome)
