"""Every way a checkpoint can be wrong, and saving that cannot leave half a file."""

import os
from pathlib import Path

import pytest
import torch

from models import FineNet, load_official, save_official
from tests.models.checkpoint_files import NETS, copied_state, read_state, refused, same_state
from tests.models.drawing import coarse_net, fine_net


class TestUnmatched:
    @pytest.mark.parametrize("kind", NETS)
    def test_any_missing_tensor_is_named(self, kind, tmp_path):
        make, options = NETS[kind]
        save_official(make(**options), tmp_path / "net.pt")
        state = read_state(tmp_path / "net.pt")
        used = [k for k in state if ".bn.running" not in k and "num_batches" not in k]
        for key in used[:: len(used) // 5] + used[-1:]:
            torch.save({k: v for k, v in state.items() if k != key}, tmp_path / "less.pt")
            refused(make(**options), tmp_path / "less.pt", key)

    @pytest.mark.parametrize("key", ["rw2.at3.weight", "mix2.bogus.weight", "pool_1.conv4.weight", "rw7.at1.weight"])
    def test_unknown_tensors_of_fusion_and_grid_pool(self, key, tmp_path):
        save_official(coarse_net(), tmp_path / "net.pt")
        state = read_state(tmp_path / "net.pt") | {key: torch.zeros(1)}
        torch.save(state, tmp_path / "net.pt")
        refused(coarse_net(), tmp_path / "net.pt", key)

    @pytest.mark.parametrize("shape", [(7, 256), (5, 255), (5,), (5, 256, 2), ()])
    def test_shape(self, shape, fine_file):
        path, state = fine_file
        state["fc2.weight"] = torch.zeros(shape)
        torch.save(state, path)
        refused(fine_net(), path, "fc2.weight", str(shape), "(5, 256)")

    def test_shape_of_the_bias_that_tells_kinetics(self, fine_file):
        path, state = fine_file
        state["fc2.bias"] = torch.zeros(())
        torch.save(state, path)
        refused(fine_net(), path, "fc2.bias")

    @pytest.mark.parametrize("shape", [(13,), (0,), (12, 1), ()])
    def test_shape_of_statistics(self, shape, fine_file):
        path, state = fine_file
        state["bn1.split_bn.running_mean"] = torch.zeros(shape)
        torch.save(state, path)
        refused(fine_net(), path, "bn1")

    def test_another_variant(self, fine_file):
        net = FineNet(variant="S", num_classes=5)
        refused(net, fine_file[0], "shape")


class Runs:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


class TestBadFiles:
    @pytest.mark.parametrize("legacy", [False, True])
    def test_code_is_refused_and_not_run(self, legacy, tmp_path):
        path, trap = tmp_path / "evil.pt", tmp_path / "ran"
        contents = {"model_state_dict": {"fc2.weight": torch.zeros(1), "x": Runs(trap)}}
        torch.save(contents, path, _use_new_zipfile_serialization=not legacy)
        refused(fine_net(), path)
        assert not trap.exists()

    def test_a_whole_pickled_network_is_refused(self, tmp_path):
        torch.save(fine_net(), tmp_path / "net.pt")
        refused(fine_net(), tmp_path / "net.pt", "not loaded: it contains more than tensors")

    def test_missing_file(self, tmp_path):
        refused(fine_net(), tmp_path / "absent.pt", "no such")

    def test_folder(self, tmp_path):
        refused(fine_net(), tmp_path)

    @pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.9, 0.999])
    @pytest.mark.parametrize("legacy", [False, True])
    def test_truncated_file(self, legacy, part, fine_file):
        path, state = fine_file
        torch.save({"model_state_dict": state}, path, _use_new_zipfile_serialization=not legacy)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(part * len(whole))])
        refused(fine_net(), path)

    @pytest.mark.filterwarnings("ignore:Detected pickle protocol")
    @pytest.mark.parametrize("seed", range(12))
    def test_damaged_file(self, seed, fine_file):
        """Whatever torch's reader stumbles over. (Bytes of the weights themselves may be damaged unseen.)"""
        path, state = fine_file
        torch.save({"model_state_dict": state}, path, _use_new_zipfile_serialization=False)
        whole = bytearray(path.read_bytes())
        generator = torch.Generator().manual_seed(seed)
        for at, byte in torch.stack([torch.randint(n, (40,), generator=generator) for n in (2000, 256)], 1).tolist():
            whole[at] = byte
        path.write_bytes(whole)
        refused(fine_net(), path)

    @pytest.mark.parametrize(
        "contents", [b"", b"weights\n" * 50, b"\x80", b"\x80\x02}q\x00", b"PK\x03\x04" + b"\0" * 99]
    )
    def test_something_else(self, contents, tmp_path):
        (tmp_path / "net.pt").write_bytes(contents)
        refused(fine_net(), tmp_path / "net.pt")

    @pytest.mark.parametrize(
        "contents",
        [
            [1, 2],
            torch.zeros(3),
            "text",
            {},
            {"model_state_dict": {}},
            {"model_state_dict": None},
            {"model_state_dict": {"fc1.weight": 3}},
            {"epoch": 4, "model": {}},
            {0: torch.zeros(1)},
        ],
        ids=str,
    )
    def test_another_form(self, contents, tmp_path):
        torch.save(contents, tmp_path / "net.pt")
        refused(fine_net(), tmp_path / "net.pt")


class TestSavingSafely:
    def test_a_failing_save_leaves_the_old_file(self, fine_file, monkeypatch):
        path, _ = fine_file
        before = path.read_bytes()

        def disk_full(contents, file, *args, **kwargs):
            file.write(b"half") if hasattr(file, "write") else Path(file).write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(torch, "save", disk_full)
        with pytest.raises(OSError, match="No space"):
            save_official(fine_net(), path)
        assert path.read_bytes() == before
        assert [p.name for p in path.parent.iterdir()] == [path.name]

    def test_saving_replaces_and_leaves_nothing_else(self, fine_file):
        path, _ = fine_file
        before, reader = path.read_bytes(), path.open("rb")
        save_official(fine_net(seed=5), path)
        with reader:
            assert reader.read() == before  # who was reading goes on with the old file, whole
        net = fine_net()
        load_official(net, path)
        assert same_state(net, copied_state(fine_net(seed=5)))
        assert [p.name for p in path.parent.iterdir()] == [path.name]

    def test_missing_folder_is_an_os_error(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="absent"):
            save_official(fine_net(), tmp_path / "absent" / "net.pt")
        assert not (tmp_path / "absent").exists()
