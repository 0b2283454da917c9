"""The training loop, the same for both stages (Coarse-Fine Networks, section 4.1).

The step (engine.step), the data and the metrics arrive as arguments:

    loader -> batches; loader.batch_sampler.set_position(epoch, batch) says where it continues
    prepare(batch, device) -> the batch on the device, ready for the step

With several processes (engine.distributed) each runs this on its share of every batch, and all stop together.
"""

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from signal import SIGCHLD
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from common.errors import InputError
from common.progress import progress, say
from common.signals import Stopped, deferred, requested, stop_requests
from configs.changes import changed_settings
from configs.schema import Stage
from engine import distributed
from engine.checkpoint import (
    CheckpointError,
    random_state,
    read_newest,
    save_checkpoint,
    save_weights,
    set_random_state,
)
from engine.evaluation import Batch, Prepare
from engine.log import RunLog, percent
from engine.meter import Meter
from engine.step import Step


class NonFiniteLossError(InputError):
    """Training diverged: the message names step (from 1) and videos. The last checkpoint is untouched."""


@dataclass
class Position:
    """How far a run has come: the next batch is number `batch` of `epoch`; `step` optimizer steps are done.

    `validation_due`: what comes next is the validation of these weights.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float = -math.inf
    validation_due: bool = False


class Trainer:
    """Trains one stage: epochs, a validation after each round, checkpoints `last.pt` and `best.pt`.

    Args:
        step: how a batch changes the weights; its scores are what the console reports as the mAP of training clips.
        folder: of the stage; `checkpoints/`, `metrics.jsonl` and `tensorboard/` are written there.
        validate: model -> metrics, with the value to select by under "selection".
        keep: called with the metrics of a validation that is the best so far, once `best.pt` is written.
        identity: what goes into every checkpoint beside the weights, "stage" and "config" among it.
    """

    def __init__(
        self,
        *,
        step: Step,
        scheduler: LRScheduler,
        loader: Iterable[Batch],
        prepare: Prepare,
        validate: Callable[[nn.Module], dict[str, Any]],
        keep: Callable[[Mapping[str, Any]], None],
        stage: Stage,
        folder: Path,
        identity: Mapping[str, Any],
        device: torch.device,
    ) -> None:
        self.step, self.model, self.optimizer, self.scheduler = step, step.model, step.optimizer, scheduler
        self.loader, self.prepare, self.validate = loader, prepare, validate
        self.keep = keep
        self.stage, self.folder, self.identity, self.device = stage, folder, identity, device
        self.position = Position()

    @property
    def last(self) -> Path:
        return self.folder / "checkpoints" / "last.pt"

    @property
    def best(self) -> Path:
        return self.folder / "checkpoints" / "best.pt"

    @property
    def finished(self) -> bool:
        at = self.position
        return at.epoch >= self.stage.epochs or (self.stage.max_steps is not None and at.step >= self.stage.max_steps)

    def resume(self) -> None:
        """Continue where `last.pt` was written or, where that is damaged, the checkpoint before it.

        Options that have changed since are said, and hold from here on.
        """
        state, warning = read_newest(self.last, stage=self.identity["stage"])
        if warning:
            say(warning)
        for line in changed_settings(self.last, state["config"], self.identity["config"], self.identity["stage"]):
            say(line)
        groups = self.optimizer.state_dict()["param_groups"]
        try:
            self.model.load_state_dict(distributed.own_share(state["model"], self.model))
            self.optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": groups})
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{self.last}: of a network that is configured otherwise; use its configuration, another --run.dir, "
                "or --run.resume never"
            ) from error
        for _ in range(state["scheduler"]["last_epoch"]):
            self._lower_rate()
        if state["scaler"] and self.step.scaler.is_enabled():
            self.step.scaler.load_state_dict(state["scaler"])
        self.position = Position(**state["position"])
        if len(state["rng"]) == distributed.size():
            set_random_state(state["rng"][distributed.rank()])

    def run(self) -> None:
        """Train until the configured end.

        A limit of steps may cut a round short: it is validated then, but the learning rate waits for the round's end.

        Raises:
            Stopped: when a signal asked for it; the state is saved.
        """
        at = self.position
        self.last.parent.mkdir(parents=True, exist_ok=True)
        with stop_requests(), RunLog(self.folder, step=at.step) as log:
            if at.step == 0:  # from here on, `last.pt` is of this run and not of an earlier one in the same folder
                self._save_last()
            try:
                self._rounds(log)
            except RuntimeError as error:
                if requested() and str(error).startswith("DataLoader worker"):  # it died of the same request
                    raise Stopped(requested()) from None
                if requested() and distributed.is_lost_connection(error):  # the launcher ends us for another's end
                    distributed.leave_the_last_word()
                    raise Stopped(requested()) from None
                raise

    def _rounds(self, log: RunLog) -> None:
        at = self.position
        while at.validation_due or not self.finished:
            if not at.validation_due:
                self._train_epoch(log)
                at.validation_due = self.finished or self._round_is_over()
                self._save_last()
            if at.validation_due:
                self._validate(log)
                at.validation_due = False
                if self._round_is_over():
                    self._lower_rate()
                self._save_last()

    def _round_is_over(self) -> bool:
        return self.position.batch == 0 and self.position.epoch % self.stage.round_epochs == 0

    def _lower_rate(self) -> None:
        """One step of the schedule."""
        with warnings.catch_warnings():  # a run that resumes here has taken its steps in an earlier process
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            self.scheduler.step()

    def _train_epoch(self, log: RunLog) -> None:
        """The rest of an epoch, or as much of it as the limit of steps leaves; `last.pt` after each half."""
        at, total = self.position, self.loader.batch_sampler.batches_per_epoch
        self.loader.batch_sampler.set_position(at.epoch, at.batch)
        self.model.train()
        half, waiting = Meter(self.step.scores), time.perf_counter()
        title = f"Epoch {at.epoch + 1}/{self.stage.epochs}"
        for batch in progress(self.loader, total - at.batch, title):
            batch = self.prepare(batch, self.device)
            begun = time.perf_counter()
            losses, signal = self._take_step(batch)
            at.batch, at.step = at.batch + 1, at.step + 1
            now = time.perf_counter()
            half.add(losses, data=begun - waiting, compute=now - begun)
            waiting = now
            if at.batch in (total // 2, total) or self.finished:
                self._report(log, half)
                half, waiting = Meter(self.step.scores), time.perf_counter()
            if signal:
                self._save_last()
                raise Stopped(signal)
            if at.batch == total // 2:
                self._save_last()
            if self.finished:
                break
        if at.batch >= total:  # above, where the run continues with larger batches
            at.epoch, at.batch = at.epoch + 1, 0

    def _take_step(self, batch: Batch) -> tuple[dict[str, float], int]:
        """One optimizer step: the losses of the batch over all processes, and the signal to stop on (0: none)."""
        values, signal = self.step.gradients(batch)
        if not all(math.isfinite(value) for value in values.values()):
            videos = [video for share in distributed.gather(batch["videos"]) for video in share]
            raise NonFiniteLossError(
                f"the loss is {values['loss']} at step {self.position.step + 1} (videos {', '.join(videos)}); "
                f"lower the learning rate; {self.last} is the last good checkpoint"
            )
        self.step.update()
        return values, signal

    def _report(self, log: RunLog, half: Meter) -> None:
        values, epoch, step = half.compute(), self._epochs_done(), self.position.step
        values["lr"] = self.optimizer.param_groups[0]["lr"]
        say(
            f"epoch {epoch:.1f}/{self.stage.epochs}, step {step}: loc {values['loc_loss']:.4f}, "
            f"cls {values['cls_loss']:.4f}, total {values['loss']:.4f}, mAP {percent(values['mAP'])}, "
            f"lr {values['lr']:g} ({values['compute_seconds']:.1f} s computing, "
            f"{values['data_seconds']:.1f} s waiting for data)"
        )
        log.write("train", epoch=epoch, step=step, values=values)

    def _epochs_done(self) -> float:
        return round(self.position.epoch + self.position.batch / self.loader.batch_sampler.batches_per_epoch, 4)

    def _validate(self, log: RunLog) -> None:
        """Metrics of the present weights, which are kept where they are the best so far."""
        at, epoch = self.position, self._epochs_done()
        metrics = self.validate(self._with_all_statistics())
        state = distributed.gathered_state(self.model)
        if distributed.is_main():
            score = metrics.pop("selection")
            say(
                f"validation after epoch {epoch:g}, step {at.step}: mAP official {percent(metrics['mAP_official'])}, "
                f"released {percent(metrics['mAP_released'])}, loss {metrics['loss']:.4f}; best is by {percent(score)}"
            )
            log.write("validation", epoch=epoch, step=at.step, values=metrics)
            if score > at.best:
                at.best = score
                self._save(self.best, state, metrics=metrics)
                save_weights(self.best.with_suffix(".safetensors"), state, self.identity)
                self.keep(metrics)
        at.best = distributed.gather(at.best)[0]

    def _with_all_statistics(self) -> nn.Module:
        """The network with the running statistics of all processes, aggregated."""
        if distributed.size() == 1:
            return self.model
        model = copy.deepcopy(self.model)
        model.load_state_dict(distributed.gathered_state(self.model))
        return model

    def _save_last(self) -> None:
        state, rng = distributed.gathered_state(self.model), distributed.gather(random_state())
        if distributed.is_main():
            self._save(
                self.last,
                state,
                optimizer=self.optimizer.state_dict(),
                scheduler=self.scheduler.state_dict(),
                scaler=self.step.scaler.state_dict(),
                rng=rng,
            )
        distributed.barrier()  # none goes on, or leaves, before it is written

    def _save(self, path: Path, state: Mapping[str, Tensor], **more: Any) -> None:
        contents = {**self.identity, "model": state, "position": asdict(self.position), **more}
        with deferred(SIGCHLD):  # a worker that dies meanwhile does not cost the checkpoint
            save_checkpoint(path, contents, keep_previous=path == self.last)
