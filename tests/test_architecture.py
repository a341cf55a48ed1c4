"""A folder imports only what lies below it, and modules form no circle."""

from graphlib import TopologicalSorter

import pytest

from helpers.imports import files_of, imports, modules

# From the ground up: folder or module -> what it may import beside itself. utils/ reads the declarations of
# configs/base.py, so configs/ is the ground; the scripts on top may import all that is below them.
MAY_IMPORT = {
    "configs": "",
    "utils": "configs",
    "ranks": "utils",
    "reports": "utils",
    "loading": "utils",
    "losses": "ranks utils",
    "backbones": "utils",
    "dataset": "loading utils",
    "training": "backbones configs dataset ranks reports utils",
    "classifier": "losses utils",
    "partial_fc": "classifier losses utils",
    "eval": "backbones dataset loading ranks reports utils",
}
SCRIPTS = dict.fromkeys(["tools", "benchmarks", "train_v2"], " ".join(MAY_IMPORT))
MAY_IMPORT |= SCRIPTS

FILES = [file for name in MAY_IMPORT for file in files_of(name)]
MODULES = modules(FILES)
IMPORTS = {module: imports(module, MODULES) for module in MODULES}


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
    order = list(TopologicalSorter(IMPORTS).static_order())  # CycleError shows the modules of the circle
    assert set(order) == set(MODULES)


def test_readers_of_test_sets_import_no_script():
    scripts = {module for module, file in MODULES.items() if '__name__ == "__main__"' in file.read_text()}
    for module in MODULES:
        if module.startswith("eval.readers"):
            wrong = IMPORTS[module] & scripts
            assert not wrong, f"{MODULES[module]} imports {wrong}, which are scripts"
