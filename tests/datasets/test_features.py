import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file

from common.errors import InputError
from datasets import features as features_module
from datasets.features import DTYPES, FeatureStore, FeatureWriter, file_sha256

LAYERS = {"layer1": 4, "conv5": 6}
SETTINGS = {"checkpoint": "best.pt", "checkpoint_sha256": "ab" * 32, "stride": 10, "crop": 224, "dtype": "float16"}
WANTED = {"stride": 10, "size": 224, "checkpoint_sha256": None, "layers": LAYERS}


def features(T, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {layer: torch.randn(C, T, 7, 7, generator=generator) for layer, C in LAYERS.items()}


def test_round_trip_reads_the_window_only(tmp_path):
    x = features(9)
    with FeatureWriter(tmp_path, SETTINGS) as writer:
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
        with FeatureWriter(tmp_path / dtype, SETTINGS | {"dtype": dtype}) as writer:
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
        with FeatureWriter(tmp_path / dtype, SETTINGS | {"dtype": dtype}) as writer:
            writer.write("AAA", x)
            for start, stop in ((0, 4), (4, 5), (5, 9)):
                writer.write("BBB", {layer: f[:, start:stop] for layer, f in x.items()}, frames=9)
            assert writer.is_complete("BBB", 9)
        expected = save({layer: f.transpose(0, 1).contiguous().to(DTYPES[dtype]) for layer, f in x.items()})
        for video in ("AAA", "BBB"):
            assert (tmp_path / dtype / f"{video}.safetensors").read_bytes() == expected


def test_a_video_that_is_not_continued_leaves_nothing(tmp_path):
    with FeatureWriter(tmp_path, SETTINGS) as writer:
        writer.write("AAA", features(4), frames=9)
        writer.write("BBB", features(4))
        assert not writer.is_complete("AAA", 9)
    assert {path.name for path in tmp_path.iterdir()} == {"BBB.safetensors", "manifest.json"}
    assert FeatureStore(tmp_path).missing(["AAA"]) == ["AAA"]
    with FeatureWriter(tmp_path, SETTINGS) as writer:
        writer.write("AAA", features(4), frames=9)
        with pytest.raises(ValueError, match="is incompatible with"):
            writer.write("AAA", features(6), frames=9)


def test_windows_are_settings_of_a_store(tmp_path):
    """Whole videos and windows never share a store; that stage 3 reads it does not depend on them."""
    with FeatureWriter(tmp_path / "whole", SETTINGS) as writer:
        writer.write("AAA", features(9))
    with pytest.raises(InputError, match=r"with window null, but --eval\.window is 64; delete .*whole"):
        FeatureWriter(tmp_path / "whole", SETTINGS | {"window": 64, "overlap": 16})
    with FeatureWriter(tmp_path / "windows", SETTINGS | {"window": 64, "overlap": 16}) as writer:
        writer.write("AAA", features(9))
    manifest = json.loads((tmp_path / "windows" / "manifest.json").read_text())
    assert (manifest["window"], manifest["overlap"]) == (64, 16)
    assert FeatureWriter(tmp_path / "windows", SETTINGS | {"window": 64, "overlap": 16}).is_complete("AAA", 9)
    for changed, line in (
        ({"window": 64, "overlap": 8}, "overlap 16, but --eval.overlap is 8"),
        ({}, "window 64, but --eval.window is null"),
    ):
        with pytest.raises(InputError, match=line):
            FeatureWriter(tmp_path / "windows", SETTINGS | changed)
    FeatureStore(tmp_path / "windows").check(**WANTED)


def test_manifest(tmp_path):
    with FeatureWriter(tmp_path, SETTINGS) as writer:
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


def test_resuming_compares_sizes_and_headers(tmp_path, monkeypatch):
    """Without reading the files, of which there may be 55 GB."""
    names = ["whole", "text", "absent", "truncated", "longer", "frames", "layers", "dtype"]
    with FeatureWriter(tmp_path, SETTINGS) as writer:
        for name in names:
            writer.write(name, features(9))
    paths = {name: tmp_path / f"{name}.safetensors" for name in names}
    paths["text"].write_bytes(b"half")
    paths["absent"].unlink()
    data = paths["truncated"].read_bytes()
    paths["truncated"].write_bytes(data[:-1])
    paths["longer"].write_bytes(data + b"0")
    x = {layer: f.transpose(0, 1).contiguous() for layer, f in features(9).items()}
    save_file({layer: f[:8].half() for layer, f in x.items()}, paths["frames"])
    save_file({"layer1": x["layer1"].half()}, paths["layers"])
    save_file(x, paths["dtype"])
    writer = FeatureWriter(tmp_path, SETTINGS)
    monkeypatch.setattr(features_module, "file_sha256", lambda path: pytest.fail("hashed"))
    assert [name for name in names if writer.is_complete(name, 9)] == ["whole"]
    assert not writer.is_complete("whole", 8)  # other frames than extracted
    assert not writer.is_complete("unknown", 9)


def test_a_flipped_bit_is_found_where_files_are_verified(tmp_path):
    with FeatureWriter(tmp_path, SETTINGS) as writer:
        writer.write("AAA", features(9))
        writer.write("BBB", features(9))
    data = bytearray((tmp_path / "BBB.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "BBB.safetensors").write_bytes(data)
    writer = FeatureWriter(tmp_path, SETTINGS)
    assert writer.is_complete("BBB", 9)
    assert [writer.is_complete(name, 9, verify=True) for name in ("AAA", "BBB")] == [True, False]


def test_an_exception_keeps_what_was_done(tmp_path):
    def interrupted():
        with FeatureWriter(tmp_path, SETTINGS) as writer:
            writer.write("AAA", features(9))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert FeatureWriter(tmp_path, SETTINGS).is_complete("AAA", 9)


def test_two_writers_of_one_folder(tmp_path):
    with FeatureWriter(tmp_path, SETTINGS) as one, FeatureWriter(tmp_path, SETTINGS) as two:
        one.write("AAA", features(9))
        two.write("BBB", features(5))
    with FeatureWriter(tmp_path, SETTINGS):
        pass  # nothing to add
    assert FeatureStore(tmp_path).missing(["AAA", "BBB"]) == []
    assert FeatureStore(tmp_path).layers == LAYERS


def test_nothing_half_written_under_a_final_name(tmp_path, monkeypatch):
    with FeatureWriter(tmp_path, SETTINGS) as writer:
        writer.write("AAA", features(9))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr("common.files.os.fsync", full)
    for video in ("AAA", "BBB"):
        with pytest.raises(OSError, match="no space left"), FeatureWriter(tmp_path, SETTINGS) as writer:
            writer.write(video, features(5))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_features_must_be_finite(tmp_path):
    x = features(2)
    x["conv5"][0, 0, 0, 0] = 1e5  # beyond float16
    with pytest.raises(InputError, match="video AAA: conv5 has non-finite values in float16"):
        FeatureWriter(tmp_path, SETTINGS).write("AAA", x)
    writer = FeatureWriter(tmp_path, SETTINGS | {"dtype": "float32"})
    writer.write("AAA", x)
    x["layer1"][0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="layer1 has non-finite values in float32"):
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
    with FeatureWriter(tmp_path, SETTINGS) as writer:
        writer.write("AAA", features(9))
    store, wanted = FeatureStore(tmp_path), WANTED | {"checkpoint_sha256": SETTINGS["checkpoint_sha256"]}
    store.check(**wanted)
    store.check(**WANTED)
    with pytest.raises(InputError, match=name) as error:
        store.check(**wanted | change)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=name):
        FeatureWriter(
            tmp_path, SETTINGS | {"crop" if key == "size" else key: value for key, value in change.items()}
        )  # a store never mixes two networks' features


def test_other_widths_are_refused(tmp_path):
    with FeatureWriter(tmp_path, SETTINGS) as writer:
        writer.write("AAA", features(9))
        with pytest.raises(InputError, match="video BBB has"):
            writer.write("BBB", {"layer1": torch.zeros(8, 3, 7, 7)})
    with pytest.raises(InputError, match=r"--model\.variant expects"):
        FeatureStore(tmp_path).check(**WANTED | {"layers": {"layer1": 24, "conv5": 432}})


def test_videos_without_features_are_named(tmp_path):
    with FeatureWriter(tmp_path, SETTINGS) as writer:
        writer.write("AAA", features(9))
        writer.write("BBB", features(9))
    (tmp_path / "BBB.safetensors").unlink()
    store = FeatureStore(tmp_path)
    assert store.missing(["CCC", "AAA", "BBB"]) == ["CCC", "BBB"]
    with pytest.raises(InputError, match="2 of 3 videos lack features: CCC, BBB; run extract_fineFEAT"):
        store.require({"CCC": 9, "AAA": 9, "BBB": 9})
    with pytest.raises(InputError, match=r"AAA\.safetensors: 9 feature frames, but the video's JPEG files give 8"):
        store.require({"AAA": 8})


def test_a_store_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"manifest\.json: no such file; run extract_fineFEAT\.py"):
        FeatureStore(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest\.json: not a manifest"):
        FeatureStore(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match=r"not a manifest \(checkpoint Field required\); delete it and run"):
        FeatureStore(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with FeatureWriter(tmp_path, SETTINGS) as writer:
        writer.write("AAA", features(9))
    (tmp_path / "AAA.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match=r"AAA\.safetensors: unreadable features"):
        FeatureStore(tmp_path).read("AAA", 0, 3)
