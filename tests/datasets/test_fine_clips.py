"""The frames that the Fine stream of both streams' network is shown, beside the clip that the Coarse one is."""

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.batch import collate, pad, prepare, time_lengths
from datasets.clips import TestVideos, TrainClips, VideoFrames, clip_frames, frame_labels
from datasets.frames import frame_path

OPTIONS = {"num_classes": 3, "size": 16, "fine_clips": True}


def shades(clip):
    """The frame numbers that a clip (T,H,W,3) of `write_video` shows (below 200)."""
    return clip[:, 0, 0, 0].tolist()


def test_training_samples(write_video, tmp_path):
    video = write_video("AAA", 190, actions=[(1, 1.0, 3.0)])
    options = {**OPTIONS, "fine_frames": 12, "clip_span": 64}
    alone = TrainClips([VideoFrames(video, 190)], tmp_path / "frames", seed=3, **options | {"fine_clips": False})
    for mode in ("first", "centred"):
        data = TrainClips([VideoFrames(video, 190)], tmp_path / "frames", seed=3, fine_window=mode, **options)
        for epoch in range(20):
            sample = data[epoch, 0]
            first = shades(sample["clip"])[0]
            assert shades(sample["clip"]) == list(clip_frames(first, 190, stride=10, clip_span=64))
            window = 0 if mode == "first" else min(max(first // 10 + 7 // 2 - 12 // 2, 0), 19 - 12)
            assert shades(sample["fine_clip"]) == [1 + 10 * t for t in range(window, window + 12)]
            assert sample["start"] == first // 10 - window
            labels = frame_labels(video, 190, 3)[:, 10 * window : 10 * (window + 12)]
            assert torch.equal(sample["fine_labels"], labels)
            assert torch.equal(sample["clip"], alone[epoch, 0]["clip"]), "by the same draws as without fine frames"
            assert sample["clip"].stride() == alone[epoch, 0]["clip"].stride()


def test_clip_and_window_are_seen_in_one_view(write_video, tmp_path):
    """Of a video whose frames are all alike, whatever is cropped and mirrored."""
    video = write_video("AAA", 60, width=40, height=30)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8))
    for number in range(1, 61):
        picture.save(frame_path(tmp_path / "frames", "AAA", number))
    data = TrainClips([VideoFrames(video, 60)], tmp_path / "frames", seed=0, clip_span=40, **OPTIONS)
    views = set()
    for epoch in range(12):
        sample = data[epoch, 0]
        frames = torch.cat([sample["clip"], sample["fine_clip"]])
        assert (frames == frames[:1]).all()
        views.add(frames[0].numpy().tobytes())
    assert len(views) > 8


@pytest.mark.parametrize(("mode", "window"), [("first", [1, 11, 21, 31]), ("centred", [21, 31, 41, 51])])
def test_whole_videos(write_video, tmp_path, mode, window):
    videos = [VideoFrames(write_video(name, n), n) for name, n in (("AAA", 90), ("BBB", 45), ("CCC", 7))]
    data = TestVideos(videos, tmp_path / "frames", fine_frames=4, fine_window=mode, **OPTIONS)
    long, fitting, single = (data[0, index] for index in range(3))
    assert shades(long["clip"]) == list(range(1, 91, 10))
    assert shades(long["fine_clip"]) == window
    assert long["start"] == -(window[0] // 10)
    assert shades(fitting["clip"]) == shades(fitting["fine_clip"]) == [1, 11, 21, 31]
    assert torch.equal(fitting["fine_labels"], fitting["labels"])
    assert (shades(single["fine_clip"]), single["fine_labels"].shape) == ([1], (3, 7))


def test_batches(write_video, tmp_path):
    """Zeros beyond each video's window, and a mask; also where a share of a batch is padded further."""
    videos = [VideoFrames(write_video(name, n, actions=[(1, 0.0, 9.0)]), n) for name, n in (("AAA", 60), ("BBB", 30))]
    data = TrainClips(videos, tmp_path / "frames", seed=0, clip_span=20, fine_frames=5, **OPTIONS)
    batch = collate([data[0, 0], data[0, 1]])
    assert time_lengths(batch) == (2, 20, 5, 50)
    for ready, extra in ((prepare(batch, "cpu"), 0), (prepare(pad(batch, 2, 20, 7, 70), "cpu"), 2)):
        assert ready["fine_clip"].dtype == torch.float32
        assert ready["fine_mask"].tolist() == [[1.0] * 5 + [0.0] * extra, [1.0] * 3 + [0.0] * (2 + extra)]
        assert ready["fine_labels_mask"].sum(1).tolist() == [50, 30]
        assert (ready["fine_labels"].sum((1, 2)) > 0).all()
        for clip, mask in zip(ready["fine_clip"], ready["fine_mask"], strict=True):
            assert (clip.abs().amax((0, 2, 3)) > 0).tolist() == (mask > 0).tolist()
        assert ready["start"].tolist() == batch["start"].tolist()
        assert "fine_features" not in ready
