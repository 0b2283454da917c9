"""The command line: what wins, what is accepted, and that every mistake costs one line and status 2."""

import itertools
import os
import re
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from configs import cli
from configs.cli import Command, load, parse
from configs.schema import OPTIONS, Config


def run(*argv: str, with_eval_only: bool = True) -> Command:
    return parse(argv, prog="train_fine.py", description="Stage 1.", with_eval_only=with_eval_only)


@pytest.fixture
def refused(capsys):
    """Runs a command line that must be refused and returns its one line, without the program's name."""

    def refuse(*argv: str, **kwargs) -> str:
        with pytest.raises(SystemExit) as exit_:
            run(*argv, **kwargs)
        out, err = capsys.readouterr()
        assert exit_.value.code == 2
        assert out == ""
        assert err.count("\n") == 1
        assert err.startswith("train_fine.py: error: ")
        return err.removeprefix("train_fine.py: error: ").rstrip("\n")

    return refuse


@pytest.fixture
def yaml_file(tmp_path):
    """Writes a YAML file and returns its path as text."""
    numbers = itertools.count()

    def write(text: str) -> str:
        path = tmp_path / f"{next(numbers)}.yaml"
        path.write_text(text)
        return str(path)

    return write


# What wins


def test_without_config_the_repositorys_default_is_read_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = run()
    assert command == Command(config=Config(), gpus=None, eval_only=False, given=frozenset())


def test_a_given_file_replaces_the_default_one(yaml_file, monkeypatch):
    monkeypatch.setattr("configs.cli.DEFAULT_CONFIG", yaml_file("data: {stride: 3}"))
    assert run().config.data.stride == 3
    assert run("--config", yaml_file("")).config.data.stride == Config().data.stride


def test_later_files_override_option_by_option(yaml_file):
    first = yaml_file("data: {stride: 3, workers: 1}\nfine: {milestones: [1, 2, 3]}")
    second = yaml_file("data.stride: 5\nfine: {milestones: [4]}")
    config = run("--config", first, f"--config={second}").config
    assert (config.data.stride, config.data.workers, config.fine.milestones) == (5, 1, [4])
    assert run("--config", second, "--config", first).config.data.stride == 3


@settings(max_examples=60, deadline=None)
@given(order=st.permutations(range(6)), joined=st.lists(st.booleans(), min_size=6, max_size=6))
def test_order_on_the_line_does_not_matter(tmp_path_factory, order, joined):
    path = tmp_path_factory.getbasetemp() / "order.yaml"
    path.write_text("data: {stride: 3, workers: 1}\nrun: {name: file}")
    words = [
        ("-gpu", "0,1"),
        ("--config", str(path)),
        ("--data.stride", "7"),
        ("--run.name", "typed"),
        ("--fine.milestones", "[1,2]"),
        ("--eval_only", "true"),
    ]
    argv = [word for i in order for word in (["=".join(words[i])] if joined[i] else words[i])]
    command = run(*argv)
    assert (command.gpus, command.eval_only) == ((0, 1), True)
    assert command.given == {"data.stride", "run.name", "fine.milestones"}
    config = command.config
    assert (config.data.stride, config.data.workers, config.run.name) == (7, 1, "typed")
    assert config.fine.milestones == [1, 2]


def test_a_dash_in_an_option_is_an_underscore(tmp_path):
    command = run("--data.min-frames", "3", f"--run.dir={tmp_path}/a-b", "--eval-only", "true", "--model.bn-splits=2")
    assert (command.config.data.min_frames, command.config.model.bn_splits, command.eval_only) == (3, 2, True)
    assert command.config.run.dir == f"{tmp_path}/a-b"
    assert command.given == {"data.min_frames", "run.dir", "model.bn_splits"}


def test_the_last_of_a_repeated_option_wins():
    assert run("--data.stride", "3", "--data.stride", "4").config.data.stride == 4


# What is accepted


@pytest.mark.parametrize(
    ("argv", "gpus"), [([], None), (["-gpu", "cpu"], ()), (["-gpu", "0"], (0,)), (["-gpu=0,1"], (0, 1))]
)
def test_gpu(argv, gpus):
    assert run(*argv).gpus == gpus


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("data.frames", "a folder", "a folder"),
        ("data.frames", "", ""),
        ("data.frames", "12", "12"),
        ("data.frames", "a=b", "a=b"),
        ("data.frames", "[x", "[x"),
        ("data.ground_truth", "None", None),
        ("data.ground_truth", "null", None),
        ("data.ground_truth", "12", "12"),
        ("data.size", "None", None),
        ("data.size", "null", None),
        ("data.size", "96", 96),
        ("data.allow_missing", "true", True),
        ("data.allow_missing", "False", False),
        ("fine.lr", "1e-3", 0.001),
        ("fine.lr", "1", 1.0),
        ("fine.milestones", "[1,2]", [1, 2]),
        ("fine.milestones", "[1, 2]", [1, 2]),
        ("fine.milestones", "[]", []),
        ("fine.init", "none", "none"),
        ("model.pool", "none", "none"),
    ],
)
def test_values_from_the_command_line(option, text, value):
    section, name = option.split(".")
    for argv in ([f"--{option}", text], [f"--{option}={text}"]):
        result = getattr(getattr(run(*argv).config, section), name)
        assert result == value
        assert type(result) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("1.0e-3", 0.001), ("1", 1.0), (".5", 0.5)],
)
def test_yaml_numbers_without_a_dot_are_numbers(yaml_file, text, value):
    lr = load(yaml_file(f"fine: {{lr: {text}}}")).fine.lr
    assert lr == value
    assert type(lr) is float


@pytest.mark.parametrize("text", ["", "# only a comment", "data:", "data: {}", "data:\nfine: {lr: 0.01}", "---", "~"])
def test_empty_files_and_sections_change_nothing(yaml_file, text):
    assert load(yaml_file(text)) == Config()


def test_the_home_folder(yaml_file, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert load(yaml_file("data: {frames: ~/rgb}")).data.frames == "/home/ada/rgb"
    assert run("--fine.init=~/x.pt").config.fine.init == "/home/ada/x.pt"
    assert run("--run.dir=~other").config.run.dir == "~other"


def test_none_and_null_in_yaml(yaml_file):
    assert load(yaml_file("data: {size: None, ground_truth: ~}\nfine: {init: none}")).data.size is None


def test_a_value_with_a_dash_needs_the_equals_sign(refused):
    assert run("--data.frames=-odd").config.data.frames == "-odd"
    assert "--data.frames: expected one argument" in refused("--data.frames", "-odd")


# What is refused


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--data.strde", "3"], ["--data.strde", "--data.stride"]),
        (["--data.strde=3"], ["--data.strde", "--data.stride"]),
        (["--stride", "3"], ["--stride", "--data.stride"]),
        (["--data.stri", "3"], ["--data.stri;", "--data.stride"]),
        (["--fine.milestones+", "3"], ["--fine.milestones+", "--fine.milestones?"]),
        (["-g", "0"], ["-g;", "-gpu"]),
        (["--gpu", "0"], ["--gpu;", "did you mean -gpu?"]),
        (["--conf", "x.yaml"], ["--conf;", "--config"]),
        (["--data", "x.yaml"], ["--data;", "--data."]),
        (["--evalonly", "true"], ["--evalonly", "--eval_only"]),
        (["data.stride=3"], ["'data.stride=3'"]),
        (["-gpu", "0", "1"], ["'1'"]),
        (["--data.stride"], ["--data.stride: expected one argument"]),
        (["--data.stride", "--data.workers", "2"], ["--data.stride: expected one argument"]),
        (["--data.frames", "-gpu", "0"], ["--data.frames: expected one argument"]),
        (["--config"], ["--config: expected one argument"]),
        (["-gpu"], ["-gpu: expected one argument"]),
        (["-gpu", "x"], ["-gpu", "'x'"]),
        (["-gpu", "0,"], ["-gpu", "'0,'"]),
        (["-gpu", "-1"], ["-gpu", "'-1'"]),
        (["-gpu="], ["-gpu", "''"]),
        (["-gpu", "1,1"], ["-gpu: '1,1' is not cpu", "different numbers"]),
        (["--eval_only", "maybe"], ["--eval_only", "'maybe'"]),
        (["--data.stride", "x"], ["--data.stride", "a valid integer", "'x'"]),
        (["--data.stride", "1.5"], ["--data.stride", "a valid integer"]),
        (["--data.stride", ""], ["--data.stride", "a valid integer"]),
        (["--data.stride", "true"], ["--data.stride", "a valid integer"]),
        (["--data.stride", "null"], ["--data.stride", "a valid integer"]),
        (["--data.stride", "3\nx"], ["--data.stride", "a valid integer"]),
        (["--data.stride", "0"], ["--data.stride", "must be greater than or equal to 1, not 0"]),
        (["--run.seed", "-1"], ["--run.seed", "greater than or equal to 0"]),
        (["--fine.lr=-1e-3"], ["--fine.lr", "greater than 0"]),
        (["--fine.lr", "-1e-3"], ["--fine.lr: expected one argument"]),
        (["--fine.lr", ".nan"], ["--fine.lr", "a finite number"]),
        (["--fine.lr", "quick"], ["--fine.lr", "a valid number"]),
        (["--data.size", "big"], ["--data.size", "a valid integer"]),
        (["--data.kind", "chrades"], ["--data.kind", "'charades', 'multithumos' or 'generic'"]),
        (["--data.allow_missing", "1"], ["--data.allow_missing", "a valid boolean"]),
        (["--fine.milestones", "3"], ["--fine.milestones", "a valid list"]),
        (["--fine.milestones", "[1,x]"], ["--fine.milestones", "a valid integer, not [1, 'x']"]),
        (["--fine.milestones", "[2,1]"], ["--fine.milestones", "ascending"]),
        (["--fine.milestones", "__import__('os')"], ["--fine.milestones", "a valid list"]),
        (["--config", "absent.yaml"], ["absent.yaml", "No such file"]),
        (["--config", "."], ["Is a directory"]),
    ],
)
def test_mistakes_on_the_command_line(refused, argv, parts):
    line = refused(*argv)
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("data:\n  strde: 3", ["line 2", "data.strde", "data.stride"]),
        ("dta:\n  stride: 3", ["line 2", "dta.stride", "data.stride"]),
        ("stride: 3", ["line 1", "stride", "data.stride"]),
        ("gpu: 0", ["line 1", "unknown option gpu"]),
        ("eval_only: true", ["unknown option eval_only"]),
        ("data.strde: 3", ["data.strde", "data.stride"]),
        ("data:\n  workers: 1\n  stride: x", ["line 3", "data.stride", "a valid integer", "'x'"]),
        ("data: {stride: 1.5}", ["data.stride", "a valid integer"]),
        ("data: {stride: true}", ["data.stride", "a valid integer"]),
        ("data: {stride: null}", ["data.stride", "a valid integer", "None"]),
        ("data: {stride: {a: 1}}", ["data.stride", "a valid integer"]),
        ("data: {stride: 0}", ["line 1", "data.stride", "greater than or equal to 1"]),
        ("data: {frames: null}", ["data.frames", "a valid string"]),
        ("data: {frames: 3}", ["data.frames", "a valid string"]),
        ("data: {frames: {class_path: os.system}}", ["data.frames", "a valid string"]),
        ("fine: {milestones: [2, 1]}", ["fine.milestones", "ascending"]),
        ("fine: {milestones: &a [*a]}", ["line 1"]),
        ("data: 3", ["line 1", "data is a section"]),
        ("data: [1]", ["line 1", "data is a section"]),
        ("data: {stride: 1, stride: 2}", ["data.stride", "twice"]),
        ("data: {stride: 1}\ndata: {stride: 2}", ["line 2", "data.stride", "twice"]),
        ("3", ["expected sections"]),
        ("- a", ["expected sections"]),
        ("just text", ["expected sections"]),
        ("data:\n  - a\n b: [", ["line 3", "not valid YAML"]),
        ("data:\n\tstride: 3", ["line 2", "not valid YAML"]),
        ("a: 1\n---\nb: 2", ["not valid YAML"]),
        ("data: {frames: !!python/object/apply:os.getcwd []}", ["line 1", "not valid YAML"]),
        ("data: {frames: !secret x}", ["line 1", "not valid YAML"]),
        ("data: {stride: *unknown}", ["line 1", "not valid YAML"]),
        ("data: {frames: a\x07b}", ["not valid YAML"]),
        ("{? {a: b} : c}", ["line 1", "unknown option"]),
        ("data: " + "[" * 3000 + "]" * 3000, ["recursion"]),
    ],
)
def test_mistakes_in_a_file_are_named_with_file_and_line(refused, yaml_file, text, parts):
    path = yaml_file(text)
    line = refused("--config", path)
    for part in [path, *parts]:
        assert part in line


def test_bytes_that_are_no_text(refused, tmp_path):
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert str(path) in refused("--config", str(path))


def test_a_value_overridden_later_must_still_have_its_type(refused, yaml_file):
    assert "data.stride" in refused("--config", yaml_file("data: {stride: x}"), "--data.stride", "3")


def test_a_range_is_checked_after_merging(yaml_file):
    """A span of 39 frames is too short for the default stride, and right for the one typed."""
    assert run("--config", yaml_file("data: {clip_span: 39}"), "--data.stride", "2").config.data.clip_span == 39


def test_eval_only_is_known_only_where_offered(refused):
    assert run("--eval_only", "true").eval_only
    assert "--eval_only" in refused("--eval_only", "true", with_eval_only=False)


def test_load_raises_where_a_script_ends(yaml_file):
    with pytest.raises(InputError, match=r"data\.strde"):
        load(yaml_file("data: {strde: 3}"))


# Help


@pytest.fixture
def help_text(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "2000")
    with pytest.raises(SystemExit) as exit_:
        run("--help", "--nonsense")
    assert exit_.value.code == 0
    return capsys.readouterr().out


def test_help_lists_every_option_once_with_meaning_and_default(help_text):
    entries = [" ".join(entry.split()) for entry in re.split(r"\n(?=  -)", help_text)[1:]]
    assert [entry.split()[0].rstrip(",") for entry in entries] == [
        *("-h", "-gpu", "--config", "--print_config", "--eval_only"),
        *(f"--{option}" for option in OPTIONS),
    ]
    for entry in entries[1:]:
        assert re.fullmatch(r"-\S+( \S+)? \w.* .*\((type: .*, )?default: .*\)( \w+: .*)?", entry), entry


def test_help_is_grouped_by_section(help_text):
    titles = [line.split(":")[0] for line in help_text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["options", *(section.name for section in fields(Config))]


def test_every_option_has_a_docstring_of_its_own():
    for section in fields(Config):
        meanings = cli._meanings(section.name)
        assert set(meanings) == {option.name for option in fields(section.type)}


def test_print_config_is_readable_again(capsys, yaml_file):
    with pytest.raises(SystemExit) as exit_:
        run("--print_config", "--data.stride", "12", "--fine.lr", "1e-7")
    assert exit_.value.code == 0
    config = load(yaml_file(capsys.readouterr().out))
    assert (config.data.stride, config.fine.lr) == (12, 1e-7)


def test_none_reads_the_processs_own_arguments(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train_fine.py", "--data.stride", "9"])
    assert parse(None, prog="train_fine.py", description="").config.data.stride == 9


def test_the_environment_has_no_say(monkeypatch):
    monkeypatch.setitem(os.environ, "TRAIN_FINE_DATA__STRIDE", "3")
    monkeypatch.setitem(os.environ, "JSONARGPARSE_DEFAULT_ENV", "true")
    assert run().config.data.stride == 10
