"""A toy network, its data and its trainer."""

import json

import torch
from torch import nn

from configs.schema import Config, Fine, Model, Run
from datasets.batch import EpochBatches, collate
from engine.checkpoint import read_checkpoint
from engine.loop import Trainer
from models import FineNet

CPU = torch.device("cpu")
CLASSES, FRAMES = 3, 6


class ToyLoader:
    """Random clips (B,6,2,2,3) by (epoch, index), in the order of the real batch sampler."""

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
        samples = []
        for epoch, index in keys:
            generator = torch.Generator().manual_seed(100 * epoch + index)
            clip = torch.randint(256, (FRAMES, 2, 2, 3), generator=generator, dtype=torch.uint8)
            labels = (clip.float().mean((1, 2)).T > 128).float()
            samples.append({"video": f"video{index}", "clip": clip, "labels": labels, "num_frames": FRAMES})
        return collate(samples)


class Killed(Exception):  # noqa: N818
    """Stands for the end of a process."""


class ToyNet(FineNet):
    """What the engine takes for a Fine stream."""

    def __init__(self):
        nn.Module.__init__(self)
        torch.manual_seed(3)
        self.layers = nn.Sequential(
            nn.Conv1d(3, 16, 1), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Conv1d(16, CLASSES, 1)
        )

    def forward(self, clip):
        return self.layers(clip.mean((3, 4)))


class ToyEvaluation:
    """Validations that score `scores` in turn, then lower and lower."""

    def __init__(self, scores):
        self.scores = iter([*scores, *(-float(i) for i in range(99))])
        self.kept = []

    def __call__(self, net):
        score = next(self.scores)
        return {"mAP_official": score, "mAP_official_defined": score, "mAP_released": None, "loss": 0.5}

    def keep(self, metrics):
        self.kept.append(metrics)


def make_trainer(folder, *, scores=(), loader=None, stage="fine", precision="fp32", variant="tiny", **options):
    """A trainer of a run in this folder; its options are those of stage 1."""
    config = Config(
        model=Model(variant=variant),
        fine=Fine(**{"init": "none", "lr": 0.1, "epochs": 4, "round_epochs": 2, "milestones": [1]} | options),
        run=Run(dir=str(folder), precision=precision),
    )
    return Trainer(
        config, stage, net=ToyNet(), loader=loader or ToyLoader(), evaluation=ToyEvaluation(scores), device=CPU
    )


def checkpoint(folder, name="last.pt"):
    return folder / "fine" / "checkpoints" / name


def contents(folder, name="last.pt"):
    """Of a checkpoint, all but the configuration, which names the folder."""
    return {key: value for key, value in read_checkpoint(checkpoint(folder, name)).items() if "config" not in key}


def lines(folder, event=None, *, timed=True):
    records = [json.loads(line) for line in (folder / "fine" / "metrics.jsonl").read_text().splitlines()]
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
