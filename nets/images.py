"""An image file's way to an input: decode, find the polarity, centre, resize, scale."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from torso.errors import InputError
from torso.nets.spec import ImageSpec

Pixels = NDArray[np.uint8]  # [h, w, C], 0 to 255

MAX_PIXELS = 16_777_216  # 4096 x 4096, decoded; a PNG of a few kilobytes can hold far more
_FORMATS = ("PNG", "JPEG")
# What Pillow raises on bytes that are not what they claim to be.
_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError),
    *(AssertionError, AttributeError, OverflowError, ZeroDivisionError, struct.error, zlib.error),
)
_ORIENTATION = 0x0112  # the Exif tag; which way to turn a picture for each of its values but 1
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(
    data: bytes, spec: ImageSpec, *, field: str = "image", max_pixels: int = MAX_PIXELS
) -> NDArray[np.float32]:
    """An image file's bytes as the values that ``spec`` describes.

    Transparent parts are white, and a photograph is turned as its Exif orientation says. A picture that already has
    the network's size is neither centred nor resized. Returns float32 [height, width, channels] in
    [0, ``spec.max_value``].

    Raises:
        InputError: not a PNG or JPEG, damaged, or of more than ``max_pixels`` pixels (checked before decoding).
    """
    pixels = _decode(data, spec.channels, field, max_pixels)
    if spec.polarity not in ("none", _polarity(pixels)):
        pixels = 255 - pixels
    values: NDArray[Any] = pixels if pixels.shape[:2] == (spec.height, spec.width) else _fit(pixels, spec)
    return values.astype(np.float32) * np.float32(spec.max_value / 255.0)


def _decode(data: bytes, channels: int, field: str, max_pixels: int) -> Pixels:
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InputError(field, expected="the bytes of a PNG or JPEG", came=type(data).__name__)
    with _silence():
        try:
            image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)  # reads the header only
        except Image.DecompressionBombError as error:
            raise InputError(field, expected=f"at most {max_pixels} decoded pixels", came="far more") from error
        except _UNREADABLE as error:
            raise InputError(field, expected="a PNG or JPEG", came=f"{len(data)} bytes that are neither") from error
        with image:
            width, height = image.size
            if width * height > max_pixels:
                raise InputError(field, expected=f"at most {max_pixels} decoded pixels", came=f"{width} x {height}")
            try:
                image.load()
                return _pixels(_upright(image), channels)
            except _UNREADABLE as error:
                raise InputError(
                    field, expected="a whole PNG or JPEG", came=f"one that cannot be decoded ({error})"
                ) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except _UNREADABLE:  # damaged Exif data says nothing about the picture itself
        return image
    return image if turn is None else image.transpose(turn)


def _pixels(image: Image.Image, channels: int) -> Pixels:
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow's own conversion cuts off at 255
        gray = np.rint(np.asarray(image).astype(np.float32) / 257.0).astype(np.uint8)
        return np.repeat(gray[:, :, np.newaxis], channels, axis=2)
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    pixels: Pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


_silent = threading.Lock()  # warnings' filters belong to the process, not to a thread


@contextmanager
def _silence() -> Iterator[None]:
    """Keep Pillow's warnings from the user: what matters of them is an InputError."""
    with _silent, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _edge(pixels: Pixels) -> Pixels:
    """What the frame's edge shows, [n, C]; most of that is the ground."""
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def _polarity(pixels: Pixels) -> str:
    return "dark-on-light" if np.median(_edge(pixels).mean(axis=1)) > 127.5 else "light-on-dark"


def _fit(pixels: Pixels, spec: ImageSpec) -> NDArray[np.float32]:
    """Resize [h, w, C] to the network's size, centred as it was trained."""
    if spec.centring == "none":
        return _resize(pixels, spec.height, spec.width)
    if spec.polarity == "light-on-dark":
        return _centre(pixels, spec)
    return np.float32(255.0) - _centre(255 - pixels, spec)


def _centre(pixels: Pixels, spec: ImageSpec) -> NDArray[np.float32]:
    """The strokes on a ground of 0, whatever gray the paper had. pixels: light on dark, [h, w, C]."""
    frame = np.zeros((spec.height, spec.width, spec.channels), dtype=np.float32)
    ground = np.median(_edge(pixels), axis=0).astype(np.float32)  # [C]
    ink = pixels.mean(axis=2, dtype=np.float32) - ground.mean()
    rows, columns = np.nonzero(ink > max(32.0, 0.25 * float(ink.max())))
    if rows.size == 0:
        return frame
    box = pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    margin = 20 / 28 if spec.centring == "mass" else 1.0
    ratio = min(spec.height * margin / box.shape[0], spec.width * margin / box.shape[1])
    height = min(spec.height, max(1, round(box.shape[0] * ratio)))
    width = min(spec.width, max(1, round(box.shape[1] * ratio)))
    strokes = np.clip((_resize(box, height, width) - ground) * (255.0 / (255.0 - ground)), 0.0, 255.0)
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
    """Area averaging where it shrinks. [h, w, C] to [height, width, C], float32."""
    planes = [Image.fromarray(pixels[:, :, c].astype(np.float32)) for c in range(pixels.shape[2])]
    return np.stack([np.asarray(plane.resize((width, height), Image.Resampling.BOX)) for plane in planes], axis=2)
