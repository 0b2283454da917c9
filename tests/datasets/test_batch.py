import itertools

import numpy as np
import pytest
import torch

from common.errors import InputError
from datasets import clips
from datasets.batch import (
    EpochBatches,
    Loader,
    Preparer,
    collate,
    evaluation_batches,
    prepare,
)
from datasets.clips import TrainClips, VideoFrames
from datasets.features import FeatureStore, FeatureWriter
from datasets.transforms import normalise

OPTIONS = {"num_classes": 3, "size": 16}


def sample(T, L, fine=None, start=0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = {
        "video": f"v{T}",
        "clip": torch.randint(1, 256, (T, 8, 8, 3), dtype=torch.uint8, generator=generator),
        "labels": torch.ones(2, L),
        "num_frames": L + 3,
    }
    if fine is not None:
        features = torch.randn(fine, 5, 7, 7, generator=generator).half().transpose(0, 1)
        made |= {"fine_features": {"layer1": features, "conv5": features[:2]}, "start": start}
    return made


@pytest.fixture
def videos(write_video, tmp_path):
    """Five videos of different lengths with features, and the folder of their frames."""
    lengths = {"AAA": 70, "BBB": 83, "CCC": 95, "DDD": 61, "EEE": 120}
    found = [VideoFrames(write_video(name, n, actions=[(1, 0.5, 2.0)]), n) for name, n in lengths.items()]
    settings = {"checkpoint": "best.pt", "checkpoint_sha256": "0", "stride": 10, "crop": 16, "dtype": "float16"}
    with FeatureWriter(tmp_path / "features", settings) as writer:
        for name, n in lengths.items():
            writer.write(name, {"layer1": torch.full((2, n // 10, 7, 7), float(n))})
    return found, tmp_path / "frames", FeatureStore(tmp_path / "features")


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


# --- collation --------------------------------------------------------------------------------------------------------


def test_collate_pads_with_zeros_and_masks():
    samples = [sample(4, 40, fine=6, start=2), sample(2, 15, fine=9, start=0, seed=1)]
    batch = collate(samples)
    assert batch["videos"] == ["v4", "v2"]
    assert batch["clip"].shape == (2, 4, 8, 8, 3)
    assert batch["clip"].dtype == torch.uint8
    assert batch["clip"].is_contiguous()
    assert torch.equal(batch["clip"][1, :2], samples[1]["clip"])
    assert (batch["clip"][1, 2:] == 0).all()
    assert batch["frames"].tolist() == [4, 2]
    assert batch["labels"].shape == (2, 2, 40)
    assert batch["mask"].sum(1).tolist() == [40, 15]
    assert batch["labels"][1].sum(1).tolist() == [15, 15]
    assert batch["num_frames"].tolist() == [43, 18]
    features = batch["fine_features"]
    assert features["layer1"].shape == (2, 5, 9, 7, 7)
    assert features["conv5"].shape == (2, 2, 9, 7, 7)
    assert features["layer1"].dtype == torch.float16
    assert torch.equal(features["layer1"][0, :, :6], samples[0]["fine_features"]["layer1"])
    assert (features["layer1"][0, :, 6:] == 0).all()
    assert batch["fine_mask"].tolist() == [[1.0] * 6 + [0.0] * 3, [1.0] * 9]
    assert batch["start"].tolist() == [2, 0]


def test_collate_one_frame_and_stage_one():
    batch = collate([sample(1, 7)])
    assert batch["clip"].shape == (1, 1, 8, 8, 3)
    assert "fine_features" not in batch
    assert batch["mask"].tolist() == [[1.0] * 7]


def test_prepare():
    samples = [sample(4, 40, fine=6), sample(2, 15, fine=9, seed=1)]
    batch = collate(samples)
    ready = prepare(batch, "cpu")
    assert ready["clip"].dtype == torch.float32
    assert (ready["clip"][1, :, 2:] == 0).all()
    assert torch.equal(ready["clip"][1:, :, :2], normalise(samples[1]["clip"][None]))
    assert ready["fine_features"]["conv5"].dtype == torch.float32
    assert batch["clip"].dtype == torch.uint8  # the given batch is left as it was


def test_preparer_fills_one_buffer_as_long_as_the_shape_stays():
    preparer = Preparer()
    batches = [collate([sample(4, 40, seed=1), sample(2, 15, seed=2)]), collate([sample(3, 15), sample(4, 9, seed=3)])]
    expected = [prepare(batch, "cpu")["clip"] for batch in batches]
    first = preparer(batches[0], "cpu")["clip"]
    torch.testing.assert_close(first, expected[0], rtol=0, atol=0)
    second = preparer(batches[1], "cpu")["clip"]
    assert second.data_ptr() == first.data_ptr()
    torch.testing.assert_close(second, expected[1], rtol=0, atol=0)
    longer = collate([sample(5, 9), sample(2, 9)])
    torch.testing.assert_close(preparer(longer, "cpu")["clip"], prepare(longer, "cpu")["clip"], rtol=0, atol=0)


# --- order ------------------------------------------------------------------------------------------------------------


def test_an_epoch_is_a_permutation_that_seed_and_epoch_fix():
    batches = EpochBatches(10, 4, seed=5)
    first = list(batches)
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert sorted(index for batch in first for _, index in batch) == list(range(10))
    assert {epoch for batch in first for epoch, _ in batch} == {0}
    assert list(EpochBatches(10, 4, seed=5)) == first
    assert list(EpochBatches(10, 4, seed=6)) != first
    batches.set_position(1)
    second = list(batches)
    assert {epoch for batch in second for epoch, _ in batch} == {1}
    assert [i for batch in second for _, i in batch] != [i for batch in first for _, i in batch]


def test_position_within_an_epoch():
    batches = EpochBatches(10, 4, seed=5)
    batches.set_position(2)
    whole = list(batches)
    batches.set_position(2, batch=1)
    assert len(batches) == 2
    assert list(batches) == whole[1:]
    batches.set_position(2, batch=3)
    assert (len(batches), list(batches)) == (0, [])


@pytest.mark.parametrize(("samples", "size", "drop_last", "steps"), [(7909, 8, True, 988), (7909, 6, False, 1319)])
def test_published_steps_an_epoch(samples, size, drop_last, steps):
    assert len(EpochBatches(samples, size, drop_last=drop_last)) == steps


def test_processes_share_every_batch_interleaved():
    whole = list(EpochBatches(12, 4, seed=1))
    shares = [list(EpochBatches(12, 4, seed=1, rank=rank, processes=2)) for rank in range(2)]
    for batch, one, two in zip(whole, *shares, strict=True):
        assert (batch[0::2], batch[1::2]) == (one, two)


def test_an_incomplete_last_batch():
    shares = [list(EpochBatches(9, 4, seed=1, rank=rank, processes=2)) for rank in range(2)]
    assert [len(batch) for batch in shares[0]] == [len(batch) for batch in shares[1]] == [2, 2, 1]
    assert shares[1][-1] == shares[0][0][:1]  # topped up with the epoch's first sample


def test_batches_of_equal_length():
    lengths, windows = [(5, 10), (3, 10), (5, 10), (5, 10), (3, 10), (1, 9)], [[(0, 9)]] * 6
    batches = [[(0, 5, 0)], [(0, 1, 0), (0, 4, 0)], [(0, 0, 0), (0, 2, 0)], [(0, 3, 0)]]
    assert evaluation_batches(lengths, windows, 2) == batches
    assert [evaluation_batches(lengths, windows, 2, rank=rank, processes=2) for rank in range(2)] == [
        batches[0::2],
        batches[1::2],
    ]


def test_batches_of_windows():
    """A long video's windows follow each other by themselves; short videos stay together."""
    windows = [[(0, 4), (3, 7), (5, 9)], [(0, 3)], [(0, 3)], [(0, 4), (3, 7), (5, 9)]]
    lengths = [(9, 10), (3, 10), (3, 10), (9, 10)]
    assert evaluation_batches(lengths, windows, 2) == [
        [(0, 1, 0), (0, 2, 0)],
        [(0, 0, 0), (0, 0, 1)],
        [(0, 0, 2)],
        [(0, 3, 0), (0, 3, 1)],
        [(0, 3, 2)],
    ]


# --- loader -----------------------------------------------------------------------------------------------------------


def test_batches_do_not_depend_on_the_number_of_workers(videos):
    found, frames, store = videos

    def two_epochs(workers):
        data = TrainClips(found, frames, seed=7, clip_span=40, store=store, fine_frames=8, **OPTIONS)
        batches = EpochBatches(len(data), 2, seed=7)
        loader = Loader(data, batches, workers=workers)
        made = []
        for epoch in range(2):
            batches.set_position(epoch)
            assert len(loader) == 3
            made += list(loader)
        return made

    torch.manual_seed(0)
    alone = two_epochs(0)
    torch.manual_seed(1)  # no global generator takes part
    np.random.seed(1)
    for workers in (1, 2):
        for a, b in itertools.zip_longest(alone, two_epochs(workers)):
            assert same(a, b)
    assert not same(alone[0], alone[3])  # epochs differ


def test_resuming_within_an_epoch_gives_the_same_batches(videos):
    found, frames, _ = videos
    data = TrainClips(found, frames, seed=7, clip_span=40, **OPTIONS)
    batches = EpochBatches(len(data), 2, seed=7)
    loader = Loader(data, batches, workers=0)
    batches.set_position(4)
    whole = list(loader)
    batches.set_position(4, batch=2)
    (last,) = loader
    assert same(last, whole[2])


def test_test_videos_through_a_loader(videos):
    found, frames, store = videos
    data = clips.TestVideos(found, frames, store=store, **OPTIONS)
    batches = list(Loader(data, [[(0, index)] for index in range(len(data))], workers=1))
    assert [batch["videos"] for batch in batches] == [[video.id] for video, _ in found]
    assert [batch["labels"].shape[-1] for batch in batches] == [70, 80, 90, 60, 120]
    assert all(batch["clip"].is_contiguous() for batch in batches)


def test_an_error_in_a_worker_keeps_its_line(videos):
    found, frames, _ = videos
    (frames / "BBB" / "BBB-000011.jpg").write_bytes(b"no JPEG at all")
    data = clips.TestVideos(found, frames, **OPTIONS)
    with pytest.raises(InputError) as alone:
        data[0, 1]
    for workers in (0, 1):
        with pytest.raises(InputError, match=r"BBB-000011\.jpg: unreadable frame") as error:
            list(Loader(data, [[(0, index)] for index in range(len(data))], workers=workers))
        assert str(error.value) == str(alone.value)
        assert "\n" not in str(error.value)
