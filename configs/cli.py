"""The command line of the scripts: `-gpu`, `--config FILE` (repeatable) and every option of the schema by dotted name.

Values come from the schema's defaults, then from the files in the given order, then from the command line, which always
has precedence. Values on the command line are written as in YAML; text needs no quotes. A mistake prints one line and
exits with status 2.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from inspect import formatannotation
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any, get_args, get_type_hints

import docstring_parser
import yaml
from jsonargparse.typing import NonNegativeInt

from common.arguments import Parser, typed
from common.errors import InputError
from configs.files import Setting, nearest, read_yaml, to_yaml
from configs.schema import OPTIONS, SECTIONS, Config, checked

DEFAULT_CONFIG = Path(__file__).resolve().parent / "charades.yaml"
KINDS = {f"{name}.{option}": kind for name in SECTIONS for option, kind in get_type_hints(SECTIONS[name]).items()}


@dataclass(frozen=True, kw_only=True)
class Command:
    """The parsed command line of a script."""

    config: Config
    gpus: tuple[int, ...] | None  # devices given by -gpu; () for -gpu cpu, None without -gpu
    eval_only: bool
    given: frozenset[str]  # dotted names of the options set on the command line, not in files
    flags: frozenset[str] = frozenset()  # the script's own flags that were set


def parse(
    argv: Sequence[str] | None,
    *,
    prog: str,
    description: str,
    with_eval_only: bool = False,
    flags: Mapping[str, str] = MappingProxyType({}),
) -> Command:
    """Parse a script's command line (None: sys.argv). A mistake prints one line and exits with status 2.

    `flags`: additional flags of the script, without values, {name: help}.
    """
    parser = _parser(prog, description, with_eval_only, flags)
    arguments, unknown = parser.parse_known_args(argv)
    given = vars(arguments)
    for token in unknown:
        name = token.partition("=")[0]
        if not name.startswith("-"):
            parser.error(f"unexpected argument {token!r}: options are given by name, e.g. --data.stride 10")
        names = ["-gpu", *(f"--{option}" for option in (*given, *OPTIONS, "help") if option != "gpu")]
        parser.error(f"unknown option {name}; did you mean {nearest(name, names)}?")
    options = [Setting(option, given[option], "--") for option in OPTIONS if option in given]
    try:
        config = load(*(given["config"] or [DEFAULT_CONFIG]), options=options)
    except InputError as error:
        parser.error(str(error))
    if given["print_config"]:
        print(to_yaml(config), end="")
        raise SystemExit(0)
    return Command(
        config=config,
        gpus=given["gpu"],
        eval_only=given.get("eval_only") == "true",
        given=frozenset(setting.option for setting in options),
        flags=frozenset(flag for flag in flags if given[flag]),
    )


def load(*files: str | Path, options: Sequence[Setting] = ()) -> Config:
    """The configuration from files (later ones override) and options. InputErrors name the origin of the value."""
    values: dict[str, dict[str, Any]] = {}
    origins: dict[str, str] = {}
    settings = [*(setting for file in files for setting in read_yaml(file)), *options]
    try:
        for option, value, origin in settings:
            origins[option] = origin
            section, name = option.split(".")
            values.setdefault(section, {})[name] = checked(option, _meant(option, value, origin))
        return Config.from_dict(values)
    except InputError as error:
        raise InputError(f"{origins.get(error.option or '', '')}{error.what}", option=error.option) from error


def _meant(option: str, value: object, origin: str) -> object:
    """Convert a value from the command line, or a YAML string, according to the option's type."""
    kinds = {KINDS[option], *get_args(KINDS[option])}
    if origin == "--" and kinds & {int, float, bool}:
        with suppress(yaml.YAMLError, RecursionError, ValueError):  # stays text, which the schema rejects
            value = yaml.safe_load(str(value))
    if not isinstance(value, str):
        return value
    if NoneType in kinds and value in ("None", "null"):  # as Python prints it
        return None
    if float in kinds:
        with suppress(ValueError):
            return float(value)  # 1e-3, a string in YAML 1.1 because it has no dot
    # The shell does not expand ~ in YAML files or after an equals sign.
    return os.path.expanduser(value) if value.startswith("~/") else value


def _parser(prog: str, description: str, with_eval_only: bool, flags: Mapping[str, str]) -> Parser:
    """The parser with every option and its help. Option values are kept as text."""
    parser = Parser(prog=prog, description=description)
    parser.usage = f"{prog} [-gpu 0,1] [--config FILE ...] [--SECTION.OPTION VALUE ...]"
    add = parser.add_argument
    devices = "GPU numbers, or cpu (default: the first GPU, or the CPU if there is none)"
    add("-gpu", type=typed(_gpus, "cpu, a number (0) or different numbers (0,1)"), metavar="0,1", help=devices)
    read = f"configuration file; repeatable, later files override earlier ones (default: {DEFAULT_CONFIG})"
    add("--config", action="append", metavar="FILE", help=read)
    for flag, meaning in {"print_config": "print the resolved configuration as YAML and exit", **flags}.items():
        add(f"--{flag}", action="store_true", help=f"{meaning} (default: false)")
    if with_eval_only:
        evaluate = "evaluate without training (default: false)"
        add("--eval_only", type=str.lower, choices=("true", "false"), metavar="true", help=evaluate)
    for section, defaults in Config().to_dict().items():
        group = parser.add_argument_group(f"{section}: {SECTIONS[section].__doc__}")
        for name, default in defaults.items():
            option = f"{section}.{name}"
            kind, meaning = formatannotation(KINDS[option]), _meanings(section)[name].replace("%", "%%")
            shown = f"{meaning} (type: {kind}, default: {default})"
            group.add_argument(f"--{option}", default=argparse.SUPPRESS, metavar=name.upper(), help=shown)
    return parser


def _gpus(text: str) -> tuple[int, ...]:
    """Parse a list of different device numbers; raises ValueError for anything else."""
    gpus = () if text == "cpu" else tuple(NonNegativeInt(number) for number in text.split(","))
    if len(set(gpus)) < len(gpus):
        raise ValueError
    return gpus


@cache  # parsing the sources takes most of the parser's time
def _meanings(section: str) -> dict[str, str]:
    """{option: its docstring}, including base classes."""
    parsed = [docstring_parser.parse_from_object(base) for base in reversed(SECTIONS[section].__mro__[:-2])]
    return {param.arg_name: param.description for docs in parsed for param in docs.params if param.description}
