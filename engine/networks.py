"""The networks of a configuration: built, run on a batch, given the weights to start from or to be evaluated with."""

from dataclasses import asdict
from pathlib import Path

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.errors import InputError
from configs.cli import Command
from configs.schema import FROM_SCRATCH, KINETICS_WEIGHTS, Config
from datasets.batch import Batch
from engine.checkpoint import Weights, read_weights
from models import CheckpointError, CoarseFineNet, CoarseNet, FineNet
from models.losses import resize_logits
from models.official import load_matching, load_published

Network = FineNet | CoarseNet | CoarseFineNet

# --- building ---------------------------------------------------------------------------------------------------------


def build(config: Config, stage: str) -> Network:
    """The network of stage "fine" (1) or "coarse" (3)."""
    if stage == "fine":
        return build_fine(config)
    if config.coarse.fine_source == "store":
        return build_coarse(config)
    return CoarseFineNet(fine=build_fine(config), coarse=build_coarse(config), fine_frozen=config.coarse.fine_frozen)


def build_fine(config: Config) -> FineNet:
    model = config.model
    return FineNet(
        num_classes=config.data.num_classes,
        variant=model.variant,
        bn_splits=model.bn_splits,
        dropout=model.dropout,
        checkpoint_activations=model.checkpoint_activations,
    )


def build_coarse(config: Config) -> CoarseNet:
    return CoarseNet(num_classes=config.data.num_classes, **asdict(config.model))


# --- running ----------------------------------------------------------------------------------------------------------


def logits_at_labels(net: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """The network's logits (B,C,L) at the labelled frames of a prepared batch.

    Of both streams' network those of the Coarse one, and beside them those (B,C,L') of the Fine one, at the labels of
    its window; else None.
    """
    L = batch["labels"].shape[2]
    kind = net.module if isinstance(net, DistributedDataParallel) else net
    if isinstance(kind, FineNet):
        return resize_logits(net(batch["clip"]), L, align_corners=True), None
    if isinstance(kind, CoarseFineNet):
        coarse, fine = net(batch["clip"], batch["fine_clip"], batch["fine_mask"], batch["start"])
        coarse = resize_logits(coarse, L, align_corners=False)
        return coarse, resize_logits(fine, batch["fine_labels"].shape[2], align_corners=True)
    features = batch.get("fine_features"), batch.get("fine_mask"), batch.get("start")  # None without fusion
    return resize_logits(net(batch["clip"], *features), L, align_corners=False), None


# --- weights ----------------------------------------------------------------------------------------------------------


def initialise(net: nn.Module, config: Config, stage: str) -> None:
    """Starting weights of a training."""
    if path := config.starting_checkpoint(stage):
        load(net, path, config, complete=False)
        return
    print(f"{stage}: starting from random weights")
    if isinstance(net, CoarseFineNet):
        _load_fine_stream(net.fine, config, complete=False)


def weights_to_evaluate(command: Command, stage: str) -> Path:
    """The checkpoint of --eval_only: the one typed as init, else the run's best, else the configured init."""
    config = command.config
    init = (config.fine if stage == "fine" else config.coarse).init
    best = config.run_dir / stage / "checkpoints" / "best.pt"
    configured = init not in (FROM_SCRATCH, KINETICS_WEIGHTS) and not best.is_file()
    typed = init != FROM_SCRATCH and f"{stage}.init" in command.given
    if typed or configured:
        return Path(init)
    if not best.is_file():
        raise InputError(f"{best}: no such checkpoint; train first, or name one with --{stage}.init")
    return best


def load(net: nn.Module, path: Path, config: Config, *, complete: bool) -> None:
    """`load_weights` for a stage's network; of one of both streams, the file may hold the Coarse one alone."""
    weights = read_weights(path)
    if not isinstance(net, CoarseFineNet):
        load_weights(net, weights, complete=complete)
        return
    load_weights(net.coarse, weights, complete=complete)
    if weights.of_stream("fine"):
        load_weights(net.fine, weights, complete=complete)
    else:
        _load_fine_stream(net.fine, config, complete=complete)


def _load_fine_stream(net: FineNet, config: Config, *, complete: bool) -> None:
    """The weights that `coarse.fine_init` names, for the Fine stream of a network of both."""
    path = config.fine_init
    if config.coarse.fine_init == FROM_SCRATCH and not complete:
        print("fine: starting from random weights")
    elif path.is_file():
        load_weights(net, read_weights(path), complete=complete)
    else:
        raise InputError(f"{path}: no such checkpoint of the Fine stream; run train_fine.py or set --coarse.fine_init")


def load_weights(net: nn.Module, weights: Weights, *, complete: bool) -> None:
    """Give a network of one stream its weights, which may be part of a file that holds both.

    Args:
        complete: every weight must come from the file, as for evaluation; otherwise a Fine stream or a Kinetics
            file may start a Coarse stream.
    """
    path, stage = weights.path, "fine" if isinstance(net, FineNet) else "coarse"
    part = weights.of_stream(stage)
    if weights.stage is None:
        report = load_published(net, weights.tensors, path=path)
    elif part or weights.stage == stage:
        report = load_matching(net, part or weights.tensors, path=path)
    elif stage == "coarse":
        report = load_matching(net, weights.tensors, path=path, may_be_fresh=_is_new_in_coarse)
    else:
        raise CheckpointError(f"{path}: of stage {weights.stage}, where a checkpoint of stage {stage} is needed")
    if complete and report.fresh:
        raise CheckpointError(
            f"{path}: holds no {report.fresh[0]} and {len(report.fresh) - 1} others, so it can start a "
            "training but not be evaluated; give a checkpoint of this network"
        )
    fresh = f", {len(report.fresh)} tensors start fresh" if report.fresh else ""
    neutral = f", {len(report.neutral)} that the file does without start neutral" if report.neutral else ""
    left = f", {len(report.left)} of the file not used" if report.left else ""
    print(f"{path}: {len(report.loaded)} tensors loaded{fresh}{neutral}{left}")


def _is_new_in_coarse(name: str) -> bool:
    """Whether a parameter of the Coarse stream has none in the Fine one to start from."""
    return name.startswith(("fusion", "logit_", "grid_"))
