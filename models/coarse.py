"""The Coarse stream: a temporally pooled X3D, fused with the Fine stream's features.

Coarse-Fine Networks, section 3 and figure 2:

    clip -> stem -> stage 1 -> pool -> [fuse] -> stage 2 -> [fuse] -> stage 3 -> [fuse] -> stage 4 -> [fuse]
         -> conv5 -> head -> [fuse logits] -> unpool -> logits for every frame
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.alignment import gaussian_weights
from models.fusion import LOGIT_LEVEL, FeatureFusion, LogitFusion
from models.pooling import RATIO, GridPool, grid_unpool
from models.x3d import Backbone, Head, initialise, named_variant

POOLS = ("grid", "avg", "max", "stride", "none")
FUSIONS = ("multistage", "per_stage", "none")


class CoarseNet(nn.Module):
    """Coarse-Fine detection logits from a clip and the stored features of the Fine stream.

    Args:
        pool: "grid" (Grid Pool), "avg", "max", "stride", or "none" (the paper's Fine-Fine).
        fusion: "multistage", "per_stage" (each level into its own stage only) or "none".
    """

    def __init__(
        self,
        *,
        num_classes: int = 157,
        variant: str = "M",
        pool: str = "grid",
        fusion: str = "multistage",
        bn_splits: int = 1,
        dropout: float = 0.5,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        if pool not in POOLS or fusion not in FUSIONS:
            raise ValueError(f"pool is one of {POOLS} and fusion one of {FUSIONS}, not {pool!r} and {fusion!r}")
        self.variant, self.pool = named_variant(variant), pool
        self.backbone = Backbone(
            self.variant, bn_splits=bn_splits, checkpoint_activations=checkpoint_activations
        )
        self.grid_pool = GridPool(self.variant.out[0]) if pool == "grid" else None
        self.fusion = self.logit_fusion = None
        if fusion != "none":
            self.fusion = FeatureFusion(self.variant.out, per_stage=fusion == "per_stage")
            self.logit_fusion = LogitFusion(self.variant.conv5, num_classes, dropout=dropout)
        self.head = Head(self.variant.conv5, self.variant.hidden, num_classes, dropout=dropout)
        initialise(self)

    def forward(
        self,
        clip: Tensor,
        fine_features: Mapping[str, Tensor] | None = None,
        fine_mask: Tensor | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """Detection logits.

        Args:
            clip: (B,3,T,H,W), normalised, zero where padded.
            fine_features: {"layer1": (B,24,T',7,7), ..., "conv5"}: `FineNet.features` of the video; not used
                with fusion "none".
            fine_mask: (B,T'), 1 for frames of the video, 0 for padding.
            start: (B,), the clip's first frame on the fine axis.

        Returns:
            (B,classes,T_out), evenly spaced over the clip: T_out = 4 ceil(T/4) for "grid", floor(T/4) for "avg"
            and "max", ceil(T/4) for "stride", T for "none".
        """
        if self.fusion is not None and (fine_features is None or fine_mask is None or start is None):
            raise ValueError('fusion needs fine_features, fine_mask and start; build with fusion="none" to do without')
        stages = self.backbone.stages
        x = stages[0](self.backbone.stem(clip))
        x, frames, grid = self._pool(x)
        if self.fusion is None:
            for stage in stages[1:]:
                x = stage(x)
            logits = self.head(F.relu(self.backbone.conv5(x)))
        else:
            weights = gaussian_weights(frames + start.to(frames).unsqueeze(1), fine_mask)
            context = self.fusion(fine_features, fine_mask, weights)
            x = self.fusion.fuse(0, x, context)
            for depth, stage in enumerate(stages[1:], 1):
                x = self.fusion.fuse(depth, stage(x), context)
            logits = self.head(F.relu(self.backbone.conv5(x)))
            logits = self.logit_fusion.fuse(logits, fine_features[LOGIT_LEVEL], fine_mask, weights)
        return logits if grid is None else grid_unpool(logits, grid)

    def _pool(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Pooled x (B,C,J,H,W), the time (B,J) of each of its frames in clip frames, and Grid Pool's grid."""
        B, _, T = x.shape[:3]
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        every_frame = torch.arange(T, dtype=dtype, device=x.device).expand(B, T)
        match self.pool:
            case "grid":
                x, grid = self.grid_pool(x)
                return x, grid * T, grid
            case "avg":
                x = F.avg_pool3d(x, (min(RATIO, T), 1, 1))
            case "max":
                x = F.max_pool3d(x, (min(RATIO, T), 1, 1))
            case "stride":
                x = x[:, :, ::RATIO]
            case "none":
                return x, every_frame, None
        return x, every_frame[:, ::RATIO][:, : x.shape[2]], None
