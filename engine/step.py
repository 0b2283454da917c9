"""One SGD step: gradients with autocast, accumulated over the parts of a batch and averaged over processes.

Learning rates follow section 4.1: ten times higher for the fusion layers, lowered at milestones.
"""

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD
from torch.optim.lr_scheduler import MultiStepLR

from common.signals import requested
from configs.schema import Config, Stage
from datasets.batch import Batch
from engine import distributed
from engine.log import ClipScores
from engine.networks import logits_at_labels
from models.losses import loss_at_labels

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Step:
    """Computes the gradients of a batch and updates the weights.

    Attributes:
        optimizer, scaler: stored in checkpoints in addition to the weights; the scaler is only enabled for fp16.
        scores: mAP of the training clips.
        fine_loss_weight: weight of the Fine stream's loss relative to the Coarse stream's; None if only one is trained.
    """

    def __init__(self, net: nn.Module, config: Config, stage: str, device: torch.device) -> None:
        options, precision = config.fine if stage == "fine" else config.coarse, config.run.precision
        both = stage == "coarse" and config.coarse.fine_source == "network" and not config.coarse.fine_frozen
        self.net, self.device, self.scores = net, device, ClipScores()
        self.accumulate, self.clip_grad = options.accumulate, options.clip_grad
        self.fine_loss_weight = config.coarse.fine_loss_weight if both else None
        self.optimizer = make_optimizer(net, options, fusion_lr_factor=config.coarse.fusion_lr_factor)
        self.autocast = torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32")
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.parallel: DistributedDataParallel | None = None
        if distributed.size() > 1:  # every process keeps its own running statistics
            with warnings.catch_warnings():  # the option's replacement would overwrite them at the start
                warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
                self.parallel = DistributedDataParallel(net, broadcast_buffers=False)

    def gradients(self, batch: Batch) -> tuple[dict[str, float], int]:
        """Compute the gradients of the whole batch, accumulated over its parts.

        Returns the losses over all processes, and the signal for which all of them stop (0: none).
        """
        self.optimizer.zero_grad(set_to_none=True)
        masks = [batch["mask"]] if self.fine_loss_weight is None else [batch["mask"], batch["fine_labels_mask"]]
        mask_totals = [distributed.mean(mask.sum()) for mask in masks]  # averaged over processes, as gradients are
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.device))
        for part, share, is_last in parts_of(batch, self.accumulate):
            with nullcontext() if is_last or self.parallel is None else self.parallel.no_sync():
                logits, losses = self._losses(part, [total * share for total in mask_totals])
                self.scaler.scale(losses["loss"] * share).backward()
            for name, value in losses.items():
                sums[name] = sums[name] + value.detach() * share
            self.scores.add(part, torch.sigmoid(logits.detach()))
        asked = torch.tensor(float(requested()), device=self.device)
        *values, asked_any = distributed.mean(torch.stack([*sums.values(), asked])).tolist()
        return dict(zip(sums, values, strict=True)), distributed.highest(requested())[0] if asked_any else 0

    def _losses(self, part: Batch, mask_totals: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits and losses of a part of a batch; if the Fine stream is trained too, its losses are `fine_NAME`."""
        with self.autocast:
            logits, fine_logits = logits_at_labels(self.parallel or self.net, part)
        losses = loss_at_labels(logits, part["labels"], part["mask"], mask_total=mask_totals[0])
        if self.fine_loss_weight is not None and fine_logits is not None:
            labels, mask = part["fine_labels"], part["fine_labels_mask"]
            fine = loss_at_labels(fine_logits, labels, mask, mask_total=mask_totals[1])
            losses["loss"] = losses["loss"] + self.fine_loss_weight * fine["loss"]
            losses |= {f"fine_{name}": value for name, value in fine.items()}
        return logits, losses

    def update(self) -> None:
        """Update the weights."""
        if self.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.net.parameters(), self.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()


def parts_of(batch: Batch, parts: int) -> Iterator[tuple[Batch, float, bool]]:
    """Split a batch into interleaved parts; yields each part, its share of the samples, and whether it is the last.

    Sample i is in part i mod `parts`, as in a norm with that many groups.
    """
    samples = len(batch["videos"])
    parts = min(parts, samples)
    for number in range(parts):
        part: Batch = _rows(batch, slice(number, None, parts))
        yield part, len(part["videos"]) / samples, number == parts - 1


def _rows(value: Any, rows: slice) -> Any:  # TypedDict values cannot be mapped with their types
    return {key: _rows(item, rows) for key, item in value.items()} if isinstance(value, Mapping) else value[rows]


def make_optimizer(net: nn.Module, stage: Stage, *, fusion_lr_factor: float = 1.0) -> SGD:
    """SGD with momentum and two parameter groups: those with `fusion` in their names, and all others.

    Weight decay applies to all parameters, including norms and biases, as published.
    """
    named = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in named if "fusion" not in name], "lr": stage.lr},
        {"params": [p for name, p in named if "fusion" in name], "lr": stage.lr * fusion_lr_factor},
    ]
    return SGD(
        [group for group in groups if group["params"]],
        lr=stage.lr,
        momentum=stage.momentum,
        weight_decay=stage.weight_decay,
    )


def make_scheduler(optimizer: SGD, stage: Stage) -> MultiStepLR:
    """Multiply the learning rate by `lr_decay` at each milestone; stepped once per round."""
    return MultiStepLR(optimizer, milestones=stage.milestones, gamma=stage.lr_decay)
