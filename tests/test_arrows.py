"""Who may import whom (the house has two floors and no circles), read from the sources without importing them."""

import ast
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
OURS = {path.stem for path in PROJECT.iterdir() if path.is_dir() or path.suffix == ".py"}
ALLOWED = {  # of ours, by package; a dotted name allows that module alone
    "models": ("models",),
    "eval": ("eval",),
    "datasets": ("datasets", "eval"),
    "configs": ("configs",),
    "engine": ("engine", "configs.schema"),
}
ALLOWED_BY_EVAL = {"numpy", "scipy"}
COMMANDS = [PROJECT / "datasets" / "check.py", PROJECT / "datasets" / "prepare.py"]  # scripts but for their place
ENTRANCES = [*PROJECT.glob("*.py"), *PROJECT.glob("tools/*.py"), *COMMANDS]


def imports(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in nodes), f"{path}: relative import"
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom)}


def within(name: str, allowed: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in allowed)


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_downwards(package):
    files = list((PROJECT / package).rglob("*.py"))
    assert files
    for path in set(files) - set(COMMANDS):
        ours = {name for name in imports(path) if name.split(".")[0] in OURS}
        assert {name for name in ours if not within(name, ALLOWED[package])} == set(), path


def test_nobody_imports_commands():
    commands = {".".join(path.relative_to(PROJECT).with_suffix("").parts) for path in COMMANDS}
    for package in ALLOWED:
        for path in (PROJECT / package).rglob("*.py"):
            assert not commands & imports(path), path


def test_eval_needs_numpy_and_scipy_alone():
    for path in (PROJECT / "eval").rglob("*.py"):
        others = {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names - {"eval"}
        assert others <= ALLOWED_BY_EVAL, path


@pytest.mark.parametrize("path", ENTRANCES, ids=lambda path: path.stem)
def test_scripts_import_without_side_effects(path):
    """Their top level defines and imports; what runs is behind `if __name__ == "__main__"`."""
    for node in ast.parse(path.read_text()).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        guarded = isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        passive = ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign
        assert docstring or guarded or isinstance(node, passive), f"{path.name}:{node.lineno}"
