"""Both streams in one network, which computes the fine features from frames instead of reading them from a store.

    window of the video (B,3,T',H,W) -> Fine stream -> logits of the window, features at five depths
    clip (B,3,T,H,W) ----------------> Coarse stream, fused with these features -> logits of the clip

Coarse-Fine Networks, figure 2. The published code trains the Coarse stream only on stored features of whole videos.
Squeeze-and-excitation averages over all input frames of the Fine stream, here those of the window. With the Fine stream
in evaluation mode, both ways are equal (up to rounding in the store) if the window is the whole video, as for videos of
up to 128 clip frames in the published setting. For longer videos, they differ slightly.
"""

from contextlib import nullcontext
from typing import Self

import torch
from torch import Tensor, nn

from models.coarse import CoarseNet
from models.fine import FineNet


class CoarseFineNet(nn.Module):
    """A Fine and a Coarse stream, trained together or with the Fine stream frozen.

    Args:
        fine, coarse: The streams, of the same variant; the Coarse stream needs a fusion.
        fine_frozen: Keep the Fine stream in evaluation mode, without gradients.
    """

    def __init__(self, *, fine: FineNet, coarse: CoarseNet, fine_frozen: bool = True) -> None:
        super().__init__()
        if coarse.fusion is None or fine.variant != coarse.variant:
            raise ValueError("both streams must have the same variant, and the Coarse stream needs a fusion")
        self.fine, self.coarse, self.fine_frozen = fine, coarse, fine_frozen
        fine.requires_grad_(not fine_frozen)
        self.train()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.fine.train(mode and not self.fine_frozen)
        return self

    def forward(self, clip: Tensor, fine_clip: Tensor, fine_mask: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Detection logits of the clip and of its window.

        Args:
            clip: (B,3,T,H,W), normalised, zero where padded.
            fine_clip: (B,3,T',H,W), the window for the Fine stream, likewise.
            fine_mask: (B,T'), 1 for frames of the window, 0 for padding.
            start: (B,), position of the clip's first frame in the window.

        Returns:
            Logits of the Coarse stream (B,classes,T_out), see `CoarseNet`, and of the Fine stream (B,classes,T').
        """
        with torch.no_grad() if self.fine_frozen else nullcontext():
            fine_logits, features = self.fine.logits_and_features(fine_clip)
        return self.coarse(clip, features, fine_mask, start), fine_logits
