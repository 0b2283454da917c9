"""Who may import whom: arrows go down only, without circles, read from the sources without importing them."""

import ast
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
OURS = {path.stem for path in PROJECT.iterdir() if path.is_dir() or path.suffix == ".py"}
ALLOWED = {  # of ours, by room; a dotted name allows that module alone
    "common": (),
    "eval": ("common",),
    "configs": ("common",),
    "models": ("common",),
    "datasets": ("eval", "common"),
    "engine": ("models", "datasets", "eval", "configs", "common"),
    "prediction": ("engine", "models", "datasets", "eval", "configs", "common"),
    "tools": ("engine", "prediction", "models", "datasets", "eval", "configs", "common"),
}
SEEING_A_CONFIGURATION = ("assembly", "check")  # of datasets
ALLOWED_THERE = ("configs", "models.x3d")
LIBRARIES = {"eval": {"numpy", "scipy"}, "models": {"torch", "safetensors"}}  # besides Python's own
SCRIPTS = sorted(PROJECT.glob("*.py"))
SOURCES = {room: sorted((PROJECT / room).rglob("*.py")) for room in ALLOWED}
ENTRANCES = [*SCRIPTS, *SOURCES["tools"], *(path for path in SOURCES["datasets"] if "__main__" in path.read_text())]


def imports(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in nodes), f"{path}: relative import"
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom)}


def within(name: str, allowed: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in allowed)


def allowed(room: str, path: Path) -> tuple[str, ...]:
    part = path.relative_to(PROJECT / room).parts[0].removesuffix(".py")
    return (room, *ALLOWED[room], *(ALLOWED_THERE if room == "datasets" and part in SEEING_A_CONFIGURATION else ()))


def test_every_room_has_its_arrows():
    rooms = {path.name for path in PROJECT.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert rooms - {"tests", ".venv"} == set(ALLOWED)


@pytest.mark.parametrize("room", ALLOWED)
def test_arrows_go_down(room):
    assert SOURCES[room]
    for path in SOURCES[room]:
        ours = {name for name in imports(path) if name.split(".")[0] in OURS}
        assert {name for name in ours if not within(name, allowed(room, path))} == set(), path


@pytest.mark.parametrize("room", LIBRARIES)
def test_libraries(room):
    for path in SOURCES[room]:
        others = {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names - OURS
        assert others <= LIBRARIES[room], path


def modules_of(path: Path) -> set[str]:
    """Modules of ours that a file needs; of a package it names, the modules it takes from there."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (submodules & MODULES.keys()) or {node.module}
    return names & MODULES.keys()


MODULES = {
    ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [*SCRIPTS, *(path for paths in SOURCES.values() for path in paths)]
}


def test_no_circles():
    needs = {name: modules_of(path) - {name} for name, path in MODULES.items()}
    while free := [name for name, others in needs.items() if not others & needs.keys()]:
        for name in free:
            del needs[name]
    assert needs == {}


@pytest.mark.parametrize("path", ENTRANCES, ids=lambda path: "/".join(path.relative_to(PROJECT).parts))
def test_scripts_import_without_side_effects(path):
    """Their top level defines and imports; what runs is behind `if __name__ == "__main__"`."""
    for node in ast.parse(path.read_text()).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        guarded = isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        passive = ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign
        assert docstring or guarded or isinstance(node, passive), f"{path.name}:{node.lineno}"
