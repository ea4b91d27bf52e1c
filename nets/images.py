"""An image file's way to an input: decode, find the polarity, centre, resize, scale."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

from torso.errors import InputError
from torso.nets.spec import ImageSpec

MAX_PIXELS = 16_777_216  # 4096 x 4096, decoded; a PNG of a few kilobytes can hold far more
_FORMATS = ("PNG", "JPEG")
# What Pillow's PNG and JPEG readers raise on bytes that are not what they claim to be.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error, OverflowError)


def decode_image(data: bytes, spec: ImageSpec, *, field: str = "image", max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """An image file's bytes as the values that ``spec`` describes.

    Returns float32 [height, width, channels] in [0, ``spec.max_value``]. A picture that already has the network's
    size is neither centred nor resized.

    Raises:
        InputError: not a PNG or JPEG, damaged, or of more than ``max_pixels`` pixels (checked before decoding).
    """
    with _open(data, field, max_pixels) as image:
        try:
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                ground = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(ground, upright.convert("RGBA"))
            pixels = np.asarray(upright.convert("L" if spec.channels == 1 else "RGB"), dtype=np.float32)
        except _UNREADABLE as error:
            raise InputError(
                field, expected="a whole PNG or JPEG", came=f"one that cannot be decoded ({error})"
            ) from error
    pixels = pixels.reshape(*pixels.shape[:2], spec.channels)  # [h, w, C]
    if spec.polarity != _polarity(pixels):
        pixels = 255.0 - pixels
    if pixels.shape[:2] != (spec.height, spec.width):
        pixels = _fit(pixels, spec)
    return pixels * np.float32(spec.max_value / 255.0)


def _open(data: bytes, field: str, max_pixels: int) -> Image.Image:
    if not data:
        raise InputError(field, expected="the bytes of a PNG or JPEG", came="0 bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)  # reads the header only
    except Image.DecompressionBombError as error:
        raise InputError(field, expected=f"at most {max_pixels} decoded pixels", came=str(error)) from error
    except _UNREADABLE as error:
        raise InputError(field, expected="a PNG or JPEG", came=f"{len(data)} bytes that are neither") from error
    width, height = image.size
    if width * height > max_pixels:
        raise InputError(field, expected=f"at most {max_pixels} decoded pixels", came=f"{width} x {height}")
    return image


def _polarity(pixels: np.ndarray) -> str:
    """The ground is what most of the frame's edge shows. pixels: [h, w, C] in 0..255."""
    gray = pixels.mean(axis=2)
    edge = np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])
    return "dark-on-light" if np.median(edge) > 127.5 else "light-on-dark"


def _fit(pixels: np.ndarray, spec: ImageSpec) -> np.ndarray:
    """Resize [h, w, C] to the network's size, centred as it was trained."""
    if spec.centring == "none":
        return _resize(pixels, spec.height, spec.width)
    ink = pixels.mean(axis=2)
    if spec.polarity == "dark-on-light":
        ink = 255.0 - ink
    rows, columns = np.nonzero(ink > max(32.0, 0.25 * float(ink.max())))
    if rows.size == 0:  # an empty picture stays one
        return _resize(pixels, spec.height, spec.width)
    box = pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    margin = 20 / 28 if spec.centring == "mass" else 1.0
    ratio = min(spec.height * margin / box.shape[0], spec.width * margin / box.shape[1])
    height = min(spec.height, max(1, round(box.shape[0] * ratio)))
    width = min(spec.width, max(1, round(box.shape[1] * ratio)))
    ground = 0.0 if spec.polarity == "light-on-dark" else 255.0
    frame = np.full((spec.height, spec.width, spec.channels), ground, dtype=np.float32)
    small = _resize(box, height, width)
    top, left = (spec.height - height) // 2, (spec.width - width) // 2
    if spec.centring == "mass":
        weight = np.abs(small.mean(axis=2) - ground)
        total = max(float(weight.sum()), 1.0)
        centre_y = float((weight.sum(axis=1) * np.arange(height)).sum()) / total
        centre_x = float((weight.sum(axis=0) * np.arange(width)).sum()) / total
        top = int(np.clip(round((spec.height - 1) / 2 - centre_y), 0, spec.height - height))
        left = int(np.clip(round((spec.width - 1) / 2 - centre_x), 0, spec.width - width))
    frame[top : top + height, left : left + width] = small
    return frame


def _resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Area averaging where it shrinks. [h, w, C] to [height, width, C], float32."""
    planes = [
        np.asarray(Image.fromarray(pixels[:, :, c]).resize((width, height), Image.Resampling.BOX), dtype=np.float32)
        for c in range(pixels.shape[2])
    ]
    return np.stack(planes, axis=2)
