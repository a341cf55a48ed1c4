#!/usr/bin/env bash
# RecordIO against MXNet itself, both ways: MXNet reads what this project writes, this project reads what MXNet
# writes, and both files are equal byte for byte. MXNet is retired and needs an old NumPy, so it gets an
# environment of its own. Needs Python 3.8 to 3.11 beside the project's own Python; MXNET_PYTHON names it.
set -euo pipefail
cd "$(dirname "$0")/../.."

old_python() {
    for candidate in ${MXNET_PYTHON:-python3.11 python3.10 python3.9 python3.8 .venv/bin/python python3}; do
        if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(not (3, 8) <= sys.version_info[:2] <= (3, 11))' \
            2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo 'error: MXNet 1.9.1 needs Python 3.8 to 3.11 with venv: MXNET_PYTHON=/path/to/python3.11' >&2
    return 1
}

ours=.venv/bin/python
theirs=.venv-mxnet/bin/python
test -x "$ours" || { echo 'error: there is no .venv: call this as "make test-mxnet"' >&2; exit 1; }
if ! "$theirs" -c 'import mxnet, numpy; assert (mxnet.__version__, numpy.__version__) == ("1.9.1", "1.23.5")' \
    2>/dev/null; then
    python=$(old_python)
    echo "Installing mxnet==1.9.1 and numpy==1.23.5 into .venv-mxnet (once)"
    rm -rf .venv-mxnet
    "$python" -m venv .venv-mxnet
    "$theirs" -m pip install --quiet --disable-pip-version-check mxnet==1.9.1 numpy==1.23.5
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export PYTHONDONTWRITEBYTECODE=1
"$ours" tests/mxnet/lqface_side.py write "$folder"
"$theirs" tests/mxnet/mxnet_side.py "$folder"
"$ours" tests/mxnet/lqface_side.py read "$folder"
echo "RecordIO: both directions agree"
