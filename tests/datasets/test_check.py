"""The pre-flight report: what it finds on a dataset that is right, and on one damaged in every way it knows."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from configs.schema import Data
from datasets.annotations import Action, Video
from datasets.check import dataset as checks
from datasets.check.__main__ import main
from datasets.check.report import Report
from datasets.clips import VideoFrames, frame_labels
from datasets.frames import Listing, frame_path
from models.x3d import VARIANTS

LENGTHS = (60, 52, 44, 40, 57, 48, 41, 60, 44, 60, 9)  # of the tiny dataset
STRIDE = 4
ONE_SCREEN = 24


class Outcome(NamedTuple):
    status: int
    lines: list[str]

    def marked(self, mark: str) -> list[str]:
        return [line.split(mark, 1)[1].strip() for line in self.lines if line.startswith(f"  {mark}")]


Run = Callable[..., Outcome]


@pytest.fixture
def examine(tiny_dataset, tmp_path, capsys) -> Run:
    """examine(option, value, ...): the report on the tiny dataset, or on the damaged copy, as an own one."""

    def run(*options: object, dataset: Path = tiny_dataset) -> Outcome:
        capsys.readouterr()
        (tmp_path / "names.txt").write_text("early\nin the middle\nlate\n")
        own = ("--data.kind", "generic", "--data.class_names", tmp_path / "names.txt", "--run.dir", tmp_path / "run")
        paths = ("--data.frames", dataset / "frames", "--data.annotations", dataset / "annotations.json")
        words = ("--config", tiny_dataset / "tiny.yaml", *own, *paths, *options)
        status = main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert err == ""
        return Outcome(status, out.splitlines())

    return run


@pytest.fixture
def dataset(tiny_dataset, tmp_path) -> Path:
    """A copy that the test may damage."""
    return Path(shutil.copytree(tiny_dataset, tmp_path / "dataset"))


def rewrite(dataset: Path, edit: Callable[[dict], object]) -> None:
    path = dataset / "annotations.json"
    annotations = json.loads(path.read_text())
    edit(annotations)
    path.write_text(json.dumps(annotations))


# --- a dataset that is right ------------------------------------------------------------------------------------------


def test_a_good_dataset(examine, tmp_path):
    outcome = examine()
    report = "\n".join(outcome.lines)
    assert outcome.status == 0
    assert len(outcome.lines) <= ONE_SCREEN
    assert "7 training, 4 test videos, 33 actions; 3 classes" in report
    assert "11 of 11 videos, 515 frames, 24 fps" in report
    assert outcome.marked("PROBLEM") == []
    assert outcome.marked("warning") == ["unusual actions, kept unchanged: 11 end after their video"]
    assert outcome.lines[-1] == "ready to train: 1 warning"
    assert not (tmp_path / "run").exists(), "nothing is written"


def test_the_geometry_in_words(examine):
    report = "\n".join(examine("--data.fine_frames", 12).lines)
    assert "a training clip: 8 frames x stride 4 = 32 video frames = 1.3 s" in report
    assert "fine window: 12 frames x stride 4 = 48 video frames = 2.0 s, from the start of the video" in report
    assert "0 shorter than a clip, 3 longer than the fine window" in report
    assert "--data.fine_window centred" in report
    published = "\n".join(examine("--data.stride", 10, "--data.clip_span", 640).lines)
    assert "64 frames x stride 10 = 640 video frames = 26.7 s" in published
    assert "fine window: 128 frames x stride 10 = 1280 video frames = 53.3 s" in published
    assert "7 shorter than a clip" in published


def test_bytes_of_the_features(examine, tiny_run):
    frames = sum(n // STRIDE for n in LENGTHS)
    channels = sum(VARIANTS["tiny"].feature_channels.values())
    for dtype, width in (("float16", 2), ("float32", 4)):
        total = frames * channels * 49 * width
        assert f"{frames} clip frames = {total:,} bytes" in "\n".join(examine("--features.dtype", dtype).lines)
        if dtype == "float16":
            files = list((tiny_run / "features").glob("*.safetensors"))
            headers = sum(8 + int.from_bytes(path.read_bytes()[:8], "little") for path in files)
            assert sum(path.stat().st_size for path in files) - headers == total


def test_an_unwieldy_dataset_still_fits_a_screen(examine, dataset):
    for video in list((dataset / "frames").iterdir())[:8]:
        if video.is_dir():
            frame_path(dataset / "frames", video.name, 3).unlink()
    outcome = examine("--data.ground_truth", "absent.csv", "--fine.init", "absent.pt", "--deep", dataset=dataset)
    assert outcome.status == 1
    assert len(outcome.lines) <= ONE_SCREEN


# --- what is wrong ----------------------------------------------------------------------------------------------------


def test_missing_videos(examine, dataset):
    shutil.rmtree(dataset / "frames" / "tr3")
    (dataset / "frames" / "other").mkdir()
    outcome = examine(dataset=dataset)
    assert outcome.status == 1
    assert outcome.marked("PROBLEM") == ["1 video without frames: tr3; or skip them with --data.allow_missing true"]
    assert "1 folder without an annotated video: other" in "\n".join(outcome.lines)
    outcome = examine("--data.allow_missing", "true", dataset=dataset)
    assert outcome.status == 0
    assert "1 video without frames: tr3" in outcome.marked("warning")


def test_holes(examine, dataset):
    for number in (5, 6, 7, 30):
        frame_path(dataset / "frames", "te0", number).unlink()
    outcome = examine(dataset=dataset)
    assert outcome.status == 1
    assert outcome.marked("PROBLEM")[0].startswith("1 video with missing frames: te0 (5-7, 30); extract the frames")
    outcome = examine("--data.on_bad_sample", "skip", dataset=dataset)
    assert outcome.status == 0
    assert "1 video with missing frames: te0 (5-7, 30), skipped" in outcome.marked("warning")


def test_unreadable_frames(examine, dataset):
    """The last frame of a video is looked at in any case, the others with --deep."""
    last, inner = frame_path(dataset / "frames", "tr0", 60), frame_path(dataset / "frames", "tr1", 7)
    inner.write_bytes(inner.read_bytes()[:100])
    assert examine(dataset=dataset).status == 0
    outcome = examine("--deep", dataset=dataset)
    assert outcome.status == 1
    assert re.match(rf"1 video with unreadable frames: tr1; {inner}: unreadable frame", outcome.marked("PROBLEM")[0])
    assert examine("--deep", "--data.on_bad_sample", "skip", dataset=dataset).status == 0
    last.write_bytes(b"")
    assert "decoded one frame of 11 videos (--deep: all): 1 unreadable" in "\n".join(examine(dataset=dataset).lines)
    both = examine("--deep", "--data.on_bad_sample", "skip", dataset=dataset)
    assert both.status == 1, "more than a few"
    assert both.marked("PROBLEM")[0].startswith("2 videos with unreadable frames: tr0, tr1; ")


def test_frames_of_another_size(examine, dataset):
    Image.new("RGB", (40, 30)).save(frame_path(dataset / "frames", "tr1", 7))
    assert "40x30 pixels, but the other frames have 80x64" in examine("--deep", dataset=dataset).marked("PROBLEM")[0]


def test_frames_for_another_duration(examine, dataset):
    rewrite(dataset, lambda a: a["te1"].update(duration=3.5))
    outcome = examine(dataset=dataset)
    assert outcome.status == 0
    warning = "1 video whose frame count does not match the duration at 24 fps: te1 (frames: 1.8 s, annotated: 3.5 s)"
    assert warning in outcome.marked("warning")


def test_another_frame_rate(examine, dataset):
    """An own dataset may have any; that of Charades has 24."""
    rewrite(dataset, lambda a: [entry.update(duration=entry["duration"] * 0.8) for entry in a.values()])
    assert "515 frames, 30 fps" in "\n".join(examine(dataset=dataset).lines)
    assert len(examine(dataset=dataset).marked("warning")) == 1
    outcome = examine("--data.kind", "charades", dataset=dataset)
    assert outcome.status == 0
    assert "30 fps, but charades has 24" in outcome.marked("warning")


def test_classes_without_examples(examine, dataset):
    """An interval between two frames, or beyond the video, is no example."""

    def edit(annotations):
        for video, entry in annotations.items():
            label = 2 if video.startswith("tr") else 0
            for action in entry["actions"]:
                if action[0] == label:
                    action[1:] = [entry["duration"] + 1, entry["duration"] + 2] if label else [0.001, 0.002]

    rewrite(dataset, edit)
    outcome = examine(dataset=dataset)
    assert outcome.status == 0
    assert outcome.marked("warning")[1:] == [
        "1 class without a training example: 2 late",
        "1 class without a test example: 0 early, so their AP and the mAP are undefined",
    ]


def test_oddities_by_kind(examine, dataset):
    rewrite(dataset, lambda a: a["tr0"].update(actions=[[0, 2, 1], [0, -1, 1], [1, 9, 10], [1, 9, 10], [2, 0, 1]]))
    rewrite(dataset, lambda a: a["tr1"].update(actions=[]))
    outcome = examine(dataset=dataset)
    assert outcome.marked("warning") == [
        "unusual actions, kept unchanged: 11 end after their video, 2 start after their video ends, "
        "1 end no later than they start, 1 start before 0, 1 are duplicated"
    ]
    assert "1 video without actions: tr1" in "\n".join(outcome.lines)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--fine.init", "absent.pt"), "absent.pt: no such checkpoint; to train from random weights, use"),
        (("--data.ground_truth", "absent.csv"), "data.ground_truth: absent.csv: No such file or directory"),
        (("--fine.batch_size", 8), "--fine.batch_size: 7 videos do not fill a batch of 8"),
        (("--model.bn_splits", 3), "--fine.batch_size: 2 cannot be divided among 3 equal groups"),
        (("--data.min_frames", 1000), "no usable training videos"),
    ],
)
def test_what_training_would_refuse(examine, options, problem):
    outcome = examine(*options)
    assert outcome.status == 1
    assert outcome.marked("PROBLEM")[0].startswith(problem)
    assert outcome.lines[-1].startswith("training cannot start: ")


# --- features ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tiny_run, tmp_path) -> Path:
    """A finished run that the test may change."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def test_a_complete_store(examine, run):
    report = "\n".join(examine().lines)
    assert f"{run / 'features'}: 11 of 11 videos extracted" in report
    assert f"stage 1: resumes from {run / 'fine' / 'checkpoints' / 'last.pt'}" in report
    assert "no feature store needed" in "\n".join(examine("--model.fusion", "none").lines)


def test_an_incomplete_store(examine, run, dataset):
    (run / "features" / "tr2.safetensors").unlink()
    outcome = examine(dataset=dataset)
    assert outcome.status == 0
    assert "1 video without features: tr2; run extract_fineFEAT.py" in outcome.marked("warning")
    for number in range(53, 61):
        frame_path(dataset / "frames", "te0", number).unlink()
    outcome = examine(dataset=dataset)
    assert outcome.status == 1
    assert outcome.marked("PROBLEM")[0].startswith(
        "1 video whose features do not match their number of frames: te0; run"
    )


def test_a_store_of_other_settings(examine, run):
    outcome = examine("--data.stride", 5)
    assert outcome.status == 1
    assert "features were extracted with stride 4, but --data.stride is 5" in outcome.marked("PROBLEM")[0]


def test_a_full_disk(examine, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    assert any("still needed" in line for line in examine().marked("warning"))


# --- measures ---------------------------------------------------------------------------------------------------------


times = st.floats(-2, 12) | st.integers(-2, 12).map(float)


@given(start=times, end=times, n=st.integers(1, 60))
def test_an_interval_is_an_example_iff_it_labels_a_frame(start, end, n):
    video = Video("AAA", "training", 10.0, (Action(1, start, end),))
    labelled = bool(frame_labels(video, n, 3).any())
    assert checks.classes_shown([VideoFrames(video, n)] * 2, 3) == ({1} if labelled else set())


@pytest.mark.parametrize(
    ("duration", "n", "off"),
    [(30, 720, False), (30, 743, False), (30, 745, True), (30, 695, True), (1000, 24_200, False), (1000, 24_300, True)],
)
def test_frames_and_duration(duration, n, off):
    report = Report()
    checks.check_rate(Data(kind="charades"), [VideoFrames(Video("AAA", "training", duration, ()), n)], 24.0, report)
    assert report.warnings == off


def test_present_frames():
    assert list(checks.present_frames(Listing(7, ((1, 2), (5, 5))))) == [3, 4, 6, 7]
    assert list(checks.present_frames(Listing(3, ((4, 4),), "AAA-3.jpg"))) == [1, 2, 3]


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says", "status"),
    [
        (("--dep",), "unknown option --dep; did you mean --deep?", 2),
        (("--deep=yes",), "--deep: ignored explicit argument 'yes'", 2),
        (("--config", "absent.yaml"), "absent.yaml", 2),
        (("--data.frames", "absent"), "absent: no such folder; set --data.frames", 1),
        (("--data.annotations", "absent.json"), "absent.json: not found", 1),
        (("--data.num_classes", 2), "class 2 is outside 0..1", 1),
        (("--data.class_names", "absent.txt"), "absent.txt: no such file", 1),
        (("--data.image_backend", "accimage"), "--data.image_backend accimage: not installed", 1),
    ],
)
def test_bad_input_is_one_line(tiny_dataset, capsys, monkeypatch, options, says, status):
    monkeypatch.setitem(sys.modules, "accimage", None)
    argv = [str(word) for word in ("--config", tiny_dataset / "tiny.yaml", *options)]
    try:
        ended = main(argv)
    except SystemExit as end:
        ended = end.code
    out, err = capsys.readouterr()
    assert (ended, out) == (status, "")
    assert err.count("\n") == 1
    assert err.startswith("datasets.check: error: ")
    assert says in err
