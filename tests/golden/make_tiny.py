"""Writes tiny.json: outputs of both networks, variant tiny, on weights and inputs drawn from seeds.

These numbers are this project's own. They were made when all outputs of the published code were met
(tests/models/test_golden.py, which needs ../shared), so that where those are absent the tests still tell whether
the networks compute what they computed then. Weights are drawn by official name: a change of names shows, too.

    python -m tests.golden.make_tiny     only after tests/models/test_golden.py has passed

All is computed in float64 and written with 10 digits. Each entry of `fine` and `coarse` is a case: options of the
network (`net`) and of the `inputs`; in evaluation the `logits`, for the Fine stream also every 8th channel of its
`features`, averaged over time and space; and from one training-mode forward and backward pass (dropout 0, labels
drawn, the second video half masked) the `losses` and the norm of the `gradients` of each official part.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.losses import detection_loss
from models.official import official_name
from tests.models.drawing import coarse_inputs, coarse_net, draw_clip, fine_net

PATH = Path(__file__).with_name("tiny.json")
CASES = {
    "fine": [
        {"net": {}, "inputs": {"frames": 5}},
        {"net": {"bn_splits": 2}, "inputs": {"frames": 4, "size": [65, 71]}},
    ],
    "coarse": [
        {"net": {}, "inputs": {"frames": 9, "start": [2, 0]}},
        {"net": {"bn_splits": 2}, "inputs": {"frames": 8, "size": [112, 80], "start": [0, 3]}},
        {"net": {"fusion": "per_stage"}, "inputs": {"frames": 9}},
        {"net": {"fusion": "none"}, "inputs": {"frames": 9}},
        {"net": {"pool": "none"}, "inputs": {"frames": 5, "start": [1, 4]}},
        {"net": {"pool": "avg"}, "inputs": {"frames": 9, "start": [1, 4]}},
        {"net": {"pool": "max"}, "inputs": {"frames": 9, "start": [1, 4]}},
        {"net": {"pool": "stride"}, "inputs": {"frames": 9, "start": [1, 4]}},
    ],
}
LABEL_RATE = 10  # label frames for each clip frame


def run_case(kind: str, case: dict, seed: int) -> dict:
    """A case's outputs, as plain numbers and lists."""
    make = fine_net if kind == "fine" else coarse_net
    net = make(seed=seed, num_classes=3, dropout=0.0, dtype=torch.float64, **case["net"])
    options = {"size": 64, **case["inputs"]}
    if kind == "fine":
        args = (draw_clip(2, options["frames"], options["size"], seed=seed, dtype=torch.float64),)
    else:
        args = coarse_inputs(seed=seed, dtype=torch.float64, **options)
    with torch.no_grad():
        logits = net.eval()(*args)
        features = {k: f.mean((2, 3, 4))[:, ::8] for k, f in net.features(*args).items()} if kind == "fine" else {}
    losses = _losses(net.train()(*args), options["frames"] * LABEL_RATE, seed, align_corners=kind == "fine")
    losses["loss"].backward()
    squares: dict[str, float] = {}
    for name, p in net.named_parameters():
        group = official_name(name).split(".")[0]
        squares[group] = squares.get(group, 0.0) + p.grad.square().sum().item()
    return {
        "logits": _rounded(logits),
        **({"features": {name: _rounded(f) for name, f in features.items()}} if features else {}),
        "losses": {name: _rounded(value) for name, value in losses.items()},
        "gradients": {group: _rounded(torch.tensor(value).sqrt()) for group, value in sorted(squares.items())},
    }


def _losses(logits: Tensor, length: int, seed: int, *, align_corners: bool) -> dict[str, Tensor]:
    B, C = logits.shape[:2]
    labels = torch.from_numpy(np.random.default_rng([seed, 3]).random((B, C, length)) > 0.8)
    mask = torch.ones(B, length)
    mask[1:, length // 2 :] = 0
    return detection_loss(logits, labels, mask, align_corners=align_corners)


def _rounded(values: Tensor) -> list | float:
    return json.loads(json.dumps(values.double().tolist()), parse_float=lambda text: float(f"{float(text):.10g}"))


def main() -> None:
    made = {
        "made_by": "python -m tests.golden.make_tiny (see there what it is)",
        **{
            kind: [{**case, "seed": seed, **run_case(kind, case, seed)} for seed, case in enumerate(cases)]
            for kind, cases in CASES.items()
        },
    }
    PATH.write_text(json.dumps(made, separators=(",", ":")).replace('{"net"', '\n{"net"') + "\n")  # one line a case


if __name__ == "__main__":
    main()
