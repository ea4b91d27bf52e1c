"""Decode PNG and JPEG files to pixels: size limit before decoding, Exif orientation, transparency on white, 8 bits."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from torso.errors import InputError

Pixels = NDArray[np.uint8]  # [h, w, C], 0 to 255

MAX_PIXELS = 16_777_216  # 4096 x 4096, decoded; a PNG of a few kilobytes can hold far more
_FORMATS = ("PNG", "JPEG")
# Raised by Pillow on bytes that are not what they claim to be.
_DECODE_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError),
    *(AssertionError, AttributeError, OverflowError, ZeroDivisionError, struct.error, zlib.error),
)
_ORIENTATION = 0x0112  # the Exif tag; below, the transposition for each of its values but 1
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_warnings_lock = threading.Lock()  # warnings' filters belong to the process, not to a thread


def decode_pixels(
    data: bytes, *, channels: int | None = None, field: str = "image", max_pixels: int = MAX_PIXELS
) -> Pixels:
    """Decode an image file's bytes; returns uint8 [h, w, channels].

    channels: 1 (gray) or 3 (red, green, blue); None: 1 where the file is gray, else 3. Transparent parts are white, a
    photograph is rotated as its Exif orientation says, and 16 bits a pixel become 8.

    Raises:
        InputError: about ``field``; not a PNG or JPEG, damaged, or of more than ``max_pixels`` pixels, which is
            checked before decoding.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InputError(field, expected="the bytes of a PNG or JPEG", got=type(data).__name__)
    with _suppressed_warnings():
        try:
            image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)  # reads the header only
        except Image.DecompressionBombError as error:
            raise InputError(field, expected=f"at most {max_pixels} decoded pixels", got="far more") from error
        except _DECODE_ERRORS as error:
            raise InputError(field, expected="a PNG or JPEG", got=f"{len(data)} bytes that are neither") from error
        with image:
            width, height = image.size
            if width * height > max_pixels:
                raise InputError(field, expected=f"at most {max_pixels} decoded pixels", got=f"{width} x {height}")
            try:
                image.load()
                return _pixels(_apply_orientation(image), channels)
            except _DECODE_ERRORS as error:
                raise InputError(
                    field, expected="a whole PNG or JPEG", got=f"one that cannot be decoded ({error})"
                ) from error


def _apply_orientation(image: Image.Image) -> Image.Image:
    try:
        transposition = _TRANSPOSITIONS.get(image.getexif().get(_ORIENTATION, 1))
    except _DECODE_ERRORS:  # damaged Exif data does not make the image itself unreadable
        return image
    return image if transposition is None else image.transpose(transposition)


def _pixels(image: Image.Image, channels: int | None) -> Pixels:
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow's own conversion clips at 255
        gray = np.rint(np.asarray(image).astype(np.float32) / 257.0).astype(np.uint8)
        return np.repeat(gray[:, :, np.newaxis], channels or 1, axis=2)
    if image.has_transparency_data:
        background = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(background, image.convert("RGBA"))
    is_gray = image.mode in ("1", "L") if channels is None else channels == 1
    pixels: Pixels = np.asarray(image.convert("L" if is_gray else "RGB"))
    return pixels.reshape(*pixels.shape[:2], 1 if is_gray else 3)


@contextmanager
def _suppressed_warnings() -> Iterator[None]:
    """Suppress Pillow's warnings: those that matter are raised as an InputError."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
