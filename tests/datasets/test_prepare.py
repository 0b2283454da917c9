"""`datasets.prepare`: frame folders that are whole or absent, and official annotations as JSON."""

import errno
import json
import multiprocessing
import os
import signal
from collections import Counter, defaultdict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.annotations import load_annotations
from datasets.frames import count_frames, frame_path
from datasets.kinds import CHARADES, MULTITHUMOS
from datasets.prepare import extraction
from datasets.prepare.__main__ import main
from datasets.prepare.extraction import RECORD, Record, sole_writer
from tests.datasets.video_files import corners, number_of, write_video


@pytest.fixture
def videos(tmp_path) -> Path:
    """Two videos: `a` of 30 frames, in a folder within, and `b` of 12 frames at 12 a second."""
    folder = tmp_path / "videos"
    (folder / "more").mkdir(parents=True)
    write_video(folder / "more" / "a.mp4", 30)
    write_video(folder / "b.MKV", 12, tick=Fraction(1, 12), codec="libx264")
    (folder / "list.txt").touch()
    return folder


def prepare(videos: Path, *options: str, kind: str = "videos") -> int:
    command = [kind, "--videos", videos, "--frames", videos.parent / "frames", "--workers", "2", *options]
    return main([str(part) for part in command])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def numbers(frames: Path, video: str) -> list[int]:
    n = count_frames(frames, video)
    return [number_of(np.array(Image.open(frame_path(frames, video, k)))) for k in range(1, n + 1)]


# --- frames -----------------------------------------------------------------------------------------------------------


def test_videos_become_frame_folders(videos, tmp_path, capsys):
    assert prepare(videos, "--json", tmp_path / "own.json") == 0
    frames = tmp_path / "frames"
    assert sorted(os.listdir(frames)) == ["a", "b"]
    assert numbers(frames, "a") == list(range(30))
    assert numbers(frames, "b") == [k // 2 for k in range(24)]
    assert "2 videos prepared: 54 frames, matching their timestamps" in capsys.readouterr().out
    own = load_annotations(tmp_path / "own.json", num_classes=1)
    assert [(video.id, video.duration) for video in own.videos] == [("a", 1.25), ("b", pytest.approx(1, abs=0.002))]


def test_rate_size_and_quality(tmp_path):
    video = write_video(tmp_path / "v.mp4", 24, picture=corners, width=128, height=96)
    small, fine = tmp_path / "small", tmp_path / "fine"
    shared = ["videos", "--videos", str(video), "--frames"]
    assert main([*shared, str(small), "--fps", "6", "--size", "64", "--quality", "30"]) == 0
    assert main([*shared, str(fine), "--fps", "6", "--size", "0", "--quality", "95"]) == 0
    assert count_frames(small, "v") == count_frames(fine, "v") == 6
    assert Image.open(frame_path(small, "v", 1)).size == (64, 48)
    assert Image.open(frame_path(fine, "v", 1)).size == (128, 96)
    tables = [Image.open(frame_path(folder, "v", 1)).quantization[0] for folder in (small, fine)]
    assert sum(tables[0]) > 5 * sum(tables[1])


def test_the_same_command_continues(videos, tmp_path, capsys):
    assert prepare(videos) == 0
    before = contents(tmp_path / "frames")
    os.remove(frame_path(tmp_path / "frames", "a", 7))
    untouched = frame_path(tmp_path / "frames", "b", 1).stat().st_mtime_ns
    assert prepare(videos) == 0
    assert "1 videos to prepare, 1 complete" in capsys.readouterr().out
    assert contents(tmp_path / "frames") == before
    assert frame_path(tmp_path / "frames", "b", 1).stat().st_mtime_ns == untouched
    write_video(videos / "b.MKV", 18, tick=Fraction(1, 12), codec="libx264")
    assert prepare(videos) == 0
    assert count_frames(tmp_path / "frames", "b") == 36


def prepare_until_killed(videos: Path, frames: int, encode=extraction._jpeg) -> None:
    """In a process of its own: killed as it encodes frame number `frames`."""
    countdown = iter(range(frames - 1, -1, -1))
    extraction._jpeg = lambda *args: encode(*args) if next(countdown) else os.kill(os.getpid(), signal.SIGKILL)
    prepare(videos, "--workers", "1")


def test_killed_it_leaves_nothing_that_looks_whole(videos, tmp_path, capsys):
    frames = tmp_path / "frames"
    process = multiprocessing.get_context("fork").Process(target=prepare_until_killed, args=(videos, 40))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert sorted(os.listdir(frames)) == [".b.partial", "a"]
    assert prepare(videos) == 0
    said = capsys.readouterr().out
    assert "removed 1 unfinished folders" in said
    assert "1 videos to prepare, 1 complete" in said
    assert sorted(os.listdir(frames)) == ["a", "b"]
    assert numbers(frames, "b") == [k // 2 for k in range(24)]


@pytest.fixture
def at_the_fifth_frame(monkeypatch) -> Callable[[Callable], list]:
    """at_the_fifth_frame(event) has the event happen then; gives a list that grows with every frame."""
    write, calls = Path.write_bytes, []

    def arrange(event: Callable[[], None]) -> list:
        def interrupted(path: Path, data: bytes) -> int:
            calls.append(path)
            if len(calls) == 5:
                event()
            return write(path, data)

        monkeypatch.setattr(Path, "write_bytes", interrupted)
        return calls

    return arrange


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")])
def test_stopped_it_cleans_up(tmp_path, capsys, at_the_fifth_frame, number, name):
    long = write_video(tmp_path / "long.mp4", 24 * 60)
    written = at_the_fifth_frame(lambda: os.kill(os.getpid(), number))
    assert main(["videos", "--videos", str(long), "--frames", str(tmp_path / "frames")]) == 128 + number
    assert capsys.readouterr().err == f"datasets.prepare: stopped by {name}; run the same command to resume\n"
    assert os.listdir(tmp_path / "frames") == []
    assert len(written) < 24 * 60


def test_a_full_disk_is_said_in_one_line(videos, tmp_path, capsys, at_the_fifth_frame):
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    written = at_the_fifth_frame(full)
    assert prepare(videos, "--workers", "1") == 1
    assert capsys.readouterr().err == f"datasets.prepare: error: {written[4]}: No space left on device\n"
    assert os.listdir(tmp_path / "frames") == []


def test_a_disk_that_the_json_fills_is_said_of_the_json(videos, tmp_path, capsys, monkeypatch):
    def full(path: Path, text: str, encoding: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr("datasets.prepare.__main__.extract_frames", lambda *args, **options: [])
    monkeypatch.setattr(Record, "read", lambda folder: Record("", 0, None, 1, 1.0, None))
    assert prepare(videos, "--json", tmp_path / "own.json") == 1
    assert capsys.readouterr().err == f"datasets.prepare: error: {tmp_path / 'own.json'}: No space left on device\n"


def test_a_bad_video_does_not_stop_the_others(videos, tmp_path, capsys):
    whole = write_video(videos / "cut.mkv", 240)
    os.truncate(whole, whole.stat().st_size // 2)
    (videos / "empty.mp4").touch()
    template = tmp_path / "own.json"
    assert prepare(videos, "--json", template) == 1
    assert not template.exists()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert any("empty.mp4: cannot be read (" in line for line in lines)
    assert any("cut.mkv: ends at" in line and "--keep_damaged" in line for line in lines)
    assert "2 videos failed" in lines[-1]
    assert sorted(os.listdir(tmp_path / "frames")) == ["a", "b"]
    os.remove(videos / "empty.mp4")
    assert prepare(videos, "--keep_damaged", "--json", template) == 0
    assert "damaged, kept (--keep_damaged): cut.mkv (ends at" in capsys.readouterr().out
    assert count_frames(tmp_path / "frames", "cut") > 50
    assert json.loads(template.read_text()).keys() == {"a", "b", "cut"}
    (videos / "empty.mp4").touch()
    template.write_text('{"a": 1}')  # what a user has filled in
    assert prepare(videos, "--keep_damaged", "--json", template) == 1
    assert template.read_text() == '{"a": 1}'


def filled_in(template: Path) -> str:
    table = json.loads(template.read_text())
    table["a"] |= {"subset": "testing", "actions": [[0, 0.10, 1.20]], "note": "gr\u00fcn }"}
    return json.dumps(table, indent=4, ensure_ascii=False).replace("1.2", "1.20")


FORMS = {
    "as it is": lambda text: text,
    "of Windows": lambda text: "\ufeff" + text.replace("\n", "\r\n"),
    "in a line": lambda text: " ".join(text.split()) + "  \n\n",
    "emptied": lambda text: "{ }\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_new_videos_are_added_to_a_json_that_is_filled_in(videos, tmp_path, capsys, form):
    own = tmp_path / "own.json"
    assert prepare(videos, "--json", own) == 0
    before = FORMS[form](filled_in(own)).encode()
    own.write_bytes(before)
    table = json.loads(before.decode("utf-8-sig"))
    write_video(videos / "c.mp4", 12)
    assert prepare(videos, "--json", own) == 0
    said = capsys.readouterr().out
    assert ("own.json: 1 videos added to 2: c, with" if table else "own.json: 3 videos, with") in said
    after = own.read_bytes()
    assert after.startswith(before.rstrip().removesuffix(b"}").rstrip())
    added = json.loads(after.decode("utf-8-sig"))
    assert added["c"] == {"subset": "training", "duration": 0.5, "actions": []}
    assert {video: added[video] for video in table} == table
    assert {video.id for video in load_annotations(own, num_classes=1).videos} == {"a", "b", "c"}
    assert prepare(videos, "--json", own) == 0
    assert "own.json: already contains all videos, unchanged" in capsys.readouterr().out
    assert own.read_bytes() == after


def test_folders_of_others_are_left_alone(videos, tmp_path, capsys):
    assert prepare(videos) == 0
    before = contents(tmp_path / "frames")
    assert prepare(videos, "--fps", "12") == 1
    assert "extracted with 24 fps, size 320, quality 85, but 12 fps" in capsys.readouterr().err
    os.remove(tmp_path / "frames" / "a" / RECORD)
    assert prepare(videos) == 1
    assert "not created by this command" in capsys.readouterr().err
    assert contents(tmp_path / "frames").items() <= before.items()
    with sole_writer(tmp_path / "frames"):
        assert prepare(videos) == 1
    assert "another process is preparing frames here" in capsys.readouterr().err


# --- annotations ------------------------------------------------------------------------------------------------------


def write_multithumos(folder: Path, table: dict) -> Path:
    """MultiTHUMOS' text files of an annotations table with classes from 1."""
    intervals = defaultdict(list)
    for video, entry in table.items():
        for label, start, end in entry["actions"]:
            intervals[label].append(f"{video} {start} {end}\n")
    (folder / "annotations").mkdir(parents=True)
    (folder / "class_list.txt").write_text("".join(f"{label} Class{label}\n" for label in range(1, 66)))
    for label in range(1, 66):
        (folder / "annotations" / f"Class{label}.txt").write_text("".join(intervals[label]))
    return folder


THUMOS = {
    "video_validation_0000051": {"subset": "training", "duration": 1.25, "actions": [[1, 0.1, 0.5], [65, 0.3, 1.2]]},
    "video_test_0000004": {"subset": "testing", "duration": 1.0, "actions": [[2, 0.0, 1.0]]},
}


def as_multithumos(videos: Path) -> None:
    """The same videos under THUMOS14's names, and one that is not annotated."""
    os.rename(videos / "more" / "a.mp4", videos / "video_validation_0000051.mp4")
    os.rename(videos / "b.MKV", videos / "video_test_0000004.mkv")
    write_video(videos / "video_test_0000005.mp4", 2)


def test_multithumos_of_text_files_and_videos(videos, tmp_path, capsys):
    as_multithumos(videos)
    missing = {"video_test_0000009": {"actions": [[3, 0.0, 1.0]]}}
    official = write_multithumos(tmp_path / "official", THUMOS | missing)
    options = ["--annotations", official, "--json", tmp_path / "new" / "multithumos.json"]
    assert prepare(videos, *options, kind="multithumos") == 0
    said = capsys.readouterr().out
    assert "2 annotated videos have a file; 1 files are not annotated" in said
    assert "1 annotated videos have no file: video_test_0000009" in said
    assert "1 annotated videos without frames, skipped: video_test_0000009" in said
    assert sorted(os.listdir(tmp_path / "frames")) == ["video_test_0000004", "video_validation_0000051"]
    (tmp_path / "community.json").write_text(json.dumps(THUMOS))
    expected = MULTITHUMOS.load(tmp_path / "community.json").videos
    read = MULTITHUMOS.load(tmp_path / "new" / "multithumos.json").videos
    assert sorted(read) == sorted(expected)
    labels = {a[0] for entry in json.loads(options[-1].read_text()).values() for a in entry["actions"]}
    assert labels == {0, 1, 64}
    names = (tmp_path / "new" / "multithumos_classes.txt").read_text().splitlines()
    assert names == [f"Class{label}" for label in range(1, 66)]


def test_frames_made_elsewhere_tell_durations_by_their_rate(tmp_path):
    for video, n in (("video_validation_0000051", 30), ("video_test_0000004", 60)):
        for k in range(1, n + 1):
            path = frame_path(tmp_path / "frames", video, k)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    official = write_multithumos(tmp_path / "official", THUMOS)
    options = ["--annotations", official, "--frames", tmp_path / "frames", "--fps", "30", "--json", tmp_path / "j.json"]
    assert main(["multithumos", *map(str, options)]) == 0
    durations = {video.id: video.duration for video in MULTITHUMOS.load(tmp_path / "j.json").videos}
    assert durations == {"video_validation_0000051": 1.0, "video_test_0000004": 2.0}


def test_the_real_annotations(annotations, tmp_path):
    """Both forms of MultiTHUMOS, and Charades, come out as what the community's loaders read."""
    community = json.loads((annotations / "multithumos.json").read_text())
    output = tmp_path / "community.json"
    options = ["--annotations", annotations / "multithumos.json", "--json", output]
    assert main(["multithumos", *map(str, options)]) == 0
    written = json.loads(output.read_text())
    subsets = Counter(entry["subset"] for entry in written.values())
    assert subsets == {"training": 200, "testing": 213}
    assert {
        video: [[label + 1, start, end] for label, start, end in entry["actions"]] for video, entry in written.items()
    } == {video: entry["actions"] for video, entry in community.items()}
    assert sum(len(entry["actions"]) for entry in written.values()) == 38_690

    frames = tmp_path / "frames"
    for video in community:
        (frames / video).mkdir(parents=True)
        frame_path(frames, video, 1).touch()
    official = write_multithumos(tmp_path / "official", community)
    output = tmp_path / "official.json"
    options = ["--annotations", official, "--frames", frames, "--json", output]
    assert main(["multithumos", *map(str, options)]) == 0
    read, original = (MULTITHUMOS.load(path).videos for path in (output, annotations / "multithumos.json"))
    assert {(video.id, video.subset): sorted(video.actions) for video in read} == {
        (video.id, video.subset): sorted(video.actions) for video in original
    }

    output = tmp_path / "charades.json"
    assert main(["charades", "--annotations", str(annotations), "--json", str(output)]) == 0
    assert json.loads(output.read_text()) == json.loads((annotations / "charades.json").read_text())


CSV = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"


def test_charades_of_csvs(videos, tmp_path, capsys):
    official, output = tmp_path / "official", tmp_path / "charades.json"
    official.mkdir()
    (official / "Charades_v1_train.csv").write_text(CSV + "a,S,Den,5,6,Yes,script,bed,desc,c003 0.10 0.50,1.25\n")
    (official / "Charades_v1_test.csv").write_text(CSV + "c,S,Den,5,6,Yes,script,bed,desc,,2.00\n")
    assert prepare(videos, "--annotations", official, "--json", output, kind="charades") == 0
    assert os.listdir(tmp_path / "frames") == ["a"]  # b is not annotated
    assert "1 annotated videos have no file: c" in capsys.readouterr().out
    assert CHARADES.load(output).videos == CHARADES.load(official).videos


# --- bad input --------------------------------------------------------------------------------------------------------


def text_files(tmp_path: Path, *, without: str = "", line: str = "video_test_0000004 1 2") -> Path:
    folder = write_multithumos(tmp_path / "official", THUMOS)
    if without:
        os.remove(folder / without)
    (folder / "annotations" / "Class1.txt").write_text(f"{line}\n")
    return folder


BAD_TEXT_FILES = {
    "no class list": ({"without": "class_list.txt"}, "class_list.txt: no such file\n"),
    "no file of a class": ({"without": "annotations/Class9.txt"}, "Class9.txt: No such file or directory\n"),
    "two fields": (
        {"line": "video_test_0000004 1"},
        "line 1: expected `video start end`, found 'video_test_0000004 1'",
    ),
    "no number": ({"line": "video_test_0000004 1 two"}, "expected `video start end`"),
    "not a time": ({"line": "video_test_0000004 1 nan"}, "expected `video start end`"),
    "another video": ({"line": "kitchen 1 2"}, "kitchen does not begin with video_validation_ or video_test_"),
    "no durations": ({}, "contains no durations; set --frames"),
}


@pytest.mark.parametrize("case", BAD_TEXT_FILES)
def test_bad_text_files(tmp_path, capsys, case):
    options, reason = BAD_TEXT_FILES[case]
    folder = text_files(tmp_path, **options)
    assert main(["multithumos", "--annotations", str(folder), "--json", str(tmp_path / "m.json")]) == 1
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
    assert not (tmp_path / "m.json").exists()


BAD = {
    "no such folder": (["videos", "--videos", "nowhere", "--frames", "new"], 1, "nowhere: no such file or folder"),
    "no videos": (["videos", "--videos", "none", "--frames", "new"], 1, "none: contains no video files"),
    "one id twice": (["videos", "--videos", "v.mp4", "none/../v.mp4", "--frames", "new"], 1, "v.mp4 has the same id"),
    "spaces": (["videos", "--videos", "my video.mp4", "--frames", "new"], 1, "not contain spaces; rename the files"),
    "none annotated": (
        ["multithumos", "--videos", "v.mp4", "--frames", "new", "--annotations", "m.json"], 1, "none of the 1",
    ),
    "a file for a folder": (
        ["videos", "--videos", "v.mp4", "--frames", "m.json"], 1,
        "m.json: not writable (not a folder); choose another --frames",
    ),
    "below a file": (
        ["videos", "--videos", "v.mp4", "--frames", "m.json/new"], 1,
        "m.json/new: not writable (Not a directory); choose another --frames",
    ),
    "JSON of something else": (
        ["videos", "--videos", "v.mp4", "--frames", "new", "--json", "v.mp4"], 1, "v.mp4: not a JSON file",
    ),
    "where nothing can be": (
        ["videos", "--videos", "v.mp4", "--frames", "/proc/new"], 1, "/proc/new: not writable",
    ),
    "JSON below a file": (
        ["videos", "--videos", "v.mp4", "--frames", "new", "--json", "m.json/new/own.json"], 1,
        "m.json/new: not writable (Not a directory); choose another --json",
    ),
    "JSON where nothing can be": (
        ["videos", "--videos", "v.mp4", "--frames", "new", "--json", "/proc/new/own.json"], 1,
        "/proc/new: not writable",
    ),
    "JSON over a pipe": (
        ["videos", "--videos", "v.mp4", "--frames", "new", "--json", "pipe"], 1, "regular file; --json must be a file",
    ),
    "JSON over a folder": (["videos", "--videos", "v.mp4", "--frames", "new", "--json", "none"], 1, "none: not a"),
    "JSON over its source": (["multithumos", "--annotations", "m.json", "--json", "m.json"], 1, "would overwrite"),
    "no annotations": (["charades", "--annotations", "gone", "--json", "new.json"], 1, "; set --annotations"),
    "no JSON": (["multithumos", "--annotations", "v.mp4", "--json", "new.json"], 1, "; set --annotations to the"),
    "no CSV": (["charades", "--annotations", "none", "--json", "new.json"], 1, "no such file; --annotations"),
    "no classes": (["charades", "--annotations", "c.json", "--json", "new.json"], 1, "class 157 is outside 0..156\n"),
    "class names": (["charades", "--annotations", "run.json", "--json", "new.json"], 1, "should be an integer"),
    "no videos given": (["videos", "--frames", "new"], 2, "give --videos and --frames"),
    "no frames given": (["charades", "--videos", "v.mp4"], 2, "--videos requires --frames"),
    "no source of JSON": (["charades", "--json", "new.json"], 2, "--json requires the official --annotations"),
    "official own videos": (["videos", "--videos", "v.mp4", "--frames", "new", "--annotations", "m.json"], 2, "own"),
    "nothing": (["charades"], 2, "nothing to do"),
}  # fmt: skip
OUT_OF_BOUNDS = {
    ("--fps", "0"): "a number from 0.01 to 1000",
    ("--size", "-1"): "0 or a whole number of at least 32",
    ("--size", "31"): "0 or a whole number of at least 32",
    ("--quality", "100"): "a whole number from 1 to 95",
    ("--workers", "0"): "a whole number of at least 1",
}
BAD |= {
    " ".join(option): (["videos", "--videos", "v.mp4", "--frames", "new", *option], 2, f"{option[1]!r} is not {rule}")
    for option, rule in OUT_OF_BOUNDS.items()
}


def exit_status(command: list[str]) -> int | str | None:
    try:
        return main(command)
    except SystemExit as stop:  # as argparse ends
        return stop.code


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_line(tmp_path, capsys, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "m.json").write_text(json.dumps(THUMOS))
    for name, label in (("c", 157), ("run", "run")):
        video = {"subset": "training", "duration": 1, "actions": [[label, 0, 1]]}
        (tmp_path / f"{name}.json").write_text(json.dumps({"v": video}))
    write_video(tmp_path / "v.mp4", 2)
    (tmp_path / "my video.mp4").touch()
    before = contents(tmp_path)
    command, status, reason = BAD[case]
    assert exit_status(command) == status
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
    assert "--data." not in said
    assert contents(tmp_path) == before
    assert not (tmp_path / "new").exists()
