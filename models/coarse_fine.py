"""Both streams in one network: the Coarse stream is fused with what the Fine stream makes of the frames at once.

    window of the video (B,3,T',H,W) -> Fine stream -> logits of the window, features of five depths
    clip (B,3,T,H,W) ----------------> Coarse stream, fused with these features -> logits of the clip

Coarse-Fine Networks, figure 2. The published code trains the Coarse stream on stored features alone, those of whole
videos. Squeeze-and-excitation averages over all the frames that the Fine stream is shown, here the window's: with the
Fine stream in evaluation mode both ways are equal where the window is the whole video (up to 128 clip frames in the
published setting, and then to the rounding of the store), and differ a little for longer ones.
"""

from contextlib import nullcontext
from typing import Self

import torch
from torch import Tensor, nn

from models.coarse import CoarseNet
from models.fine import FineNet


class CoarseFineNet(nn.Module):
    """A Fine and a Coarse stream, trained together or with the Fine one as it is.

    Args:
        fine, coarse: of one variant; the Coarse stream has a fusion.
        fine_frozen: the Fine stream stays in evaluation mode and gets no gradients.
    """

    def __init__(self, *, fine: FineNet, coarse: CoarseNet, fine_frozen: bool = True) -> None:
        super().__init__()
        if coarse.fusion is None or fine.variant != coarse.variant:
            raise ValueError("both streams are of one variant, and the Coarse one has a fusion")
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
            fine_clip: (B,3,T',H,W), the window that the Fine stream is shown, likewise.
            fine_mask: (B,T'), 1 for frames of the window, 0 for padding.
            start: (B,), the clip's first frame on the axis of the window.

        Returns:
            The Coarse stream's (B,classes,T_out), see `CoarseNet`, and the Fine stream's (B,classes,T').
        """
        with torch.no_grad() if self.fine_frozen else nullcontext():
            fine_logits, features = self.fine.logits_and_features(fine_clip)
        return self.coarse(clip, features, fine_mask, start), fine_logits
