"""A folder imports only what lies below it, and modules form no circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the ground up: folder or module -> what it may import beside itself. utils/ reads the declarations of
# configs/base.py, so configs/ is the ground; the scripts on top may import all that is below them.
MAY_IMPORT = {
    "configs": "",
    "utils": "configs",
    "ranks": "utils",
    "loading": "utils",
    "losses": "ranks utils",
    "backbones": "utils",
    "dataset": "loading utils",
    "training": "backbones configs dataset ranks utils",
    "classifier": "losses utils",
    "partial_fc": "classifier losses utils",
    "eval": "backbones dataset ranks utils",
}
SCRIPTS = dict.fromkeys(["tools", "benchmarks", "train_v2"], " ".join(MAY_IMPORT))
MAY_IMPORT |= SCRIPTS

FILES = [file for name in MAY_IMPORT for file in [*ROOT.glob(f"{name}.py"), *ROOT.glob(f"{name}/**/*.py")]]
NAMES = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in FILES]
MODULES = {name.removesuffix(".__init__"): file for name, file in zip(NAMES, FILES)}


def imports(module: str) -> set[str]:
    """The modules of this repository that a module imports, inside its functions too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            folders = MODULES[module].relative_to(ROOT).parts[: -node.level] if node.level else ()
            source = ".".join([*folders, *filter(None, [node.module])])
            found |= {
                name if (name := f"{source}.{alias.name}") in MODULES else source for alias in node.names
            }
    return found & MODULES.keys()


IMPORTS = {module: imports(module) for module in MODULES}


def test_the_order_of_folders_has_no_circle():
    for i, (folder, below) in enumerate(MAY_IMPORT.items()):
        assert set(below.split()) <= set(list(MAY_IMPORT)[:i]), folder


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_what_lies_below_it(folder):
    allowed = {folder, *MAY_IMPORT[folder].split()}
    for module, file in MODULES.items():
        if module.split(".")[0] == folder:
            wrong = {other for other in IMPORTS[module] if other.split(".")[0] not in allowed}
            assert not wrong, f"{file} imports {wrong}; {folder} may import {MAY_IMPORT[folder] or 'nothing'}"


def test_modules_form_no_circle():
    TopologicalSorter(IMPORTS).prepare()  # CycleError shows the modules of the circle


def test_readers_of_test_sets_import_no_script():
    scripts = {module for module, file in MODULES.items() if '__name__ == "__main__"' in file.read_text()}
    for module in MODULES:
        if module.startswith("eval.readers"):
            wrong = IMPORTS[module] & scripts
            assert not wrong, f"{MODULES[module]} imports {wrong}, which are scripts"
