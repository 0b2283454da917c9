"""Every golden case: outputs of the published code on weights and inputs that are drawn from seeds.

Evaluation cases run in float32, training cases in float64 (float32 gradients of this network are ill-conditioned).
"""

import importlib.util
import json

import numpy as np
import pytest
import torch

from models import CoarseNet, FineNet, load_official, prepare_for_inference
from models.losses import detection_loss
from models.official import official_name

FINE_LR, COARSE_LR, FUSION_FACTOR = 0.01, 0.02, 10.0


@pytest.fixture(scope="module")
def named_weights(golden):
    spec = importlib.util.spec_from_file_location("named_weights", golden / "named_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_case(golden, name):
    arrays = np.load(golden / f"{name}.npz")
    case = json.loads(str(arrays["case"]))
    return case, {key: arrays[key] for key in arrays.files if key != "case"}


def build(named_weights, tmp_path, kind, case):
    dtype = getattr(torch, case["dtype"])
    options = {"bn_splits": case.get("splits", 1), "dropout": 0.0}
    if kind == "coarse":
        options["pool"] = "grid" if case.get("t_pool", "grid") else "none"
        options["fusion"] = "multistage" if case.get("mixing", True) else "per_stage"
    net = {"fine": FineNet, "coarse": CoarseNet}[kind](**options)
    named_weights.save_official_checkpoint(kind, case["seed"], tmp_path / "official.pt")
    load_official(net, tmp_path / "official.pt")
    return net.to(dtype), dtype


def inputs(named_weights, case, dtype):
    raw = named_weights.inputs(case["seed"], case["B"], case["t"], case["S"], case.get("tf"))
    if "tf" not in case:
        clip, labels = (torch.from_numpy(a).to(dtype) for a in raw)
        return (clip,), labels
    clip, labels, features, mask, meta = raw
    features = {name: torch.from_numpy(f).to(dtype) for name, f in features.items()}
    clip, mask, start = torch.from_numpy(clip).to(dtype), torch.from_numpy(mask).to(dtype), torch.from_numpy(meta[:, 0])
    return (clip, features, mask, start), torch.from_numpy(labels).to(dtype)


def close(actual, expected, atol):
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("faster", [False, True], ids=["as_trained", "prepare_for_inference"])
def test_fine_eval(golden, named_weights, tmp_path, faster):
    case, expected = read_case(golden, "fine_eval_0")
    net, dtype = build(named_weights, tmp_path, "fine", case)
    net = prepare_for_inference(net) if faster else net.eval()
    (clip,), _ = inputs(named_weights, case, dtype)
    with torch.no_grad():
        close(net(clip), expected["logits"], 1e-4)
        for name, feature in net.features(clip).items():
            close(feature[:, ::8], expected[f"feat_{name}"], 2e-3)
            close(feature.mean((2, 3, 4)), expected[f"featmean_{name}"], 2e-3)


def watch_coarse(net, seen):
    """Record grid, Gaussian weights and every stage's scale and shift on the way."""
    if net.grid_pool is not None:
        net.grid_pool.register_forward_hook(lambda _, args, out: seen.update(grid=out[1]))
    net.fusion.register_forward_hook(lambda _, args, out: seen.update(gauss=args[2]))

    def record(stage):
        def hook(_, args, out):
            seen[f"shift{stage}"], seen[f"scale{stage}"] = (x.mean((2, 3)).transpose(1, 2)[:, ::8] for x in out)

        return hook

    if not net.fusion.per_stage:
        for stage, mix in enumerate(net.fusion.stages, 2):
            mix.register_forward_hook(record(stage))


@pytest.mark.parametrize("faster", [False, True], ids=["as_trained", "prepare_for_inference"])
@pytest.mark.parametrize("name", ["coarse_3", "coarse_4", "coarse_6", "coarse_7"])
def test_coarse_eval(golden, named_weights, tmp_path, name, faster):
    case, expected = read_case(golden, name)
    net, dtype = build(named_weights, tmp_path, "coarse", case)
    net = prepare_for_inference(net) if faster else net.eval()
    seen = {}
    watch_coarse(net, seen)
    args, _ = inputs(named_weights, case, dtype)
    with torch.no_grad():
        seen["logits"] = net(*args)
    assert seen.keys() == expected.keys()
    for key, value in seen.items():
        close(value, expected[key], 1e-4)


@pytest.mark.parametrize("name", ["fine_train_1", "fine_train_2", "coarse_5"])
def test_training(golden, named_weights, tmp_path, name):
    case, expected = read_case(golden, name)
    kind = "coarse" if "tf" in case else "fine"
    net, dtype = build(named_weights, tmp_path, kind, case)
    seen = {}
    if kind == "coarse":
        watch_coarse(net, seen)
    args, labels = inputs(named_weights, case, dtype)
    mask = torch.from_numpy(expected["mask"])
    labels = labels * mask.unsqueeze(1)

    net.train()
    logits = net(*args)
    for key, value in {**seen, "logits": logits}.items():
        close(value, expected[key], 1e-7)
    losses = detection_loss(logits, labels, mask, align_corners=kind == "fine")
    close(losses["cls_loss"], expected["cls_loss"], 1e-7)
    close(losses["loc_loss"], expected["loc_loss"], 1e-7)

    losses["loss"].backward()
    ours = {official_name(n): p.grad.norm().item() for n, p in net.named_parameters()}
    theirs = dict(zip(expected["grad_names"].tolist(), expected["grad_norms"].tolist(), strict=True))
    assert ours.keys() == theirs.keys()
    largest = max(theirs.values())
    for key, norm in theirs.items():
        assert abs(ours[key] - norm) <= 1e-4 * (norm + 1e-3 * largest), key

    lr = FINE_LR if kind == "fine" else COARSE_LR
    groups = [
        {"params": [p for n, p in net.named_parameters() if "fusion" not in n]},
        {"params": [p for n, p in net.named_parameters() if "fusion" in n], "lr": lr * FUSION_FACTOR},
    ]
    torch.optim.SGD([g for g in groups if g["params"]], lr=lr, momentum=0.9, weight_decay=1e-5).step()
    after = detection_loss(net(*args), labels, mask, align_corners=kind == "fine")
    close(after["cls_loss"], expected["cls_loss_after_step"], 1e-7)
    close(after["loc_loss"], expected["loc_loss_after_step"], 1e-7)
    if kind == "fine":
        norm = net.backbone.stem.temporal.norm
        close(norm.running_mean, expected["bn1_running_mean"], 1e-7)
        close(norm.running_var, expected["bn1_running_var"], 1e-7)
        for value, key in zip(norm.statistics(), ("bn1_eval_mean", "bn1_eval_var"), strict=True):
            close(value, expected[key], 1e-7)


@pytest.mark.parametrize(("kind", "count"), [("fine", 3_296_415), ("coarse", 4_532_327)])
def test_parameter_counts(kind, count):
    net = {"fine": FineNet, "coarse": CoarseNet}[kind]()
    assert sum(p.numel() for p in net.parameters()) == count
