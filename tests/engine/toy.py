"""A toy network, its data and its trainer."""

import json
from functools import partial

import torch
from torch import nn

from configs.schema import Fine
from datasets.batch import EpochBatches
from engine.loop import Trainer
from engine.optim import make_optimizer, make_scheduler
from engine.step import Step
from models.losses import detection_loss

CPU = torch.device("cpu")
CLASSES, FRAMES = 3, 6


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

    step = Step(
        model=net,
        forward=lambda model, batch: model(batch["clip"]),
        criterion=partial(detection_loss, align_corners=True),
        optimizer=optimizer,
        scores=NoScores(),
        accumulate=stage.accumulate,
        clip_grad=stage.clip_grad,
        device=CPU,
        precision=precision,
    )
    return Trainer(
        step=step,
        scheduler=make_scheduler(optimizer, stage),
        loader=loader or ToyLoader(),
        prepare=lambda batch, device: batch,
        validate=validate,
        keep=kept.append,
        stage=stage,
        folder=folder,
        identity={"stage": stage_name, "config": config or {}},
        device=CPU,
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
