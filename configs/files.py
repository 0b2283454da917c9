"""Experiments as YAML files: reading one with the place of every option, and writing the resolved whole.

A file holds sections of options (`data: {stride: 12}`; the dotted `data.stride: 12` means the same) and may be a small
delta. Only plain YAML is accepted: no tag can make an object. Names are checked here, values where all are merged.
"""

from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import NamedTuple

import yaml

from common.errors import InputError
from common.files import write_text
from configs.schema import OPTIONS, SECTIONS, Config

NULL = "tag:yaml.org,2002:null"


class Setting(NamedTuple):
    """One option as somebody wrote it."""

    option: str  # dotted, as data.stride
    value: object  # as YAML reads it, or the text typed; not checked
    origin: str  # goes before the option in an error: "FILE, line 3: ", or "--" for the command line


def read_yaml(path: str | Path) -> Iterator[Setting]:
    """Yields the options of a file in its order; an empty file or section holds none."""
    written: set[str] = set()
    try:
        loader = yaml.SafeLoader(Path(path).read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if root is None or root.tag == NULL:
            return
        if not isinstance(root, yaml.MappingNode):
            raise InputError(f"{path}: expected sections of options, as in `data: {{stride: 10}}`")
        for option, line, node in _leaves(root):
            origin = f"{path}, line {line}: "
            if option in SECTIONS:
                raise InputError(f"{origin}{option} is a section: its options follow in lines of their own, indented")
            if option not in OPTIONS:
                raise InputError(f"{origin}unknown option {option}; did you mean {nearest(option, OPTIONS)}?")
            if option in written:
                raise InputError(f"{origin}{option} is given twice in this file")
            written.add(option)
            # `deep` because SafeLoader otherwise fills lists only after this call.
            yield Setting(option, loader.construct_object(node, deep=True), origin)
    except OSError as error:
        raise InputError(f"cannot read the configuration file {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{place}: not valid YAML: {getattr(error, 'problem', None) or error}") from error


def _leaves(root: yaml.MappingNode) -> Iterator[tuple[str, int, yaml.Node]]:
    """Yields (dotted option, 1-based line, value) of a file's two levels."""
    for key, node in root.value:
        if isinstance(node, yaml.MappingNode):
            for inner, value in node.value:
                yield f"{key.value}.{inner.value}", inner.start_mark.line + 1, value
        elif not (str(key.value) in SECTIONS and node.tag == NULL):
            yield str(key.value), key.start_mark.line + 1, node


def nearest(name: str, names: Iterable[str]) -> str:
    """The name most like `name`, as a whole and in its last part, so that `--stride` finds `--data.stride`."""

    def likeness(candidate: str) -> float:
        pairs = ((name, candidate), (name.split(".")[-1].lstrip("-"), candidate.split(".")[-1].lstrip("-")))
        return sum(SequenceMatcher(None, *pair).ratio() for pair in pairs)

    return max(names, key=likeness)


def to_yaml(config: Config) -> str:
    """Every option of the configuration, in the schema's order; `read_yaml` reads it back."""
    return yaml.safe_dump(config.to_dict(), sort_keys=False)


def save_yaml(config: Config, path: str | Path) -> None:
    """Writes `to_yaml(config)` for `--config`; the file appears whole or not at all."""
    write_text(Path(path), f"# Every option of this run; repeat it with --config {path}\n{to_yaml(config)}")
