"""Image preprocessing: decode a file, detect its polarity, centre, resize and scale it to an input."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from torso.arrays import Array
from torso.errors import InputError
from torso.image_spec import ImageSpec
from torso.nets.specs.inputs import InputSpec
from torso.pictures import MAX_PIXELS, Pixels, decode_pixels

_LEAST_INK = 32  # of 255, by which strokes stand out from their ground: more than paper's and JPEG's noise
_LEAST_RANGE = 8  # of 255, between the darkest and the lightest pixel of a picture that is not blank
_MASS_MARGIN = 20 / 28  # share of the frame that MNIST's digits fill
_CENTRE_TOLERANCE = 1.5  # the network's pixels by which a training image's strokes may be off the middle
_SIZE_TOLERANCE = 0.23  # share by which they may be larger or smaller than centring makes them
_FORM_TOLERANCE = 0.02  # share by which the frame may be longer or shorter
_LARGE_PIXELS = 1 << 22  # of pictures that are made smaller first: floats of all of theirs would take much memory
_ENOUGH_PIXELS = 1 << 20  # to which they are made smaller
_LEAST_DETAIL = 4  # pixels of theirs that one of the network's has at least
_TRAINING_INK = 192  # of 255; the strongest of a scan of digits or MNIST has at least 223


def decode_inputs(
    images: Sequence[bytes],
    spec: InputSpec,
    *,
    fields: Sequence[str],
    max_pixels: int = MAX_PIXELS,
    before_each: Callable[[], object] | None = None,
) -> Array:
    """Decode image files to a network's raw inputs: [B, *shape] in the input's dtype. fields: an error's name for each.

    before_each: called before each image is decoded; what it raises ends the work.

    Raises:
        InputError: about the image's field; see `decode_image`, or a network that takes no image files.
    """
    if spec.image is None:
        raise InputError(fields[0], expected=f"tensors of {spec.dtype} {list(spec.shape)}", got="image files")
    rows = []
    for data, field in zip(images, fields, strict=True):
        if before_each is not None:
            before_each()
        pixels = decode_image(data, spec.image, field=field, max_pixels=max_pixels)  # [H, W, C]
        if spec.layout in ("chw", "tchw"):
            pixels = pixels.transpose(2, 0, 1)
        pixels = pixels.reshape(spec.shape)
        rows.append(pixels if spec.numpy_dtype.kind == "f" else np.rint(pixels))
    return np.stack(rows).astype(spec.numpy_dtype)


def decode_image(
    data: bytes, spec: ImageSpec, *, field: str = "image", max_pixels: int = MAX_PIXELS
) -> NDArray[np.float32]:
    """Decode an image file's bytes and preprocess them to the values that ``spec`` describes.

    A photograph is rotated as its Exif orientation says. Where ``spec`` looks for strokes (it has a polarity),
    transparent parts are the ground on which they are seen, otherwise white. Strokes are centred, unless they lie in
    the image as in training images: those are returned as they are, and larger ones are only resized.
    Returns float32 [height, width, channels] in [0, ``spec.max_value``].

    Raises:
        InputError: not a PNG or JPEG, damaged, or of more than ``max_pixels`` pixels (checked before decoding); without
            strokes, where ``spec`` looks for some: a blank sheet, one colour.
    """
    if spec.polarity == "none":
        pixels = _reduce(decode_pixels(data, channels=spec.channels, field=field, max_pixels=max_pixels), spec)
        values = _resize(pixels, spec.height, spec.width)
    else:
        # In colour where strokes are sought, of which gray may show nothing.
        channels = None if spec.channels == 1 and spec.centring != "none" else spec.channels
        pixels = decode_pixels(data, channels=channels, contrast=True, field=field, max_pixels=max_pixels)
        pixels = _reduce(pixels, spec)
        values = _light_on_dark(pixels, spec, field)
        if spec.polarity == "dark-on-light":
            values = np.float32(255.0) - values
    return values * np.float32(spec.max_value / 255.0)


def _reduce(pixels: Pixels, spec: ImageSpec) -> Pixels:
    """Make a large picture [h, w, C] smaller, by averages of squares, as far as the network sees no less."""
    height, width = pixels.shape[:2]
    if height * width <= _LARGE_PIXELS:
        return pixels
    finest = min(height // (_LEAST_DETAIL * spec.height), width // (_LEAST_DETAIL * spec.width))
    factor = min(finest, math.isqrt(height * width // _ENOUGH_PIXELS))
    if factor < 2:
        return pixels
    planes = [np.asarray(Image.fromarray(pixels[:, :, c]).reduce(factor)) for c in range(pixels.shape[2])]
    return np.stack(planes, axis=2)


def _light_on_dark(pixels: Pixels, spec: ImageSpec, field: str) -> NDArray[np.float32]:
    """Bring [h, w, C] to the network's size, light strokes on a dark ground, centred as the training images were."""
    if spec.centring == "none":
        if (found := int(np.ptp(pixels, axis=(0, 1)).max())) < _LEAST_RANGE:
            raise _no_strokes_error(field, _LEAST_RANGE, found)
        is_dark_on_light = np.median(_edge_pixels(pixels).mean(axis=1)) > 127.5
        return _resize(255 - pixels if is_dark_on_light else pixels, spec.height, spec.width)
    if pixels.shape[2] > spec.channels:
        pixels = _gray_plane(pixels)
    ground = np.median(_edge_pixels(pixels), axis=0).astype(np.float32)  # [C]
    ink = pixels.mean(axis=2, dtype=np.float32) - ground.mean()
    if np.maximum(-ink - _LEAST_INK, 0.0).sum() > np.maximum(ink - _LEAST_INK, 0.0).sum():
        pixels, ground, ink = 255 - pixels, 255 - ground, -ink
    if (strongest := float(ink.max())) < _LEAST_INK:
        raise _no_strokes_error(field, _LEAST_INK, round(max(strongest, float(-ink.min()))))
    if not ground.any() and strongest >= _TRAINING_INK and _lie_as_in_training(ink, spec):
        return _resize(pixels, spec.height, spec.width)
    return _centre(pixels, ground, ink, spec)


def _no_strokes_error(field: str, least: int, found: int) -> InputError:
    return InputError(
        field,
        expected=f"an image with strokes that differ from their ground by at least {least} of 255",
        got=f"a blank one, which differs by {found} at most",
    )


def _edge_pixels(pixels: Pixels) -> Pixels:
    """Return the frame's edge pixels, [n, C]; most of them are ground."""
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def _gray_plane(pixels: Pixels) -> Pixels:
    """Convert colours [h, w, 3] to gray [h, w, 1]: luma or, where it hides the strokes, the best channel."""
    luma = np.asarray(Image.fromarray(pixels).convert("L"))[:, :, np.newaxis]
    planes = [luma, *(pixels[:, :, c : c + 1] for c in range(3))]
    contrasts = [float(np.abs(plane - np.median(_edge_pixels(plane))).max()) for plane in planes]
    return luma if contrasts[0] >= 2 * _LEAST_INK else planes[int(np.argmax(contrasts))]


def _lie_as_in_training(ink: NDArray[np.float32], spec: ImageSpec) -> bool:
    """Whether strokes [h, w] have the place and the size, in a frame of the network's form, that centring gives them.

    MNIST's have: they fill 18 to 20 of 28 pixels, and their centre of mass is off by at most one.
    """
    scale = np.divide((spec.height, spec.width), ink.shape)  # network's pixels in one of the image's
    rows, columns = np.nonzero(ink >= _LEAST_INK)
    ends = np.array([[rows.min(), rows.max()], [columns.min(), columns.max()]])
    centre, margin = ends.mean(axis=1), 1.0
    if spec.centring == "mass":
        weights = ink[rows, columns]
        centre, margin = np.array([np.average(axis, weights=weights) for axis in (rows, columns)]), _MASS_MARGIN
    off_centre = np.abs(centre - (np.array(ink.shape) - 1) / 2) * scale
    size = ((ends[:, 1] - ends[:, 0] + 1) / ink.shape).max() / margin
    same_form = abs(scale[0] / scale[1] - 1) <= _FORM_TOLERANCE
    return bool(same_form and off_centre.max() <= _CENTRE_TOLERANCE and abs(size - 1) <= _SIZE_TOLERANCE)


def _centre(
    pixels: Pixels, ground: NDArray[np.float32], ink: NDArray[np.float32], spec: ImageSpec
) -> NDArray[np.float32]:
    """Centre the strokes on a ground of 0, whatever gray the paper had, and give the strongest 255.

    pixels: light on dark, [h, w, C]; ground: [C]; ink: what stands out of it, [h, w].
    """
    frame = np.zeros((spec.height, spec.width, spec.channels), dtype=np.float32)
    rows, columns = np.nonzero(ink > max(float(_LEAST_INK), 0.25 * float(ink.max())) * 0.999)
    box = pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    margin = _MASS_MARGIN if spec.centring == "mass" else 1.0
    ratio = min(spec.height * margin / box.shape[0], spec.width * margin / box.shape[1])
    height = min(spec.height, max(1, round(box.shape[0] * ratio)))
    width = min(spec.width, max(1, round(box.shape[1] * ratio)))
    # A channel that is nearly white on the ground has no room for ink.
    above = np.maximum((box - ground) * (255.0 / np.maximum(255.0 - ground, _LEAST_INK)), 0.0)
    strokes = _resize(above * np.float32(255.0 / above.max()), height, width)
    top, left = (spec.height - height) // 2, (spec.width - width) // 2
    if spec.centring == "mass":
        weight = strokes.mean(axis=2)
        total = max(float(weight.sum()), 1.0)
        centre_y = float((weight.sum(axis=1) * np.arange(height)).sum()) / total
        centre_x = float((weight.sum(axis=0) * np.arange(width)).sum()) / total
        top = int(np.clip(round((spec.height - 1) / 2 - centre_y), 0, spec.height - height))
        left = int(np.clip(round((spec.width - 1) / 2 - centre_x), 0, spec.width - width))
    frame[top : top + height, left : left + width] = strokes
    return frame


def _resize(pixels: NDArray[Any], height: int, width: int) -> NDArray[np.float32]:
    """Resize [h, w, C] to [height, width, C], float32, by area averaging where it shrinks."""
    if pixels.shape[:2] == (height, width):
        return pixels.astype(np.float32)
    planes = [Image.fromarray(pixels[:, :, c].astype(np.float32)) for c in range(pixels.shape[2])]
    return np.stack([np.asarray(plane.resize((width, height), Image.Resampling.BOX)) for plane in planes], axis=2)
