"""Experiments as YAML files: reading one with the place of every option, and writing the resolved whole.

A file holds sections of options (`data: {stride: 12}`; the dotted `data.stride: 12` means the same) and may be a small
delta. Only plain YAML is accepted: no tag can make an object. What is read here is not yet checked against the schema.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from common.errors import InputError
from common.files import write_text
from configs.schema import SECTIONS, Config

NULL = "tag:yaml.org,2002:null"


class ConfigError(InputError):
    """A configuration that cannot be used; the message is one line that names the file or option."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One option as somebody wrote it."""

    option: str  # dotted, as data.stride; not checked
    value: object  # as YAML reads it; the raw text where it comes from the command line
    origin: str  # goes before the option in an error: "FILE, line 3: ", or "--" for the command line


def read_yaml(path: str | Path) -> Iterator[Setting]:
    """Yields the options of a file in its order; an empty file or section holds none."""
    try:
        loader = yaml.SafeLoader(Path(path).read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if root is not None and root.tag != NULL:
            yield from _settings(loader, root, path)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "nested too deeply"
        raise ConfigError(f"{path}{line}: not valid YAML: {reason}") from error


def _settings(loader: yaml.SafeLoader, root: yaml.Node, path: str | Path) -> Iterator[Setting]:
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path}: expected sections of options, as in `data: {{stride: 10}}`")
    written: set[str] = set()
    for option, line, node in _leaves(root):
        origin = f"{path}, line {line}: "
        if option in SECTIONS:
            raise ConfigError(f"{origin}{option} is a section: its options follow in lines of their own, indented")
        if option in written:
            raise ConfigError(f"{origin}{option} is given twice in this file")
        written.add(option)
        # `deep` because SafeLoader otherwise fills lists only after this call.
        yield Setting(option=option, value=loader.construct_object(node, deep=True), origin=origin)


def _leaves(root: yaml.MappingNode) -> Iterator[tuple[str, int, yaml.Node]]:
    """Yields (dotted option, 1-based line, value) of a file's two levels."""
    for key, node in root.value:
        if isinstance(node, yaml.MappingNode):
            for inner, value in node.value:
                yield f"{key.value}.{inner.value}", inner.start_mark.line + 1, value
        elif not (str(key.value) in SECTIONS and node.tag == NULL):
            yield str(key.value), key.start_mark.line + 1, node


def to_yaml(config: Config) -> str:
    """Every option of the configuration, in the schema's order; `read_yaml` reads it back."""
    return yaml.safe_dump(config.to_dict(), sort_keys=False)


def save_yaml(config: Config, path: str | Path) -> None:
    """Writes `to_yaml(config)` for `--config`; the file appears whole or not at all."""
    write_text(Path(path), f"# Every option of this run; repeat it with --config {path}\n{to_yaml(config)}")
