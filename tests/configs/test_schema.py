"""The typed configuration: its published defaults, its checks, and its dictionary form."""

import ast
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from common.errors import InputError
from configs import schema
from configs.schema import OPTIONS, Coarse, Config, Data, Eval, Features, Fine, Model, Run, changed_settings, diff


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
    old, new = Config().to_dict(), Config(data=Data(stride=12), fine=Fine(milestones=[1])).to_dict()
    assert diff(old, old) == {}
    expected = {"data.stride": (10, 12), "fine.milestones": ([15, 20, 25], [1])}
    assert diff(old, new) == expected
    assert diff({"data": {}}, {"data": {"stride": 12}}) == {"data.stride": (None, 12)}


def test_windows_overlap_by_a_quarter_unless_said_otherwise():
    assert [Eval(window=64).common_frames, Eval(window=64, overlap=0).common_frames, Eval(overlap=9).common_frames] == [
        16, 0, 0,
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"^eval\.overlap must be less than eval\.window \(64\), not 64$"):
        Eval(window=64, overlap=64)


# --- what a run that continues may change, and what it says -----------------------------------------------------------

PATH = Path("last.pt")


@pytest.mark.parametrize(
    ("present", "option"),
    [
        (Config(data=Data(stride=12)), "data.stride"),
        (Config(data=Data(num_classes=65)), "data.num_classes"),
        (Config(data=Data(kind="multithumos")), "data.kind"),
        (Config(model=Model(bn_splits=2)), "model.bn_splits"),
        (Config(model=Model(variant="S")), "model.variant"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_a_run_cannot_change(present, option):
    with pytest.raises(InputError, match=rf"this run was started with {option} .*--run\.resume never"):
        changed_settings(PATH, Config().to_dict(), present.to_dict(), "fine")


def test_other_changed_settings_are_listed():
    present = Config(
        data=Data(frames="elsewhere", fine_window="centred"),
        model=Model(pool="avg", dropout=0.1),  # stage 1 has no pool
        fine=Fine(lr=0.5, milestones=[3], init="none"),
        run=Run(name="renamed", seed=1),
    ).to_dict()
    present["coarse"]["lr"] = 1.0
    assert changed_settings(PATH, Config().to_dict(), present, "fine") == [
        "data.frames was data/Charades_v1_rgb, from here on it is elsewhere",
        "model.dropout was 0.5, from here on it is 0.1",
        "fine.lr was 0.01, from here on it is 0.5",
        "fine.milestones was [15, 20, 25], from here on it is [3]",
        "run.seed was 0, from here on it is 1",
    ]
    with pytest.raises(InputError, match=r"model\.pool"):
        changed_settings(PATH, Config().to_dict(), Config(model=Model(pool="avg")).to_dict(), "coarse")


def test_a_run_of_stage_3_may_change_all_but_the_network_and_what_it_is_shown():
    old, new = Config().to_dict(), Config().to_dict()
    refused = set()
    for option in OPTIONS:
        section, name = option.split(".")
        kept, new[section][name] = new[section][name], "changed"
        try:
            lines = changed_settings(PATH, old, new, "coarse")
        except InputError:
            refused.add(option)
        else:
            unsaid = section in ("fine", "features", "eval") or option in (
                "coarse.init",
                "run.name",
                "run.dir",
                "run.resume",
            )
            assert bool(lines) != unsaid, option
        new[section][name] = kept
    assert refused == {
        "data.kind", "data.num_classes", "data.stride", "data.size",
        "model.variant", "model.pool", "model.fusion", "model.alignment", "model.gaussian_scale", "model.bn_splits",
        "coarse.fine_source", "coarse.fine_frozen",
    }  # fmt: skip
