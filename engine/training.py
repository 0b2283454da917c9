"""Training or evaluating stage 1 or 3."""

import json
import shutil

import torch

from common.files import writable
from configs.cli import Command
from configs.files import save_yaml
from configs.schema import Config
from datasets.assembly import open_features, read_annotations, train_loader, usable_videos, video_loader
from engine import distributed
from engine.checkpoint import previous
from engine.evaluation import Evaluation, print_metrics
from engine.launch import set_up_process
from engine.loop import Trainer
from engine.networks import build, initialise, load, weights_to_evaluate
from models import cpu_kernels


def run_stage(command: Command, stage: str) -> None:
    """Train stage "fine" (1) or "coarse" (3); with --eval_only, evaluate it."""
    device, config = set_up_process(command), command.config
    folder = writable(config.run_dir / stage, "--run.dir")
    annotations = read_annotations(config)
    tested = usable_videos(config, annotations.subset("testing"), "Test videos")
    from_store = stage == "coarse" and config.coarse.fine_source == "store"
    store, fine_clips = open_features(config) if from_store else None, stage == "coarse" and not from_store
    rank, processes = distributed.rank(), distributed.size()
    loader = video_loader(config, tested, device, store, fine_clips=fine_clips, rank=rank, processes=processes)
    evaluation = Evaluation(config, stage, annotations, loader, device)
    net = build(config, stage).to(device)
    cpu_kernels.install(net)
    if command.eval_only:
        load(net, weights_to_evaluate(command, stage), config, complete=True)
        metrics = evaluation(net)
        if distributed.is_main():
            evaluation.keep(metrics)
            print_metrics(folder, metrics)
        return

    if config.run.compile:
        net.compile()
    options = config.fine if stage == "fine" else config.coarse
    clips = train_loader(
        config, options, annotations, device, store, fine_clips=fine_clips, rank=rank, processes=processes
    )
    trainer = Trainer(config, stage, net=net, loader=clips, evaluation=evaluation, device=device)
    if not begin(trainer, config, stage):
        return
    print(
        f"{stage}: {trainer.batches.batches_per_epoch} steps per epoch, at most {options.epochs} epochs, "
        f"validation every {options.round_epochs} epochs; {sum(p.numel() for p in net.parameters()):,} parameters"
    )
    trainer.run()
    if distributed.is_main():
        evaluation.drop()
        print_metrics(folder, json.loads((folder / "metrics.json").read_text()))


def begin(trainer: Trainer, config: Config, stage: str) -> bool:
    """Resume the run in the folder, or start a new one; False if it is already finished."""
    if config.run.resume == "auto" and (trainer.last.is_file() or previous(trainer.last).is_file()):
        trainer.resume()
        at = trainer.position
        if trainer.finished and not at.validation_due:
            print(f"{trainer.last}: finished after {at.step} steps; to start again, use --run.resume never")
            return False
        print(f"{trainer.last}: continuing at epoch {at.epoch}, step {at.step}")
    else:
        initialise(trainer.net, config, stage)
        if distributed.is_main():
            results = (trainer.best, trainer.best.with_suffix(".safetensors"), trainer.folder / "metrics.json")
            for path in (*results, previous(trainer.last)):  # from an earlier run, whose `last.pt` is replaced
                path.unlink(missing_ok=True)
            shutil.rmtree(trainer.folder / "predictions", ignore_errors=True)
        if distributed.rank():  # process 0 draws the same numbers as a single process
            torch.manual_seed(config.run.seed + distributed.rank())
    if distributed.is_main():
        save_yaml(config, trainer.folder / "config.yaml")
    return True
