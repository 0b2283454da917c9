"""Losses and scores of an evaluation, and the whole videos that they are of."""

import pytest
import torch

from configs.schema import Config, Data, Run
from datasets.annotations import Action, Annotations, Video
from datasets.batch import collate
from datasets.windows import Part, Window, blend, scale, split
from engine.evaluation import Evaluation, WindowJoiner, selected_score
from tests.engine.toy import CLASSES, CPU, FRAMES, ToyLoader, ToyNet


@pytest.fixture
def evaluate(tmp_path):
    """evaluate(batches of indices): the metrics of a toy network on these videos, and where the files are."""

    def run(batches):
        config = Config(data=Data(num_classes=CLASSES, stride=1, min_frames=0), run=Run(dir=str(tmp_path)))
        tested = [Video(f"video{i}", "testing", 1.0, (Action(i % CLASSES, 0.0, 0.5),)) for i in range(4)]
        loader = []
        for indices in batches:
            batch = ToyLoader.collate([(0, i) for i in indices])
            batch["parts"] = [Part(0, [Window(0, FRAMES)])] * len(indices)
            loader.append(batch)
        evaluation = Evaluation(config, "fine", Annotations(path=tmp_path, videos=tuple(tested)), loader, CPU)
        return evaluation(ToyNet().eval()), evaluation.latest / "predictions"

    return run


def test_videos_weigh_equally(evaluate):
    """Losses are means over videos, whatever the batches; scores are probabilities, in the annotations' order."""
    results = []
    for batches in ([[0, 1, 2], [3]], [[0], [1], [2], [3]], [[3], [1], [2, 0]]):
        metrics, folder = evaluate(batches)
        rows = [line.split() for line in (folder / "official.txt").read_text().splitlines()]
        assert [row[0] for row in rows[::25]] == ["video0", "video1", "video2", "video3"]
        assert all(0 < float(score) < 1 for row in rows for score in row[2:])
        results.append({name: value for name, value in metrics.items() if isinstance(value, float)})
    assert results[0] == pytest.approx(results[1], rel=1e-6)
    assert results[2] == pytest.approx(results[1], rel=1e-6)
    assert {"mAP_official", "mAP_released", "mAP_frames", "loss", "cls_loss", "loc_loss"} < results[0].keys()
    assert results[0]["loss"] == pytest.approx((results[0]["cls_loss"] + results[0]["loc_loss"]) / 2)


def test_by_what_the_best_is_chosen():
    metrics = {"mAP_official_defined": 0.2, "mAP_frames": 0.3, "mAP_official": 0.4}
    assert (selected_score(metrics, "charades"), selected_score(metrics, "multithumos")) == (0.2, 0.3)
    assert selected_score(metrics | {"mAP_official_defined": None}, "charades") == -1


# --- whole videos from windows ----------------------------------------------------------------------------------------

STRIDE, C = 4, 2


def sample(video, T, part):
    start, stop = part.windows[part.number]
    return {
        "video": video,
        "clip": torch.zeros(stop - start, 8, 8, 3, dtype=torch.uint8),
        "labels": (torch.arange(STRIDE * start, STRIDE * stop) % 3 == 0).float().expand(C, -1),
        "num_frames": STRIDE * T + 1,
        "part": part,
    }


def samples(video, T, window, overlap):
    windows = split(T, window, overlap)
    return [sample(video, T, Part(number, windows)) for number in range(len(windows))]


def logits_of(batch):
    return torch.randn(batch["labels"].shape, generator=torch.Generator().manual_seed(len(batch["videos"])))


def test_short_videos_pass_as_they_are():
    batch = collate([*samples("AAA", 5, 6, 2), *samples("BBB", 5, 6, 2)])
    logits = logits_of(batch)
    (whole,) = WindowJoiner()(batch, logits)
    assert whole.ids == ["AAA", "BBB"]
    assert (whole.logits is logits, whole.labels is batch["labels"], whole.mask is batch["mask"]) == (True,) * 3


def test_a_long_video_comes_once_when_it_is_whole():
    rows, join = samples("AAA", 15, 6, 2), WindowJoiner()
    assert len(rows) == 4
    windows, blended, held = scale(rows[0]["part"].windows, STRIDE), [], None
    for pair in (rows[:2], rows[2:]):
        batch = collate(pair)
        logits = logits_of(batch)
        for row in logits:
            final, held = blend(windows, len(blended), row, held)
            blended.append(final)
        made = list(join(batch, logits))
        assert len(made) == (pair[-1] is rows[-1])
    (whole,) = made
    assert whole.ids == ["AAA"]
    assert torch.equal(whole.logits[0], torch.cat(blended, 1))
    assert torch.equal(whole.labels[0], (torch.arange(60) % 3 == 0).float().expand(C, -1))
    assert torch.equal(whole.mask, torch.ones(1, 60))
    assert whole.num_frames.tolist() == [61]
    assert not join.pieces
    assert not join.joins.open


def test_a_video_with_an_unreadable_window_never_comes():
    for lost in range(4):
        join, made = WindowJoiner(), []
        rows = samples("AAA", 15, 6, 2)
        for row in (*rows[:lost], *rows[lost + 1 :], *samples("BBB", 15, 6, 2)):
            batch = collate([row])
            made += [whole.ids for whole in join(batch, logits_of(batch))]
        assert made == [["BBB"]]
