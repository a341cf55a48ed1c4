"""The state of the repository, as runs write it down."""

import subprocess

from utils import run_info


def test_changed_files_make_the_repository_dirty_and_new_ones_do_not(tmp_path, monkeypatch):
    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True)

    monkeypatch.setattr(run_info, "ROOT", tmp_path)
    assert run_info.git_state() == {"commit": None, "dirty": None}
    (tmp_path / "code.py").write_text("1\n")
    git("init"), git("add", "code.py"), git("commit", "-m", "first")
    state = run_info.git_state()
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (tmp_path / "results.json").write_text("{}\n")  # such as an evaluation's
    assert run_info.git_state() == state
    (tmp_path / "code.py").write_text("2\n")
    assert run_info.git_state() == state | {"dirty": True}
