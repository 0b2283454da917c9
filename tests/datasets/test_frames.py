import io
import sys
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from common.errors import InputError
from datasets.frames import BACKENDS, count_all_frames, count_frames, frame_path, get_decoder, read_frames

# accimage is not on PyPI: a fake stands for it.
INSTALLED = [name for name in BACKENDS if name in ("pil", "accimage") or find_spec(name)]
every_backend = pytest.mark.parametrize("backend", INSTALLED)
pytestmark = pytest.mark.filterwarnings(  # it is tried on purpose, as long as it is a choice
    "ignore:The image decoding:DeprecationWarning"
)


@pytest.fixture
def jpeg(tmp_path):
    """A colour JPEG of 40x30 with structure in it."""
    y, x = np.mgrid[:30, :40]
    pixels = np.stack([6 * x, 8 * y, 4 * (x + y)], -1).clip(0, 255).astype(np.uint8)
    path = tmp_path / "colour.jpg"
    Image.fromarray(pixels).save(path, quality=92)
    return path


@pytest.fixture(autouse=True)
def fake_accimage(monkeypatch):
    """The interface of accimage, by PIL; as in the real one,

    - `copyto` fills planes: a uint8 buffer (3,H,W), or a float32 one of values in [0,1];
    - grey files have 3 channels too;
    - of a truncated file it only warns, and the rest is grey.
    """

    class FakeImage:
        def __init__(self, path):
            assert isinstance(path, str)
            with monkeypatch.context() as patch, Image.open(path) as image:
                patch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
                self.pixels = np.asarray(image.convert("RGB"))
            self.height, self.width, self.channels = self.pixels.shape

        def copyto(self, buffer):
            assert (buffer.dtype, buffer.shape) == (np.uint8, (3, self.height, self.width))
            buffer[...] = self.pixels.transpose(2, 0, 1)

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


def pixels(height, width):
    """(H,W,3) with structure in it, and noise below."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([6 * x, 8 * y, 4 * (x + y)], -1).clip(0, 255).astype(np.uint8)
    picture[height // 2 :] = np.random.default_rng(0).integers(0, 256, picture[height // 2 :].shape)
    return picture


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


FORMS = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "4:1:1": {"subsampling": "4:1:1"},
    "progressive": {"progressive": True},
    "progressive 4:4:4": {"progressive": True, "subsampling": 0},
    "restarts": {"restart_marker_blocks": 2},
    "stored as RGB": {"keep_rgb": True},
    "poor": {"quality": 5},
    "grey": {"mode": "L"},
    "progressive grey": {"mode": "L", "progressive": True},
    "CMYK": {"mode": "CMYK"},
    "CMYK, turned": {"mode": "CMYK", "exif": exif(6)},
    "grey, turned": {"mode": "L", "exif": exif(8)},
    "EXIF that says nothing": {"exif": b"Exif\0\0nonsense"},
    "XMP": {"xmp": b'<x:xmpmeta tiff:Orientation="6"></x:xmpmeta>'},
    **{f"orientation {value}": {"exif": exif(value)} for value in range(1, 9)},
}


@every_backend
@pytest.mark.parametrize("form", FORMS)
def test_every_decoder_gives_the_pixels_of_pil(tmp_path, backend, form):
    """To the last bit, as a viewer shows them: odd sizes, all forms of JPEG, EXIF orientations."""
    path, options = tmp_path / "frame.jpg", dict(FORMS[form])
    mode = options.pop("mode", "RGB")
    for height, width in ((1, 1), (8, 8), (15, 17), (33, 50), (64, 31)):
        Image.fromarray(pixels(height, width)).convert(mode).save(path, **options)
        with Image.open(path) as image:
            upright = image if "nothing" in form else ImageOps.exif_transpose(image)
            expected = np.array(upright.convert("RGB"))
        frame = get_decoder(backend)(path)
        assert frame.dtype == torch.uint8
        assert frame.is_contiguous()
        np.testing.assert_array_equal(frame, expected)
        turned = form in ("CMYK, turned", "grey, turned", "XMP", *(f"orientation {value}" for value in range(5, 9)))
        assert frame.shape == ((width, height, 3) if turned else (height, width, 3))


def test_fast_decoders_see_plain_files_only(jpeg, monkeypatch):
    """These are not turned twice by torchcodec, which heeds EXIF itself."""
    seen = []
    monkeypatch.setitem(BACKENDS, "torchcodec", lambda path, data: seen.append(path) or torch.zeros(1))
    plain, turned, cmyk = jpeg, jpeg.with_name("turned.jpg"), jpeg.with_name("cmyk.jpg")
    with Image.open(jpeg) as image:
        image.save(turned, exif=exif(6))
        image.convert("CMYK").save(cmyk)
    for path in (plain, turned, cmyk):
        get_decoder("torchcodec")(path)
    assert seen == [plain]


def contents(jpeg):
    """Of files that are no whole JPEG, by what they are."""
    data, other = jpeg.read_bytes(), {}
    deep = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30))
    for name, image in (("PNG", Image.open(jpeg)), ("16-bit PNG", deep), ("BMP", Image.open(jpeg))):
        file = io.BytesIO()
        image.save(file, name.rpartition(" ")[2])
        other[name] = file.getvalue()
    cut = {f"cut to {length}": data[:length] for length in (1, 2, 20, 200, len(data) // 2, len(data) - 10)}
    return {"empty": b"", "text": b"<html>404</html>", **cut, "no end": data[:-2], "half an end": data[:-1], **other}


@every_backend
def test_broken_frames_are_named(jpeg, tmp_path, backend):
    """In the same words by all decoders."""
    decode, broken = get_decoder(backend), tmp_path / "broken.jpg"
    for content in contents(jpeg).values():
        broken.write_bytes(content)
        with pytest.raises(InputError, match=r"broken\.jpg: unreadable frame") as error:
            decode(broken)
        with pytest.raises(InputError) as by_pil:
            get_decoder("pil")(broken)
        assert str(error.value) == str(by_pil.value)
        assert "\n" not in str(error.value)
    broken.unlink()
    with pytest.raises(InputError, match=r"broken\.jpg: missing frame"):
        decode(broken)


@every_backend
def test_exif_anywhere_before_the_pixels(jpeg, backend):
    data, tags = jpeg.read_bytes(), exif(6).tobytes()
    scan = data.index(b"\xff\xda")
    segment = b"\xff\xe1" + (len(tags) + 2).to_bytes(2) + tags
    upright = np.rot90(get_decoder("pil")(jpeg), -1)
    jpeg.write_bytes(data[:scan] + segment + data[scan:])
    np.testing.assert_array_equal(get_decoder(backend)(jpeg), upright)


@every_backend
def test_what_can_be_repaired_is_read(jpeg, tmp_path, backend):
    """Bytes after the end, and between segments, which simplejpeg by itself refuses and others skip."""
    data, path = jpeg.read_bytes(), tmp_path / "odd.jpg"
    for content in (data + bytes(99), data[:-2] + b"\x12" * 40 + data[-2:]):
        path.write_bytes(content)
        np.testing.assert_array_equal(get_decoder(backend)(path), get_decoder("pil")(jpeg))


@every_backend
def test_every_truncation_is_seen(jpeg, tmp_path, backend):
    decode, data, cut = get_decoder(backend), jpeg.read_bytes(), tmp_path / "cut.jpg"
    for length in range(1, len(data), 3):
        cut.write_bytes(data[:length])
        with pytest.raises(InputError):
            decode(cut)


def test_auto_is_the_fastest_that_is_installed(monkeypatch, jpeg):
    used = []
    for name in ("simplejpeg", "torchcodec", "torchvision"):
        monkeypatch.setitem(BACKENDS, name, lambda path, data, name=name: used.append(name) or torch.zeros(1))
        if not find_spec(name):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
    get_decoder()(jpeg)
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    get_decoder("auto")(jpeg)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    get_decoder("auto")(jpeg)
    assert used == ["simplejpeg", "torchcodec", "torchvision"]
    with pytest.raises(InputError, match="image_backend simplejpeg: not installed; run `pip install simplejpeg`"):
        get_decoder("simplejpeg")


def test_torchvision_announces_its_end(jpeg):
    """Which is no longer hidden; where it stops, the choice can go."""
    pytest.importorskip("torchvision", minversion="0.29")
    with pytest.warns(DeprecationWarning, match="The image decoding"):
        get_decoder("torchvision")(jpeg)


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
    with pytest.raises(InputError, match=r"AAA-000007\.jpg: 10x20 pixels, but the other frames have 24x20"):
        list(read_frames(root, "AAA", range(1, 13), decode))
