"""The training loop on a toy network: rounds, what is kept, limits, failures."""

import math
import signal
from types import SimpleNamespace

import pytest

from common import progress as progress_module
from common.errors import InputError
from common.signals import Stopped
from engine import distributed
from engine.checkpoint import read_checkpoint
from tests.engine.toy import ToyLoader, lines, make_trainer, same

# --- rounds -----------------------------------------------------------------------------------------------------------


def test_a_validation_after_each_round_and_at_the_end(tmp_path):
    loader = ToyLoader()
    trainer = make_trainer(tmp_path, epochs=5, round_epochs=2, loader=loader)
    trainer.run()
    assert [(line["epoch"], line["step"]) for line in lines(tmp_path, "validation")] == [(2, 8), (4, 16), (5, 20)]
    assert sorted(loader.seen) == [(epoch, index) for epoch in range(5) for index in range(7)]
    assert trainer.finished


def test_a_line_each_half_epoch(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress_module, "_pace", progress_module._Pace())
    make_trainer(tmp_path, epochs=2).run()
    train = lines(tmp_path, "train")
    assert [(line["epoch"], line["step"], line["steps"]) for line in train] == [
        (0.5, 2, 2), (1.0, 4, 2), (1.5, 6, 2), (2.0, 8, 2),
    ]  # fmt: skip
    for line in train:
        assert {"loss", "cls_loss", "loc_loss", "mAP", "lr"} < line.keys()
        assert line["loss"] == pytest.approx((line["cls_loss"] + line["loc_loss"]) / 2, rel=1e-5)
        assert line["compute_seconds"] > 0
        assert line["data_seconds"] >= 0
    out = capsys.readouterr().out
    for said in ("epoch 0.5/2, step 2: loc ", "cls ", "total ", "mAP ", "data wait "):
        assert said in out
    assert "\r" not in out, "no bar without a terminal"


def test_lines_of_training_are_far_between(tmp_path, capsys, monkeypatch):
    """However short the epochs: at most one in half a minute, beside validations, and all of them in the record."""
    now, loader = [0.0], ToyLoader(samples=4)
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(progress_module, "_pace", progress_module._Pace())
    collate = loader.collate

    def collate_in_a_second(keys):
        now[0] += 1
        return collate(keys)

    loader.collate = collate_in_a_second
    make_trainer(tmp_path, epochs=40, round_epochs=20, loader=loader).run()
    said = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert said == [
        "epoch 0.5/40, step 1",
        "epoch 15.5/40, step 31",
        "validation after epoch 20, step 40",
        "epoch 30.5/40, step 61",
        "validation after epoch 40, step 80",
    ]
    assert len(lines(tmp_path, "train")) == 80


def test_losses_are_means_of_the_half(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, epochs=1)
    losses, step = [], trainer._take_step
    monkeypatch.setattr(trainer, "_take_step", lambda batch: losses.append(step(batch)) or losses[-1])
    trainer.run()
    first, second = lines(tmp_path, "train")
    assert first["loss"] == pytest.approx((losses[0][0]["loss"] + losses[1][0]["loss"]) / 2)
    assert second["cls_loss"] == pytest.approx((losses[2][0]["cls_loss"] + losses[3][0]["cls_loss"]) / 2)


def test_the_rate_falls_after_rounds(tmp_path):
    make_trainer(tmp_path, epochs=8, round_epochs=2, milestones=[1, 3], lr=0.1).run()
    rates = [line["lr"] for line in lines(tmp_path, "train") if line["epoch"] % 1 == 0]
    assert rates == pytest.approx([0.1] * 2 + [0.01] * 4 + [0.001] * 2)


def test_an_incomplete_batch_is_dropped_on_request(tmp_path):
    for drop_last, steps in ((True, 3), (False, 4)):
        trainer = make_trainer(tmp_path / str(drop_last), epochs=1, loader=ToyLoader(drop_last=drop_last))
        trainer.run()
        assert trainer.position.step == steps


def test_an_epoch_of_one_batch(tmp_path):
    make_trainer(tmp_path, epochs=2, loader=ToyLoader(samples=2)).run()
    assert [line["step"] for line in lines(tmp_path, "train")] == [1, 2]


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_the_best_is_kept(tmp_path):
    trainer = make_trainer(tmp_path, epochs=4, round_epochs=1, scores=[0.2, 0.6, 0.6, 0.4])
    trainer.run()
    best, last = (read_checkpoint(path, stage="fine") for path in (trainer.best, trainer.last))
    assert (best["position"]["epoch"], last["position"]["epoch"]) == (2, 4)
    assert best["metrics"]["mAP_official"] == 0.6
    assert [metrics["mAP_official"] for metrics in trainer.evaluation.kept] == [0.2, 0.6], "an equal one is not better"
    assert "optimizer" not in best
    assert not same(best["model"], last["model"])
    assert same(last["model"], trainer.net.state_dict())


def test_a_limit_of_steps(tmp_path):
    trainer = make_trainer(tmp_path, epochs=9, max_steps=6)
    trainer.run()
    position = {"epoch": 1, "batch": 2, "step": 6, "best": 0.0, "validation_due": False}
    assert read_checkpoint(trainer.last)["position"] == position
    assert [(line["epoch"], line["step"]) for line in lines(tmp_path, "validation")] == [(1.5, 6)]
    assert trainer.best.is_file()


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    loader = ToyLoader()
    trainer = make_trainer(tmp_path, loader=loader)
    collate = loader.collate

    def collate_with_broken_labels(keys):
        batch = collate(keys)
        batch["labels"] *= math.inf if len(loader.seen) > 9 else 1  # from the sixth step on
        return batch

    loader.collate = collate_with_broken_labels
    with pytest.raises(InputError) as error:
        trainer.run()
    assert "the loss is nan at step 6 " in str(error.value)
    for _, index in loader.seen[-2:]:
        assert f"video{index}" in str(error.value)
    last = read_checkpoint(trainer.last)
    assert last["position"]["step"] == 4
    assert all(value.isfinite().all() for value in last["model"].values())
    assert {path.name for path in trainer.last.parent.iterdir()} == {"last.pt", "last.previous.pt"}


def test_the_launcher_stops_a_process_whose_connection_is_lost(tmp_path, monkeypatch):
    """Another process has died, of which the launcher speaks: this one leaves without a word."""
    words = []

    def fail(log):
        signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")

    trainer = make_trainer(tmp_path)
    monkeypatch.setattr(trainer, "_rounds", fail)
    monkeypatch.setattr(trainer, "_save_last", lambda: None)
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(distributed, "claim_last_word", lambda: words.append(None))
    with pytest.raises(Stopped) as stopped:
        trainer.run()
    assert (stopped.value.status, len(words)) == (143, 1)
