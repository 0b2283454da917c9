"""The demo's dataset: deterministic, readable as Charades, and with context activities that no clip gives away."""

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.schema import Config
from datasets.clips import find_videos, frame_labels
from datasets.demo import __main__ as demo
from datasets.demo import scene as demo_scene
from datasets.demo.scene import BURSTS, CLASSES, CONTEXT_CLASSES, CUES, FPS, RHYTHMS, STEADY, draw_scene
from datasets.kinds import CHARADES
from eval.charades_localize import read_ground_truth

VIDEOS, SEED = 3, 7
SCENES = 120  # as many as the demo has: drawing them without pixels takes no time


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "data" / "demo"
    assert demo.main([str(folder), "--videos", str(VIDEOS), "--seed", str(SEED)]) == 0
    return folder


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(0, index) for index in range(SCENES)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- files ------------------------------------------------------------------------------------------------------------


def test_same_seed_gives_the_same_bytes_and_more_videos_begin_with_them(folder, tmp_path):
    assert demo.main([str(tmp_path / "more"), "--videos", str(VIDEOS + 1), "--seed", str(SEED)]) == 0
    fewer, more = contents(folder / "frames"), contents(tmp_path / "more" / "frames")
    assert fewer == {name: data for name, data in more.items() if name in fewer}
    assert {Path(name).parent.name for name in more.keys() - fewer.keys()} == {demo.video_id(VIDEOS)}
    few, many = (json.loads((path / "annotations.json").read_text()) for path in (folder, tmp_path / "more"))
    assert few.items() <= many.items()


def test_other_seeds_give_other_videos():
    assert draw_scene(0, 0).activities != draw_scene(1, 0).activities


def test_frames_lie_as_charades_does(folder):
    annotations = CHARADES.load(folder / "annotations.json", len(CLASSES))
    assert annotations.oddities() == []
    assert [len(annotations.subset(name)) for name in ("training", "testing")] == [2, 1]
    found = find_videos(annotations.videos, folder / "frames")
    assert found.missing == []
    assert [n for _, n in found.videos] == [draw_scene(SEED, index).frames for index in range(VIDEOS)]
    assert (folder / "frames" / "demo0000" / "demo0000-000001.jpg").is_file()
    assert CHARADES.class_names(folder / "annotations.json") == list(CLASSES)


def test_labels_of_the_files_are_the_frames_of_the_activities(folder):
    """The first frame is never labelled (0 < 0 does not hold); all others exactly."""
    for index, video in enumerate(CHARADES.load(folder / "annotations.json", len(CLASSES)).videos):
        scene = draw_scene(SEED, index)
        labels = truth(scene)
        labels[:, 0] = False
        np.testing.assert_array_equal(frame_labels(video, scene.frames, len(CLASSES)).numpy() > 0, labels)


def test_csv_has_the_official_form(folder):
    with (folder / "ground_truth.csv").open(newline="") as file:
        header, row = csv.reader(file)
    assert header[:2] == ["id", "subject"] and header[-2:] == ["actions", "length"] and len(header) == 11  # noqa: PT018
    assert row[0] == "demo0001"
    (actions, length), *others = read_ground_truth(folder / "ground_truth.csv", len(CLASSES)).values()
    assert others == []
    entry = json.loads((folder / "annotations.json").read_text())["demo0001"]
    assert (entry["subset"], entry["duration"]) == ("testing", length)
    assert [list(action) for action in actions] == entry["actions"]


def test_summary_names_the_context_classes(folder):
    summary = json.loads((folder / "demo.json").read_text())
    assert summary["context_classes"] == list(CONTEXT_CLASSES)
    assert (summary["videos"], summary["seed"]) == (VIDEOS, SEED)


def test_the_rhythm_is_part_of_the_demo(folder, tmp_path, capsys):
    options = ("--videos", str(VIDEOS), "--seed", str(SEED))
    assert demo.main([str(tmp_path / "bursts"), *options, "--rhythm", "bursts"]) == 0
    assert (folder / "annotations.json").read_bytes() != (tmp_path / "bursts" / "annotations.json").read_bytes()
    assert "contains a different" in refused(capsys, tmp_path / "bursts", *options)


def test_the_default_is_the_demo_whose_figures_were_measured():
    """Text and scenes as the first version wrote them."""
    texts = demo.text_files([draw_scene(0, index) for index in range(8)], 0, demo.DEFAULT_RHYTHM)
    digest = hashlib.sha256("".join(texts.values()).encode()).hexdigest()
    assert digest == "8de0a5205feafb1309ad9eaf7e689fff23377caefa291a3058b8453da28cca6c"


def test_complete_demo_is_used_again(folder, capsys):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert demo.main([str(folder), "--videos", str(VIDEOS), "--seed", str(SEED)]) == 0
    assert "already exists" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


# --- bad input --------------------------------------------------------------------------------------------------------


def refused(capsys, *argv: object) -> str:
    """The one line of an exit with status 1."""
    assert demo.main([str(part) for part in argv]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_refuses_another_demo(folder, capsys):
    assert f"{folder}: contains a different" in refused(capsys, folder, "--videos", 2, "--seed", SEED)


def test_refuses_an_incomplete_demo(tmp_path, capsys):
    demo.generate(tmp_path / "demo", videos=2, seed=0)
    next((tmp_path / "demo" / "frames" / "demo0001").iterdir()).unlink()
    assert "incomplete" in refused(capsys, tmp_path / "demo", "--videos", 2)


def test_refuses_what_is_not_a_demo(tmp_path, capsys):
    (tmp_path / "letters.txt").write_text("dear")
    assert f"{tmp_path}: exists and is not a demo" in refused(capsys, tmp_path)
    assert "is not a demo" in refused(capsys, tmp_path / "letters.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["letters.txt"]


def test_refuses_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "file" in refused(capsys, tmp_path / "file" / "demo", "--videos", 2)


@pytest.mark.parametrize("options", [("--videos", "1"), ("--videos", "two"), ("--seed", "-1")])
def test_refuses_bad_options(tmp_path, capsys, options):
    with pytest.raises(SystemExit) as exit_:
        demo.main([str(tmp_path / "demo"), *options])
    assert exit_.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_nothing_is_left_of_an_interrupted_generation(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_background", interrupt)
    with pytest.raises(KeyboardInterrupt):
        demo.generate(tmp_path / "demo", videos=2, seed=0)
    assert list(tmp_path.iterdir()) == []


# --- activities -------------------------------------------------------------------------------------------------------


def truth(scene) -> np.ndarray:
    """(classes, n) bool, from the scene itself."""
    labels = np.zeros((len(CLASSES), scene.frames), bool)
    for activity in scene.activities:
        labels[CLASSES.index(activity.name), activity.first : activity.stop] = True
    return labels


def test_every_activity_occurs_and_several_at_once(scenes):
    labels = [truth(scene) for scene in scenes]
    assert len(CLASSES) >= 8
    assert (sum(y.sum(1) for y in labels) > 0).all()
    assert np.mean([(y.sum(0) > 1).mean() for y in labels]) > 0.25


def test_lengths_from_a_third_of_a_second_to_the_whole_video(scenes):
    lengths = [(a.stop - a.first, scene.frames) for scene in scenes for a in scene.activities]
    assert min(length for length, _ in lengths) == FPS // 3
    assert any(length == frames for length, frames in lengths)
    assert all(0 <= a.first < a.stop <= scene.frames for scene in scenes for a in scene.activities)


def test_context_activities_have_their_share_of_the_positives(scenes):
    totals = sum(truth(scene).sum(1) for scene in scenes)
    assert totals[list(CONTEXT_CLASSES)].sum() / totals.sum() >= 0.15


@pytest.mark.parametrize("rhythm", RHYTHMS.values(), ids=RHYTHMS)
def test_cue_is_more_than_a_clip_before_what_depends_on_it(rhythm):
    for scene in (draw_scene(0, index, rhythm) for index in range(SCENES)):
        dependent = [a for a in scene.activities if CLASSES.index(a.name) in CONTEXT_CLASSES]
        assert len(dependent) == len(demo_scene.CONTEXT)
        assert all(a.name.endswith(f"after {scene.cue.name}") for a in dependent)
        last_cue_frame = scene.cue.stop - 1
        assert min(a.first for a in dependent) - last_cue_frame > rhythm.clip_span


def test_bursts_leave_much_of_the_time_quiet_and_cut_through_clips():
    """What happens is uneven within a clip: most clips show both rest and motion; with steady rhythm few do."""
    uneven = {}
    for rhythm in (STEADY, BURSTS):
        window = np.ones(rhythm.clip_span) / rhythm.clip_span
        busy = [truth(draw_scene(0, index, rhythm)).any(0) for index in range(SCENES)]
        shares = np.concatenate([np.convolve(video, window, "valid") for video in busy])
        uneven[rhythm.clip_span] = np.mean((shares > 0.2) & (shares < 0.8))
    assert np.concatenate(busy).mean() < 0.6
    assert uneven[BURSTS.clip_span] > 2 * uneven[STEADY.clip_span]
    assert (sum(truth(draw_scene(0, index, BURSTS)).sum(1) for index in range(SCENES)) > 0).all()


def test_the_other_cue_would_change_only_the_frames_of_the_cue():
    """Every window of a clip's length that shows a context activity is the same under both of its names."""
    scene = draw_scene(SEED, 0)
    first, stop = scene.cue.first, scene.cue.stop
    one, other = (demo.render(replace(scene, cue=replace(scene.cue, name=cue)), SEED, 0) for cue in CUES)
    assert (one[first:stop] != other[first:stop]).any()
    np.testing.assert_array_equal(np.delete(one, np.s_[first:stop], 0), np.delete(other, np.s_[first:stop], 0))


def test_both_cues_are_as_frequent(scenes):
    assert np.mean([scene.cue.name == CUES[0] for scene in scenes]) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("kind", demo_scene.MOTIONS)
def test_a_mirrored_motion_is_the_same_activity(kind):
    """Mirroring turns `side` round and changes nothing else, so a mirrored video is one that might have been drawn."""

    def moved(side: int):
        thing = demo_scene._draw_thing(np.random.default_rng(3), 100, x=0)
        rest = thing.x.copy()
        name = demo_scene.MOTIONS[kind](thing, 20, 70, side, np.random.default_rng(5))
        return name, thing.x - rest, (thing.y, thing.radius, thing.angle, thing.opacity)

    (name, dx, others), (mirrored_name, mirrored_dx, mirrored_others) = moved(1), moved(-1)
    assert name == mirrored_name
    np.testing.assert_allclose(dx, -mirrored_dx, atol=1e-12)
    np.testing.assert_array_equal(others, mirrored_others)


@pytest.mark.parametrize("kind", demo_scene.MOTIONS)
def test_a_motion_keeps_to_its_interval(kind):
    rng = np.random.default_rng(3)
    thing = demo_scene._draw_thing(rng, 100, x=0)
    demo_scene.MOTIONS[kind](thing, 20, 70, 1, rng)
    for state in (thing.x, thing.y, thing.radius, thing.angle, thing.opacity):
        assert len(set(np.delete(state, np.s_[20:70]))) == 1
    assert any(len(set(state[20:70])) > 1 for state in (thing.x, thing.y, thing.radius, thing.opacity))


def test_a_test_view_sees_every_thing_at_rest(scenes):
    """The test view is the centred square of the shorter side."""
    left = (demo_scene.WIDTH - demo_scene.HEIGHT) / 2
    for scene in scenes:
        for thing in scene.things:
            assert left <= np.median(thing.x) <= demo_scene.WIDTH - left


# --- configs/demo.yaml ------------------------------------------------------------------------------------------------


def test_whole_videos_fit_into_the_fine_features():
    assert STEADY.frames[1] // 2 <= Config().data.fine_frames
