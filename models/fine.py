"""The Fine stream: X3D on a densely sampled clip, trained in the first of the three stages.

Coarse-Fine Networks, section 3. Its frame-wise logits are also the paper's X3D baseline.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from models.fusion import GRID
from models.x3d import Backbone, Head, initialise, named_variant

TASKS = ("detect", "class")


class FineNet(nn.Module):
    """Frame-wise class logits, and features at five depths for the Coarse stream.

    Args:
        task: "detect" (logits for every frame) or "class" (logits for the clip, as in X3D's training on Kinetics:
            features are also averaged over time before the head).
    """

    def __init__(
        self,
        *,
        num_classes: int = 157,
        variant: str = "M",
        task: str = "detect",
        bn_splits: int = 1,
        dropout: float = 0.5,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        if task not in TASKS:
            raise ValueError(f"task must be one of {TASKS}, not {task!r}")
        self.variant, self.task = named_variant(variant), task
        self.backbone = Backbone(self.variant, bn_splits=bn_splits, checkpoint_activations=checkpoint_activations)
        self.head = Head(self.variant.conv5, self.variant.hidden, num_classes, dropout=dropout)
        initialise(self)

    def _levels(self, clip: Tensor) -> dict[str, Tensor]:
        x = self.backbone.stem(clip)
        levels = {}
        for depth, stage in enumerate(self.backbone.stages, 1):
            levels[f"layer{depth}"] = x = stage(x)
        return {**levels, "conv5": F.relu(self.backbone.conv5(x))}

    def forward(self, clip: Tensor) -> Tensor:
        """Normalised clip (B,3,T,H,W), any T, H and W >= 64 -> logits (B,classes,T), or (B,classes) for "class"."""
        return self._logits(self._levels(clip))

    def features(self, clip: Tensor) -> dict[str, Tensor]:
        """Clip (B,3,T,H,W) -> {"layer1": (B,24,T,7,7), "layer2": 48, "layer3": 96, "layer4": 192, "conv5": 432}.

        Outputs of the four stages and of conv5 (after norm and ReLU), average-pooled to 7x7 cells.
        """
        return _at_grid(self._levels(clip))

    def logits_and_features(self, clip: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits and features in one pass."""
        levels = self._levels(clip)
        return self._logits(levels), _at_grid(levels)

    def _logits(self, levels: dict[str, Tensor]) -> Tensor:
        x = levels["conv5"]
        if self.task == "class":
            return self.head(x.mean(2, keepdim=True)).squeeze(2)
        return self.head(x)


def _at_grid(levels: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: F.adaptive_avg_pool3d(x, (None, GRID, GRID)) for name, x in levels.items()}
