"""What a user can get wrong: one line on stderr with culprit and remedy, a non-zero exit, nothing half-written."""

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import extract_fineFEAT
import train_coarse_fineFEAT
import train_fine
from engine.checkpoint import read_checkpoint

PROJECT = Path(__file__).resolve().parents[1]
Refused = Callable[..., str]


@pytest.fixture(scope="module", autouse=True)
def restore_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def refused(tiny_dataset, tmp_path, capsys) -> Refused:
    """refused(script, option, value, ..., says=[...]): the one line that the script ends with, checked."""

    def run(script, *options: object, says: list[object], status: int = 1) -> str:
        config = tiny_dataset / "tiny.yaml"
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            script.main([str(part) for part in ("-gpu", "cpu", "--config", config, "--run.dir", tmp_path, *options)])
        assert end.value.code == status
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith(f"{script.__name__}.py: error: ")
        for words in says:
            assert str(words) in lines[0], lines[0]
        assert "Traceback" not in lines[0]
        return lines[0]

    return run


@pytest.fixture
def dataset(tiny_dataset, tmp_path) -> Path:
    """A copy of the dataset that the test may damage."""
    shutil.copytree(tiny_dataset, tmp_path / "dataset")
    return tmp_path / "dataset"


@pytest.fixture
def fine(tiny_run) -> Path:
    """A trained checkpoint of stage 1."""
    return tiny_run / "fine" / "checkpoints" / "best.pt"


def results(folder: Path) -> set[str]:
    """All files below the folder but the record, which is kept from a failed run."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith(("dataset/", "fine/tensorboard/", "coarse/tensorboard/"))}


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--data.frame", "x"), ["--data.frame", "did you mean --data.frames?"]),
        (("--stride", "12"), ["--stride", "did you mean --data.stride?"]),
        (("--data.stride", "ten"), ["--data.stride", "a valid integer", "'ten'"]),
        (("--fine.lr", "-1"), ["fine.lr", "greater than 0"]),
        (("-gpu", "first"), ["-gpu", "cpu"]),
        (("--config", "nowhere.yaml"), ["nowhere.yaml", "No such file"]),
    ],
)
def test_options(refused, tmp_path, options, says):
    refused(train_fine, *options, says=says, status=2)
    assert results(tmp_path) == set()


def test_misspelt_option_in_a_file(refused, tmp_path):
    (tmp_path / "delta.yaml").write_text("data:\n  strid: 12\n")
    says = [tmp_path / "delta.yaml", "line 2", "data.strid", "did you mean data.stride?"]
    refused(train_fine, "--config", tmp_path / "delta.yaml", says=says, status=2)


def test_through_the_shell(tiny_dataset, tmp_path):
    """As all the others here, which call `main` in this process."""
    command = [sys.executable, "train_fine.py", "-gpu", "cpu", "--config", tiny_dataset / "tiny.yaml"]
    done = subprocess.run(
        [*command, "--run.dir", tmp_path, "--data.frames", "nowhere"], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("train_fine.py: error: nowhere: no such folder; set --data.frames ")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(refused):
    refused(train_fine, "-gpu", "0", says=["-gpu 0", "0 CUDA devices", "-gpu cpu"])


def test_batch_and_groups(refused):
    says = ["7 videos", "a batch of 8", "lower the batch size, or keep incomplete batches with --fine.drop_last false"]
    refused(train_fine, "--fine.batch_size", 8, says=says)
    refused(train_fine, "--model.bn_splits", 3, says=["batch_size: 2", "3 equal groups", "--model.bn_splits"])
    # Seven clips in batches of two: the last has one, which two groups cannot share.
    says = ["last batch", "only 1 of 2", "--model.bn_splits 2", "--coarse.drop_last true"]
    refused(train_coarse_fineFEAT, "--model.fusion", "none", "--model.bn_splits", 2, says=says)


# --- annotations ------------------------------------------------------------------------------------------------------


def edited(dataset: Path, edit: Callable[[dict], object]) -> tuple[str, Path]:
    path = dataset / "annotations.json"
    annotations = json.loads(path.read_text())
    edit(annotations)
    path.write_text(json.dumps(annotations))
    return "--data.annotations", path


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda a: a["tr3"]["actions"].append([3, 0, 1]), ["tr3", "class 3", "0..2", "--data.num_classes"]),
        (lambda a: a["tr3"]["actions"].append([-1, 0, 1]), ["tr3", "class -1", "0..2"]),
        (lambda a: a["tr3"].update(subset="validation"), ["tr3", "subset", "validation"]),
        (lambda a: a["tr3"].update(duration=None), ["tr3", "duration"]),
        (lambda a: a["tr3"].update(duration=float("nan")), ["tr3", "duration"]),
        (lambda a: a["tr3"].pop("actions"), ["tr3", "actions"]),
        (lambda a: a.update({"../tr3": a.pop("tr3")}), ["'../tr3'", "plain file name"]),
        (lambda a: [a.pop(f"te{i}") for i in range(4)], ["contains no test videos"]),
        (lambda a: a.clear(), ["contains no videos"]),
    ],
)
def test_annotations(refused, dataset, tmp_path, edit, says):
    path = edited(dataset, edit)
    refused(train_fine, *path, says=[path[1], *says])
    assert results(tmp_path) == set()


def test_a_video_twice_in_the_json(refused, dataset):
    path = dataset / "annotations.json"
    entry = '"te0": {"subset": "training", "duration": 1, "actions": []}'
    path.write_text(path.read_text()[:-1] + f", {entry}}}")
    refused(train_fine, "--data.annotations", path, says=[path, "te0", "occurs twice", "remove one"])


def test_official_csv_files(refused, tmp_path):
    folder = tmp_path / "official"
    folder.mkdir()
    refused(train_fine, "--data.annotations", folder, says=["Charades_v1_train.csv", "no such file"])
    (folder / "Charades_v1_train.csv").write_text("id,actions,length\nA,c000 0 1,9\nB,,9\n")
    (folder / "Charades_v1_test.csv").write_text("id,actions,length\nC,c000 0 1,9\nB,,9\n")
    refused(train_fine, "--data.annotations", folder, says=["Charades_v1_test.csv", "video B", "remove one of them"])
    (folder / "Charades_v1_test.csv").write_text("id,actions,length\nC,c000 0 1,9\nC,,9\n")
    refused(train_fine, "--data.annotations", folder, says=["Charades_v1_test.csv", "video C occurs twice"])


def test_missing_files(refused, tmp_path):
    nowhere = tmp_path / "nowhere"
    refused(train_fine, "--data.annotations", nowhere, says=[nowhere, "--data.annotations"])
    refused(train_fine, "--data.ground_truth", nowhere, says=[nowhere, "--data.ground_truth"])
    refused(train_fine, "--fine.init", nowhere, says=[nowhere, "--fine.init none"])
    refused(train_fine, "--eval_only", "true", says=["fine/checkpoints/best.pt", "train first", "--fine.init"])
    refused(extract_fineFEAT, says=["fine/checkpoints/best.pt", "no such checkpoint"])
    refused(train_coarse_fineFEAT, says=["features/manifest.json", "run extract_fineFEAT.py"])
    assert results(tmp_path) == set()


def test_the_kinetics_file_says_where_it_comes_from(refused, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    kinetics = "weights/x3d_multigrid_kinetics_fb_pretrained.pt"
    says = [kinetics, "github.com/kkahatapitiya/Coarse-Fine-Networks", "--fine.init none"]
    refused(train_fine, "--fine.init", kinetics, says=says)


def test_oddities_of_the_real_charades_are_counted(tiny_dataset, dataset, tmp_path, fine, capsys):
    odd = [[0, 1.0, 1.0], [0, 1.0, 0.5], [1, 0.2, 999]]
    path = edited(dataset, lambda a: a["te0"].update(actions=odd))
    options = ["--config", tiny_dataset / "tiny.yaml", "--run.dir", tmp_path, "--fine.init", fine, *path]
    train_fine.main([str(part) for part in ("-gpu", "cpu", "--eval_only", "true", *options)])
    assert "11 end after their video, 2 end no later than they start" in capsys.readouterr().out


# --- frames -----------------------------------------------------------------------------------------------------------


def test_no_frames_folder(refused, tmp_path):
    refused(train_fine, "--data.frames", tmp_path / "nowhere", says=["nowhere: no such folder", "--data.frames"])
    (tmp_path / "empty").mkdir()
    refused(train_fine, "--data.frames", tmp_path / "empty", says=["4 of 4 videos", "te0", "--data.frames"])


def test_videos_without_frames(refused, dataset, tmp_path, fine, capsys):
    shutil.rmtree(dataset / "frames" / "te1")
    options = "--data.frames", dataset / "frames", "--fine.init", fine, "--eval_only", "true"
    refused(train_fine, *options, says=["1 of 4 videos", "te1", "--data.allow_missing true"])
    config = dataset / "tiny.yaml"
    arguments = ["-gpu", "cpu", "--config", config, "--run.dir", tmp_path, *options, "--data.allow_missing", "true"]
    train_fine.main(list(map(str, arguments)))
    assert "3 videos, 1 without frames: te1" in capsys.readouterr().out
    assert json.loads((tmp_path / "fine" / "metrics.json").read_text())["videos_without_prediction"] == 1


def damaged_frame(dataset: Path, kind: str) -> Path:
    path = dataset / "frames" / "tr4" / "tr4-000029.jpg"  # frame 29 = 1 + 7 * 4 is seen at stride 4
    contents = path.read_bytes()
    match kind:
        case "missing":
            path.unlink()
        case "truncated":
            path.write_bytes(contents[: len(contents) // 2])
        case "empty":
            path.write_bytes(b"")
        case "not a JPEG":
            path.write_bytes(b"<html>not found</html>")
    return path


@pytest.mark.parametrize("kind", ["missing", "truncated", "empty", "not a JPEG"])
@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_frame(refused, dataset, tmp_path, fine, kind, workers):
    path = damaged_frame(dataset, kind)
    options = "--data.frames", dataset / "frames", "--features.checkpoint", fine, "--data.workers", workers
    refused(extract_fineFEAT, *options, says=[path, "frame", "extract"])
    stored = {path.stem for path in (tmp_path / "features").glob("*") if path.suffix != ".json"}
    assert "tr4" not in stored
    if (tmp_path / "features" / "manifest.json").exists():
        manifest = json.loads((tmp_path / "features" / "manifest.json").read_text())
        assert manifest["videos"].keys() == stored, "what was done before is kept, and whole"


def test_frames_of_two_sizes(refused, dataset, fine):
    path = dataset / "frames" / "tr4" / "tr4-000029.jpg"
    Image.new("RGB", (40, 30)).save(path)
    options = "--data.frames", dataset / "frames", "--features.checkpoint", fine
    refused(extract_fineFEAT, *options, says=[path, "40x30 pixels", "80x64"])


def test_grey_frames_are_converted(dataset, tmp_path, fine):
    """A grey JPEG equals the same picture with three equal channels."""
    scores = []
    for mode in ("L", "RGB"):
        for path in (dataset / "frames").glob("te*/*.jpg"):
            grey = Image.fromarray(np.asarray(Image.open(path).convert("L")))
            grey.convert(mode).save(path.with_suffix(".png"))
            Image.open(path.with_suffix(".png")).save(path, quality=100, subsampling=0)
            path.with_suffix(".png").unlink()
        folder = tmp_path / mode
        options = ["--data.frames", dataset / "frames", "--fine.init", fine, "--eval_only", "true", "--run.dir", folder]
        train_fine.main([str(part) for part in ("-gpu", "cpu", "--config", dataset / "tiny.yaml", *options)])
        scores.append(np.loadtxt(folder / "fine" / "predictions" / "official.txt", usecols=(2, 3, 4)))
    np.testing.assert_allclose(*scores, atol=2e-2)


# --- checkpoints ------------------------------------------------------------------------------------------------------


class Malicious:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_a_pickle_that_would_run_code(refused, tmp_path):
    path, marker = tmp_path / "model.pt", tmp_path / "marker"
    torch.save({"model_state_dict": Malicious(marker)}, path)
    for options in (("--fine.init", path), ("--fine.init", path, "--eval_only", "true")):
        refused(train_fine, *options, says=[path, "not loaded: it contains more than tensors"])
    refused(extract_fineFEAT, "--features.checkpoint", path, says=[path, "not loaded: it contains more than tensors"])
    assert not marker.exists()


def test_a_checkpoint_of_another_width(refused, fine, tmp_path):
    for options in (("--model.variant", "S", "--data.size", 64), ("--data.num_classes", 5)):
        refused(train_fine, "--fine.init", fine, *options, says=[fine])
        refused(extract_fineFEAT, "--features.checkpoint", fine, *options, says=[fine])
    assert results(tmp_path) == set()


def test_a_checkpoint_of_another_stage(refused, tiny_run, fine):
    coarse = tiny_run / "coarse" / "checkpoints" / "best.pt"
    refused(train_fine, "--fine.init", coarse, says=[coarse, "stage coarse", "stage fine is required"])
    features = "--features.dir", tiny_run / "features", "--features.checkpoint", fine
    says = [fine, "can initialise training but cannot be evaluated"]
    refused(train_coarse_fineFEAT, "--coarse.init", fine, "--eval_only", "true", *features, says=says)


def test_a_damaged_run(refused, tiny_run, tmp_path):
    shutil.copytree(tiny_run / "fine", tmp_path / "fine")
    for name in ("last.pt", "last.previous.pt", "best.pt"):
        path = tmp_path / "fine" / "checkpoints" / name
        path.write_bytes(path.read_bytes()[:-5000])
    refused(train_fine, "--fine.epochs", 3, says=["last.pt: not a readable checkpoint", "--run.resume never"])
    refused(train_fine, "--eval_only", "true", says=["best.pt", "truncated"])


def test_a_run_of_other_settings(refused, tiny_run, tmp_path):
    shutil.copytree(tiny_run / "fine", tmp_path / "fine")
    before = results(tmp_path), (tmp_path / "fine" / "config.yaml").read_bytes()
    says = ["last.pt", "data.stride 4, not 5", "--run.dir", "--run.resume never"]
    refused(train_fine, "--data.stride", 5, "--fine.epochs", 3, says=says)
    assert (results(tmp_path), (tmp_path / "fine" / "config.yaml").read_bytes()) == before


def test_a_training_that_diverges(refused, tmp_path):
    last = tmp_path / "fine" / "checkpoints" / "last.pt"
    says = ["the loss is nan at step 2 (videos tr", "lower the learning rate", last]
    refused(train_fine, "--fine.lr", 1e30, says=says)
    assert all(value.isfinite().all() for value in read_checkpoint(last)["model"].values())


# --- features ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tiny_run, tmp_path) -> Path:
    for name in ("fine", "features"):
        shutil.copytree(tiny_run / name, tmp_path / name)
    return tmp_path


def test_features_of_other_weights(refused, run):
    best = run / "fine" / "checkpoints" / "best.pt"
    shutil.copy(run / "fine" / "checkpoints" / "last.pt", best)
    says = [run / "features" / "manifest.json", "checkpoint_sha256", "--features.checkpoint", "run extract_fineFEAT.py"]
    refused(train_coarse_fineFEAT, says=says)
    says = [run / "features" / "manifest.json", "checkpoint_sha256", f"delete {run / 'features'}", "--features.dir"]
    refused(extract_fineFEAT, says=says)


def test_features_of_other_settings(refused, run):
    manifest = run / "features" / "manifest.json"
    refused(train_coarse_fineFEAT, "--data.stride", 5, says=[manifest, "stride 4", "--data.stride is 5"])
    refused(train_coarse_fineFEAT, "--data.size", 96, says=[manifest, "crop 64", "--data.size is 96"])
    refused(extract_fineFEAT, "--features.dtype", "float32", says=[manifest, "float16", "--features.dtype"])
    assert not (run / "coarse" / "checkpoints").exists()


def test_videos_without_features(refused, run):
    (run / "features" / "te2.safetensors").unlink()
    manifest = json.loads((run / "features" / "manifest.json").read_text())
    del manifest["videos"]["te0"]
    (run / "features" / "manifest.json").write_text(json.dumps(manifest))
    says = [run / "features", "2 of 4 videos lack features: te0, te2", "run extract_fineFEAT.py"]
    refused(train_coarse_fineFEAT, says=says)


def test_features_of_other_frames(refused, run, dataset):
    for number in range(53, 61):
        (dataset / "frames" / "te0" / f"te0-{number:06d}.jpg").unlink()
    says = ["te0.safetensors", "15 feature frames", "13", "run extract_fineFEAT.py"]
    refused(train_coarse_fineFEAT, "--data.frames", dataset / "frames", says=says)


def test_a_damaged_store(refused, run):
    path = run / "features" / "te0.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    refused(train_coarse_fineFEAT, "--coarse.max_steps", 1, says=[path, "unreadable features", "delete it"])
    (run / "features" / "manifest.json").write_text("{")
    for script in (train_coarse_fineFEAT, extract_fineFEAT):
        refused(script, says=[run / "features" / "manifest.json", "not a manifest", "run extract_fineFEAT.py again"])


def test_nothing_extracted_yet_binds_nothing(dataset, refused, fine, tiny_run, tmp_path):
    """An extraction that failed at its first video does not tie the folder to its checkpoint."""
    for path in (dataset / "frames").glob("*/*-000001.jpg"):
        path.write_bytes(b"")
    options = "--data.frames", dataset / "frames", "--features.checkpoint"
    refused(extract_fineFEAT, *options, fine, says=["unreadable frame"])
    refused(extract_fineFEAT, *options, fine.with_name("last.pt"), says=["unreadable frame"])


# --- output -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [train_fine, extract_fineFEAT, train_coarse_fineFEAT])
@pytest.mark.parametrize("place", ["a file", "/proc/nowhere"])
def test_an_unwritable_folder(refused, tmp_path, tiny_run, fine, script, place):
    folder = tmp_path / "file" if place == "a file" else Path(place)
    if place == "a file":
        folder.write_text("not a folder")
    options = ["--run.dir", folder, "--features.checkpoint", fine]
    if script is train_coarse_fineFEAT:
        options += ["--features.dir", tiny_run / "features"]
    option = "--features.dir" if script is extract_fineFEAT else "--run.dir"
    refused(script, *options, says=[folder, "not writable", f"choose another {option}"])


@contextmanager
def largest_file(size: int):
    """Writing beyond `size` bytes fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk(refused, fine, tmp_path):
    with largest_file(20_000):
        refused(train_fine, says=["last.pt: File too large"])
        refused(extract_fineFEAT, "--features.checkpoint", fine, says=[".safetensors: File too large"])
    assert results(tmp_path) <= {"fine/config.yaml", "features/manifest.json"}, "nothing half-written"
    assert json.loads((tmp_path / "features" / "manifest.json").read_text())["videos"] == {}
