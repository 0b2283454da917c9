import torch

from datasets.batch import collate
from datasets.joining import WholeVideos
from datasets.windows import Part, blend, scale, split

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
    ((whole, joined),) = WholeVideos(STRIDE)(batch, logits)
    assert whole is batch
    assert joined is logits


def test_a_long_video_comes_once_when_it_is_whole():
    rows, join = samples("AAA", 15, 6, 2), WholeVideos(STRIDE)
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
    ((whole, joined),) = made
    assert whole["videos"] == ["AAA"]
    assert torch.equal(joined[0], torch.cat(blended, 1))
    assert torch.equal(whole["labels"][0], (torch.arange(60) % 3 == 0).float().expand(C, -1))
    assert torch.equal(whole["mask"], torch.ones(1, 60))
    assert whole["num_frames"].tolist() == [61]
    assert not join.pieces
    assert not join.joins.open


def test_a_video_with_an_unreadable_window_never_comes():
    for lost in range(4):
        join, made = WholeVideos(STRIDE), []
        rows = samples("AAA", 15, 6, 2)
        for row in (*rows[:lost], *rows[lost + 1 :], *samples("BBB", 15, 6, 2)):
            batch = collate([row])
            made += [whole["videos"] for whole, _ in join(batch, logits_of(batch))]
        assert made == [["BBB"]]
