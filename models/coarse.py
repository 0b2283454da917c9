"""The Coarse stream: a temporally pooled X3D, fused with features of the Fine stream.

Coarse-Fine Networks, section 3 and figure 2:

    clip -> stem -> stage 1 -> pool -> [fuse] -> stage 2 -> [fuse] -> stage 3 -> [fuse] -> stage 4 -> [fuse]
         -> conv5 -> head -> [fuse logits] -> unpool -> logits for every frame
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.alignment import gaussian_weights, uniform_weights, window_weights
from models.fusion import LOGIT_LEVEL, FeatureFusion, LogitFusion
from models.lateral import REACH, LateralFusion
from models.pooling import RATIO, GridPool, grid_unpool
from models.x3d import Backbone, Head, initialise, named_variant

POOLS = ("grid", "avg", "max", "stride", "none")
FUSIONS = ("multistage", "per_stage", "lateral", "none")
ALIGNMENTS = ("gaussian", "uniform")


class CoarseNet(nn.Module):
    """Detection logits from a clip and the features of the Fine stream.

    Args:
        pool: "grid" (Grid Pool), "avg", "max", "stride", or "none" (the paper's Fine-Fine).
        fusion: "multistage", "per_stage" (each level into its own stage only), "lateral" (as in SlowFast, see
            `models.lateral`) or "none".
        alignment: weights of the fine frames for "multistage" and "per_stage": "gaussian", or equal weights
            ("uniform").
        gaussian_scale: sigma of the Gaussians, relative to the number of fine frames.
    """

    def __init__(
        self,
        *,
        num_classes: int = 157,
        variant: str = "M",
        pool: str = "grid",
        fusion: str = "multistage",
        alignment: str = "gaussian",
        gaussian_scale: float = 1 / 8,
        bn_splits: int = 1,
        dropout: float = 0.5,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        for name, value, choices in (
            ("pool", pool, POOLS), ("fusion", fusion, FUSIONS), ("alignment", alignment, ALIGNMENTS)
        ):  # fmt: skip
            if value not in choices:
                raise ValueError(f"{name} must be one of {choices}, not {value!r}")
        self.variant, self.pool = named_variant(variant), pool
        self.alignment, self.gaussian_scale = alignment, gaussian_scale
        self.backbone = Backbone(self.variant, bn_splits=bn_splits, checkpoint_activations=checkpoint_activations)
        self.grid_pool = GridPool(self.variant.out[0]) if pool == "grid" else None
        self.fusion: FeatureFusion | LateralFusion | None = None
        self.logit_fusion: LogitFusion | None = None
        if fusion == "lateral":
            self.alignment = "window"
            self.fusion = LateralFusion(self.variant.out)
        elif fusion != "none":
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
            fine_features: {"layer1": (B,24,T',7,7), ..., "conv5"}: `FineNet.features` of the video; unused
                with fusion "none".
            fine_mask: (B,T'), 1 for frames of the video, 0 for padding.
            start: (B,), position of the clip's first frame, in fine frames.

        Returns:
            (B,classes,T_out), evenly spaced over the clip: T_out = 4 ceil(T/4) for "grid", floor(T/4) for "avg"
            and "max", ceil(T/4) for "stride", T for "none".
        """
        stages = self.backbone.stages
        x = stages[0](self.backbone.stem(clip))
        x, frames, grid = self._pool(x)
        if self.fusion is None:
            for stage in stages[1:]:
                x = stage(x)
            logits = self.head(F.relu(self.backbone.conv5(x)))
        elif fine_features is None or fine_mask is None or start is None:
            raise ValueError('fusion requires fine_features, fine_mask and start; or build with fusion="none"')
        else:
            weights = self._weights(frames + start.to(frames).unsqueeze(1), fine_mask)
            context = self.fusion(fine_features, fine_mask, weights)
            x = self.fusion.fuse(0, x, context)
            for depth, stage in enumerate(stages[1:], 1):
                x = self.fusion.fuse(depth, stage(x), context)
            logits = self.head(F.relu(self.backbone.conv5(x)))
            if self.logit_fusion is not None:
                logits = self.logit_fusion.fuse(logits, fine_features[LOGIT_LEVEL], fine_mask, weights)
        return logits if grid is None else grid_unpool(logits, grid)

    def _weights(self, centres: Tensor, fine_mask: Tensor) -> Tensor:
        """Weights (B,T',J) of the fine frames, from the times (B,J) of the coarse frames in fine frames."""
        match self.alignment:
            case "gaussian":
                return gaussian_weights(centres, fine_mask, scale=self.gaussian_scale)
            case "uniform":
                return uniform_weights(centres, fine_mask)
            case _:
                return window_weights(centres, fine_mask, reach=REACH)

    def _pool(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Pooled x (B,C,J,H,W), the times (B,J) of its frames in clip frames, and the grid of Grid Pool."""
        B, _, T = x.shape[:3]
        dtype = torch.promote_types(x.dtype, torch.float32)
        every_frame = torch.arange(T, dtype=dtype, device=x.device).expand(B, T)
        if self.grid_pool is not None:
            x, grid = self.grid_pool(x)
            return x, grid * T, grid
        match self.pool:
            case "avg":
                x = F.avg_pool3d(x, (min(RATIO, T), 1, 1))
            case "max":
                x = F.max_pool3d(x, (min(RATIO, T), 1, 1))
            case "stride":
                x = x[:, :, ::RATIO]
            case "none":
                return x, every_frame, None
        return x, every_frame[:, ::RATIO][:, : x.shape[2]], None
