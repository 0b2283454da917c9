"""The schema's options as jsonargparse sees them: names, types, help, and the check of one value."""

import os
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import docstring_parser
import jsonargparse

from configs.files import ConfigError, Setting
from configs.schema import SECTIONS, Config

DEFAULT_CONFIG = Path(__file__).resolve().parent / "charades.yaml"
OPTIONS: dict[str, Any] = {  # without the bounds, which the schema itself checks when all values are merged
    f"{name}.{option}": kind for name, section in SECTIONS.items() for option, kind in get_type_hints(section).items()
}
KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    NoneType: "null",
    list[int]: "a list of whole numbers such as [15,25]",
}


def build_parser(
    *,
    prog: str = "",
    description: str = "",
    with_eval_only: bool = False,
    flags: Mapping[str, str] = MappingProxyType({}),
) -> jsonargparse.ArgumentParser:
    """A parser that knows every option's type and help; command lines are split in `configs.cli`."""
    usage = f"{prog} [-gpu 0,1] [--config FILE ...] [--SECTION.OPTION VALUE ...]"
    parser = jsonargparse.ArgumentParser(
        prog=prog, description=description, usage=usage, exit_on_error=False, print_config=None
    )
    add = parser.add_argument
    add("-gpu", metavar="0,1", help="GPUs to use, by number, or cpu; without it the first GPU, else the CPU")
    add("--config", metavar="FILE", help="experiment to read; repeatable, later ones override", default=DEFAULT_CONFIG)
    add("--print_config", action="store_true", help="print the resolved configuration as YAML and stop")
    if with_eval_only:
        add("--eval_only", type=bool, default=False, help="evaluate, without training")
    for flag, meaning in flags.items():
        add(f"--{flag}", action="store_true", help=meaning)
    for section, defaults in Config().to_dict().items():
        group = parser.add_argument_group(f"{section}: {SECTIONS[section].__doc__}")
        meanings = _meanings(section)
        for option, default in defaults.items():
            name = f"{section}.{option}"
            action = group.add_argument(f"--{name}", type=OPTIONS[name], default=default, help=meanings[option])
            action.option_strings = [f"--{name}"]  # jsonargparse's `--list+`, which appends, is not offered
    return parser


def typed_value(parser: jsonargparse.ArgumentParser, setting: Setting) -> Any:
    """The setting's value in its option's type, or a ConfigError that names the option and what it takes."""
    option, value = setting.option, setting.value
    if option not in OPTIONS:
        raise ConfigError(f"{setting.origin}unknown option {option}; did you mean {nearest(option, OPTIONS)}?")
    kind = OPTIONS[option]
    optional = NoneType in get_args(kind)
    if optional and value == "None":  # as Python prints it
        return None
    try:
        if value is None and not optional:  # which parse_object would let pass
            raise jsonargparse.ArgumentError(None, "null")
        typed = parser.parse_object({option: value}, defaults=False)[option]
    except (jsonargparse.ArgumentError, RecursionError) as error:
        shown = "null" if value is None else repr(value)
        raise ConfigError(f"{setting.origin}{option} must be {_describe(kind)}, not {shown}") from error
    # No shell has seen what stands in a YAML file, or after an equals sign.
    return os.path.expanduser(typed) if isinstance(typed, str) and typed.startswith("~/") else typed


def nearest(name: str, names: Iterable[str]) -> str:
    """The name most like `name`, as a whole and in its last part, so that `--stride` finds `--data.stride`."""

    def likeness(candidate: str) -> float:
        pairs = ((name, candidate), (name.split(".")[-1].lstrip("-"), candidate.split(".")[-1].lstrip("-")))
        return sum(SequenceMatcher(None, *pair).ratio() for pair in pairs)

    return max(names, key=likeness)


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    return KINDS[kind] if kind in KINDS else " or ".join(_describe(part) for part in get_args(kind))


@cache  # reading the sources is most of a parser's cost
def _meanings(section: str) -> dict[str, str]:
    """{option: the docstring below it}, those of base classes included."""
    parsed = [docstring_parser.parse_from_object(base) for base in reversed(SECTIONS[section].__mro__[:-2])]
    return {param.arg_name: param.description for docs in parsed for param in docs.params if param.description}
