"""One optimizer step on a toy network: precision, clipping, parts of a batch, compiling."""

import shutil

import pytest
import torch

from datasets.batch import prepare
from engine.checkpoint import read_checkpoint
from tests.engine.toy import CPU, ToyLoader, lines, make_trainer


def test_half_precision_by_autocast(tmp_path):
    """Weights, gradients and losses stay float32; what the convolutions compute is half."""
    trainer = make_trainer(tmp_path, epochs=1, precision="bf16")
    seen = []
    trainer.net.layers[0].register_forward_hook(lambda net, args, output: seen.append(output.dtype))
    trainer.run()
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in trainer.net.parameters()} == {torch.float32}
    full = make_trainer(tmp_path / "full", epochs=1)
    full.run()
    for a, b in zip(lines(tmp_path, "train"), lines(tmp_path / "full", "train"), strict=True):
        assert a["loss"] != b["loss"]
        assert a["loss"] == pytest.approx(b["loss"], rel=0.02)


def test_fp16_scales_and_continues(tmp_path):
    """The scaler's state is in the checkpoint; a run without it continues one with it, and the reverse."""
    trainer = make_trainer(tmp_path, max_steps=3, precision="fp16")
    trainer.run()
    assert trainer.step.scaler.is_enabled()
    saved = read_checkpoint(trainer.last)["scaler"]
    assert saved["_growth_tracker"] == 3
    resumed = make_trainer(tmp_path, precision="fp16")
    resumed.resume()
    assert resumed.step.scaler.state_dict() == saved
    make_trainer(tmp_path).resume()


def test_clipped_gradients(tmp_path):
    """Of all parameters together, to the given norm; unclipped where they are smaller."""
    norms = {}
    for limit in (None, 1e-3, 1e3):
        trainer = make_trainer(tmp_path / str(limit), max_steps=1, clip_grad=limit)
        trainer.run()
        norms[limit] = torch.cat([p.grad.flatten() for p in trainer.net.parameters()]).norm().item()
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert norms[1e3] == norms[None] > 1e-3


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_accumulated_gradients_equal_the_undivided_batch(tmp_path, parts):
    """Without norms and dropout, with masks of several lengths."""
    loader = ToyLoader(batch_size=6)
    batch = loader.collate([(0, i) for i in range(6)])
    for i in range(6):
        batch["mask"][i, 1 + i :] = 0
    gradients = []
    for accumulate in (1, parts):
        trainer = make_trainer(tmp_path, accumulate=accumulate, loader=loader)
        trainer.net.eval()
        losses, _ = trainer.step.gradients(prepare(batch, CPU))
        gradients.append([losses, *(p.grad for p in trainer.net.parameters())])
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-5)
    for a, b in zip(gradients[0][1:], gradients[1][1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled(tmp_path):
    """The same training to rounding, and the same names in the checkpoint."""
    plain, compiled = make_trainer(tmp_path / "plain", max_steps=2), make_trainer(tmp_path / "compiled", max_steps=2)
    plain.net.layers[3].p = compiled.net.layers[3].p = 0.0
    compiled.net.compile()
    for trainer in (plain, compiled):
        trainer.run()
    ours, theirs = (read_checkpoint(trainer.last)["model"] for trainer in (compiled, plain))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)
