"""The YAML files: those of the repository, and the resolved one that each run writes."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.cli import DEFAULT_CONFIG, load
from configs.files import read_yaml, save_yaml, to_yaml
from configs.schema import OPTIONS, Coarse, Config, Data, Fine, Model, Run, diff

FILES = sorted(DEFAULT_CONFIG.parent.glob("*.yaml"))
NAMES = [path.name for path in FILES]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_every_file_parses_on_top_of_the_default(path):
    assert load(DEFAULT_CONFIG, path).run.name == path.stem


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_every_file_opens_with_result_hardware_and_command(path):
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    for word in ("# Expected ", "# Hardware ", "# Command "):
        assert word in header
    if not path.stem.startswith("demo"):  # those have been run
        assert "not yet reproduced here" in header.lower() or "not run here" in header.lower()


def test_the_default_file_spells_out_the_schemas_defaults():
    assert diff(Config().to_dict(), load(DEFAULT_CONFIG).to_dict()) == {}
    assert [setting.option for setting in read_yaml(DEFAULT_CONFIG)] == list(OPTIONS)


@pytest.mark.parametrize("name", ["charades_joint", "charades_x3d_s", "charades_x3d_xl", "multithumos"])
def test_deltas_hold_changes_only(name):
    path = DEFAULT_CONFIG.with_name(f"{name}.yaml")
    changed = diff(load(DEFAULT_CONFIG).to_dict(), load(DEFAULT_CONFIG, path).to_dict())
    assert set(changed) == {setting.option for setting in read_yaml(path)}


def test_variants_take_their_size_and_stride():
    small, large = load(*_with_default("charades_x3d_s")), load(*_with_default("charades_x3d_xl"))
    assert (small.model.variant, small.data.stride, small.data.size) == ("S", 12, None)
    assert (large.model.variant, large.data.stride, large.data.size) == ("XL", 10, None)


def test_multithumos():
    config = load(*_with_default("multithumos"))
    assert (config.data.kind, config.data.num_classes, config.data.fine_window) == ("multithumos", 65, "centred")


def test_demo_hands_its_fine_checkpoint_to_the_coarse_stream():
    config = load(*_with_default("demo"))
    assert Path(config.coarse.init) == config.features_checkpoint
    assert (config.model.variant, config.fine.init) == ("tiny", "none")


def _with_default(name: str) -> tuple[Path, Path]:
    return DEFAULT_CONFIG, DEFAULT_CONFIG.with_name(f"{name}.yaml")


text = st.text(st.characters(codec="utf-8"), max_size=20)
configs = st.builds(
    Config,
    data=st.builds(
        Data,
        frames=text,
        ground_truth=st.none() | text,
        size=st.none() | st.integers(64, 400),
        allow_missing=st.booleans(),
    ),
    model=st.builds(Model, pool=st.sampled_from(["grid", "none"]), dropout=st.floats(0, 0.99)),
    fine=st.builds(
        Fine,
        lr=st.floats(1e-30, 1e3),
        weight_decay=st.floats(0, 1),
        milestones=st.lists(st.integers(1, 99), unique=True).map(sorted),
        init=text.filter(str.strip),
        max_steps=st.none() | st.integers(1, 10**9),
    ),
    coarse=st.builds(Coarse),
    run=st.builds(Run, name=text.filter(str.strip), seed=st.integers(0, 2**63)),
)


@settings(max_examples=100, deadline=None)
@given(config=configs)
def test_resolved_configuration_round_trips(tmp_path_factory, config):
    path = tmp_path_factory.getbasetemp() / "resolved" / "config.yaml"
    save_yaml(config, path)
    assert load(path) == config
    assert [setting.option for setting in read_yaml(path)] == list(OPTIONS)


def test_saving_leaves_one_file_and_replaces_it(tmp_path):
    save_yaml(Config(), tmp_path / "fine" / "config.yaml")
    save_yaml(Config(run=Run(seed=1)), tmp_path / "fine" / "config.yaml")
    assert [path.name for path in (tmp_path / "fine").iterdir()] == ["config.yaml"]
    assert load(tmp_path / "fine" / "config.yaml").run.seed == 1


def test_a_failed_save_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    save_yaml(Config(), path)
    before = path.read_text()

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_yaml(Config(run=Run(seed=1)), path)
    assert path.read_text() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.yaml"]


def test_text_form_keeps_the_schemas_order():
    lines = to_yaml(Config()).splitlines()
    assert [line.rstrip(":") for line in lines if not line.startswith((" ", "-"))] == list(Config().to_dict())
