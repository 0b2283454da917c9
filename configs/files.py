"""YAML configuration files: reading options with their line numbers, and writing the resolved configuration.

A file contains sections of options (`data: {stride: 12}`, or dotted: `data.stride: 12`) and may set only a few of them.
Only plain YAML is accepted; tags cannot create objects. Names are checked here, values after merging.
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
    """One option as written by the user."""

    option: str  # dotted name, e.g. data.stride
    value: object  # parsed YAML, or text from the command line; not yet checked
    origin: str  # prefix of the option in errors: "FILE, line 3: ", or "--" for the command line


def read_yaml(path: str | Path) -> Iterator[Setting]:
    """Yield the options of a file in order. Files and sections may be empty."""
    written: set[str] = set()
    try:
        loader = yaml.SafeLoader(Path(path).read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if root is None or root.tag == NULL:
            return
        if not isinstance(root, yaml.MappingNode):
            raise InputError(f"{path}: expected sections of options, such as `data: {{stride: 10}}`")
        for option, line, node in _leaves(root):
            origin = f"{path}, line {line}: "
            if option in SECTIONS:
                raise InputError(f"{origin}{option} is a section: put its options on indented lines below it")
            if option not in OPTIONS:
                raise InputError(f"{origin}unknown option {option}; did you mean {nearest(option, OPTIONS)}?")
            if option in written:
                raise InputError(f"{origin}{option} is set twice in this file")
            written.add(option)
            # Without `deep`, SafeLoader fills lists only after this call.
            yield Setting(option, loader.construct_object(node, deep=True), origin)
    except OSError as error:
        raise InputError(f"cannot read the configuration file {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{place}: not valid YAML: {getattr(error, 'problem', None) or error}") from error


def _leaves(root: yaml.MappingNode) -> Iterator[tuple[str, int, yaml.Node]]:
    """Yield (dotted option, 1-based line, value) for the two levels of a file."""
    for key, node in root.value:
        if isinstance(node, yaml.MappingNode):
            for inner, value in node.value:
                yield f"{key.value}.{inner.value}", inner.start_mark.line + 1, value
        elif not (str(key.value) in SECTIONS and node.tag == NULL):
            yield str(key.value), key.start_mark.line + 1, node


def nearest(name: str, names: Iterable[str]) -> str:
    """The most similar name, comparing both whole names and last parts, so that `--stride` finds `--data.stride`."""

    def likeness(candidate: str) -> float:
        pairs = ((name, candidate), (name.split(".")[-1].lstrip("-"), candidate.split(".")[-1].lstrip("-")))
        return sum(SequenceMatcher(None, *pair).ratio() for pair in pairs)

    return max(names, key=likeness)


def to_yaml(config: Config) -> str:
    """All options as YAML in the order of the schema, readable by `read_yaml`."""
    return yaml.safe_dump(config.to_dict(), sort_keys=False)


def save_yaml(config: Config, path: str | Path) -> None:
    """Write `to_yaml(config)` atomically, for use with `--config`."""
    write_text(Path(path), f"# All options of this run; to repeat it, pass --config {path}\n{to_yaml(config)}")
