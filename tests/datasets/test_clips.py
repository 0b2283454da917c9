import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import InputError
from datasets import clips
from datasets.annotations import Action, Video
from datasets.batch import collate, prepare
from datasets.clips import (
    TrainClips,
    VideoFrames,
    clip_frames,
    draw_first_frame,
    find_videos,
    frame_labels,
    place_window,
    video_frames,
    video_length,
)
from datasets.features import FeatureStore, FeatureWriter
from datasets.frames import Listing, frame_path
from datasets.kinds import CHARADES

OPTIONS = {"num_classes": 3, "size": 16}


def shades(clip):
    """The frame numbers that a clip (T,H,W,3) of `write_video` shows (below 200)."""
    return clip[:, 0, 0, 0].tolist()


@pytest.fixture
def make_store(tmp_path):
    """A store whose frame t has the value t, on a level of 2 channels."""

    def make(lengths, stride=10):
        settings = {"checkpoint": "best.pt", "checkpoint_sha256": "0", "stride": stride, "crop": 16, "dtype": "float16"}
        with FeatureWriter(tmp_path / "features", settings) as writer:
            for name, T in lengths.items():
                writer.write(name, {"layer1": torch.arange(T).view(1, T, 1, 1).expand(2, T, 7, 7).float()})
        return FeatureStore(tmp_path / "features")

    return make


# --- frames -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "n", "last", "T"),
    [
        (1, 700, 631, 64),  # long: 64 frames, the last 630 after the first
        (60, 700, 690, 64),  # the last start of a video of 700
        (1, 640, 631, 64),  # exactly one span
        (2, 640, 632, 64),
        (10, 640, 640, 64),  # (640 - 10)//10 + 1
        (10, 639, 630, 63),
        (1, 631, 631, 64),
        (1, 630, 621, 63),
        (10, 162, 160, 16),  # short
        (1, 162, 161, 17),
        (3, 162, 153, 16),
        (2, 162, 162, 17),
    ],
)
def test_clip_frames_at_stride_10(first, n, last, T):
    numbers = clip_frames(first, n, stride=10, clip_span=640)
    assert (numbers[0], numbers[-1], numbers.step, len(numbers)) == (first, last, 10, T)
    assert min(64, (n - first) // 10 + 1) == T


def test_clip_frames_of_variant_s():
    numbers = clip_frames(5, 2000, stride=12, clip_span=640)  # stride 12 over the same 640 frames
    assert (len(numbers), numbers[-1]) == (54, 5 + 53 * 12)


@pytest.mark.parametrize(
    ("n", "last"), [(162, 10), (640, 10), (650, 10), (651, 11), (652, 12), (900, 260), (4, 4), (1, 1)]
)
def test_first_frames_are_uniform_with_both_ends(n, last):
    rng = np.random.default_rng(0)
    drawn = np.array([draw_first_frame(rng, n, 640) for _ in range(40 * last)])
    assert (drawn.min(), drawn.max()) == (1, last)
    counts = np.bincount(drawn)[1:]
    assert abs(counts - 40).max() < 40  # six standard deviations


@pytest.mark.parametrize(
    ("n", "T", "last"), [(170, 17, 161), (179, 17, 161), (180, 18, 171), (10, 1, 1), (9, 1, 1), (1, 1, 1), (29, 2, 11)]
)
def test_test_view_frames(n, T, last):
    numbers = video_frames(n, 10)
    assert (len(numbers), numbers[0], numbers[-1], video_length(n, 10)) == (T, 1, last, T)


# --- labels -----------------------------------------------------------------------------------------------------------


def test_labels_are_strict_at_both_ends():
    video = Video("AAA", "testing", 4.0, (Action(0, 1.0, 2.0), Action(2, 1.75, 9.0), Action(1, 2.0, 2.0)))
    labels = frame_labels(video, 16, 3)  # frame k at k/4 s, exactly
    assert labels.shape == (3, 16)
    assert labels.dtype == torch.float32
    assert labels[0].nonzero().flatten().tolist() == [5, 6, 7]
    assert labels[1].sum() == 0  # empty interval
    assert labels[2].nonzero().flatten().tolist() == list(range(8, 16))  # beyond the video
    assert torch.equal(frame_labels(video, 16, 3, 4, 9), labels[:, 4:9])


def test_labels_equal_the_definition():
    rng = np.random.default_rng(0)
    for _ in range(20):
        n, duration = int(rng.integers(20, 900)), round(float(rng.uniform(1, 60)), 2)
        actions = [Action(int(c), *map(float, ends)) for c, ends in enumerate(rng.uniform(-1, 70, (4, 2)).round(1))]
        labels = frame_labels(Video("AAA", "training", duration, tuple(actions)), n, 4)
        for label, start, end in actions:
            expected = [k for k in range(n) if start < k * duration / n < end]
            assert labels[label].nonzero().flatten().tolist() == expected


# --- window of features -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "first", "T", "total", "expected"),
    [
        ("first", 0, 64, 90, (0, 0)),
        ("first", 40, 64, 300, (0, 40)),
        ("first", 200, 64, 300, (0, 200)),
        ("centred", 0, 64, 90, (0, 0)),  # the video fits
        ("centred", 20, 64, 128, (0, 20)),
        ("centred", 0, 64, 300, (0, 0)),  # at the beginning
        ("centred", 100, 64, 300, (68, 32)),  # 32 frames on either side
        ("centred", 236, 64, 300, (172, 64)),  # at the end: 300 - 128
        ("centred", 0, 300, 300, (86, -86)),  # a clip longer than the window
    ],
)
def test_window_of_features(mode, first, T, total, expected):
    assert place_window(first, T, total, length=128, mode=mode) == expected


# --- videos -----------------------------------------------------------------------------------------------------------


def test_real_counts(annotations):
    read = CHARADES.load(annotations / "charades.json")
    listings = {video.id: Listing(round(24 * video.duration)) for video in read.videos}
    for subset, kept in (("training", 7909), ("testing", 1851)):
        found = find_videos(read.subset(subset), "frames", min_frames=162, listings=listings)
        assert (len(found.videos), len(found.missing)) == (kept, 0)
        assert len(found.videos) + len(found.short) == CHARADES.videos[subset]
        assert len(find_videos(read.subset(subset), "frames", listings=listings).videos) == CHARADES.videos[subset]


def test_missing_and_short_videos(write_video, tmp_path):
    videos = [write_video("AAA", 5), write_video("BBB", 2), Video("CCC", "training", 3.0, ())]
    with pytest.raises(InputError, match=r"1 of 3 videos have no frames: CCC; correct --data\.frames"):
        find_videos(videos, tmp_path / "frames")
    found = find_videos(videos, tmp_path / "frames", min_frames=3, allow_missing=True)
    assert found.videos == [VideoFrames(videos[0], 5)]
    assert (found.missing, found.short) == (["CCC"], ["BBB"])


def test_one_percent_may_be_missing(write_video, tmp_path):
    video = write_video("AAA", 1)
    absent = [Video(f"absent{i}", "training", 3.0, ()) for i in range(2)]
    present = [video] * 99
    assert find_videos([*present, absent[0]], tmp_path / "frames").missing == ["absent0"]
    with pytest.raises(InputError, match="2 of 101 videos have no frames: absent0, absent1"):
        find_videos([*present, *absent], tmp_path / "frames")


# --- samples ----------------------------------------------------------------------------------------------------------


def test_training_samples(write_video, tmp_path, make_store):
    video = write_video("AAA", 190, actions=[(1, 1.0, 3.0)])
    data = TrainClips(
        [VideoFrames(video, 190)],
        tmp_path / "frames",
        seed=3,
        clip_span=64,
        store=make_store({"AAA": 19}),
        fine_frames=12,
        **OPTIONS,
    )
    assert len(data) == 1
    firsts = set()
    for epoch in range(60):
        sample = data[epoch, 0]
        first = shades(sample["clip"])[0]
        firsts.add(first)
        assert shades(sample["clip"]) == list(clip_frames(first, 190, stride=10, clip_span=64))
        assert sample["clip"].shape == (7, 16, 16, 3)
        assert torch.equal(sample["labels"], frame_labels(video, 190, 3)[:, first - 1 : first + 63])
        assert (sample["start"], sample["num_frames"]) == (first // 10, 190)
        assert sample["fine_features"]["layer1"][0, :, 0, 0].tolist() == list(range(12))
    assert min(firsts) >= 1
    assert max(firsts) <= 190 - 64
    assert len(firsts) > 20  # another clip every epoch


def test_training_sample_at_the_end_of_a_short_video(write_video, tmp_path):
    video = write_video("AAA", 30)
    data = TrainClips([VideoFrames(video, 30)], tmp_path / "frames", seed=0, clip_span=640, **OPTIONS)
    samples = {shades(sample["clip"])[0]: sample for sample in (data[epoch, 0] for epoch in range(80))}
    assert set(samples) == set(range(1, 11))
    assert samples[1]["labels"].shape == (3, 30)  # label frames 1..min(640, 30)
    assert samples[10]["labels"].shape == (3, 21)  # 10..30
    assert shades(samples[10]["clip"]) == [10, 20, 30]
    assert "start" not in samples[1]  # no features, no place on their axis


def test_start_of_a_training_clip(write_video, tmp_path, make_store):
    video = write_video("AAA", 30)
    frames, store = tmp_path / "frames", make_store({"AAA": 3})
    data = TrainClips([VideoFrames(video, 30)], frames, seed=0, clip_span=640, store=store, **OPTIONS)
    starts = {shades(sample["clip"])[0]: sample["start"] for sample in (data[epoch, 0] for epoch in range(80))}
    assert starts == dict.fromkeys(range(1, 10), 0) | {10: 1}


def test_test_samples(write_video, tmp_path, make_store):
    lengths = {"AAA": 57, "BBB": 7}
    videos = [VideoFrames(write_video(name, n, actions=[(2, 0.1, 9)]), n) for name, n in lengths.items()]
    store = make_store({"AAA": 5, "BBB": 1})
    data = clips.TestVideos(videos, tmp_path / "frames", store=store, fine_frames=4, **OPTIONS)
    sample = data[0, 0]
    assert shades(sample["clip"]) == [1, 11, 21, 31, 41]
    assert torch.equal(sample["labels"], frame_labels(videos[0].video, 57, 3)[:, :50])
    assert sample["start"] == 0
    assert sample["fine_features"]["layer1"].shape == (2, 4, 7, 7)
    assert torch.equal(data[7, 0]["clip"], sample["clip"])  # the same in every epoch
    below_one_stride = data[0, 1]
    assert shades(below_one_stride["clip"]) == [1]
    assert below_one_stride["labels"].shape == (3, 7)


def test_test_view_is_centred(write_video, tmp_path):
    video = write_video("AAA", 10, width=40, height=20)
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:, 10:30] = 200  # the centred square
    Image.fromarray(picture).save(frame_path(tmp_path / "frames", "AAA", 1), quality=100, subsampling=0)
    clip = clips.TestVideos([VideoFrames(video, 10)], tmp_path / "frames", num_classes=1, size=20)[0, 0]["clip"]
    assert clip.min() >= 190


def test_a_centred_window_in_a_test_video(write_video, tmp_path, make_store):
    videos, store = [VideoFrames(write_video("AAA", 90), 90)], make_store({"AAA": 9})
    options = {**OPTIONS, "store": store, "fine_frames": 4, "fine_window": "centred"}
    sample = clips.TestVideos(videos, tmp_path / "frames", **options)[0, 0]
    assert sample["fine_features"]["layer1"][0, :, 0, 0].tolist() == [2, 3, 4, 5]
    assert sample["start"] == -2


def test_a_store_must_have_the_videos(write_video, tmp_path, make_store):
    videos = [VideoFrames(write_video(name, 20), 20) for name in ("AAA", "BBB")]
    with pytest.raises(InputError, match="1 of 2 videos lack features: BBB"):
        clips.TestVideos(videos, tmp_path / "frames", store=make_store({"AAA": 2}), **OPTIONS)
    with pytest.raises(InputError, match=r"BBB\.safetensors: 3 feature frames, but the video's JPEG files give 2"):
        clips.TestVideos(videos, tmp_path / "frames", store=make_store({"AAA": 2, "BBB": 3}), **OPTIONS)


def test_a_broken_frame_ends_the_sample(write_video, tmp_path):
    video = write_video("AAA", 57)
    path = frame_path(tmp_path / "frames", "AAA", 31)
    path.write_bytes(path.read_bytes()[:300])
    data = clips.TestVideos([VideoFrames(video, 57)], tmp_path / "frames", **OPTIONS)
    with pytest.raises(InputError, match=r"AAA-000031\.jpg: unreadable frame"):
        data[0, 0]


# --- the published pipeline -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(golden: Path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    with zipfile.ZipFile(golden / "pipeline" / "frames.zip") as archive:
        archive.extractall(folder)
    with np.load(golden / "pipeline" / "expected.npz") as expected:
        return folder / "frames", dict(expected)


def test_published_clips_and_labels(golden, published):
    frames, expected = published
    found = find_videos(CHARADES.load(golden / "pipeline" / "charades.json").subset("testing"), frames)
    data = clips.TestVideos(found.videos, frames, num_classes=157, size=224)
    assert len(data) == 4
    for index, (video, _) in enumerate(found.videos):
        batch = prepare(collate([data[0, index]]), "cpu")
        clip = batch["clip"][0, :, ::3, ::16, ::16].numpy()
        one_level = 1.01 / 255 / 0.125
        assert np.abs(clip - expected[f"{video.id}/clip"]).max() <= one_level
        labels = batch["labels"][0].numpy().astype(np.uint8)
        assert labels.shape == tuple(expected[f"{video.id}/labelshape"])
        np.testing.assert_array_equal(np.packbits(labels, axis=1), expected[f"{video.id}/label"])


# --- long videos in windows -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["first", "centred"])
def test_windows_are_pieces_of_the_whole(write_video, tmp_path, make_store, mode):
    """Clip, labels and place on the fine axis; a video that fits is the very same."""
    lengths = {"AAA": 97, "BBB": 39, "CCC": 7}
    videos = [VideoFrames(write_video(name, n, actions=[(2, 0.4, 2.9)]), n) for name, n in lengths.items()]
    store = make_store({"AAA": 9, "BBB": 3, "CCC": 1})
    options = {**OPTIONS, "store": store, "fine_frames": 5, "fine_window": mode}
    whole = clips.TestVideos(videos, tmp_path / "frames", **options)
    data = clips.TestVideos(videos, tmp_path / "frames", window=4, overlap=1, **options)
    assert len(data) == 3, "videos, whatever their windows"
    assert data.windows == [[(0, 4), (3, 7), (5, 9)], [(0, 3)], [(0, 1)]]
    video = whole[0, 0]
    for number, (start, stop) in enumerate(data.windows[0]):
        sample = data[0, 0, number]
        assert torch.equal(sample["clip"], video["clip"][start:stop])
        assert torch.equal(sample["labels"], video["labels"][:, 10 * start : 10 * stop])
        assert sample["part"] == (number, data.windows[0])
        first = 0 if mode == "first" else min(max(start + 2 - 2, 0), 9 - 5)
        assert sample["fine_features"]["layer1"][0, :, 0, 0].tolist() == list(range(first, first + 5))
        assert sample["start"] == start - first
    for index in (1, 2):
        for key, value in whole[0, index].items():
            same = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: repr(a) == repr(b)
            assert same(data[0, index, 0][key], value)
            assert same(data[0, index][key], value)
