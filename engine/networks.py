"""Networks and their weights, of a configuration: built, initialised for a training, loaded for evaluation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from common.errors import InputError
from configs.cli import Command
from configs.schema import FROM_SCRATCH, KINETICS_WEIGHTS, Config, Stage
from engine.checkpoint import FORMAT, read_weights, verified
from models import CheckpointError, CoarseFineNet, CoarseNet, FineNet, load_official
from models.official import load_matching, read_checkpoint


def build_fine(config: Config) -> FineNet:
    return FineNet(**_network_options(config))


def build_coarse(config: Config) -> CoarseNet:
    model = config.model
    return CoarseNet(
        pool=model.pool,
        fusion=model.fusion,
        alignment=model.alignment,
        gaussian_scale=model.gaussian_scale,
        **_network_options(config),
    )


def build_coarse_fine(config: Config) -> CoarseFineNet:
    return CoarseFineNet(fine=build_fine(config), coarse=build_coarse(config), fine_frozen=config.coarse.fine_frozen)


def _network_options(config: Config) -> dict[str, Any]:
    """What both streams have in common."""
    model = config.model
    return {
        "num_classes": config.data.num_classes,
        "variant": model.variant,
        "bn_splits": model.bn_splits,
        "dropout": model.dropout,
        "checkpoint_activations": model.checkpoint_activations,
    }


def load_streams(net: nn.Module, path: Path, config: Config, *, complete: bool) -> None:
    """`load_weights` for a network of one stream or of both; of both, the file may hold the Coarse one alone."""
    if not isinstance(net, CoarseFineNet):
        load_weights(net, path, complete=complete)
        return
    ours = read_ours(path)
    _load_stream(net.coarse, path, ours, complete=complete)
    if ours is not None and _stream_of_both(ours["model"], "fine"):
        _load_stream(net.fine, path, ours, complete=complete)
    else:
        load_fine_stream(net.fine, config, complete=complete)


def load_fine_stream(net: FineNet, config: Config, *, complete: bool) -> None:
    """The weights that `coarse.fine_init` names, for the Fine stream of a network of both."""
    path = config.fine_init
    if config.coarse.fine_init == FROM_SCRATCH and not complete:
        print("fine: starting from random weights")
    elif path.is_file():
        load_weights(net, path, complete=complete)
    else:
        raise InputError(f"{path}: no such checkpoint of the Fine stream; run train_fine.py or set --coarse.fine_init")


def _stream_of_both(state: Mapping[str, Tensor], stage: str) -> dict[str, Tensor]:
    """One stream's weights by its own names, where the state is of a network of both; else none."""
    return {name.removeprefix(f"{stage}."): x for name, x in state.items() if name.startswith(f"{stage}.")}


def load_weights(net: nn.Module, path: Path, *, complete: bool) -> None:
    """Load a checkpoint of ours, also this stream's part of one that holds both, or a published one.

    Args:
        complete: every weight must come from the file, as for evaluation; otherwise a Fine stream or a Kinetics
            file may start a Coarse stream.
    """
    _load_stream(net, path, read_ours(path), complete=complete)


def _load_stream(net: nn.Module, path: Path, ours: Mapping[str, Any] | None, *, complete: bool) -> None:
    """`load_weights` from what `read_ours` has found."""
    stage = {FineNet: "fine", CoarseNet: "coarse"}[type(net)]
    if ours is None:
        report = load_official(net, path)
    elif part := _stream_of_both(ours["model"], stage):
        report = load_matching(net, part, path=path)
    elif ours["stage"] == stage:
        report = load_matching(net, ours["model"], path=path)
    elif (ours["stage"], stage) == ("fine", "coarse"):
        report = load_matching(
            net, ours["model"], path=path, may_be_fresh=lambda name: name.startswith(("fusion", "logit_", "grid_"))
        )
    else:
        raise CheckpointError(f"{path}: of stage {ours['stage']}, where a checkpoint of stage {stage} is needed")
    if complete and report.fresh:
        raise CheckpointError(
            f"{path}: holds no {report.fresh[0]} and {len(report.fresh) - 1} others, so it can start a training "
            "but not be evaluated; give a checkpoint of this network"
        )
    fresh = f", {len(report.fresh)} tensors start fresh" if report.fresh else ""
    neutral = f", {len(report.neutral)} that the file does without start neutral" if report.neutral else ""
    left = f", {len(report.left)} of the file not used" if report.left else ""
    print(f"{path}: {len(report.loaded)} tensors loaded{fresh}{neutral}{left}")


def read_ours(path: Path) -> dict[str, Any] | None:
    """Stage and weights ("stage", "model") of a file that a training wrote, verified; None for any other file."""
    if path.suffix == ".safetensors":
        return read_weights(path)
    contents = read_checkpoint(path)
    return verified(path, contents) if contents.get("format") == FORMAT else None


def initialise(net: nn.Module, config: Config, name: str) -> None:
    """Starting weights of a training."""
    path = config.starting_checkpoint(name)
    if path is not None:
        load_streams(net, path, config, complete=False)
        return
    print(f"{name}: starting from random weights")
    if isinstance(net, CoarseFineNet):
        load_fine_stream(net.fine, config, complete=False)


def weights_to_evaluate(command: Command, stage: Stage, name: str) -> Path:
    """The checkpoint of --eval_only: the one typed as init, else the run's best, else the configured init."""
    best = command.config.run_dir / name / "checkpoints" / "best.pt"
    configured = stage.init not in (FROM_SCRATCH, KINETICS_WEIGHTS) and not best.is_file()
    typed = stage.init != FROM_SCRATCH and f"{name}.init" in command.given
    if typed or configured:
        return Path(stage.init)
    if not best.is_file():
        raise InputError(f"{best}: no such checkpoint; train first, or name one with --{name}.init")
    return best
