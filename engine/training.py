"""A training stage, 1 or 3: train it, or evaluate it, on what `assemble` builds."""

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from common.errors import InputError
from common.files import writable, write_json
from configs.cli import Command
from configs.files import save_yaml
from configs.schema import Config, Stage
from datasets.annotations import Annotations
from datasets.assembly import find, open_features, read_annotations, train_loader, video_loader
from datasets.batch import Batch, Preparer, pad, prepare, time_lengths
from datasets.joining import WholeVideos, chosen_frames
from engine import distributed
from engine.checkpoint import previous
from engine.evaluation import Criterion, Forward, Prepare, evaluate
from engine.launch import start
from engine.loop import Trainer
from engine.networks import initialise, load_streams, weights_to_evaluate
from engine.optim import make_optimizer, make_scheduler
from engine.step import SecondHead, Step
from eval.charades_localize import read_ground_truth
from eval.detection import DetectionEvaluator
from eval.per_frame import frame_ap, released_frames
from models import cpu_kernels, prepare_for_inference
from models.losses import detection_loss, resize_logits
from models.pooling import sampled_locations

VERSION = "0.1.0"  # of this code, in every checkpoint; as in pyproject.toml

# --- what differs between the two stages ------------------------------------------------------------------------------


def fine_forward(net: nn.Module, batch: Batch) -> Tensor:
    """Logits (B,C,L) of stage 1 at the labelled frames."""
    return resize_logits(net(batch["clip"]), batch["labels"].shape[2], align_corners=True)


def coarse_forward(net: nn.Module, batch: Batch) -> Tensor:
    """Logits (B,C,L) of stage 3 at the labelled frames; without fusion, from the clip alone."""
    fine = (batch.get("fine_features"), batch.get("fine_mask"), batch.get("start"))
    return resize_logits(net(batch["clip"], *fine), batch["labels"].shape[2], align_corners=False)


def both_forward(net: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits of both streams' network at the labelled frames: the Coarse one's (B,C,L), the Fine one's (B,C,L')."""
    coarse, fine = net(batch["clip"], batch["fine_clip"], batch["fine_mask"], batch["start"])
    coarse = resize_logits(coarse, batch["labels"].shape[2], align_corners=False)
    return coarse, resize_logits(fine, batch["fine_labels"].shape[2], align_corners=True)


def coarse_of_both_forward(net: nn.Module, batch: Batch) -> Tensor:
    """Logits (B,C,L) of the Coarse stream, beside which nothing is trained or evaluated."""
    return both_forward(net, batch)[0]


def padded_alike(prepare: Prepare) -> Prepare:
    """`prepare`, with the processes' shares of a batch padded to one length, as they would be in one process."""

    def prepare_share(batch: Batch, device: torch.device) -> Batch:
        if distributed.size() > 1:
            batch = pad(batch, *distributed.highest(*time_lengths(batch)))
        return prepare(batch, device)

    return prepare_share


# The logits are at the labelled frames already, where `align_corners` has no effect.
CRITERION: Criterion = partial(detection_loss, align_corners=True)


def fine_head(weight: float) -> SecondHead:
    """The Fine stream's head, where both streams are trained."""
    return SecondHead(
        name="fine",
        forward=both_forward,
        labels="fine_labels",
        mask="fine_labels_mask",
        criterion=CRITERION,
        weight=weight,
    )


# --- evaluation -------------------------------------------------------------------------------------------------------


class Evaluation:
    """Evaluates a network of one stage on the test videos: metrics, both prediction files, Grid Pool's frames.

    The files of a pass stand in `latest/` of the stage's folder until `keep` makes them the stage's own, or `drop`
    removes them.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        annotations: Annotations,
        loader: DataLoader,
        forward: Forward,
        device: torch.device,
        *,
        all_frames: bool,
    ) -> None:
        data = config.data
        if data.ground_truth and not Path(data.ground_truth).is_file():
            raise InputError(f"{data.ground_truth}: no such file; --data.ground_truth is the official CSV, or null")
        truth = read_ground_truth(data.ground_truth, data.num_classes) if data.ground_truth else annotations.truth()
        self.evaluator = DetectionEvaluator(
            num_classes=data.num_classes,
            truth=truth,
            min_frames=data.min_frames,
            all_frames=all_frames or config.eval.save_frames,
            save_frames=config.eval.save_frames,
        )
        self.stride, self.loader, self.forward, self.device = data.stride, loader, forward, device
        self.folder, self.latest = folder, folder / "latest"
        self.selected_by = "mAP_official_defined" if data.kind == "charades" else "mAP_frames"
        self.locations: list[Tensor] = []  # of Grid Pool, of the passes that `join` has not seen yet

    def __call__(self, net: nn.Module) -> dict[str, Any]:
        """Metrics of a network, which itself stays as it is; none but in the main process."""
        net = prepare_for_inference(net)
        self.grids: dict[str, list[float]] = defaultdict(list)
        self.whole_videos = WholeVideos(self.stride)
        with sampled_locations(net) as self.locations:
            metrics = evaluate(
                net,
                forward=self.forward,
                criterion=CRITERION,
                loader=self.loader,
                prepare=prepare,
                evaluator=self,
                device=self.device,
                join=self.join,
            )
        if metrics:
            selected_by = metrics[self.selected_by]
            metrics["selection"] = -1.0 if selected_by is None else selected_by
        return metrics

    def join(self, batch: Batch, logits: Tensor) -> Iterable[tuple[Batch, Tensor]]:
        """Whole videos from windows and their logits (B,C,L); keeps Grid Pool's frames on the way."""
        while self.locations:
            passed = self.locations.pop().tolist()
            for video, part, locations in zip(batch["videos"], batch["parts"], passed, strict=True):
                self.grids[video] += chosen_frames(part, locations, self.stride)
        return self.whole_videos(batch, logits)

    def add(self, batch: Batch, probabilities: Tensor) -> None:
        """One batch of equally long whole videos, probabilities (B,C,L)."""
        for i, video in enumerate(batch["videos"]):
            self.evaluator.add(
                video,
                probabilities[i].T.float().cpu().numpy(),
                batch["labels"][i].T.cpu().numpy(),
                num_frames=int(batch["num_frames"][i]),
            )

    def gather(self) -> None:
        """The other processes' videos, into the main one, in an order that does not depend on their number."""
        for videos, grids in distributed.collect((self.evaluator.videos, self.grids)):
            self.evaluator.videos.update(videos)
            self.grids.update(grids)
        self.grids = {video: self.grids[video] for video in sorted(self.grids.keys() & self.evaluator.videos.keys())}
        if not distributed.is_main():
            self.evaluator.videos = {}

    def finish(self) -> dict[str, Any]:
        self.drop()
        metrics = self.evaluator.finish(self.latest)
        if self.grids:
            write_json(self.latest / "predictions" / "grid.json", self.grids)
        return metrics

    def keep(self, metrics: Mapping[str, Any]) -> None:
        """Make the latest results the stage's: `predictions/` and `metrics.json`."""
        kept = self.folder / "predictions"
        kept.mkdir(parents=True, exist_ok=True)
        for file in (self.latest / "predictions").iterdir():
            file.replace(kept / file.name)
        if not self.evaluator.save_frames:
            (kept / "dense.npz").unlink(missing_ok=True)  # of an earlier evaluation, so of other scores
        self.drop()
        write_json(self.folder / "metrics.json", metrics)

    def forget(self) -> None:
        """Remove an earlier run's results: until the first validation this one has none."""
        shutil.rmtree(self.folder / "predictions", ignore_errors=True)
        (self.folder / "metrics.json").unlink(missing_ok=True)

    def drop(self) -> None:
        """Remove the files of the latest pass."""
        shutil.rmtree(self.latest, ignore_errors=True)


class ClipScores:
    """mAP of the training clips since it was last asked, at the frames of rule "released" within each clip."""

    def __init__(self) -> None:
        self.scores: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []

    def add(self, batch: Batch, probabilities: Tensor) -> None:
        lengths = batch["mask"].sum(1).int().tolist()
        for i, length in enumerate(lengths):
            chosen = torch.from_numpy(released_frames(length)).to(probabilities.device)
            self.scores.append(probabilities[i, :, chosen].T.float().cpu().numpy())
            self.labels.append(batch["labels"][i, :, chosen].T.cpu().numpy() > 0)

    def compute(self) -> float | None:
        """The mAP over all processes, in the main one; undefined (None) without clips."""
        shares = distributed.collect((self.scores, self.labels))
        self.scores, self.labels = [], []
        scores, labels = ([clip for share in shares for clip in share[part]] for part in (0, 1))
        return frame_ap(scores, labels)[1] if scores else None


# --- a stage ----------------------------------------------------------------------------------------------------------


def run_stage(
    command: Command,
    name: str,
    *,
    build: Callable[[Config], nn.Module],
    forward: Forward,
    fine_source: Literal["store", "network"] | None = None,
    fusion_lr_factor: float = 1.0,
    second_head: SecondHead | None = None,
) -> None:
    """Train a stage, or with --eval_only evaluate it. `fine_source`: what brings fine features into its batches."""
    device, config = start(command), command.config
    stage: Stage = getattr(config, name)
    folder = writable(config.run_dir / name, "--run.dir")
    annotations = read_annotations(config)
    tested = find(config, annotations.subset("testing"), "Test videos")
    store, fine_clips = open_features(config) if fine_source == "store" else None, fine_source == "network"
    place = {"rank": distributed.rank(), "processes": distributed.size()}
    evaluation = Evaluation(
        config,
        folder,
        annotations,
        video_loader(config, tested, device, store, fine_clips=fine_clips, **place),
        forward,
        device,
        all_frames=name == "fine" or config.data.kind != "charades",  # rule "dense" is MultiTHUMOS's own
    )
    net = build(config).to(device)
    cpu_kernels.install(net)
    if command.eval_only:
        load_streams(net, weights_to_evaluate(command, stage, name), config, complete=True)
        metrics = evaluation(net)
        if distributed.is_main():
            metrics.pop("selection")
            evaluation.keep(metrics)
            print_metrics(folder, metrics)
        return

    if config.run.compile:
        net.compile()
    optimizer = make_optimizer(net, stage, fusion_lr_factor=fusion_lr_factor)
    step = Step(
        model=net,
        forward=forward,
        criterion=CRITERION,
        optimizer=optimizer,
        scores=ClipScores(),
        accumulate=stage.accumulate,
        clip_grad=stage.clip_grad,
        device=device,
        precision=config.run.precision,
        second_head=second_head,
    )
    trainer = Trainer(
        step=step,
        scheduler=make_scheduler(optimizer, stage),
        loader=train_loader(config, stage, annotations, device, store, fine_clips=fine_clips, **place),
        prepare=padded_alike(Preparer()),
        validate=evaluation,
        keep=evaluation.keep,
        stage=stage,
        folder=folder,
        identity=identity(name, config),
        device=device,
    )
    if config.run.resume == "auto" and (trainer.last.is_file() or previous(trainer.last).is_file()):
        trainer.resume()
        if trainer.finished and not trainer.position.validation_due:
            print(f"{trainer.last}: finished after {trainer.position.step} steps; --run.resume never starts again")
            return
        print(f"{trainer.last}: continuing at epoch {trainer.position.epoch}, step {trainer.position.step}")
    else:
        initialise(net, config, name)
        if distributed.is_main():
            for earlier in (trainer.best, trainer.best.with_suffix(".safetensors"), previous(trainer.last)):
                earlier.unlink(missing_ok=True)
            evaluation.forget()
        if distributed.rank():  # the first process draws as a single one would, the others otherwise
            torch.manual_seed(config.run.seed + distributed.rank())
    if distributed.is_main():
        save_yaml(config, folder / "config.yaml")
    print(
        f"{name}: {trainer.loader.batch_sampler.batches_per_epoch} steps an epoch, at most {stage.epochs} epochs, "
        f"validation after every {stage.round_epochs}; {sum(p.numel() for p in net.parameters()):,} parameters"
    )
    trainer.run()
    if distributed.is_main():
        evaluation.drop()
        print_metrics(folder, json.loads((folder / "metrics.json").read_text()))


def identity(name: str, config: Config) -> dict[str, Any]:
    """What a checkpoint says of the run that wrote it."""
    values = config.to_dict()
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return {"stage": name, "config": values, "config_sha256": digest, "version": VERSION}


def print_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Both rules by name, and what they were computed on."""

    def percent(key: str) -> str:
        return "undefined" if metrics.get(key) is None else f"{100 * metrics[key]:.2f}"

    print(f"{folder / 'metrics.json'}:")
    print(f"  mAP, rule official  {percent('mAP_official')}   (wAP {percent('wAP_official')})")
    if metrics["classes_without_positives"]:
        print(
            f"    {len(metrics['classes_without_positives'])} classes have no positives; "
            f"mean over the others {percent('mAP_official_defined')}"
        )
    print(f"  mAP, rule released  {percent('mAP_released')}")
    if "mAP_frames" in metrics:
        print(f"  mAP, rule dense     {percent('mAP_frames')}   (all frames)")
