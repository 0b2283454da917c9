import json

import pytest
import torch
from safetensors import safe_open

from common.errors import InputError
from datasets.features import FeatureStore, FeatureWriter, file_sha256, write_atomically

LAYERS = {"layer1": 4, "conv5": 6}
SETTINGS = {"checkpoint": "best.pt", "checkpoint_sha256": "ab" * 32, "stride": 10, "size": 224}


def features(T, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {layer: torch.randn(C, T, 7, 7, generator=generator) for layer, C in LAYERS.items()}


def test_round_trip_reads_the_window_only(tmp_path):
    x = features(9)
    with FeatureWriter(tmp_path, **SETTINGS) as writer:
        writer.write("AAA", x)
        batch_of_one = {layer: value[None] for layer, value in features(3, seed=1).items()}  # as the net gives it
        writer.write("BBB", batch_of_one)
    store = FeatureStore(tmp_path)
    assert store.layers == LAYERS
    assert (store.frames("AAA"), store.frames("BBB")) == (9, 3)
    window = store.read("AAA", 2, 6)
    for layer in LAYERS:
        assert window[layer].dtype == torch.float16
        assert torch.equal(window[layer], x[layer][:, 2:6].half())
        assert window[layer].transpose(0, 1).is_contiguous()  # memory (t,C,7,7)
    assert store.read("AAA", 0, 100)["conv5"].shape == (6, 9, 7, 7)
    assert list(store.read("AAA", 0, 1, layers=["conv5"])) == ["conv5"]


def test_files_are_time_major_and_half_the_size(tmp_path):
    sizes = {}
    for dtype in ("float16", "float32"):
        with FeatureWriter(tmp_path / dtype, **SETTINGS, dtype=dtype) as writer:
            writer.write("AAA", features(50))
        sizes[dtype] = (tmp_path / dtype / "AAA.safetensors").stat().st_size
        with safe_open(tmp_path / dtype / "AAA.safetensors", "pt") as file:
            assert file.get_slice("conv5").get_shape() == [50, 6, 7, 7]
    assert sizes["float16"] == pytest.approx(sizes["float32"] / 2, rel=0.01)
    x = features(50)
    assert torch.equal(FeatureStore(tmp_path / "float32").read("AAA", 0, 50)["layer1"], x["layer1"])


def test_a_video_piece_by_piece_is_the_same_file(tmp_path):
    for dtype in ("float16", "float32"):
        x = features(9)
        with FeatureWriter(tmp_path / dtype, **SETTINGS, dtype=dtype) as writer:
            writer.write("AAA", x)
            for start, stop in ((0, 4), (4, 5), (5, 9)):
                writer.append("BBB", {layer: f[:, start:stop] for layer, f in x.items()}, frames=9)
            assert writer.is_complete("BBB", 9)
        whole, pieces = (tmp_path / dtype / f"{video}.safetensors" for video in ("AAA", "BBB"))
        assert pieces.read_bytes() == whole.read_bytes()


def test_a_video_that_is_not_continued_leaves_nothing(tmp_path):
    with FeatureWriter(tmp_path, **SETTINGS) as writer:
        writer.append("AAA", features(4), frames=9)
        writer.write("BBB", features(4))
        assert not writer.is_complete("AAA", 9)
    assert {path.name for path in tmp_path.iterdir()} == {"BBB.safetensors", "manifest.json"}
    assert FeatureStore(tmp_path).missing(["AAA"]) == ["AAA"]
    with FeatureWriter(tmp_path, **SETTINGS) as writer:
        writer.append("AAA", features(4), frames=9)
        with pytest.raises(ValueError, match="does not continue"):
            writer.append("AAA", features(6), frames=9)


def test_windows_are_settings_of_a_store(tmp_path):
    """Whole videos and windows never share a store; that stage 3 reads it does not depend on them."""
    with FeatureWriter(tmp_path / "whole", **SETTINGS) as writer:
        writer.write("AAA", features(9))
    with pytest.raises(InputError, match=r"with window null, but --eval\.window gives 64; delete .*whole"):
        FeatureWriter(tmp_path / "whole", **SETTINGS, window=64, overlap=16)
    with FeatureWriter(tmp_path / "windows", **SETTINGS, window=64, overlap=16) as writer:
        writer.write("AAA", features(9))
    manifest = json.loads((tmp_path / "windows" / "manifest.json").read_text())
    assert (manifest["window"], manifest["overlap"]) == (64, 16)
    assert FeatureWriter(tmp_path / "windows", **SETTINGS, window=64, overlap=16).is_complete("AAA", 9)
    for changed, line in (
        ({"window": 64, "overlap": 8}, "overlap 16, but --eval.overlap gives 8"),
        ({}, "window 64, but --eval.window gives null"),
    ):
        with pytest.raises(InputError, match=line):
            FeatureWriter(tmp_path / "windows", **SETTINGS, **changed)
    FeatureStore(tmp_path / "windows").check(stride=10, size=224)


def test_manifest(tmp_path):
    with FeatureWriter(tmp_path, **SETTINGS) as writer:
        writer.write("AAA", features(9))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest == {
        "checkpoint": "best.pt",
        "checkpoint_sha256": "ab" * 32,
        "stride": 10,
        "crop": 224,
        "dtype": "float16",
        "layers": LAYERS,
        "videos": {"AAA": {"frames": 9, "sha256": file_sha256(tmp_path / "AAA.safetensors")}},
    }


def test_resuming_skips_what_is_complete(tmp_path):
    with FeatureWriter(tmp_path, **SETTINGS) as writer:
        for name in ("AAA", "BBB", "CCC", "DDD"):
            writer.write(name, features(9))
    (tmp_path / "BBB.safetensors").write_bytes(b"half")
    (tmp_path / "CCC.safetensors").unlink()
    writer = FeatureWriter(tmp_path, **SETTINGS)
    assert writer.is_complete("AAA", 9)
    assert not writer.is_complete("AAA", 8)  # other frames than extracted
    assert not any(writer.is_complete(name, 9) for name in ("BBB", "CCC", "EEE"))
    data = (tmp_path / "AAA.safetensors").read_bytes()
    (tmp_path / "DDD.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))  # one bit turned over
    assert not writer.is_complete("DDD", 9)


def test_an_exception_keeps_what_was_done(tmp_path):
    def interrupted():
        with FeatureWriter(tmp_path, **SETTINGS) as writer:
            writer.write("AAA", features(9))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert FeatureWriter(tmp_path, **SETTINGS).is_complete("AAA", 9)


def test_two_writers_of_one_folder(tmp_path):
    with FeatureWriter(tmp_path, **SETTINGS) as one, FeatureWriter(tmp_path, **SETTINGS) as two:
        one.write("AAA", features(9))
        two.write("BBB", features(5))
    with FeatureWriter(tmp_path, **SETTINGS):
        pass  # nothing to add
    assert FeatureStore(tmp_path).missing(["AAA", "BBB"]) == []
    assert FeatureStore(tmp_path).layers == LAYERS


def test_nothing_half_written_under_a_final_name(tmp_path, monkeypatch):
    write_atomically(tmp_path / "file", b"old")

    def full(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr("datasets.features.os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(tmp_path / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_features_must_be_finite(tmp_path):
    x = features(2)
    x["conv5"][0, 0, 0, 0] = 1e5  # beyond float16
    with pytest.raises(InputError, match="video AAA: conv5 is not finite as float16"):
        FeatureWriter(tmp_path, **SETTINGS).write("AAA", x)
    writer = FeatureWriter(tmp_path, **SETTINGS, dtype="float32")
    writer.write("AAA", x)
    x["layer1"][0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="layer1 is not finite as float32"):
        writer.write("AAA", x)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"stride": 12}, "stride 10"),
        ({"size": 160}, "crop 224"),
        ({"checkpoint_sha256": "cd" * 32}, "checkpoint_sha256 abab"),
    ],
)
def test_disagreement_is_refused_by_name(tmp_path, change, name):
    with FeatureWriter(tmp_path, **SETTINGS) as writer:
        writer.write("AAA", features(9))
    store, wanted = FeatureStore(tmp_path), {key: SETTINGS[key] for key in ("stride", "size", "checkpoint_sha256")}
    store.check(**wanted, layers=LAYERS)
    store.check(stride=10, size=224)
    with pytest.raises(InputError, match=name) as error:
        store.check(**wanted | change)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=name):
        FeatureWriter(tmp_path, **SETTINGS | change)  # a store never mixes two networks' features


def test_other_widths_are_refused(tmp_path):
    with FeatureWriter(tmp_path, **SETTINGS) as writer:
        writer.write("AAA", features(9))
        with pytest.raises(InputError, match="video BBB has"):
            writer.write("BBB", {"layer1": torch.zeros(8, 3, 7, 7)})
    with pytest.raises(InputError, match=r"--model\.variant takes"):
        FeatureStore(tmp_path).check(stride=10, size=224, layers={"layer1": 24, "conv5": 432})


def test_videos_without_features_are_named(tmp_path):
    with FeatureWriter(tmp_path, **SETTINGS) as writer:
        writer.write("AAA", features(9))
        writer.write("BBB", features(9))
    (tmp_path / "BBB.safetensors").unlink()
    store = FeatureStore(tmp_path)
    assert store.missing(["CCC", "AAA", "BBB"]) == ["CCC", "BBB"]
    with pytest.raises(InputError, match="2 of 3 videos lack features: CCC, BBB; run extract_fineFEAT"):
        store.require({"CCC": 9, "AAA": 9, "BBB": 9})
    with pytest.raises(InputError, match=r"AAA\.safetensors: 9 frames of features where the video's JPEGs give 8"):
        store.require({"AAA": 8})


def test_a_store_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"manifest\.json: no such file; run extract_fineFEAT\.py"):
        FeatureStore(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest\.json: not a manifest"):
        FeatureStore(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match=r"manifest\.json: lacks checkpoint, "):
        FeatureStore(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with FeatureWriter(tmp_path, **SETTINGS) as writer:
        writer.write("AAA", features(9))
    (tmp_path / "AAA.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match=r"AAA\.safetensors: unreadable features"):
        FeatureStore(tmp_path).read("AAA", 0, 3)
