"""The training loop, the same for both stages (Coarse-Fine Networks, section 4.1).

    rounds -> epochs -> optimizer steps (engine.step); a validation (engine.evaluation) after each round

With several processes (engine.distributed), each runs this on its share of every batch, and all stop together.
"""

import copy
import math
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from common.errors import InputError
from common.progress import progress, report, say
from common.signals import Stopped, is_dead_worker, requested, stop_requests
from configs.schema import Config, changed_settings
from datasets.batch import Batch, EpochBatches, Loader, Preparer, pad, time_lengths
from engine import distributed
from engine.checkpoint import (
    identity,
    read_newest,
    save_checkpoint,
    save_weights,
)
from engine.evaluation import Evaluation, selected_score
from engine.log import Meter, RunLog, percent
from engine.step import Step, make_scheduler
from models import CheckpointError


@dataclass
class Position:
    """The progress of a run: the next batch is `batch` of `epoch`, after `step` optimizer steps.

    `validation_due`: the next thing to do is to validate these weights.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float = -math.inf
    validation_due: bool = False


class Trainer:
    """Trains one stage: epochs, a validation after each round, checkpoints `last.pt` and `best.pt`.

    `checkpoints/`, `metrics.jsonl` and `tensorboard/` are written to the stage's folder of the run.
    """

    def __init__(
        self,
        config: Config,
        stage: str,
        *,
        net: nn.Module,
        loader: Loader,
        evaluation: Evaluation,
        device: torch.device,
    ) -> None:
        self.config, self.options = config, config.fine if stage == "fine" else config.coarse
        self.net, self.loader, self.evaluation, self.device = net, loader, evaluation, device
        assert isinstance(loader.batch_sampler, EpochBatches), "training batches have their own order"
        self.batches = loader.batch_sampler
        self.prepare = Preparer()
        self.step = Step(net, config, stage, device)
        self.scheduler = make_scheduler(self.step.optimizer, self.options)
        self.folder, self.identity = config.run_dir / stage, identity(stage, config)
        self.last, self.best = self.folder / "checkpoints" / "last.pt", self.folder / "checkpoints" / "best.pt"
        self.position = Position()

    @property
    def finished(self) -> bool:
        at, limit = self.position, self.options.max_steps
        return at.epoch >= self.options.epochs or (limit is not None and at.step >= limit)

    def resume(self) -> None:
        """Resume from `last.pt` or, if it is damaged, from the checkpoint before it.

        Options that changed since then are reported, and apply from here on.
        """
        state = read_newest(self.last, stage=self.identity["stage"])
        for line in changed_settings(self.last, state["config"], self.identity["config"], self.identity["stage"]):
            say(line)
        groups = self.step.optimizer.state_dict()["param_groups"]
        try:
            self.net.load_state_dict(distributed.own_share(state["model"], self.net))
            self.step.optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": groups})
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{self.last}: belongs to a differently configured network; use its configuration, another "
                "--run.dir, or --run.resume never"
            ) from error
        for _ in range(state["scheduler"]["last_epoch"]):
            self._lower_rate()
        if state["scaler"] and self.step.scaler.is_enabled():
            self.step.scaler.load_state_dict(state["scaler"])
        self.position = Position(**state["position"])
        if len(state["rng"]) == distributed.size():
            rng = state["rng"][distributed.rank()]
            torch.set_rng_state(rng["cpu"])
            if rng["cuda"] is not None and torch.cuda.is_available():
                torch.cuda.set_rng_state(rng["cuda"])

    def run(self) -> None:
        """Train to the configured end.

        If `max_steps` cuts a round short, it is validated, but the learning rate only changes at the end of a round.

        Raises:
            Stopped: if a signal requested it; the state is saved.
        """
        at = self.position
        self.last.parent.mkdir(parents=True, exist_ok=True)
        with stop_requests():
            log = RunLog(self.folder, step=at.step)
            if at.step == 0:  # replaces the `last.pt` of an earlier run in the same folder
                self._save_last()
            try:
                self._rounds(log)
            except RuntimeError as error:
                if not requested():
                    raise
                if distributed.is_lost_connection(error):  # the launcher stops us and reports it
                    distributed.claim_last_word()
                elif not is_dead_worker(error):  # the signal also ends workers
                    raise
                raise Stopped(requested()) from None

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
        return self.position.batch == 0 and self.position.epoch % self.options.round_epochs == 0

    def _lower_rate(self) -> None:
        """Step the schedule."""
        with warnings.catch_warnings():  # in a resumed run, the optimizer stepped in an earlier process
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            self.scheduler.step()

    def _train_epoch(self, log: RunLog) -> None:
        """Train the rest of an epoch, up to `max_steps`; save `last.pt` after each half."""
        at, total = self.position, self.batches.batches_per_epoch
        self.batches.set_position(at.epoch, at.batch)
        self.net.train()
        half, waiting = Meter(), time.perf_counter()
        title = f"Epoch {at.epoch + 1}/{self.options.epochs}"
        for batch in progress(self.loader, total - at.batch, title):
            if distributed.size() > 1:  # pad all shares to the same length, as in a single process
                batch = pad(batch, *distributed.highest(*time_lengths(batch)))
            batch = self.prepare(batch, self.device)
            begun = time.perf_counter()
            losses, signal = self._take_step(batch)
            at.batch, at.step = at.batch + 1, at.step + 1
            now = time.perf_counter()
            half.add(losses, data=begun - waiting, compute=now - begun)
            waiting = now
            if at.batch in (total // 2, total) or self.finished:
                self._report(log, half)
                half, waiting = Meter(), time.perf_counter()
            if signal:
                self._save_last()
                raise Stopped(signal)
            if at.batch == total // 2:
                self._save_last()
            if self.finished:
                break
        if at.batch >= total:  # greater if the run resumed with larger batches
            at.epoch, at.batch = at.epoch + 1, 0

    def _take_step(self, batch: Batch) -> tuple[dict[str, float], int]:
        """Take one optimizer step; returns the losses over all processes, and the signal to stop for (0: none)."""
        values, signal = self.step.gradients(batch)
        if not all(math.isfinite(value) for value in values.values()):
            videos = [video for share in distributed.gather(batch["videos"]) for video in share]
            raise InputError(
                f"the loss is {values['loss']} at step {self.position.step + 1} (videos {', '.join(videos)}); "
                f"lower the learning rate; {self.last} is the last good checkpoint"
            )
        self.step.update()
        return values, signal

    def _report(self, log: RunLog, half: Meter) -> None:
        """Report training on the console and in the log."""
        epoch, step, lr = self._epochs_done(), self.position.step, self.step.optimizer.param_groups[0]["lr"]
        losses = {name: total / half.steps for name, total in half.losses.items()}
        mAP = self.step.scores.compute()
        report(
            f"epoch {epoch:.1f}/{self.options.epochs}, step {step}: loc {losses['loc_loss']:.4f}, "
            f"cls {losses['cls_loss']:.4f}, total {losses['loss']:.4f}, mAP {percent(mAP)}, lr {lr:g} "
            f"(compute {half.compute_seconds:.1f} s, data wait {half.data_seconds:.1f} s)"
        )
        seconds = {"data_seconds": round(half.data_seconds, 3), "compute_seconds": round(half.compute_seconds, 3)}
        values = {**losses, "mAP": mAP, "steps": half.steps, **seconds, "lr": lr}
        log.write("train", epoch=epoch, step=step, values=values)

    def _epochs_done(self) -> float:
        return round(self.position.epoch + self.position.batch / self.batches.batches_per_epoch, 4)

    def _validate(self, log: RunLog) -> None:
        """Evaluate the current weights, and keep them if they are the best so far."""
        at, epoch = self.position, self._epochs_done()
        state, net = distributed.gathered_state(self.net), self.net
        if distributed.size() > 1:  # evaluate with the running statistics of all processes
            net = copy.deepcopy(net)
            net.load_state_dict(state)
        metrics = self.evaluation(net)
        if distributed.is_main():
            score = selected_score(metrics, self.config.data.kind)
            say(
                f"validation after epoch {epoch:g}, step {at.step}: mAP official {percent(metrics['mAP_official'])}, "
                f"released {percent(metrics['mAP_released'])}, loss {metrics['loss']:.4f}; best is by {percent(score)}"
            )
            log.write("validation", epoch=epoch, step=at.step, values=metrics)
            if score > at.best:
                at.best = score
                self._save(self.best, state, metrics=metrics)
                save_weights(self.best.with_suffix(".safetensors"), state, self.identity)
                self.evaluation.keep(metrics)
        at.best = distributed.gather(at.best)[0]

    def _save_last(self) -> None:
        state, cuda = distributed.gathered_state(self.net), torch.cuda.is_available()
        rng = distributed.gather({"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state() if cuda else None})
        if distributed.is_main():
            self._save(
                self.last,
                state,
                optimizer=self.step.optimizer.state_dict(),
                scheduler=self.scheduler.state_dict(),
                scaler=self.step.scaler.state_dict(),
                rng=rng,
            )
        distributed.barrier()  # no process continues or exits before the file is written

    def _save(self, path: Path, state: Mapping[str, Tensor], **more: object) -> None:
        contents = {**self.identity, "model": state, "position": asdict(self.position), **more}
        save_checkpoint(path, contents, keep_previous=path == self.last)
