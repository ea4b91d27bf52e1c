"""Image preprocessing: decode a file, detect its polarity, centre, resize and scale it to an input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from torso.arrays import Array
from torso.errors import InputError
from torso.image_spec import ImageSpec
from torso.nets.specs.inputs import InputSpec
from torso.pictures import MAX_PIXELS, Pixels, decode_pixels


def decode_inputs(
    images: Sequence[bytes], spec: InputSpec, *, fields: Sequence[str], max_pixels: int = MAX_PIXELS
) -> Array:
    """Decode image files to a network's raw inputs: [B, *shape] in the input's dtype. fields: an error's name for each.

    Raises:
        InputError: about the image's field; see `decode_image`, or a network that takes no image files.
    """
    if spec.image is None:
        raise InputError(fields[0], expected=f"tensors of {spec.dtype} {list(spec.shape)}", got="image files")
    rows = []
    for data, field in zip(images, fields, strict=True):
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

    Transparent parts are white, and a photograph is rotated as its Exif orientation says. An image that already has
    the network's size is neither centred nor resized. Returns float32 [height, width, channels] in
    [0, ``spec.max_value``].

    Raises:
        InputError: not a PNG or JPEG, damaged, or of more than ``max_pixels`` pixels (checked before decoding).
    """
    pixels = decode_pixels(data, channels=spec.channels, field=field, max_pixels=max_pixels)
    if spec.polarity not in ("none", _polarity(pixels)):
        pixels = 255 - pixels
    values: NDArray[Any] = pixels if pixels.shape[:2] == (spec.height, spec.width) else _resize_and_centre(pixels, spec)
    return values.astype(np.float32) * np.float32(spec.max_value / 255.0)


def _edge_pixels(pixels: Pixels) -> Pixels:
    """Return the frame's edge pixels, [n, C]; most of them are background."""
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def _polarity(pixels: Pixels) -> str:
    return "dark-on-light" if np.median(_edge_pixels(pixels).mean(axis=1)) > 127.5 else "light-on-dark"


def _resize_and_centre(pixels: Pixels, spec: ImageSpec) -> NDArray[np.float32]:
    """Resize [h, w, C] to the network's size, centred as the training images were."""
    if spec.centring == "none":
        return _resize(pixels, spec.height, spec.width)
    if spec.polarity == "light-on-dark":
        return _centre(pixels, spec)
    return np.float32(255.0) - _centre(255 - pixels, spec)


def _centre(pixels: Pixels, spec: ImageSpec) -> NDArray[np.float32]:
    """Centre the strokes on a background of 0, whatever gray the paper had. pixels: light on dark, [h, w, C]."""
    frame = np.zeros((spec.height, spec.width, spec.channels), dtype=np.float32)
    background = np.median(_edge_pixels(pixels), axis=0).astype(np.float32)  # [C]
    ink = pixels.mean(axis=2, dtype=np.float32) - background.mean()
    rows, columns = np.nonzero(ink > max(32.0, 0.25 * float(ink.max())))
    if rows.size == 0:
        return frame
    box = pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    margin = 20 / 28 if spec.centring == "mass" else 1.0
    ratio = min(spec.height * margin / box.shape[0], spec.width * margin / box.shape[1])
    height = min(spec.height, max(1, round(box.shape[0] * ratio)))
    width = min(spec.width, max(1, round(box.shape[1] * ratio)))
    strokes = np.clip((_resize(box, height, width) - background) * (255.0 / (255.0 - background)), 0.0, 255.0)
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


def _resize(pixels: Pixels, height: int, width: int) -> NDArray[np.float32]:
    """Resize [h, w, C] to [height, width, C], float32, by area averaging where it shrinks."""
    planes = [Image.fromarray(pixels[:, :, c].astype(np.float32)) for c in range(pixels.shape[2])]
    return np.stack([np.asarray(plane.resize((width, height), Image.Resampling.BOX)) for plane in planes], axis=2)
