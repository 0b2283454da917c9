"""Reading a run for tools.report: truncated logs, states of a run, videos, weights, and invalid input."""

import json
import shutil
from collections import Counter
from datetime import datetime

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from common.errors import InputError
from configs.cli import load
from datasets.assembly import read_truth
from eval.charades_localize import Truth
from eval.dense import Steps, write_steps
from models.alignment import gaussian_weights
from tests.tools.report_runs import ACTIONS, FRAMES, SECONDS, STRIDE, C, N, T, even_grid, write_run
from tools.report import videos as report_videos
from tools.report.__main__ import main
from tools.report.data import read_log, read_run
from tools.report.videos import choose, fine_weights, read_video, score_steps, shown_classes, thumbnail, video_precision

LINES = [{"event": "train", "epoch": 0.5, "step": 3}, {"event": "validation", "epoch": 1, "step": 6}]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("made"))


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run for modification, with the original data."""
    return shutil.copytree(made, tmp_path / "run")


def truth_of(run) -> dict[str, Truth]:
    return read_truth(read_run(run).config)


def show(run) -> dict:
    record = read_run(run)
    return read_video(record, record.config, "good", "asked", truth_of(run)["good"])


# --- the log ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ['{"event": "tra', '{"event": "train", "epoch": 1.5, "step": 9', "\0\0\0", "12"])
def test_a_last_line_cut_short_is_left_out_and_said(tmp_path, end):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES) + end)
    lines, notes = read_log(path)
    assert lines == LINES
    assert notes == ["metrics.jsonl: its last line (line 3) is incomplete and was skipped"]


def test_a_whole_log_has_no_notes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_log(path) == ([], [])
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    assert read_log(path) == (LINES, [])


def test_a_line_damaged_in_the_middle_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{json.dumps(LINES[0])}\n{{}}\n{json.dumps(LINES[1])}\n")
    with pytest.raises(InputError, match=r"metrics\.jsonl:2: damaged"):
        read_log(path)


# --- the run ----------------------------------------------------------------------------------------------------------


def test_a_finished_run(made):
    record = read_run(made)
    assert record.config.run.name == "a <i>run</i>"
    assert [stage.title for stage in record.stages] == ["Fine stream", "Coarse-Fine"]
    coarse = record.stages[1]
    assert coarse.status == "finished after 6 epochs, 18 steps"
    assert Counter(line["event"] for line in coarse.lines) == {"train": 12, "validation": 3}
    assert coarse.best == {"epoch": 4, "step": 12, "version": "9.8.7", "config_sha256": "0123456789ab"}
    assert coarse.started == datetime.fromtimestamp(1_700_000_000)
    assert coarse.scores["good"].shape == (25, C)
    assert record.scored is coarse


def test_states_of_an_unfinished_run(run):
    log = run / "coarse" / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:3]))
    assert read_run(run).stages[1].status == "1.5 of at most 6 epochs, 4 steps"
    log.unlink()
    (run / "coarse" / "metrics.json").unlink()
    assert read_run(run).stages[1].status == "no epoch finished yet"
    shutil.rmtree(run / "coarse")
    assert [stage.key for stage in read_run(run).stages] == ["fine"]


def test_a_damaged_checkpoint_is_a_note(run):
    best = run / "fine" / "checkpoints" / "best.pt"
    best.write_bytes(best.read_bytes()[:300])
    (fine, _) = read_run(run).stages
    assert fine.best is None
    assert "best.pt: not a readable checkpoint" in fine.notes[0]


def test_a_run_that_was_only_evaluated_takes_a_configuration(run, made):
    shutil.rmtree(run / "fine")
    for name in ("config.yaml", "metrics.jsonl"):
        (run / "coarse" / name).unlink()
    assert read_run(run).config is None
    assert read_run(run).stages[0].status == "evaluated only"
    assert read_run(run, made / "fine" / "config.yaml").config.data.num_classes == C


# --- videos -----------------------------------------------------------------------------------------------------------


def test_best_median_and_worst_video(made):
    chosen = choose(read_run(made), truth_of(made))
    assert chosen == {"good": "Best prediction", "fair": "Median", "poor": "Worst prediction"}


def test_precision_of_a_video_counts_all_its_scores_as_one_list():
    truth = Truth([(1, 0.0, 10.0)], 5.0)  # class 1 throughout
    scores = np.tile([0.2, 0.8], (25, 1))
    assert video_precision(scores, truth) == 1
    assert video_precision(-scores, truth) < 0.5
    assert np.isnan(video_precision(scores, Truth([], 5.0)))


def test_classes_in_the_order_of_their_actions_then_the_highest_wrong_ones():
    scores = np.zeros((25, 9))
    scores[3, [0, 2, 4, 5, 6, 7]] = [0.1, 0.9, 0.2, 0.6, 0.3, 0.4]
    assert shown_classes([(5, 2.0, 3.0), (1, 0.5, 1.0), (5, 0.1, 0.2)], {"fine": scores}) == [5, 1, 2, 7, 6, 4]
    assert shown_classes([(5, 2.0, 3.0)], {}) == [5]


def test_film_strip_and_places_in_time(made):
    video = show(made)
    assert [frame for frame, _, _ in video["strip"]] == [3, 7, 11, 15, 19, 23, 28, 32, 36, 40, 44, 48]
    assert video["strip"][0][1] == pytest.approx(2 / FRAMES * SECONDS)
    assert video["chosen"][-1] == [1 + STRIDE * (T - 1), pytest.approx(48 / FRAMES * SECONDS)]
    assert video["truth"] == ACTIONS
    assert {stage: (len(steps["rows"][0]), steps["step"]) for stage, steps in video["scores"].items()} == {
        "fine": (25, SECONDS / 25), "coarse": (25, SECONDS / 25)}  # fmt: skip
    assert video["notes"] == []


@pytest.mark.parametrize(("frames", "every"), [(FRAMES, 1), (1000, 3)])
def test_scores_of_every_frame_where_they_were_kept(run, frames, every):
    scores = np.random.default_rng(0).random((frames, C), np.float32)
    steps = Steps(scores, np.arange(frames) * SECONDS / frames)
    write_steps(run / "coarse" / "predictions" / "dense.npz", {"good": steps, "fair": steps})
    fine, coarse = (score_steps(stage, "good", SECONDS, range(C)) for stage in read_run(run).stages)
    assert np.array(coarse["rows"]) == pytest.approx(scores[::every].T, abs=6e-5)
    assert coarse["step"] == pytest.approx(every * SECONDS / frames)
    assert np.array(fine["rows"]).shape == (C, 25)
    rows = show(run)["scores"]["coarse"]["rows"]
    assert np.array(rows) == pytest.approx(scores[::every, show(run)["classes"]].T, abs=6e-5)


def test_without_frames_there_is_a_note_and_all_else(run, tmp_path):
    for stage in ("fine", "coarse"):
        file = run / stage / "config.yaml"
        values = yaml.safe_load(file.read_text())
        values["data"]["frames"] = str(tmp_path / "gone")
        file.write_text(yaml.safe_dump(values))
    video = show(run)
    assert video["strip"] == []
    assert len(video["chosen"]) == N + 1
    assert video["weights"] is not None
    assert "No frames of this video" in video["notes"][0]


def test_an_unreadable_frame_is_named(tmp_path):
    Image.new("RGB", (900, 600)).save(tmp_path / "wide.jpg")
    assert len(thumbnail(tmp_path / "wide.jpg")) < 4000
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "wide.jpg").read_bytes()[:400])
    with pytest.raises(InputError, match=r"broken\.jpg: unreadable"):
        thumbnail(tmp_path / "broken.jpg")


def test_weights_are_those_of_the_network(made):
    """For an even grid, the centres are evenly spaced and the weights follow from the formula."""
    config = read_run(made).config
    weights, note = fine_weights(config, even_grid(), T, SECONDS / FRAMES)
    assert note == ""
    mu = np.arange(N + 1) / N * T
    sigma = T / 8
    expected = np.exp(-((np.arange(T)[None] - mu[:, None]) ** 2) / (2 * sigma**2))
    assert weights["values"] == pytest.approx(expected / expected.max(1, keepdims=True))
    assert weights["values"] == pytest.approx(gaussian_weights(torch.tensor(mu)[None], torch.ones(1, T))[0].T.numpy())
    assert weights["centres"] == pytest.approx(mu * STRIDE * SECONDS / FRAMES)
    assert weights["sigma"] == pytest.approx(sigma * STRIDE * SECONDS / FRAMES)


def test_weights_reach_as_far_as_the_network_sees(made, tmp_path):
    (tmp_path / "delta.yaml").write_text("data.fine_frames: 16")
    config = load(made / "coarse" / "config.yaml", tmp_path / "delta.yaml")
    weights, _ = fine_weights(config, even_grid(), T, SECONDS / FRAMES)
    assert weights["values"].shape == (N + 1, 16)
    assert weights["sigma"] == pytest.approx(16 / 8 * STRIDE * SECONDS / FRAMES)


def test_no_weights_of_a_video_in_windows_or_without_fusion(made, tmp_path):
    config = read_run(made).config
    weights, note = fine_weights(config, even_grid()[:-2], T, 0.1)
    assert weights is None
    assert "windows" in note
    (tmp_path / "delta.yaml").write_text("model.fusion: none")
    alone = load(made / "coarse" / "config.yaml", tmp_path / "delta.yaml")
    assert fine_weights(alone, even_grid(), T, 0.1) == (None, "")
    (tmp_path / "delta.yaml").write_text("eval.window: 20\neval.overlap: 4")
    windowed = load(made / "coarse" / "config.yaml", tmp_path / "delta.yaml")
    assert fine_weights(windowed, even_grid(), T, 0.1)[0] is None


def test_pictures_are_small():
    assert report_videos.STRIP_FRAMES * report_videos.STRIP_HEIGHT < 2000


# --- the command ------------------------------------------------------------------------------------------------------


def test_writes_the_report_and_says_where(run, capsys):
    assert main([str(run)]) == 0
    assert capsys.readouterr().out == f"report: {run / 'report.html'}\n"
    assert (run / "report.html").read_text().rstrip().endswith("</html>")


@pytest.mark.parametrize(
    ("spoil", "options", "named"),
    [
        (lambda run: shutil.rmtree(run), [], "no such folder"),
        (lambda run: [shutil.rmtree(run / stage) for stage in ("fine", "coarse")], [], "not a run"),
        (lambda run: (run / "fine" / "metrics.jsonl").write_text("x\ny\n"), [], "metrics.jsonl:1"),
        (lambda run: (run / "fine" / "metrics.json").write_text("{"), [], "metrics.json: damaged (Invalid JSON"),
        (
            lambda run: (run / "fine" / "metrics.json").write_text("[]"),
            [],
            "metrics.json: damaged (Input should be an object",
        ),
        (
            lambda run: (run / "fine" / "metrics.json").write_text('{"mAP_official": "x"}'),
            [],
            "damaged (mAP_official Input should be a valid number",
        ),
        (lambda run: (run / "coarse" / "predictions" / "grid.json").write_text('{"good": 3}'), [], "grid.json"),
        (lambda run: (run / "coarse" / "predictions" / "official.txt").write_text("good 1 x"), [], "official.txt:1"),
        (lambda run: (run / "coarse" / "config.yaml").write_text("data: {nonsense: 2}"), [], "nonsense"),
        (lambda run: None, ["--videos", "good,unheard"], "--videos unheard: not a test video"),
        (lambda run: None, ["--output", "/proc/nowhere/report.html"], "/proc/nowhere"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(run, capsys, spoil, options, named):
    spoil(run)
    assert main([str(run), *options]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("report: error: ")
    assert named in error
    assert not list(run.parent.rglob("*.html*"))


def test_nothing_but_a_page_is_written_over(run, capsys):
    metrics = run / "coarse" / "metrics.json"
    before = metrics.read_bytes()
    with pytest.raises(SystemExit):
        main([str(run), "--output", str(metrics)])
    assert metrics.read_bytes() == before
    assert "must end in .html" in capsys.readouterr().err


def test_a_stage_folder_names_the_run(run, capsys):
    assert main([str(run / "fine")]) == 1
    assert f"give the run's folder, {run}" in capsys.readouterr().err
