"""The three stages as a user runs them, on a tiny dataset: what they write, continue, skip, refuse and say."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import extract_fineFEAT
import train_coarse_fineFEAT
import train_fine
from configs import cli
from datasets.clips import video_length
from engine.checkpoint import read_checkpoint
from eval import dense
from eval.charades_localize import localize, read_ground_truth, read_predictions
from eval.per_frame import frame_ap
from models import CoarseNet, FineNet, save_official

LENGTHS = {"tr0": 60, "tr1": 52, "tr2": 44, "tr3": 40, "tr4": 57, "tr5": 48, "tr6": 41}
LENGTHS |= {"te0": 60, "te1": 44, "te2": 60, "te3": 9}
STRIDE, CLASSES = 4, 3
FOLDERS = {"checkpoints", "tensorboard", "predictions"}
METRICS = {
    "mAP_official", "wAP_official", "mAP_official_defined", "mAP_released", "loss", "cls_loss", "loc_loss",
    "classes_without_positives",
}  # fmt: skip

Script = Callable[..., None]


@pytest.fixture(scope="module", autouse=True)
def restore_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def stage(tiny_dataset, tmp_path) -> Callable[..., Path]:
    """stage(script, option, value, ...) runs a script, with `tmp_path` or another folder as --run.dir; returns that."""

    def run(script: Script, *options: object, folder: Path = tmp_path) -> Path:
        config = tiny_dataset / "tiny.yaml"
        script.main([str(part) for part in ("-gpu", "cpu", "--config", config, "--run.dir", folder, *options)])
        return folder

    return run


@pytest.fixture
def copy(tiny_run, tmp_path) -> Path:
    """A run of all three stages that the test may change."""
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    return tmp_path


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def read_json(path: Path):
    def refuse(constant: str):
        raise ValueError(f"{path}: {constant} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def log(folder: Path, event: str | None = None) -> list[dict]:
    """The lines of metrics.jsonl without times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if not key.endswith("_seconds")}
        for line in lines
        if event in (None, line["event"])
    ]


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(checkpoint)["model"]


def assert_equal_weights(a: Path, b: Path) -> None:
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# --- what a run leaves ------------------------------------------------------------------------------------------------


def test_output_tree(tiny_run):
    for name in ("fine", "coarse"):
        assert {path.name for path in (tiny_run / name).iterdir() if path.is_dir()} == FOLDERS
        found = files(tiny_run / name)
        events = {file for file in found if file.startswith("tensorboard/events.out.tfevents.")}
        assert len(events) == 1
        extra = {"predictions/grid.json"} if name == "coarse" else set()
        assert found - events == extra | {
            "checkpoints/last.pt", "checkpoints/last.previous.pt", "checkpoints/best.pt",
            "checkpoints/best.safetensors", "metrics.jsonl", "metrics.json", "config.yaml",
            "predictions/official.txt", "predictions/released.txt",
        }  # fmt: skip
    assert files(tiny_run / "features") == {"manifest.json", *(f"{video}.safetensors" for video in LENGTHS)}


def test_nothing_on_stderr(tiny_run):
    for path in tiny_run.glob("*.stderr"):
        assert path.read_text() == "", path.name


def test_metrics(tiny_run):
    for name in ("fine", "coarse"):
        metrics = read_json(tiny_run / name / "metrics.json")
        assert metrics.keys() >= METRICS
        assert ("mAP_frames" in metrics) == (name == "fine")
        assert metrics["loss"] == pytest.approx((metrics["cls_loss"] + metrics["loc_loss"]) / 2)
        for key in METRICS - {"classes_without_positives", "loss", "cls_loss", "loc_loss"}:
            assert 0 < metrics[key] <= 1
        kept = max(log(tiny_run / name, "validation"), key=lambda line: line["mAP_official_defined"])
        assert metrics.items() <= kept.items(), "those of the best validation"
        assert read_checkpoint(tiny_run / name / "checkpoints" / "best.pt")["position"]["step"] == kept["step"]


def test_predictions(tiny_run, tiny_dataset):
    annotations = read_json(tiny_dataset / "annotations.json")
    tested = {video: entry for video, entry in annotations.items() if entry["subset"] == "testing"}
    for name in ("fine", "coarse"):
        folder = tiny_run / name / "predictions"
        rows = [line.split() for line in (folder / "official.txt").read_text().splitlines()]
        assert [(row[0], row[1]) for row in rows] == [(v, str(j)) for v in tested for j in range(1, 26)]
        assert {len(row) for row in rows} == {2 + CLASSES}
        released = [line.split()[:2] for line in (folder / "released.txt").read_text().splitlines()]
        assert {video for video, _ in released} == {"te0", "te1", "te2"}, "te3 is too short for this rule"
        assert [int(rank) for video, rank in released if video == "te0"] == list(range(1, 26))
        truth = {v: (e["actions"], e["duration"]) for v, e in tested.items()}
        scored = localize(read_predictions(folder / "official.txt", CLASSES), truth, CLASSES)
        metrics = read_json(tiny_run / name / "metrics.json")
        assert (metrics["mAP_official"], metrics["wAP_official"]) == (scored.mAP, scored.wAP)


def test_grid_of_a_video(tiny_run):
    grids = read_json(tiny_run / "coarse" / "predictions" / "grid.json")
    assert grids.keys() == {"te0", "te1", "te2", "te3"}
    for video, frames in grids.items():
        T = video_length(LENGTHS[video], STRIDE)
        assert len(frames) == -(-T // 4) + 1
        assert frames == sorted(frames)
        assert (frames[0], frames[-1]) == (1, pytest.approx(1 + STRIDE * (T - 1), abs=0.02))


def test_store(tiny_run):
    manifest = read_json(tiny_run / "features" / "manifest.json")
    assert (manifest["stride"], manifest["crop"], manifest["dtype"]) == (STRIDE, 64, "float16")
    assert {v: entry["frames"] for v, entry in manifest["videos"].items()} == {
        video: n // STRIDE for video, n in LENGTHS.items()
    }
    stored = load_file(tiny_run / "features" / "te0.safetensors")
    assert {layer: tuple(x.shape) for layer, x in stored.items()} == {
        layer: (15, C, 7, 7) for layer, C in manifest["layers"].items()
    }
    assert {x.dtype for x in stored.values()} == {torch.float16}


def test_config_can_be_read_again(tiny_run):
    for name in ("fine", "coarse"):
        path = tiny_run / name / "config.yaml"
        config = cli.load(path)
        assert config.run.dir == str(tiny_run)
        assert config.to_dict() == read_checkpoint(tiny_run / name / "checkpoints" / "last.pt")["config"]


# --- continuing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3])
def test_a_stopped_stage_1_continues_as_if_it_had_not(stage, tiny_run, steps, capsys):
    """3 steps an epoch: stopped within the first, or at its end."""
    folder = stage(train_fine, "--fine.max_steps", steps)
    assert read_checkpoint(folder / "fine" / "checkpoints" / "last.pt")["position"]["step"] == steps
    stage(train_fine)
    assert f"continuing at epoch {steps // 3}, step {steps}" in capsys.readouterr().out
    assert_equal_weights(*(run / "fine" / "checkpoints" / "last.pt" for run in (folder, tiny_run)))
    assert log(folder / "fine", "train")[-1] == log(tiny_run / "fine", "train")[-1]


def test_a_stopped_stage_3_continues_as_if_it_had_not(stage, copy, tiny_run):
    shutil.rmtree(copy / "coarse")
    fine = "--coarse.init", copy / "fine" / "checkpoints" / "best.pt"
    stage(train_coarse_fineFEAT, *fine, "--coarse.max_steps", 5)
    stage(train_coarse_fineFEAT)
    assert_equal_weights(*(run / "coarse" / "checkpoints" / "last.pt" for run in (copy, tiny_run)))


def test_a_finished_run_says_so(stage, copy, capsys):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    stage(train_fine)
    stage(train_coarse_fineFEAT)
    out = capsys.readouterr().out
    assert "fine/checkpoints/last.pt: finished after 6 steps" in out
    assert "coarse/checkpoints/last.pt: finished after 8 steps" in out
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_starting_again(stage, copy, tiny_run, capsys):
    stage(train_fine, "--run.resume", "never", "--fine.max_steps", 1)
    assert "continuing" not in capsys.readouterr().out
    assert [line["step"] for line in log(copy / "fine")] == [1, 1]
    assert log(copy / "fine", "train") == log(tiny_run / "fine", "train")[:1]


def test_same_seed_same_result_for_any_number_of_workers(stage, tiny_run, tmp_path):
    for workers, seed in ((2, 0), (0, 1)):
        folder = tmp_path / f"seed{seed}"
        stage(train_fine, "--data.workers", workers, "--run.seed", seed, "--fine.epochs", 1, folder=folder)
    reference = [line for line in log(tiny_run / "fine") if line["epoch"] <= 1]
    assert log(tmp_path / "seed0" / "fine") == reference
    assert log(tmp_path / "seed1" / "fine")[0]["loss"] != reference[0]["loss"]


# --- evaluation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("script", "name"), [(train_fine, "fine"), (train_coarse_fineFEAT, "coarse")])
def test_eval_only_reproduces_the_best(stage, copy, tiny_run, script, name, capsys):
    (copy / name / "metrics.json").unlink()
    shutil.rmtree(copy / name / "predictions")
    (copy / name / "latest" / "predictions").mkdir(parents=True)
    (copy / name / "latest" / "predictions" / "official.txt.99.partial").touch()  # of a killed evaluation
    stage(script, "--eval_only", "true")
    assert files(copy / name) == files(tiny_run / name)
    assert not (copy / name / "latest").exists()
    for file in ("metrics.json", "predictions/official.txt", "predictions/released.txt"):
        assert (copy / name / file).read_bytes() == (tiny_run / name / file).read_bytes()
    out = capsys.readouterr().out
    metrics = read_json(tiny_run / name / "metrics.json")
    assert f"mAP (official)  {100 * metrics['mAP_official']:.2f}" in out
    assert f"mAP (released)  {100 * metrics['mAP_released']:.2f}" in out


def test_eval_only_of_a_named_checkpoint(stage, tiny_run, tmp_path):
    """In a folder of its own; the number of videos in a batch does not matter."""
    init = tiny_run / "fine" / "checkpoints" / "best.pt"
    stage(train_fine, "--fine.init", init, "--eval_only", "true", "--eval.batch_size", 3)
    assert files(tmp_path / "fine") == {"metrics.json", "predictions/official.txt", "predictions/released.txt"}
    ours, theirs = (read_json(run / "fine" / "metrics.json") for run in (tmp_path, tiny_run))
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    assert ours["AP_official"] == pytest.approx(theirs["AP_official"], abs=1e-3)


def test_saved_frames_hold_the_metric_and_go_with_the_next_evaluation(stage, copy, tiny_dataset):
    saved = copy / "coarse" / "predictions" / "dense.npz"
    stage(train_coarse_fineFEAT, "--eval_only", "true", "--eval.save_frames", "true")
    metrics = read_json(copy / "coarse" / "metrics.json")
    annotations = read_json(tiny_dataset / "annotations.json")
    truth = {video: (annotations[video]["actions"], annotations[video]["duration"]) for video in ("te0", "te1", "te2")}
    steps = dense.read_steps(saved)
    assert steps.keys() == {*truth, "te3"}, "the metric leaves out a short one"
    assert metrics["mAP_frames"] == pytest.approx(frame_ap(*dense.rows(steps, truth, CLASSES))[1], abs=1e-9)
    stage(train_coarse_fineFEAT, "--eval_only", "true")
    assert not saved.exists()


def official_csv(path: Path, annotations: dict, subset: str) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "subject", "actions", "length"])
        for video, entry in annotations.items():
            if entry["subset"] == subset:
                actions = ";".join(f"c{label:03d} {start} {end}" for label, start, end in entry["actions"])
                writer.writerow([video, "someone", actions, entry["duration"]])
    return path


def test_official_csv_files(stage, copy, tiny_dataset, tiny_run, tmp_path):
    """As annotations, and as the ground truth beside a JSON."""
    annotations = read_json(tiny_dataset / "annotations.json")
    folder = tmp_path / "official"
    folder.mkdir()
    official_csv(folder / "Charades_v1_train.csv", annotations, "training")
    truth = official_csv(folder / "Charades_v1_test.csv", annotations, "testing")
    expected = (tiny_run / "fine" / "metrics.json").read_text()
    stage(train_fine, "--eval_only", "true", "--data.annotations", folder)
    assert (copy / "fine" / "metrics.json").read_text() == expected
    stage(train_fine, "--eval_only", "true", "--data.ground_truth", truth)
    assert (copy / "fine" / "metrics.json").read_text() == expected
    submission = read_predictions(copy / "fine" / "predictions" / "official.txt", CLASSES)
    assert localize(submission, read_ground_truth(truth), CLASSES).mAP == json.loads(expected)["mAP_official"]


def test_multithumos_counts_classes_from_one(stage, copy, tiny_dataset, tiny_run, tmp_path):
    annotations = read_json(tiny_dataset / "annotations.json")
    for entry in annotations.values():
        entry["actions"] = [[label + 1, start, end] for label, start, end in entry["actions"]]
    path = tmp_path / "multithumos.json"
    path.write_text(json.dumps(annotations))
    options = "--data.kind", "multithumos", "--data.annotations", path, "--data.fine_window", "centred"
    stage(train_fine, *options, "--eval_only", "true")
    assert (copy / "fine" / "metrics.json").read_text() == (tiny_run / "fine" / "metrics.json").read_text()
    shutil.rmtree(copy / "coarse")
    stage(train_coarse_fineFEAT, *options, "--data.fine_frames", 9, "--coarse.max_steps", 1)
    assert log(copy / "coarse", "train")[0]["step"] == 1


def test_a_class_without_positives_is_null_and_named(stage, copy, tiny_dataset, tmp_path, capsys):
    annotations = read_json(tiny_dataset / "annotations.json")
    for entry in annotations.values():
        entry["actions"] = [action for action in entry["actions"] if action[0] != 1]
    (tmp_path / "two.json").write_text(json.dumps(annotations))
    stage(train_fine, "--eval_only", "true", "--data.annotations", tmp_path / "two.json")
    metrics = read_json(copy / "fine" / "metrics.json")
    assert metrics["mAP_official"] is metrics["wAP_official"] is metrics["AP_official"][1] is None
    assert metrics["classes_without_positives"] == [1]
    assert 0 < metrics["mAP_official_defined"] <= 1
    assert "mAP (official)  undefined" in capsys.readouterr().out


def test_without_any_positives_the_first_validation_stays_the_best(stage, tiny_dataset, tmp_path):
    """Scores are undefined then; what later validations wrote is removed."""
    annotations = read_json(tiny_dataset / "annotations.json")
    for entry in annotations.values():
        entry["actions"] = entry["actions"] if entry["subset"] == "training" else []
    (tmp_path / "none.json").write_text(json.dumps(annotations))
    stage(train_fine, "--data.annotations", tmp_path / "none.json")
    metrics = read_json(tmp_path / "fine" / "metrics.json")
    assert metrics["mAP_official"] is metrics["mAP_official_defined"] is None
    assert metrics["classes_without_positives"] == [0, 1, 2]
    assert metrics.items() <= log(tmp_path / "fine", "validation")[0].items()
    assert {path.name for path in (tmp_path / "fine").iterdir() if path.is_dir()} == FOLDERS


# --- extraction -------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(copy) -> Path:
    return copy / "features"


def times(store: Path) -> dict[str, int]:
    return {path.stem: path.stat().st_mtime_ns for path in store.glob("*.safetensors")}


def test_extraction_skips_what_is_complete(stage, store, capsys):
    before = times(store), (store / "manifest.json").read_text()
    stage(extract_fineFEAT)
    assert "11 videos already extracted, 0 to extract" in capsys.readouterr().out
    assert (times(store), (store / "manifest.json").read_text()) == before


def test_extraction_repairs_what_is_not(stage, store, tiny_run):
    """A damaged file, one of an interrupted run (whole, but not in the manifest) and a missing one."""
    before = times(store)
    damaged = bytearray((store / "tr1.safetensors").read_bytes())
    damaged[-100] ^= 0xFF
    (store / "tr1.safetensors").write_bytes(damaged)
    manifest = read_json(store / "manifest.json")
    del manifest["videos"]["tr2"]
    (store / "manifest.json").write_text(json.dumps(manifest))
    (store / "te0.safetensors").unlink()
    os.utime(store / "tr1.safetensors", ns=(before["tr1"], before["tr1"]))
    stage(extract_fineFEAT, "--features.verify", "true")
    assert {video for video, time in times(store).items() if time != before[video]} == {"tr1", "tr2", "te0"}
    for file in files(store) - {"manifest.json"}:
        assert (store / file).read_bytes() == (tiny_run / "features" / file).read_bytes(), file
    assert read_json(store / "manifest.json")["videos"] == read_json(tiny_run / "features" / "manifest.json")["videos"]


def test_extraction_without_training_videos(stage, tiny_dataset, tiny_run, tmp_path):
    annotations = read_json(tiny_dataset / "annotations.json")
    tested = {video: entry for video, entry in annotations.items() if entry["subset"] == "testing"}
    (tmp_path / "tested.json").write_text(json.dumps(tested))
    shutil.copytree(tiny_run / "fine", tmp_path / "fine")
    options = "--data.annotations", tmp_path / "tested.json"
    stage(extract_fineFEAT, *options, "--features.dtype", "float32")
    assert files(tmp_path / "features") == {"manifest.json", *(f"{video}.safetensors" for video in tested)}
    half, full = (load_file(run / "features" / "te0.safetensors") for run in (tiny_run, tmp_path))
    for layer, x in full.items():
        assert x.dtype == torch.float32
        torch.testing.assert_close(x, half[layer].float(), rtol=1e-3, atol=1e-4)
    best = tiny_run / "coarse" / "checkpoints" / "best.pt"
    stage(train_coarse_fineFEAT, *options, "--eval_only", "true", "--coarse.init", best)
    ours, theirs = (read_json(run / "coarse" / "metrics.json") for run in (tmp_path, tiny_run))
    assert ours["mAP_official"] == pytest.approx(theirs["mAP_official"], abs=0.02)


# --- variants of the network ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["multistage", "per_stage", "none"])
@pytest.mark.parametrize("pool", ["grid", "avg", "max", "stride", "none"])
def test_every_pool_and_fusion_trains(stage, tiny_run, tmp_path, pool, fusion):
    """One step and a validation, on videos of two clip frames too; without fusion, stage 3 needs no features."""
    features = () if fusion == "none" else ("--features.dir", tiny_run / "features")
    stage(train_coarse_fineFEAT, "--model.pool", pool, "--model.fusion", fusion, *features, "--coarse.max_steps", 1)
    state = weights(tmp_path / "coarse" / "checkpoints" / "last.pt")
    assert any("fusion" in name for name in state) == (fusion != "none")
    assert any(name.startswith("grid_pool") for name in state) == (pool == "grid")
    assert len(read_predictions(tmp_path / "coarse" / "predictions" / "official.txt", CLASSES)) == 4


def test_stage_3_starts_from_stage_1(stage, tiny_run, copy):
    """All that both networks have comes from the file; with a rate of nearly zero it stays so."""
    shutil.rmtree(copy / "coarse")
    init = copy / "fine" / "checkpoints" / "best.pt"
    stage(train_coarse_fineFEAT, "--coarse.init", init, "--coarse.lr", 1e-12, "--coarse.max_steps", 1)
    fine, coarse = weights(init), weights(copy / "coarse" / "checkpoints" / "last.pt")
    shared = dict(FineNet(num_classes=CLASSES, variant="tiny").named_parameters()).keys()
    assert shared < dict(CoarseNet(num_classes=CLASSES, variant="tiny").named_parameters()).keys()
    for name in shared:
        torch.testing.assert_close(coarse[name], fine[name], rtol=0, atol=1e-6)


def test_published_files_are_read(stage, tiny_run, tmp_path):
    """`save_official` writes what --fine.init takes; evaluation is then the same."""
    net = FineNet(num_classes=CLASSES, variant="tiny")
    net.load_state_dict(weights(tiny_run / "fine" / "checkpoints" / "best.pt"))
    save_official(net, tmp_path / "published.pt")
    stage(train_fine, "--fine.init", tmp_path / "published.pt", "--eval_only", "true")
    ours, theirs = ((run / "fine" / "metrics.json").read_text() for run in (tmp_path, tiny_run))
    assert ours == theirs


# --- devices ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_gpu_option_the_cpu_is_named(tiny_dataset, copy, capsys):
    train_fine.main(["--config", str(tiny_dataset / "tiny.yaml"), "--run.dir", str(copy)])
    assert "running on the CPU" in capsys.readouterr().out
