"""requirements.lock holds what requirements.txt and constraints.txt say, with a hash each and no address."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text()


def pins(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", text, re.MULTILINE))


def test_every_package_is_locked_at_the_tested_version():
    wanted = re.findall(r"^([a-z0-9-]+)>=", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    tested = pins((ROOT / "constraints.txt").read_text())
    assert len(wanted) > 15
    assert {name: pins(LOCK)[name] for name in wanted} == {name: tested[name] for name in wanted}


def test_every_file_has_a_hash_and_no_address():
    assert len(pins(LOCK)) == len(re.findall(r"--hash=sha256:[0-9a-f]{64}$", LOCK, re.MULTILINE)) > 50
    assert not re.search(r"://|--index|--find-links|@ ", LOCK)
