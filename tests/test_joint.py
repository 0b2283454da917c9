"""Both streams in one network, through the scripts: training, evaluation, continuing, and the store's results."""

import json
import math

import numpy as np
import pytest
import torch

import extract_fineFEAT
import train_coarse_fineFEAT
import train_fine
from configs.cli import DEFAULT_CONFIG, load
from configs.schema import Coarse, Config, Model
from engine.checkpoint import read_checkpoint

NETWORK = "--coarse.fine_source", "network"
TRAINED = *NETWORK, "--coarse.fine_frozen", "false"


@pytest.fixture
def run(tiny_dataset, tiny_run, tmp_path):
    """run(option, value, ...) runs stage 3 from `tiny_run`'s checkpoints with `tmp_path` as --run.dir; returns that."""

    def run(*options, script=train_coarse_fineFEAT, folder=tmp_path):
        begin = "--config", tiny_dataset / "tiny.yaml", "--run.dir", folder
        starts = "--coarse.init", best(tiny_run, "coarse"), "--coarse.fine_init", best(tiny_run, "fine")
        script.main([str(part) for part in ("-gpu", "cpu", *begin, *starts, *options)])
        return folder

    return run


def best(folder, stage):
    return folder / stage / "checkpoints" / "best.pt"


def weights(folder, name="last.pt"):
    return read_checkpoint(folder / "coarse" / "checkpoints" / name)["model"]


def official(folder):
    """The logits of the official submission."""
    rows = (folder / "coarse" / "predictions" / "official.txt").read_text().splitlines()
    probabilities = np.array([[float(score) for score in row.split()[2:]] for row in rows])
    return np.log(probabilities / (1 - probabilities))


def test_equal_windows_give_the_stores_results(run, tiny_run, tmp_path):
    """Logits of whole videos that fit the window, from stored float32 features and from the frames."""
    store = tmp_path / "features"
    features = "--features.checkpoint", best(tiny_run, "fine"), "--features.dir", store, "--features.dtype", "float32"
    run(*features, script=extract_fineFEAT)
    logits = [official(run("--eval_only", "true", *options)) for options in (features, NETWORK)]
    np.testing.assert_allclose(logits[1], logits[0], rtol=0, atol=1e-4)
    other_window = official(run("--eval_only", "true", *NETWORK, "--data.fine_frames", "4"))
    assert np.abs(other_window - logits[0]).max() > 1e-3


def test_frozen(run, tiny_run, tmp_path):
    run(*NETWORK, "--coarse.max_steps", "2")
    state, fine = weights(tmp_path), read_checkpoint(best(tiny_run, "fine"))["model"]
    assert all(torch.equal(state[f"fine.{name}"], tensor) for name, tensor in fine.items())
    assert {name.partition(".")[0] for name in state} == {"fine", "coarse"}
    logged = [json.loads(line) for line in (tmp_path / "coarse" / "metrics.jsonl").read_text().splitlines()]
    assert not any("fine_loss" in line for line in logged)


def test_trained_stopped_and_evaluated(run, tiny_run, tmp_path, capsys):
    """Both streams change; a stopped run ends as an uninterrupted one; the checkpoint alone is all that is needed."""
    schedule = *TRAINED, "--coarse.fine_loss_weight", "0.5", "--coarse.epochs", "1"
    whole = run(*schedule, folder=tmp_path / "whole")
    stopped = run(*schedule, "--coarse.max_steps", "2", folder=tmp_path / "stopped")
    run(*schedule, folder=stopped)
    assert "continuing at epoch 0, step 2" in capsys.readouterr().out
    state, again = weights(whole), weights(stopped)
    assert state.keys() == again.keys()
    assert all(torch.equal(state[name], again[name]) for name in state)
    fine = read_checkpoint(best(tiny_run, "fine"))["model"]
    assert not any(torch.equal(state[f"fine.{name}"], tensor) for name, tensor in fine.items())
    line = json.loads((whole / "coarse" / "metrics.jsonl").read_text().splitlines()[0])
    own = (line["cls_loss"] + line["loc_loss"]) / 2
    assert line["loss"] == pytest.approx(own + 0.5 * line["fine_loss"])
    metrics = (whole / "coarse" / "metrics.json").read_text()
    assert (whole / "coarse" / "predictions" / "grid.json").is_file()
    alone = "--coarse.fine_init", "absent.pt"
    run("--eval_only", "true", *TRAINED, "--coarse.init", best(whole, "coarse"), *alone, folder=whole)
    assert (whole / "coarse" / "metrics.json").read_text() == metrics
    run("--eval_only", "true", *TRAINED, "--coarse.init", best(whole, "coarse").with_suffix(".safetensors"), *alone)
    assert (tmp_path / "coarse" / "metrics.json").read_text() == metrics
    with pytest.raises(SystemExit):
        run(*NETWORK, "--coarse.epochs", "2", folder=whole)
    assert "started with coarse.fine_frozen False" in capsys.readouterr().err


def test_each_stream_can_be_taken_from_a_checkpoint_of_both(run, tmp_path, tiny_run):
    """By stages 1 and 2 the Fine one, by stage 3 on stored features the Coarse one."""
    folder = run(*TRAINED, "--coarse.max_steps", "1", folder=tmp_path / "both")
    state, taken = weights(folder, "best.pt"), tmp_path / "taken"
    evaluated = "--eval_only", "true", "--fine.init", best(folder, "coarse")
    run(*evaluated, script=train_fine, folder=taken)
    store = "--features.dir", tmp_path / "features", "--features.checkpoint", best(folder, "coarse")
    run(*store, "--features.dtype", "float32", script=extract_fineFEAT)
    run(*store, "--coarse.init", best(folder, "coarse"), "--eval_only", "true", folder=taken)
    np.testing.assert_allclose(official(taken), official(folder), rtol=0, atol=1e-4)
    assert state["coarse.head.classify.bias"].shape == (3,)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--coarse.fine_init", "absent.pt"], "absent.pt: no such checkpoint of the Fine stream; run train_fine.py"),
        (["--coarse.fine_init", "none"], "coarse.fine_init must be a checkpoint if the Fine stream is frozen"),
        (["--model.fusion", "none"], "coarse.fine_source must be store if model.fusion is none, not 'network'"),
        (["--coarse.fine_loss_weight", "-1"], "coarse.fine_loss_weight must be greater than or equal to 0"),
    ],
)
def test_mistakes_cost_a_line(run, capsys, options, line):
    with pytest.raises(SystemExit) as stopped:
        run(*NETWORK, *options)
    assert stopped.value.code in (1, 2)
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


def test_random_streams_are_trained(run, tmp_path):
    run(*TRAINED, "--coarse.init", "none", "--coarse.fine_init", "none", "--coarse.max_steps", "1")
    assert any(name.startswith("fine.") for name in weights(tmp_path))


def test_accumulated_parts_equal_the_undivided_batch(run, tmp_path):
    """Each part is normalised on its own, as are groups of the batch; windows are of different lengths."""
    common = *TRAINED, "--model.pool", "stride", "--model.dropout", "0", "--coarse.max_steps", "2"
    common += "--coarse.init", "none", "--coarse.drop_last", "true"
    logged = []
    for name, options in {"parts": ("--coarse.accumulate", "2"), "groups": ("--model.bn_splits", "2")}.items():
        run(*common, *options, folder=tmp_path / name)
        lines = (tmp_path / name / "coarse" / "metrics.jsonl").read_text().splitlines()
        logged.append([{k: v for k, v in json.loads(line).items() if k.endswith("loss")} for line in lines[:2]])
    assert len(logged[0][0]) == 6
    for name in ("loc_loss", "fine_loc_loss"):
        assert logged[0][0][name] == pytest.approx(math.log(2), abs=0.1), "a fresh network says about 1/2"
    for parts, groups in zip(*logged, strict=True):
        assert parts == pytest.approx(groups, rel=1e-4)


def test_the_configuration():
    config = load(DEFAULT_CONFIG, DEFAULT_CONFIG.with_name("charades_joint.yaml"))
    coarse = config.coarse
    assert (coarse.fine_source, coarse.fine_frozen, coarse.fine_loss_weight) == ("network", False, 1.0)
    assert coarse.init == "runs/charades/coarse/checkpoints/best.pt"
    assert str(config.fine_init) == "runs/charades/fine/checkpoints/best.pt"
    assert (config.data.clip_span // config.data.stride, config.data.fine_frames) == (64, 128)
    assert str(Config().fine_init) == "runs/charades/fine/checkpoints/best.pt"
    with pytest.raises(ValueError, match=r"^coarse\.fine_source must be store"):
        Config(coarse=Coarse(fine_source="network"), model=Model(fusion="none"))
