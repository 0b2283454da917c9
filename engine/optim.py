"""SGD with the learning rates of section 4.1: ten times higher for the fusion layers, lowered after given rounds."""

from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import MultiStepLR

from configs.schema import Stage


def make_optimizer(model: nn.Module, stage: Stage, *, fusion_lr_factor: float = 1.0) -> SGD:
    """SGD with momentum over two groups: parameters with `fusion` in their name, and all others.

    Weight decay reaches every parameter, norms and biases included, as published.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
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
    """A factor of `lr_decay` after each milestone; stepped once a round."""
    return MultiStepLR(optimizer, milestones=stage.milestones, gamma=stage.lr_decay)
