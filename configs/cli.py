"""The command line of the scripts: `-gpu`, `--config FILE` (repeatable) and every option of the schema by dotted name.

Values are taken from the schema's defaults, then from the files in the order given, then from the command line, so that
an option typed there wins wherever it stands. A value on the command line is written as in a YAML file; text needs no
quotes. Each mistake costs one line and exit status 2.
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
    """What a user asked of a script."""

    config: Config
    gpus: tuple[int, ...] | None  # the devices of -gpu; () for -gpu cpu, None without -gpu
    eval_only: bool
    given: frozenset[str]  # dotted options typed on the command line itself, as opposed to files and defaults
    flags: frozenset[str] = frozenset()  # those of the script's own flags that were typed


def parse(
    argv: Sequence[str] | None,
    *,
    prog: str,
    description: str,
    with_eval_only: bool = False,
    flags: Mapping[str, str] = MappingProxyType({}),
) -> Command:
    """Reads a script's command line (None: the process's own). Mistakes end the process: one line, status 2.

    `flags`: those without a value that the script has besides, {name: help}.
    """
    parser = _parser(prog, description, with_eval_only, flags)
    arguments, unknown = parser.parse_known_args(argv)
    given = vars(arguments)
    for token in unknown:
        name = token.partition("=")[0]
        if not name.startswith("-"):
            parser.error(f"unexpected argument {token!r}: options are given by name, as --data.stride 10")
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
    """The configuration of files, later ones overriding, and then of options; raises InputError naming the origin."""
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
    """A value that YAML takes for text, or that is typed, as the option's type means it."""
    kinds = {KINDS[option], *get_args(KINDS[option])}
    if origin == "--" and kinds & {int, float, bool}:
        with suppress(yaml.YAMLError, RecursionError, ValueError):  # text, then, which the type refuses
            value = yaml.safe_load(str(value))
    if not isinstance(value, str):
        return value
    if NoneType in kinds and value in ("None", "null"):  # as Python prints it
        return None
    if float in kinds:
        with suppress(ValueError):
            return float(value)  # 1e-3, in which YAML 1.1 misses a dot
    # No shell has seen what stands in a YAML file, or after an equals sign.
    return os.path.expanduser(value) if value.startswith("~/") else value


def _parser(prog: str, description: str, with_eval_only: bool, flags: Mapping[str, str]) -> Parser:
    """Every option with its help; what is typed of them stays text."""
    parser = Parser(prog=prog, description=description)
    parser.usage = f"{prog} [-gpu 0,1] [--config FILE ...] [--SECTION.OPTION VALUE ...]"
    add = parser.add_argument
    devices = "GPUs to use, by number, or cpu (default: the first GPU, else the CPU)"
    add("-gpu", type=typed(_gpus, "cpu, a number as 0, or several different ones as 0,1"), metavar="0,1", help=devices)
    read = f"experiment to read; repeatable, later ones override (default: {DEFAULT_CONFIG})"
    add("--config", action="append", metavar="FILE", help=read)
    for flag, meaning in {"print_config": "print the resolved configuration as YAML and stop", **flags}.items():
        add(f"--{flag}", action="store_true", help=f"{meaning} (default: false)")
    if with_eval_only:
        evaluate = "evaluate, without training (default: false)"
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
    """The numbers of different devices; a ValueError where the text is something else."""
    gpus = () if text == "cpu" else tuple(NonNegativeInt(number) for number in text.split(","))
    if len(set(gpus)) < len(gpus):
        raise ValueError
    return gpus


@cache  # reading the sources is most of a parser's cost
def _meanings(section: str) -> dict[str, str]:
    """{option: the docstring below it}, those of base classes included."""
    parsed = [docstring_parser.parse_from_object(base) for base in reversed(SECTIONS[section].__mro__[:-2])]
    return {param.arg_name: param.description for docs in parsed for param in docs.params if param.description}
