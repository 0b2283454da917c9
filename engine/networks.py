"""Building the networks of a configuration, running them on batches, and loading their weights."""

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

    For a joint network, these are the Coarse stream's, and the second value is the Fine stream's logits (B,C,L') at
    the labels of its window; otherwise it is None.
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
    """Load the initial weights for training."""
    if path := config.starting_checkpoint(stage):
        load(net, path, config, complete=False)
        return
    print(f"{stage}: starting from random weights")
    if isinstance(net, CoarseFineNet):
        _load_fine_stream(net.fine, config, complete=False)


def weights_to_evaluate(command: Command, stage: str) -> Path:
    """The checkpoint for --eval_only: init from the command line, else the run's best.pt, else init from a file."""
    config = command.config
    init = (config.fine if stage == "fine" else config.coarse).init
    best = config.run_dir / stage / "checkpoints" / "best.pt"
    configured = init not in (FROM_SCRATCH, KINETICS_WEIGHTS) and not best.is_file()
    typed = init != FROM_SCRATCH and f"{stage}.init" in command.given
    if typed or configured:
        return Path(init)
    if not best.is_file():
        raise InputError(f"{best}: no such checkpoint; train first, or set --{stage}.init")
    return best


def load(net: nn.Module, path: Path, config: Config, *, complete: bool) -> None:
    """`load_weights` for the network of a stage. For a joint network, the file may contain only the Coarse stream."""
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
    """Load the weights of `coarse.fine_init` into the Fine stream of a joint network."""
    path = config.fine_init
    if config.coarse.fine_init == FROM_SCRATCH and not complete:
        print("fine: starting from random weights")
    elif path.is_file():
        load_weights(net, read_weights(path), complete=complete)
    else:
        raise InputError(f"{path}: no such checkpoint of the Fine stream; run train_fine.py or set --coarse.fine_init")


def load_weights(net: nn.Module, weights: Weights, *, complete: bool) -> None:
    """Load the weights of a single stream, from a file of this stream or of both.

    Args:
        complete: All weights must be in the file, as for evaluation. Otherwise a Fine stream or a Kinetics file may
            initialise a Coarse stream.
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
        raise CheckpointError(f"{path}: a checkpoint of stage {weights.stage}, but stage {stage} is required")
    if complete and report.fresh:
        raise CheckpointError(
            f"{path}: {report.fresh[0]} and {len(report.fresh) - 1} other tensors are missing, so it can initialise "
            "training but cannot be evaluated; use a checkpoint of this network"
        )
    fresh = f", {len(report.fresh)} newly initialised" if report.fresh else ""
    neutral = f", {len(report.neutral)} absent from the file initialised to the identity" if report.neutral else ""
    left = f", {len(report.left)} in the file unused" if report.left else ""
    print(f"{path}: {len(report.loaded)} tensors loaded{fresh}{neutral}{left}")


def _is_new_in_coarse(name: str) -> bool:
    """Whether a parameter of the Coarse stream has no counterpart in the Fine stream."""
    return name.startswith(("fusion", "logit_", "grid_"))
