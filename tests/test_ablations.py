"""The paper's comparison points, configs/ablations/*.yaml: what they say, change and train."""

import pytest
import torch

import train_coarse_fineFEAT
from configs.cli import DEFAULT_CONFIG, load
from configs.files import read_yaml
from configs.schema import diff
from engine.checkpoint import read_checkpoint
from engine.networks import build_coarse
from engine.step import make_optimizer
from models.losses import detection_loss
from tests.models.drawing import coarse_inputs

FILES = sorted((DEFAULT_CONFIG.parent / "ablations").glob("*.yaml"))
CHANGES = {  # to the network, by file
    "avg": {"pool": "avg"},
    "fine_fine": {"pool": "none"},
    "gaussian_16": {"gaussian_scale": 1 / 16},
    "gaussian_4": {"gaussian_scale": 1 / 4},
    "lateral": {"pool": "stride", "fusion": "lateral"},
    "max": {"pool": "max"},
    "no_fusion": {"fusion": "none"},
    "per_stage": {"fusion": "per_stage"},
    "stride": {"pool": "stride"},
    "uniform": {"alignment": "uniform"},
    "x3d": {"pool": "none", "fusion": "none"},
}
each = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def test_all_points_are_there():
    assert {path.stem for path in FILES} == CHANGES.keys()


@each
def test_header(path):
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    command = f"--config configs/charades.yaml --config configs/ablations/{path.name}"
    assert f"# Command    python train_coarse_fineFEAT.py {command}" in header
    assert "# Expected " in header
    assert "# Hardware " in header
    assert "not reproduced here" in header.lower()


@each
def test_a_delta_changes_the_network_and_where_results_and_features_are(path):
    before, after = load(DEFAULT_CONFIG).to_dict(), load(DEFAULT_CONFIG, path).to_dict()
    changed = {option: now for option, (_, now) in diff(before, after).items()}
    assert set(changed) == {setting.option for setting in read_yaml(path)}
    model = {option.removeprefix("model."): now for option, now in changed.items() if option.startswith("model.")}
    assert model == CHANGES[path.stem]
    others = {option: now for option, now in changed.items() if not option.startswith("model.")}
    features = {} if model.get("fusion") == "none" else {"features.dir": "runs/charades/features"}
    assert others == {"run.name": f"ablations/{path.stem}", **features}


@each
def test_builds_and_trains_a_step(path, tmp_path):
    (tmp_path / "tiny.yaml").write_text("{model: {variant: tiny}, data: {num_classes: 5}}")
    config = load(DEFAULT_CONFIG, path, tmp_path / "tiny.yaml")
    torch.manual_seed(0)
    net = build_coarse(config)
    changes = CHANGES[path.stem]
    assert (net.pool, net.gaussian_scale) == (changes.get("pool", "grid"), changes.get("gaussian_scale", 1 / 8))
    assert net.alignment == ("window" if "lateral" in path.stem else changes.get("alignment", "gaussian"))
    optimizer = make_optimizer(net, config.coarse, fusion_lr_factor=config.coarse.fusion_lr_factor)
    inputs, labels = coarse_inputs(), torch.ones(2, 5, 90)
    losses = []
    for _ in range(2):
        loss = detection_loss(net(*inputs), labels, torch.ones(2, 90), align_corners=False)["loss"]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[1] < losses[0]
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_lateral_connections_through_the_script(tiny_dataset, tiny_run, tmp_path, capsys):
    """Trained from a Fine stream, evaluated from its checkpoint, and not continued as another network."""

    def run(*options):
        files = [part for path in (tiny_dataset / "tiny.yaml", lateral) for part in ("--config", path)]
        features = "--features.dir", tiny_run / "features", "--run.dir", tmp_path
        train_coarse_fineFEAT.main([str(part) for part in ("-gpu", "cpu", *files, *features, *options)])

    lateral = DEFAULT_CONFIG.parent / "ablations" / "lateral.yaml"
    run("--coarse.max_steps", 1, "--coarse.init", tiny_run / "fine" / "checkpoints" / "best.pt")
    trained = (tmp_path / "coarse" / "metrics.json").read_text()
    assert any("fusion.lateral" in n for n in read_checkpoint(tmp_path / "coarse/checkpoints/best.pt")["model"])
    run("--eval_only", "true")
    assert (tmp_path / "coarse" / "metrics.json").read_text() == trained
    with pytest.raises(SystemExit):
        run("--model.gaussian_scale", "0.25")
    assert "this run was started with model.gaussian_scale 0.125, not 0.25" in capsys.readouterr().err
