"""Published checkpoints: names, what is loaded and what is left."""

import json

import pytest
import torch

from models import CoarseNet, FineNet, load_official, save_official
from models.norm import aggregate_statistics
from models.official import official_name
from tests.models.checkpoint_files import NETS, copied_state, read_state, refused, same_state
from tests.models.drawing import coarse_inputs, coarse_net, draw_clip, fine_net


class TestRoundTrip:
    @pytest.mark.parametrize("bn_splits", [1, 2])
    @pytest.mark.parametrize("kind", NETS)
    def test_bit_for_bit(self, kind, bn_splits, tmp_path):
        make, options = NETS[kind]
        source, target = (make(bn_splits=bn_splits, seed=seed, **options) for seed in (1, 2))
        assert not same_state(target, copied_state(source))
        save_official(source, tmp_path / "net.pt")
        report = load_official(target, tmp_path / "net.pt")
        assert same_state(target, copied_state(source))
        assert set(report.loaded) == set(source.state_dict())
        assert report.fresh == report.left == []

    def test_double_precision(self, tmp_path):
        source, target = (fine_net(seed=seed, dtype=torch.float64) for seed in (1, 2))
        save_official(source, tmp_path / "net.pt")
        load_official(target, tmp_path / "net.pt")
        assert same_state(target, copied_state(source))

    def test_400_classes_of_ones_own(self, kinetics):
        """For a 400-class network the Kinetics file is complete."""
        path, _ = kinetics
        net = fine_net(num_classes=400)
        report = load_official(net, path)
        assert same_state(net, copied_state(fine_net(seed=2, num_classes=400)))
        assert report.fresh == report.left == []

    @pytest.mark.parametrize("kind", ["fine", "coarse"])
    def test_published_names_and_shapes(self, kind, golden, tmp_path):
        net = {"fine": FineNet, "coarse": CoarseNet}[kind]()
        save_official(net, tmp_path / "net.pt")
        shapes = {key: list(tensor.shape) for key, tensor in read_state(tmp_path / "net.pt").items()}
        assert shapes == json.loads((golden / f"official_keys_{kind}.json").read_text())

    def test_saving_changes_nothing(self, tmp_path):
        net = coarse_net(bn_splits=2)
        before = copied_state(net)
        save_official(net, tmp_path / "net.pt")
        assert same_state(net, before)
        assert net.training

    def test_a_file_keeps_nothing_of_the_network(self, tmp_path):
        """Tensors are stored as they are, not as views of something larger."""
        net = fine_net()
        save_official(net, tmp_path / "net.pt")
        numbers = sum(tensor.numel() for tensor in read_state(tmp_path / "net.pt").values())
        assert (tmp_path / "net.pt").stat().st_size < 4 * numbers + 400 * len(read_state(tmp_path / "net.pt"))


class TestStatistics:
    def test_both_kinds_are_written_the_aggregate_afresh(self, tmp_path):
        net = fine_net(bn_splits=2)
        save_official(net, tmp_path / "net.pt")
        state = read_state(tmp_path / "net.pt")
        means, variances = (state[f"bn1.split_bn.running_{name}"].view(2, -1) for name in ("mean", "var"))
        mean, var = aggregate_statistics(means, variances)
        torch.testing.assert_close(state["bn1.bn.running_mean"], mean)
        torch.testing.assert_close(state["bn1.bn.running_var"], var)
        for part in ("bn", "split_bn"):
            counter = state[f"bn1.{part}.num_batches_tracked"]
            assert counter.dtype == torch.int64
            assert counter.shape == ()

    def test_the_stale_aggregate_is_ignored(self, fine_file):
        path, state = fine_file
        for key, tensor in state.items():
            if ".bn.running" in key:
                tensor.fill_(77)
        torch.save({"model_state_dict": state}, path)
        net = fine_net()
        load_official(net, path)
        assert same_state(net, copied_state(fine_net(seed=1)))

    def test_the_stale_aggregate_and_the_counters_may_lack(self, fine_file):
        path, state = fine_file
        torch.save({k: v for k, v in state.items() if ".bn.running" not in k and "num_batches" not in k}, path)
        load_official(fine_net(), path)

    @pytest.mark.parametrize(("stored", "wanted"), [(1, 2), (2, 1), (4, 2)])
    @pytest.mark.parametrize("make", [fine_net, coarse_net])
    def test_another_number_of_groups(self, make, stored, wanted, tmp_path):
        """The network that is loaded evaluates as the one that was saved."""
        source, target = make(bn_splits=stored, seed=1), make(bn_splits=wanted, seed=2)
        save_official(source, tmp_path / "net.pt")
        load_official(target, tmp_path / "net.pt")
        clip, *fine = coarse_inputs()
        args = (clip, *fine) if make is coarse_net else (clip,)
        torch.testing.assert_close(target.eval()(*args), source.eval()(*args))
        statistics = target.state_dict()["backbone.stem.temporal.norm.running_mean"].view(wanted, -1)
        assert all(torch.equal(row, statistics[0]) for row in statistics)

    @pytest.mark.parametrize("groups", [1, 2])
    def test_mean_and_variance_of_different_groups(self, groups, fine_file):
        path, state = fine_file
        state["layer1.0.bn2.split_bn.running_var"] = state["layer1.0.bn2.split_bn.running_var"].repeat(2)
        torch.save(state, path)
        refused(fine_net(bn_splits=groups), path, "layer1.0.bn2")


class TestOrigins:
    def test_module_prefix(self, fine_file):
        path, state = fine_file
        torch.save({"model_state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}, path)
        net = fine_net()
        load_official(net, path)
        assert same_state(net, copied_state(fine_net(seed=1)))

    def test_bare_state(self, fine_file):
        path, state = fine_file
        torch.save(state, path)
        net = fine_net()
        load_official(net, path)
        assert same_state(net, copied_state(fine_net(seed=1)))

    def test_path_as_text(self, fine_file):
        load_official(fine_net(), str(fine_file[0]))

    def test_half_precision_file(self, fine_file):
        path, state = fine_file
        torch.save({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, path)
        net = fine_net()
        load_official(net, path)
        assert {p.dtype for p in net.parameters()} == {torch.float32}
        torch.testing.assert_close(net.head.classify.bias, fine_net(seed=1).head.classify.bias, atol=1e-3, rtol=0)

    @pytest.mark.parametrize("options", [{"pool": "stride"}, {"fusion": "none"}, {"fusion": "per_stage"}], ids=str)
    def test_parts_that_the_network_lacks_are_left(self, options, tmp_path):
        source, target = coarse_net(seed=1), coarse_net(seed=2, **options)
        save_official(source, tmp_path / "net.pt")
        report = load_official(target, tmp_path / "net.pt")
        ours = {official_name(name) for name in target.state_dict()}
        assert set(report.left) == {official_name(name) for name in source.state_dict()} - ours
        assert report.left
        for name, tensor in target.state_dict().items():
            assert torch.equal(tensor, source.state_dict()[name])

    def test_a_coarse_file_holds_a_fine_stream(self, tmp_path):
        source, net = coarse_net(seed=1), fine_net(seed=2)
        save_official(source, tmp_path / "net.pt")
        report = load_official(net, tmp_path / "net.pt")
        assert {key.split(".")[0] for key in report.left} == {
            "pool_1", *(f"rw{k}" for k in range(2, 7)), *(f"mix{k}" for k in range(2, 6))
        }  # fmt: skip
        assert torch.equal(net.head.classify.weight, source.head.classify.weight)


class TestKinetics:
    def test_fine_stream(self, kinetics):
        path, state = kinetics
        net = fine_net()
        before = copied_state(net)
        report = load_official(net, path)
        assert set(report.left) == {"fc2.weight", "fc2.bias"}
        assert set(report.fresh) == {"head.classify.weight", "head.classify.bias"}
        for name, tensor in net.state_dict().items():
            assert torch.equal(tensor, before[name] if name in report.fresh else state[official_name(name)]), name
        assert set(report.loaded) | set(report.fresh) == set(before)
        assert "head.hidden.weight" in report.loaded  # fc1

    @pytest.mark.parametrize("pool", ["grid", "none"])
    @pytest.mark.parametrize("fusion", ["multistage", "per_stage", "none"])
    def test_coarse_stream(self, fusion, pool, kinetics):
        path, state = kinetics
        net = coarse_net(fusion=fusion, pool=pool)
        before = copied_state(net)
        report = load_official(net, path)
        assert set(report.left) == {"fc2.weight", "fc2.bias"}
        for name, tensor in net.state_dict().items():
            is_new = name.startswith(("head.classify", "grid_pool")) or "fusion" in name
            assert (name in report.fresh) == is_new, name
            assert torch.equal(tensor, before[name] if is_new else state[official_name(name)]), name

    @pytest.mark.parametrize("make", [fine_net, coarse_net])
    @pytest.mark.parametrize("key", ["layer2.0.conv2.weight", "fc1.weight", "bn5.split_bn.running_var", "bn1.weight"])
    def test_nothing_else_may_lack(self, make, key, kinetics):
        path, state = kinetics
        del state[key]
        torch.save(state, path)
        refused(make(), path, key)

    @pytest.mark.parametrize("make", [fine_net, coarse_net])
    @pytest.mark.parametrize("key", ["layer9.0.conv1.weight", "head.weight", "fc2.scale"])
    def test_nothing_may_be_there_in_addition(self, make, key, kinetics):
        path, state = kinetics
        state[key] = torch.zeros(3)
        torch.save(state, path)
        refused(make(), path, key)

    def test_other_class_counts_are_not_kinetics(self, tmp_path):
        save_official(fine_net(num_classes=157), tmp_path / "charades.pt")
        refused(fine_net(), tmp_path / "charades.pt", "fc2.weight", "(157, 256)", "(5, 256)")
        refused(coarse_net(num_classes=157), tmp_path / "charades.pt", "pool_1")


def test_loading_keeps_mode_and_learning(kinetics):
    net = coarse_net()
    load_official(net, kinetics[0])
    assert net.training
    assert all(p.requires_grad for p in net.parameters())


def test_loaded_weights_give_the_same_logits(tmp_path):
    source, target, clip = fine_net(seed=1).eval(), fine_net(seed=2).eval(), draw_clip(1, 4)
    save_official(source, tmp_path / "net.pt")
    load_official(target, tmp_path / "net.pt")
    assert torch.equal(source(clip), target(clip))
