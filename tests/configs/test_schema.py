"""The typed configuration: its published defaults, its checks, and its dictionary form."""

import ast
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from configs import schema
from configs.schema import Coarse, Config, Data, Eval, Features, Fine, Model, Run, diff


def test_schema_needs_only_the_ground():
    tree = ast.parse(Path(schema.__file__).read_text())
    imported = [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    imported += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.split(".")[0] for name in imported} <= sys.stdlib_module_names | {"common", "pydantic"}


def test_defaults_are_the_published_training():
    fine, coarse = Fine(), Coarse()
    assert (fine.batch_size, fine.lr, fine.round_epochs, fine.milestones, fine.drop_last) == (
        8, 0.01, 4, [15, 20, 25], True,
    )  # fmt: skip
    assert (coarse.batch_size, coarse.lr, coarse.round_epochs, coarse.milestones, coarse.drop_last) == (
        6, 0.02, 2, [15, 25, 35], False,
    )  # fmt: skip
    assert coarse.fusion_lr_factor == 10
    for stage in (fine, coarse):
        assert (stage.momentum, stage.weight_decay, stage.lr_decay, stage.epochs) == (0.9, 1e-5, 0.1, 200)
        assert stage.init == "weights/x3d_multigrid_kinetics_fb_pretrained.pt"
    data = Data()
    assert (data.stride, data.clip_span, data.fine_frames, data.min_frames) == (10, 640, 128, 162)


def test_each_configuration_has_its_own_lists():
    Config().fine.milestones.append(99)
    assert Config().fine.milestones == [15, 20, 25]


@pytest.mark.parametrize(
    ("section", "option", "value"),
    [
        (Data, "stride", 0),
        (Data, "stride", "10"),
        (Data, "stride", True),
        (Data, "frames", None),
        (Data, "kind", "chrades"),
        (Data, "num_classes", 0),
        (Data, "fine_frames", 0),
        (Data, "min_frames", -1),
        (Data, "workers", -1),
        (Data, "size", 63),
        (Data, "clip_span", 39),
        (Model, "bn_splits", 0),
        (Model, "dropout", 1.0),
        (Model, "dropout", float("nan")),
        (Model, "gaussian_scale", 0.0),
        (Fine, "batch_size", 0),
        (Fine, "init", ""),
        (Fine, "lr", 0.0),
        (Fine, "lr", float("nan")),
        (Fine, "lr", float("inf")),
        (Fine, "momentum", 1.0),
        (Fine, "weight_decay", -1e-5),
        (Fine, "epochs", 0),
        (Fine, "round_epochs", 0),
        (Fine, "max_steps", 0),
        (Fine, "lr_decay", 0.0),
        (Fine, "milestones", [15, 15]),
        (Coarse, "milestones", [25, 15]),
        (Coarse, "milestones", [0, 5]),
        (Coarse, "milestones", [1, 2.5]),
        (Coarse, "fusion_lr_factor", 0.0),
        (Coarse, "fine_loss_weight", -1.0),
        (Eval, "batch_size", 0),
        (Eval, "window", 0),
        (Eval, "overlap", -1),
        (Run, "name", " "),
        (Run, "seed", -1),
        (Run, "threads", 0),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_that_opens_with_its_option(section, option, value):
    name = section.__name__.lower()
    for make in (lambda: section(**{option: value}), lambda: Config.from_dict({name: {option: value}})):
        with pytest.raises(ValueError, match=rf"^{name}\.{option} must (be|have) .*, not ") as error:
            make()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("spelling", ["none", "None", "null"])
def test_every_spelling_of_none_means_random_weights(spelling):
    assert Fine(init=spelling).init == schema.FROM_SCRATCH


def test_paths_follow_the_run_unless_set():
    config = Config(run=Run(name="trial"))
    assert config.run_dir == Path("runs/trial")
    assert config.features_dir == Path("runs/trial/features")
    assert config.features_checkpoint == Path("runs/trial/fine/checkpoints/best.pt")
    config = Config(run=Run(name="trial", dir="/big/trial"), features=Features(dir="/fast", checkpoint="fine.pt"))
    assert (config.run_dir, config.features_dir) == (Path("/big/trial"), Path("/fast"))
    assert config.features_checkpoint == Path("fine.pt")


def test_dictionary_form_round_trips():
    config = Config(data=Data(stride=12, size=96), coarse=Coarse(milestones=[1]), run=Run(threads=2))
    assert Config.from_dict(config.to_dict()) == config
    assert list(config.to_dict()) == [section.name for section in fields(Config)]


def test_diff_lists_exactly_the_changed_options():
    old, new = Config(), Config(data=Data(stride=12), fine=Fine(milestones=[1]))
    assert diff(old, old) == {}
    expected = {"data.stride": (10, 12), "fine.milestones": ([15, 20, 25], [1])}
    assert diff(old, new) == diff(old.to_dict(), new) == expected
    assert diff({"data": {}}, {"data": {"stride": 12}}) == {"data.stride": (None, 12)}


def test_windows_overlap_by_a_quarter_unless_said_otherwise():
    assert [Eval(window=64).common_frames, Eval(window=64, overlap=0).common_frames, Eval(overlap=9).common_frames] == [
        16, 0, 0,
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"^eval\.overlap must be below eval\.window \(64\), not 64$"):
        Eval(window=64, overlap=64)
