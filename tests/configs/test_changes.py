"""What a run that continues may change, and what it says."""

from pathlib import Path

import pytest

from common.errors import InputError
from configs.changes import changed_settings
from configs.schema import OPTIONS, Config, Data, Fine, Model, Run

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
    with pytest.raises(InputError, match=rf"this run began with {option} .*--run\.resume never"):
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
