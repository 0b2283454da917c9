"""The command line of the scripts: `-gpu`, `--config FILE` (repeatable) and every option of the schema by dotted name.

Values are taken from the schema's defaults, then from the files in the order given, then from the command line, so that
an option typed there wins wherever it stands. jsonargparse turns text into typed values and prints the help. The
command line is split here and not by argparse, which would take `-g` for `-gpu`, refuse `-1e-3` as a value, and
answer a mistake with its whole usage text: here each mistake costs one line and exit status 2.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from common.arguments import underscored
from configs.files import ConfigError, Setting, read_yaml, to_yaml
from configs.options import DEFAULT_CONFIG, OPTIONS, build_parser, nearest, typed_value
from configs.schema import Config


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
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        build_parser(prog=prog, description=description, with_eval_only=with_eval_only, flags=flags).print_help()
        raise SystemExit(0)
    try:
        typed = list(_split(argv, with_eval_only, flags))
        others = dict(typed)
        files: list[str | Path] = [text for name, text in typed if name == "config"]
        options = [Setting(option=name, value=text, origin="--") for name, text in typed if name in OPTIONS]
        command = Command(
            config=_resolve(files or [DEFAULT_CONFIG], options),
            gpus=_gpus(others.get("gpu")),
            eval_only=_eval_only(others.get("eval_only", "false")),
            given=frozenset(s.option for s in options),
            flags=frozenset(flags) & frozenset(others),
        )
    except ConfigError as error:
        _fail(prog, error)
    if "print_config" in others:
        print(to_yaml(command.config), end="")
        raise SystemExit(0)
    return command


def load(*files: str | Path) -> Config:
    """The configuration of files, later ones overriding; raises ConfigError where a script would end."""
    return _resolve(files, [])


def _fail(prog: str, error: ConfigError) -> NoReturn:
    print(f"{prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(2)


def _resolve(files: Sequence[str | Path], options: Sequence[Setting]) -> Config:
    """Merges files and then options, each value checked at its origin."""
    parser = build_parser()
    values: dict[str, dict[str, Any]] = {}
    origins: dict[str, str] = {}
    for setting in [*(s for file in files for s in read_yaml(file)), *options]:
        value = typed_value(parser, setting)
        section, name = setting.option.split(".")
        values.setdefault(section, {})[name] = value
        origins[setting.option] = setting.origin
    try:
        return Config.from_dict(values)
    except ValueError as error:  # the schema's message opens with the option
        raise ConfigError(f"{origins.get(str(error).split()[0], '')}{error}") from error


def _split(argv: Sequence[str], with_eval_only: bool, flags: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields (name, text) of each option of a command line, `--option value` and `--option=value` alike."""
    known = ["-gpu", "--config", *(["--eval_only"] if with_eval_only else []), *(f"--{option}" for option in OPTIONS)]
    alone = [f"--{flag}" for flag in ("print_config", *flags)]
    rest = iter(argv)
    for token in map(underscored, rest):
        name, equals, value = token.partition("=")
        if token in alone:
            yield token.removeprefix("--"), ""
            continue
        if not name.startswith("-"):
            raise ConfigError(f"unexpected argument {token!r}: options are given by name, as --data.stride 10")
        if name not in known:
            closest = nearest(name, [*known, *alone, "--help"])
            raise ConfigError(f"unknown option {name}; did you mean {closest}?")
        if not equals:
            value = next(rest, "--")
            if name == "--eval_only" and value.startswith("-"):
                raise ConfigError("--eval_only needs true or false after it: --eval_only true")
            if re.match(r"--|-[A-Za-z]", value):
                raise ConfigError(f"{name} needs a value after it (one that begins with a dash: {name}=VALUE)")
        yield name.lstrip("-"), value


def _gpus(text: str | None) -> tuple[int, ...] | None:
    if text is None or text == "cpu":
        return () if text else None
    if not re.fullmatch(r"\d+(,\d+)*", text, re.ASCII):
        raise ConfigError(f"-gpu must be cpu, a number as 0, or several as 0,1, not {text!r}")
    gpus = tuple(int(number) for number in text.split(","))
    if len(set(gpus)) < len(gpus):
        raise ConfigError(f"-gpu names a device twice: {text}")
    return gpus


def _eval_only(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ConfigError(f"--eval_only must be true or false, not {text!r}")
    return text.lower() == "true"
