"""The training loop on a toy network: rounds, what is kept, limits, failures, and continuing bit for bit."""

import json
import math
import shutil
import signal
from functools import partial

import pytest
import torch
from torch import nn

from configs.schema import Fine
from datasets.batch import EpochBatches
from engine import distributed
from engine.checkpoint import CheckpointError, read_checkpoint
from engine.evaluation import evaluate
from engine.loop import NonFiniteLossError, Trainer
from engine.optim import make_optimizer, make_scheduler
from engine.signals import Stopped
from models.losses import detection_loss

CPU = torch.device("cpu")
CLASSES, FRAMES = 3, 6


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """For networks this small, threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class ToyLoader:
    """Random clips (B,4,6) by (epoch, index), in the order of the real batch sampler."""

    def __init__(self, samples=7, batch_size=2, drop_last=False, fail_at=None):
        self.batch_sampler = EpochBatches(samples, batch_size, seed=0, drop_last=drop_last)
        self.fail_at = fail_at  # (epoch, batch) before which the process "is killed"
        self.seen = []  # (epoch, index) of all samples

    def __len__(self):
        return len(self.batch_sampler)

    def __iter__(self):
        for batch, keys in enumerate(self.batch_sampler, self.batch_sampler.batch):
            if (self.batch_sampler.epoch, batch) == self.fail_at:
                raise Killed
            self.seen += keys
            yield self.collate(keys)

    @staticmethod
    def collate(keys):
        generators = [torch.Generator().manual_seed(100 * epoch + index) for epoch, index in keys]
        clips = torch.stack([torch.randn(4, FRAMES, generator=g) for g in generators])
        labels = (clips[:, :CLASSES] + clips[:, 1 : CLASSES + 1] > 0.5).float()
        mask = torch.ones(len(keys), FRAMES)
        return {"videos": [f"video{i}" for _, i in keys], "clip": clips, "labels": labels, "mask": mask}


class Killed(Exception):  # noqa: N818
    """Stands for the end of a process."""


class NoScores:
    def add(self, batch, probabilities):
        assert probabilities.shape == batch["labels"].shape

    def compute(self):
        return 0.5


def build_net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv1d(4, 16, 1), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Conv1d(16, CLASSES, 1))


def make_trainer(
    folder, *, scores=(), loader=None, config=None, kept=None, stage_name="fine", precision="fp32", **options
):
    """A trainer whose validations score `scores` in turn, then lower and lower."""
    stage = Fine(**{"init": "none", "lr": 0.1, "epochs": 4, "round_epochs": 2, "milestones": [1]} | options)
    net = build_net()
    optimizer = make_optimizer(net, stage)
    scores, kept = iter([*scores, *(-float(i) for i in range(99))]), [] if kept is None else kept

    def validate(model):
        score = next(scores)
        return {"selection": score, "mAP_official": score, "mAP_released": None, "loss": 0.5}

    return Trainer(
        model=net,
        forward=lambda model, batch: model(batch["clip"]),
        criterion=partial(detection_loss, align_corners=True),
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, stage),
        loader=loader or ToyLoader(),
        prepare=lambda batch, device: batch,
        validate=validate,
        keep=kept.append,
        scores=NoScores(),
        stage=stage,
        folder=folder,
        identity={"stage": stage_name, "config": config or {}},
        device=CPU,
        precision=precision,
    )


def lines(folder, event=None, *, timed=True):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    if not timed:
        records = [{k: v for k, v in record.items() if not k.endswith("_seconds")} for record in records]
    return [record for record in records if event in (None, record["event"])]


def same(a, b):
    """Whether two checkpoints' contents are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b if not isinstance(a, list) else len(a) == len(b) and all(map(same, a, b))


# --- rounds -----------------------------------------------------------------------------------------------------------


def test_a_validation_after_each_round_and_at_the_end(tmp_path):
    loader = ToyLoader()
    trainer = make_trainer(tmp_path, epochs=5, round_epochs=2, loader=loader)
    trainer.run()
    assert [(line["epoch"], line["step"]) for line in lines(tmp_path, "validation")] == [(2, 8), (4, 16), (5, 20)]
    assert sorted(loader.seen) == [(epoch, index) for epoch in range(5) for index in range(7)]
    assert trainer.finished


def test_a_line_each_half_epoch(tmp_path, capsys):
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
    for said in ("epoch 0.5/2, step 2: loc ", "cls ", "total ", "mAP 50.00%", "s waiting for data"):
        assert said in out
    assert "\r" not in out, "no bar without a terminal"


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
    kept = []
    trainer = make_trainer(tmp_path, epochs=4, round_epochs=1, scores=[0.2, 0.6, 0.6, 0.4], kept=kept)
    trainer.run()
    best, last = (read_checkpoint(path, stage="fine") for path in (trainer.best, trainer.last))
    assert (best["position"]["epoch"], last["position"]["epoch"]) == (2, 4)
    assert best["metrics"]["mAP_official"] == 0.6
    assert [metrics["mAP_official"] for metrics in kept] == [0.2, 0.6], "an equal one is not better"
    assert "optimizer" not in best
    assert not same(best["model"], last["model"])
    assert same(last["model"], trainer.model.state_dict())


def test_a_limit_of_steps(tmp_path):
    trainer = make_trainer(tmp_path, epochs=9, max_steps=6)
    trainer.run()
    position = {"epoch": 1, "batch": 2, "step": 6, "best": 0.0, "validation_due": False}
    assert read_checkpoint(trainer.last)["position"] == position
    assert [(line["epoch"], line["step"]) for line in lines(tmp_path, "validation")] == [(1.5, 6)]
    assert trainer.best.is_file()


# --- precision, clipping, compiling -----------------------------------------------------------------------------------


def test_half_precision_by_autocast(tmp_path):
    """Weights, gradients and losses stay float32; what the convolutions compute is half."""
    trainer = make_trainer(tmp_path, epochs=1, precision="bf16")
    seen = []
    trainer.model[0].register_forward_hook(lambda net, args, output: seen.append(output.dtype))
    trainer.run()
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
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
        norms[limit] = torch.cat([p.grad.flatten() for p in trainer.model.parameters()]).norm().item()
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
        trainer.model.eval()
        losses, _ = trainer.step.gradients(batch)
        gradients.append([losses, *(p.grad for p in trainer.model.parameters())])
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-5)
    for a, b in zip(gradients[0][1:], gradients[1][1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled(tmp_path):
    """The same training to rounding, and the same names in the checkpoint."""
    plain, compiled = make_trainer(tmp_path / "plain", max_steps=2), make_trainer(tmp_path / "compiled", max_steps=2)
    plain.model[3].p = compiled.model[3].p = 0.0
    compiled.model.compile()
    for trainer in (plain, compiled):
        trainer.run()
    ours, theirs = (read_checkpoint(trainer.last)["model"] for trainer in (compiled, plain))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    loader = ToyLoader()
    trainer = make_trainer(tmp_path, loader=loader)
    collate = loader.collate

    def collate_with_a_broken_clip(keys):
        batch = collate(keys)
        batch["clip"] *= math.inf if len(loader.seen) > 9 else 1  # from the sixth step on
        return batch

    loader.collate = collate_with_a_broken_clip
    with pytest.raises(NonFiniteLossError) as error:
        trainer.run()
    assert "the loss is nan at step 6 " in str(error.value)
    for _, index in loader.seen[-2:]:
        assert f"video{index}" in str(error.value)
    last = read_checkpoint(trainer.last)
    assert last["position"]["step"] == 4
    assert all(value.isfinite().all() for value in last["model"].values())
    assert {path.name for path in trainer.last.parent.iterdir()} == {"last.pt", "last.previous.pt"}


def test_another_stage_or_network_is_not_continued(tmp_path):
    make_trainer(tmp_path, max_steps=1).run()
    with pytest.raises(CheckpointError, match="stage fine, where one of coarse"):
        make_trainer(tmp_path, stage_name="coarse").resume()
    other = make_trainer(tmp_path)
    other.model[0] = nn.Conv1d(4, 8, 1)
    with pytest.raises(CheckpointError, match=r"last\.pt: of a network that is configured otherwise"):
        other.resume()


def test_changed_settings_are_said_and_hold(tmp_path, capsys):
    make_trainer(tmp_path, max_steps=9, config={"fine": {"lr": 0.1, "momentum": 0.9}}).run()
    assert make_trainer(tmp_path).optimizer.param_groups[0]["lr"] == 0.1
    capsys.readouterr()
    trainer = make_trainer(tmp_path, lr=0.2, momentum=0.5, config={"fine": {"lr": 0.2, "momentum": 0.5}})
    trainer.resume()
    said = ["fine.lr was 0.1, from here on it is 0.2", "fine.momentum was 0.9, from here on it is 0.5"]
    assert capsys.readouterr().out.splitlines() == said
    (group,) = trainer.optimizer.param_groups
    assert (group["lr"], group["momentum"]) == (0.2 * 0.1, 0.5), "one round is done, after which the rate falls"
    assert len(trainer.optimizer.state) == 6, "momentum buffers"


def test_larger_batches_from_within_an_epoch(tmp_path):
    """Beyond the last of the larger batches, the next epoch begins."""
    make_trainer(tmp_path, max_steps=3).run()
    trainer = make_trainer(tmp_path, loader=ToyLoader(batch_size=4))
    trainer.resume()
    trainer.run()
    assert trainer.position.epoch == 4


def test_another_network_is_not_continued(tmp_path):
    make_trainer(tmp_path, max_steps=1, config={"model": {"variant": "M"}}).run()
    with pytest.raises(CheckpointError, match=r"began with model\.variant M, now it is S"):
        make_trainer(tmp_path, config={"model": {"variant": "S"}}).resume()


# --- continuing -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    make_trainer(folder, scores=[0.5, 0.7]).run()
    return folder


def resumed(folder, **options):
    trainer = make_trainer(folder, **options)
    torch.manual_seed(12345)  # the state of a fresh process
    trainer.resume()
    trainer.run()
    return trainer


@pytest.mark.parametrize("killed_at", [(0, 1), (1, 0), (2, 1), (3, 3)])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, uninterrupted, killed_at):
    """Weights, momentum, rate, best score and log, bit for bit, with dropout; from any half epoch."""
    with pytest.raises(Killed):
        make_trainer(tmp_path, scores=[0.5, 0.7], loader=ToyLoader(fail_at=killed_at)).run()
    resumed(tmp_path, scores=[0.7] if killed_at[0] >= 2 else [0.5, 0.7])
    for name in ("last.pt", "best.pt"):
        ours, theirs = (read_checkpoint(folder / "checkpoints" / name) for folder in (tmp_path, uninterrupted))
        assert same(ours, theirs), name
    assert lines(tmp_path, timed=False) == lines(uninterrupted, timed=False)


def test_killed_while_validating(tmp_path, uninterrupted):
    trainer = make_trainer(tmp_path)

    def validate(model):
        raise Killed

    trainer.validate = validate
    with pytest.raises(Killed):
        trainer.run()
    resumed(tmp_path, scores=[0.5, 0.7])
    assert same(*(read_checkpoint(folder / "checkpoints" / "last.pt") for folder in (tmp_path, uninterrupted)))
    assert lines(tmp_path, timed=False) == lines(uninterrupted, timed=False)


def test_a_worker_dies_while_saving(tmp_path, uninterrupted, monkeypatch):
    """PyTorch's handler of SIGCHLD raises there and then: the checkpoint is finished first, and the run continues."""

    def complain(number, frame):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    def save(contents, file, saves=[]):  # noqa: B006 - the calls so far
        saves.append(None)
        if len(saves) == 3:
            signal.raise_signal(signal.SIGCHLD)
        original(contents, file)

    original, before = torch.save, signal.signal(signal.SIGCHLD, complain)
    try:
        monkeypatch.setattr(torch, "save", save)
        with pytest.raises(RuntimeError, match="DataLoader worker"):
            make_trainer(tmp_path, scores=[0.5, 0.7]).run()
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert read_checkpoint(tmp_path / "checkpoints" / "last.pt")["position"]["step"] > 0
    resumed(tmp_path, scores=[0.5, 0.7])
    assert same(*(read_checkpoint(folder / "checkpoints" / "last.pt") for folder in (tmp_path, uninterrupted)))


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
    monkeypatch.setattr(distributed, "leave_the_last_word", lambda: words.append(None))
    with pytest.raises(Stopped) as stopped:
        trainer.run()
    assert (stopped.value.status, len(words)) == (143, 1)


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_a_raised_limit_continues_the_same_training(tmp_path, uninterrupted, steps):
    """Stopping validates at once, but moves neither weights nor schedule."""
    make_trainer(tmp_path, scores=[0.1], max_steps=steps).run()
    trainer = resumed(tmp_path, scores=[0.5, 0.7])
    theirs = read_checkpoint(uninterrupted / "checkpoints" / "last.pt")
    ours = read_checkpoint(trainer.last)
    for part in ("model", "optimizer", "scheduler", "rng"):
        assert same(ours[part], theirs[part]), part


def test_dropout_is_on(tmp_path, uninterrupted):
    """Without the saved random state, the weights would differ: the tests above can fail."""
    make_trainer(tmp_path, max_steps=2).run()
    trainer = make_trainer(tmp_path)
    trainer.resume()
    torch.manual_seed(12345)
    trainer.run()
    theirs = read_checkpoint(uninterrupted / "checkpoints" / "last.pt")
    assert not same(read_checkpoint(trainer.last)["model"], theirs["model"])


def test_starting_again_forgets_the_old_run(tmp_path, uninterrupted):
    """`--run.resume never`: were the new run killed at once, `auto` would continue it and not the old one."""
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    with pytest.raises(Killed):
        make_trainer(tmp_path, loader=ToyLoader(fail_at=(0, 0))).run()
    assert lines(tmp_path) == []
    assert read_checkpoint(tmp_path / "checkpoints" / "last.pt")["position"]["step"] == 0
    resumed(tmp_path, scores=[0.5, 0.7])
    assert lines(tmp_path, timed=False) == lines(uninterrupted, timed=False)


def test_a_finished_run_is_finished(uninterrupted):
    trainer = make_trainer(uninterrupted)
    trainer.resume()
    assert trainer.finished
    longer = make_trainer(uninterrupted, epochs=6)
    longer.resume()
    assert not longer.finished


# --- evaluation -------------------------------------------------------------------------------------------------------


def test_evaluation_weighs_videos_equally():
    """Losses are means over videos, whatever the batches; probabilities reach the evaluator in order."""

    class Collector:
        def __init__(self):
            self.videos = []

        def add(self, batch, probabilities):
            assert ((probabilities > 0) & (probabilities < 1)).all()
            assert not probabilities.requires_grad
            self.videos += batch["videos"]

        def gather(self):
            pass

        def finish(self):
            return {"mAP": 0.5}

    net = build_net().eval()
    results = []
    for batches in ([[0, 1, 2], [3]], [[0], [1], [2], [3]]):
        collector = Collector()
        metrics = evaluate(
            net,
            forward=lambda model, batch: model(batch["clip"]),
            criterion=partial(detection_loss, align_corners=True),
            loader=[ToyLoader.collate([(0, i) for i in batch]) for batch in batches],
            prepare=lambda batch, device: batch,
            evaluator=collector,
            device=CPU,
        )
        assert collector.videos == ["video0", "video1", "video2", "video3"]
        results.append(metrics)
    assert results[0] == pytest.approx(results[1], rel=1e-6)
    assert results[0].keys() == {"mAP", "loss", "cls_loss", "loc_loss"}
