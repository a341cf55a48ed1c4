"""Which module of this repository imports which, read from the source."""

import ast
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def files_of(name: str) -> list[Path]:
    """The files of a folder, or the one of a module."""
    return [*ROOT.glob(f"{name}.py"), *ROOT.glob(f"{name}/**/*.py")]


def modules(files: Iterable[Path]) -> dict[str, Path]:
    """By name, as it is imported."""
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files}
    return {name.removesuffix(".__init__"): file for name, file in names.items()}


def imports(module: str, known: dict[str, Path]) -> set[str]:
    """The known modules that a module imports, inside its functions too."""
    found = set()
    for node in ast.walk(ast.parse(known[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            folders = known[module].relative_to(ROOT).parts[: -node.level] if node.level else ()
            source = ".".join([*folders, *filter(None, [node.module])])
            found |= {name if (name := f"{source}.{alias.name}") in known else source for alias in node.names}
    return found & known.keys()
