import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import InputError
from datasets.frames import count_all_frames, count_frames, frame_path, get_decoder, read_frames


@pytest.fixture
def jpeg(tmp_path):
    """A colour JPEG of 40x30 with structure in it."""
    y, x = np.mgrid[:30, :40]
    pixels = np.stack([6 * x, 8 * y, 4 * (x + y)], -1).clip(0, 255).astype(np.uint8)
    path = tmp_path / "colour.jpg"
    Image.fromarray(pixels).save(path, quality=92)
    return path


@pytest.fixture
def fake_accimage(monkeypatch):
    """The interface of accimage, by PIL; like libjpeg's own sources it does not mind a truncated file."""

    class FakeImage:
        def __init__(self, path):
            assert isinstance(path, str)
            with Image.open(path) as image:
                self.channels = 1 if image.mode == "L" else 3
                self.pixels = np.asarray(image)
            self.height, self.width = self.pixels.shape[:2]

        def copyto(self, buffer):
            assert (buffer.dtype, buffer.shape) == (np.uint8, (self.height, self.width, 3))
            buffer[...] = self.pixels

    module = ModuleType("accimage")
    module.Image = FakeImage
    monkeypatch.setitem(sys.modules, "accimage", module)


def test_counting(write_video, tmp_path):
    write_video("AAA", 12)
    root = tmp_path / "frames"
    (root / "AAA" / "AAA-thumbnail.png").touch()
    (root / "AAA" / "._AAA-000001.jpg").touch()
    (root / "EMPTY").mkdir()
    assert count_all_frames(root, ["EMPTY", "AAA", "ABSENT"]) == {"EMPTY": 0, "AAA": 12, "ABSENT": 0}
    with pytest.raises(InputError, match=r"elsewhere: no such folder; set --data\.frames"):
        count_all_frames(tmp_path / "elsewhere", ["AAA"])


def test_a_gap_is_a_missing_frame(write_video, tmp_path):
    write_video("AAA", 12)
    frame_path(tmp_path / "frames", "AAA", 7).unlink()
    with pytest.raises(InputError, match=r"AAA-000007\.jpg: missing frame"):
        count_frames(tmp_path / "frames", "AAA")


def test_frames_count_from_one(write_video, tmp_path):
    write_video("AAA", 3)
    frame_path(tmp_path / "frames", "AAA", 3).rename(frame_path(tmp_path / "frames", "AAA", 0))
    with pytest.raises(InputError, match=r"AAA-000003\.jpg: missing frame"):
        count_frames(tmp_path / "frames", "AAA")
    (tmp_path / "frames" / "BBB").mkdir()
    (tmp_path / "frames" / "BBB" / "BBB-1.jpg").touch()
    with pytest.raises(InputError, match=r"BBB-000001\.jpg: missing frame"):
        count_frames(tmp_path / "frames", "BBB")


def test_backends_agree(jpeg, fake_accimage):
    frames = {name: get_decoder(name)(jpeg) for name in ("auto", "torchvision", "pil", "accimage")}
    for frame in frames.values():
        assert (frame.shape, frame.dtype) == ((30, 40, 3), torch.uint8)
        assert frame.is_contiguous()
        assert (frame.int() - frames["pil"].int()).abs().max() <= 1
    assert get_decoder("auto") is get_decoder("torchvision")


@pytest.mark.parametrize("backend", ["torchvision", "pil", "accimage"])
def test_grey_becomes_rgb(tmp_path, backend, fake_accimage):
    path = tmp_path / "grey.jpg"
    Image.fromarray(np.full((16, 16), 77, np.uint8)).save(path)
    frame = get_decoder(backend)(path)
    assert frame.shape == (16, 16, 3)
    assert (frame == 77).all()


@pytest.mark.parametrize("backend", ["torchvision", "pil", "accimage"])
def test_broken_frames_are_named(jpeg, tmp_path, backend, fake_accimage):
    decode, data, broken = get_decoder(backend), jpeg.read_bytes(), tmp_path / "broken.jpg"
    for content in (b"", b"x", b"no JPEG at all", data[:20], data[: len(data) // 2], data[:-10]):
        broken.write_bytes(content)
        with pytest.raises(InputError, match=r"broken\.jpg: unreadable frame") as error:
            decode(broken)
        assert "\n" not in str(error.value)
    broken.unlink()
    with pytest.raises(InputError, match=r"broken\.jpg: missing frame"):
        decode(broken)


def test_torchvision_sees_every_truncation(jpeg, tmp_path):
    decode, data, cut = get_decoder("torchvision"), jpeg.read_bytes(), tmp_path / "cut.jpg"
    for length in range(1, len(data)):
        cut.write_bytes(data[:length])
        with pytest.raises(InputError):
            decode(cut)


def test_accimage_reports_its_own_errors(jpeg, fake_accimage, monkeypatch):
    def fail(path):
        raise RuntimeError("bad huffman code")

    monkeypatch.setattr(sys.modules["accimage"], "Image", fail)
    with pytest.raises(InputError, match=r"colour\.jpg: unreadable frame \(bad huffman code\)"):
        get_decoder("accimage")(jpeg)


def test_accimage_is_needed_only_where_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "accimage", None)
    get_decoder("auto")
    with pytest.raises(InputError, match="image_backend accimage: not installed"):
        get_decoder("accimage")
    with pytest.raises(InputError, match="image_backend opencv: choose one of auto"):
        get_decoder("opencv")


def test_reading_frames(write_video, tmp_path):
    write_video("AAA", 12)
    root, decode = tmp_path / "frames", get_decoder()
    assert [int(frame[0, 0, 0]) for frame in read_frames(root, "AAA", range(2, 13, 5), decode)] == [2, 7, 12]
    Image.new("RGB", (10, 20)).save(frame_path(root, "AAA", 7))
    with pytest.raises(InputError, match=r"AAA-000007\.jpg: 10x20 pixels where the video has 24x20"):
        list(read_frames(root, "AAA", range(1, 13), decode))
