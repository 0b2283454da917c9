"""README.md, CONTRIBUTING.md and docs/: what they name exists, and code blocks marked with `run` work.

A block is marked in its first line, ```bash run or ```python run. The blocks of a page run in order, in one temporary
folder that looks like the project's; they have half a minute in all, and neither a GPU nor make.
"""

import os
import pkgutil
import re
import shlex
import subprocess
import sys
import textwrap
from collections import defaultdict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from configs.schema import Config

PROJECT = Path(__file__).resolve().parents[1]
PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]
TEXTS = {str(page.relative_to(PROJECT)): page.read_text() for page in PAGES}
ROOMS = "common|configs|datasets|docs|engine|eval|models|prediction|tests|tools"
OPTIONS = {f"{section}.{name}" for section, options in Config().to_dict().items() for name in options}
FENCE = re.compile(r"^( *)```(\w*)( run)?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
OF_THE_READER = ("config.yaml", "own.yaml")  # not files of the project
README_LINES = 160


def named(pattern: str, *, python: bool = True) -> list[tuple[str, str]]:
    """(page, what the pattern's group matches there), each once; on request without the Python blocks."""
    found = []
    for page, text in TEXTS.items():
        if not python:
            text = FENCE.sub(lambda fence: "" if fence[2] == "python" else fence[0], text)
        found += [(page, name) for name in sorted(set(re.findall(pattern, text)))]
    return found


def blocks(page: str) -> list[tuple[str, str, bool]]:
    """Language, text and mark of each code block of a page."""
    return [(language, textwrap.dedent(text), bool(mark)) for _, language, mark, text in FENCE.findall(TEXTS[page])]


def commands() -> dict[str, set[str]]:
    """{module or script: its options} of all `python ...` commands, in blocks and in the text."""
    found = defaultdict(set)
    for page, text in TEXTS.items():
        lines = [line for language, block, _ in blocks(page) if language == "bash" for line in joined(block)]
        for line in [*lines, *re.findall(r"`(python [^`\n]+)`", text)]:
            if line.startswith("python "):
                words = shlex.split(line, comments=True)[1:]
                name = words[1] if words[0] == "-m" else words[0].removesuffix(".py")
                found[name] |= {word.partition("=")[0] for word in words[1:] if re.match(r"--?[a-z]", word)} - {"-m"}
    return found


def joined(block: str) -> list[str]:
    return block.replace("\\\n", " ").splitlines()


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_readme_is_short():
    assert len(TEXTS["README.md"].splitlines()) <= README_LINES


@pytest.mark.parametrize(("page", "name"), named(r"`([\w/]+\.py::\w+)`"))
def test_tests(page, name):
    file, test = name.split("::")
    assert f"\ndef {test}(" in (PROJECT / "tests" / file).read_text()


@pytest.mark.parametrize(
    ("page", "file"),
    named(rf"(?<![\w/.])((?:{ROOMS})/[\w/.]+\.(?:py|yaml|md|png|json))(?![\w:])") + named(r"`(\w+\.(?:py|yaml))`"),
)
def test_files(page, file):
    folders = ("", "configs", "configs/ablations")
    assert file in OF_THE_READER or any((PROJECT / folder / file).is_file() for folder in folders)


@pytest.mark.parametrize(("page", "link"), named(r"\]\(((?!https?:)[^)\s]+)\)"))
def test_links(page, link):
    file, _, anchor = link.partition("#")
    target = PROJECT / Path(page).parent / file if file else PROJECT / page
    assert target.is_file()
    if anchor:
        assert anchor in [slug(heading) for heading in re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)]


@pytest.mark.parametrize(
    ("page", "name"),
    named(rf"(?<![\w./])((?:{ROOMS}|{'|'.join(vars(Config()))})(?:\.\w+)+)(?![\w/])", python=False),
)
def test_options_and_python_names(page, name):
    if name not in OPTIONS and not name.endswith(".md"):
        assert pkgutil.resolve_name(name) is not None


@pytest.mark.parametrize(("command", "options"), commands().items(), ids=list(commands()))
def test_commands(command, options, capsys):
    package = find_spec(command).submodule_search_locations is not None
    module = import_module(f"{command}.__main__" if package else command)
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    known = set(re.findall(r"(?<![\w-])--?[a-z][\w.]*", capsys.readouterr().out))
    assert options <= known


def test_blocks_are_marked():
    marked = [(page, language) for page in TEXTS for language, _, mark in blocks(page) if mark]
    assert len(marked) >= 4
    assert {language for _, language in marked} == {"bash", "python"}


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """A folder with the project's code, in which data and runs come and go."""
    for path in PROJECT.iterdir():
        if path.suffix == ".py" or path.name in ROOMS.split("|"):
            (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


@pytest.mark.parametrize("page", [page for page in TEXTS if any(mark for *_, mark in blocks(page))])
def test_marked_blocks_run(page, workplace):
    names = {}
    for language, block, mark in blocks(page):
        if mark and language == "python":
            exec(compile(block, page, "exec"), names)
        elif mark:
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", block], capture_output=True, text=True)
            assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
