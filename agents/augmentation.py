"""Training images seen a little differently each time."""

from __future__ import annotations

import torch
from torch import Tensor

from torso.nets.spec import Layout


def shifted(images: Tensor, max_shift_px: int, layout: Layout, generator: torch.Generator) -> Tensor:
    """Move each image by whole pixels, drawn evenly from [-max_shift_px, max_shift_px] in each direction.

    images: [B, H, W], [B, C, H, W] or [B, H, W, C], as ``layout`` says, of any dtype; returns the same. What moves in
    repeats the image's edge. ``generator`` lives on the images' device.
    """
    batch, rows_axis = len(images), 2 if layout == "chw" else 1
    span = 2 * max_shift_px + 1
    shifts = torch.randint(span, (2, batch, 1), generator=generator, device=images.device) - max_shift_px
    height, width = images.shape[rows_axis : rows_axis + 2]
    rows = (torch.arange(height, device=images.device) + shifts[0]).clamp_(0, height - 1)  # [B, H]
    columns = (torch.arange(width, device=images.device) + shifts[1]).clamp_(0, width - 1)  # [B, W]
    sample = torch.arange(batch, device=images.device)[:, None, None]
    if layout == "chw":
        channels_last = images.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]]  # [B, H, W, C]
        return channels_last.permute(0, 3, 1, 2)
    return images[sample, rows[:, :, None], columns[:, None, :]]
