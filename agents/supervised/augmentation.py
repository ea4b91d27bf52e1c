"""Image augmentation: random shifts, rotations, scalings and elastic deformations of training images."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import torch
from torch import Tensor
from torch.nn import functional

from torso.errors import ConfigError, InputError
from torso.image_spec import Layout

_ELASTIC_SCALE = 1 / 7  # of the shorter side, how far a displacement reaches: Simard et al.'s 4 pixels of 28
_EXACT_IN_FLOAT64 = (torch.float64, torch.int32, torch.int64)  # others are exact in float32


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Bounds of the random changes of training images, drawn for each image; all 0 leaves them as they are.

    The affine changes are drawn evenly between the bounds. Raises ConfigError for one that is out of its range.
    """

    max_shift_px: float = 0.0
    """Moved by up to so many pixels in each direction; alone and whole, by whole pixels."""
    max_rotation_deg: float = 0.0
    """Turned about the centre by up to so many degrees, either way; at most 180."""
    max_scale: float = 0.0
    """0.1: height and width times 0.9 to 1.1, each for itself (Cireşan et al. 2010); below 1."""
    elastic_px: float = 0.0
    """Bent smoothly, by displacements of this deviation in pixels; Simard et al. 2003: 1.4."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError(f"{name} must be at least 0 and finite, got {value}")
        if self.max_rotation_deg > 180:
            raise ConfigError(f"max_rotation_deg must be at most 180, all the way round, got {self.max_rotation_deg}")
        if self.max_scale >= 1:
            raise ConfigError(f"max_scale must be a share of the sides below 1, got {self.max_scale}")

    @property
    def is_identity(self) -> bool:
        """Whether images stay as they are."""
        return not any(astuple(self))


def augmented(images: Tensor, augmentation: Augmentation, layout: Layout, generator: torch.Generator) -> Tensor:
    """Shift, rotate, scale and bend each image by random amounts within the bounds of ``augmentation``.

    images: [B, H, W], [B, C, H, W], [B, H, W, C] or stacks of these, as ``layout`` says, of any dtype; returns the
    same, integers rounded. Pixels are interpolated linearly, and never when whole shifts are all there is. What moves
    in repeats the image's edge. ``generator`` is on the images' device.

    Raises:
        InputError: images that are not of the layout.
        ConfigError: shifts by a whole side or more.
    """
    if augmentation.is_identity:
        return images
    if layout in ("tchw", "thwc"):  # the images of a stack move together
        planes = images if layout == "tchw" else images.permute(0, 1, 4, 2, 3)
        moved = augmented(planes.flatten(1, 2), augmentation, "chw", generator).reshape(planes.shape)
        return moved if layout == "tchw" else moved.permute(0, 1, 3, 4, 2)
    batch, height, width = _batch_and_sides(images, layout)
    if augmentation.max_shift_px >= min(height, width):
        raise ConfigError(
            f"max_shift_px must be less than the images' {height} x {width} pixels, got {augmentation.max_shift_px}"
        )
    shift = int(augmentation.max_shift_px)
    if augmentation == Augmentation(max_shift_px=shift):
        return shifted(images, shift, layout, generator)
    draws = torch.rand((5, batch), generator=generator, device=images.device) * 2 - 1  # [-1, 1)
    displacement = None
    if augmentation.elastic_px:
        displacement = augmentation.elastic_px * smooth_noise(batch, height, width, generator)
    return warped(
        images,
        layout,
        rotation_deg=augmentation.max_rotation_deg * draws[0],
        scale=1 + augmentation.max_scale * draws[1:3].T,
        shift_px=augmentation.max_shift_px * draws[3:5].T,
        displacement_px=displacement,
    )


def shifted(images: Tensor, max_shift_px: int, layout: Layout, generator: torch.Generator) -> Tensor:
    """Shift each image by whole pixels, drawn evenly from [-max_shift_px, max_shift_px] in each direction.

    images: [B, H, W], [B, C, H, W] or [B, H, W, C], as ``layout`` says, of any dtype; returns the same. What moves in
    repeats the image's edge. ``generator`` is on the images' device.
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


def warped(
    images: Tensor,
    layout: Layout,
    *,
    rotation_deg: Tensor,
    scale: Tensor,
    shift_px: Tensor,
    displacement_px: Tensor | None = None,
) -> Tensor:
    """Scale each image, rotate it about its centre, then shift it, in one linear interpolation.

    images: as `augmented` takes them. Pairs are (right, down), which is grid_sample's order. rotation_deg: [B],
    counterclockwise as the image is displayed; scale: [B, 2], what width and height are multiplied by; shift_px: [B,
    2]; displacement_px: [B, 2, H, W], how far from there each pixel is taken, on top. What moves in repeats the edge.
    """
    _, height, width = _batch_and_sides(images, layout)
    precise = torch.float64 if images.dtype in _EXACT_IN_FLOAT64 else torch.float32
    angle = torch.deg2rad(rotation_deg.to(precise))
    # A pixel of the result at p from the centre is taken from rotation @ (p - shift), over scale.
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)  # [B, 2, 2]
    inverse = rotation / scale.to(precise)[:, :, None]
    start = inverse @ shift_px.to(precise)[:, :, None]  # [B, 2, 1]
    right, down = (torch.arange(side, dtype=precise, device=images.device) - (side - 1) / 2 for side in (width, height))
    from_columns = inverse[:, :, :1] * right - start  # [B, 2, W]
    from_rows = inverse[:, :, 1:] * down  # [B, 2, H]
    source = from_columns[:, :, None, :] + from_rows[:, :, :, None]  # [B, 2, H, W] pixels from the centre
    if displacement_px is not None:
        source += displacement_px
    for axis, side in enumerate((width, height)):
        source[:, axis].mul_(2 / side)  # half a side is 1
    return _sample(images, source.permute(0, 2, 3, 1), layout, precise)


def smooth_noise(batch: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Draw smooth random fields [B, 2, H, W] float32 of mean 0 and deviation 1 at every pixel.

    White noise under a Gaussian, as Simard et al. 2003 displace pixels by; the noise is drawn at knots one deviation of
    the Gaussian apart, where white noise at every pixel gives the same fields.
    """
    sigma_px = min(height, width) * _ELASTIC_SCALE

    def interpolation_matrix(side: int) -> Tensor:
        """Weights from knots to pixels, [side, knots], of rows whose squares sum to 1."""
        pixels = torch.arange(side, device=generator.device)
        knots = torch.arange(-3, math.ceil((side - 1) / sigma_px) + 4, device=generator.device) * sigma_px
        weights = torch.exp(-((pixels[:, None] - knots) / sigma_px).square() / 2)
        norms: Tensor = torch.linalg.vector_norm(weights, dim=1, keepdim=True)
        return weights / norms

    rows, columns = interpolation_matrix(height), interpolation_matrix(width)
    shape = (batch, 2, rows.shape[1], columns.shape[1])
    fields: Tensor = rows @ torch.randn(shape, generator=generator, device=generator.device) @ columns.T
    return fields


def _sample(images: Tensor, source: Tensor, layout: Layout, precise: torch.dtype) -> Tensor:
    """Sample the images at ``source`` [B, H, W, 2], in grid_sample's units."""
    planes = images[:, None] if layout == "hw" else images.permute(0, 3, 1, 2) if layout == "hwc" else images
    planes = functional.grid_sample(
        planes.to(precise), source, mode="bilinear", padding_mode="border", align_corners=False
    )  # [B, C, H, W]
    if not images.dtype.is_floating_point:
        planes = planes.round_()
    planes = planes.to(images.dtype)
    return planes[:, 0] if layout == "hw" else planes.permute(0, 2, 3, 1) if layout == "hwc" else planes


def _batch_and_sides(images: Tensor, layout: Layout) -> tuple[int, int, int]:
    if images.dim() != (3 if layout == "hw" else 4):
        axes = "[B, H, W]" if layout == "hw" else "[B, C, H, W]" if layout == "chw" else "[B, H, W, C]"
        raise InputError("images", expected=f"a batch {axes}", got=f"the shape {list(images.shape)}")
    first = 2 if layout == "chw" else 1
    return len(images), images.shape[first], images.shape[first + 1]
