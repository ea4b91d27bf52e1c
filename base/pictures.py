"""Decode PNG and JPEG files to pixels: size limit before decoding, Exif orientation, ground of transparency, 8 bits."""

from __future__ import annotations

import contextlib
import io
import math
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
_BAND_ROWS = 256  # of an image that is worked on in parts
_SAMPLED_PIXELS = 1 << 22  # of a larger image that are looked at for its ground
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_pixels(
    data: bytes,
    *,
    channels: int | None = None,
    contrast: bool = False,
    field: str = "image",
    max_pixels: int = MAX_PIXELS,
) -> Pixels:
    """Decode an image file's bytes; returns uint8 [h, w, channels].

    channels: 1 (gray) or 3 (red, green, blue); None: 1 where the file is gray, else 3. Transparent parts are white or,
    with ``contrast``, black or white, whichever lets the ink be seen. A photograph is rotated as its Exif orientation
    says, 16 bits a pixel become 8, and of an animation the first picture is taken.

    Raises:
        InputError: about ``field``; not a PNG or JPEG, damaged, or of more than ``max_pixels`` pixels, which is
            checked before decoding.
    """
    with _suppressed_warnings(), _open(data, field, max_pixels) as image:
        try:
            image.load()
            return _pixels(_apply_orientation(image), channels, contrast)
        except _DECODE_ERRORS as error:
            raise InputError(
                field, expected="a whole PNG or JPEG", got=f"one that cannot be decoded ({error})"
            ) from error


def count_pixels(data: bytes, *, field: str = "image", max_pixels: int = MAX_PIXELS) -> int:
    """Count the pixels of an image file by its header, without decoding it.

    Raises:
        InputError: about ``field``; not a PNG or JPEG, or of more than ``max_pixels`` pixels.
    """
    with _suppressed_warnings(), _open(data, field, max_pixels) as image:
        return image.width * image.height


def _open(data: bytes, field: str, max_pixels: int) -> Image.Image:
    """Open an image file's bytes: the header is read, and checked, and no more."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InputError(field, expected="the bytes of a PNG or JPEG", got=type(data).__name__)
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise InputError(field, expected=f"at most {max_pixels} decoded pixels", got="far more") from error
    except _DECODE_ERRORS as error:
        raise InputError(field, expected="a PNG or JPEG", got=f"{len(data)} bytes that are neither") from error
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise InputError(field, expected=f"at most {max_pixels} decoded pixels", got=f"{width} x {height}")
    return image


def _apply_orientation(image: Image.Image) -> Image.Image:
    try:
        transposition = _TRANSPOSITIONS.get(image.getexif().get(_ORIENTATION, 1))
    except _DECODE_ERRORS:  # damaged Exif data does not make the image itself unreadable
        return image
    return image if transposition is None else image.transpose(transposition)


def _pixels(image: Image.Image, channels: int | None, contrast: bool) -> Pixels:
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    is_gray = image.mode in ("1", "L", "LA") if channels is None else channels == 1
    if image.has_transparency_data:
        image = _composite(image.convert("RGBA"), contrast)
    pixels: Pixels = np.asarray(image.convert("L" if is_gray else "RGB"))
    return pixels.reshape(*pixels.shape[:2], 1 if is_gray else 3)


def _composite(image: Image.Image, contrast: bool) -> Image.Image:
    """Lay an RGBA image on its ground, in bands: the whole thrice would be much memory."""
    ground = _contrasting_ground(image) if contrast else "white"
    opaque = Image.new("RGB", image.size)
    for top in range(0, image.height, _BAND_ROWS):
        band = image.crop((0, top, image.width, min(top + _BAND_ROWS, image.height)))
        opaque.paste(Image.alpha_composite(Image.new("RGBA", band.size, ground), band).convert("RGB"), (0, top))
    return opaque


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert 16 bits a pixel, which Pillow's own conversion clips at 255, to 8; one value may be transparent."""
    fine = np.asarray(image)
    gray = Image.fromarray(np.rint(fine.astype(np.float32) / 257.0).astype(np.uint8))
    if isinstance(transparent := image.info.get("transparency"), int):
        gray.putalpha(Image.fromarray(np.where(fine == transparent, 0, 255).astype(np.uint8)))
    return gray


def _contrasting_ground(image: Image.Image) -> str:
    """Choose the ground on which the ink of an RGBA image is seen: black where all of it is light, else white."""
    step = max(1, math.isqrt(image.width * image.height // _SAMPLED_PIXELS))  # some pixels of large images will do
    if step > 1:
        image = image.resize((image.width // step, image.height // step), Image.Resampling.NEAREST)
    alpha = np.asarray(image.getchannel("A"))
    opaque = alpha >= min(200, int(alpha.max()))  # edges may be of any colour
    gray = np.asarray(image.convert("RGB").convert("L"))[opaque]
    return "black" if np.percentile(gray, 1) > 127.5 else "white"


@contextmanager
def _suppressed_warnings() -> Iterator[None]:
    """Suppress Pillow's warnings: those that matter are raised as an InputError.

    Warnings' filters belong to the process, not to a thread: they are replaced from the first to the last of all calls
    that overlap, which run side by side.
    """
    _suppression.begin()
    try:
        yield
    finally:
        _suppression.end()


class _Suppression:
    """Filters that ignore all warnings, for as long as anybody needs them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._filters = contextlib.ExitStack()  # restores those of before

    def begin(self) -> None:
        with self._lock:
            if self._count == 0:
                self._filters.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            self._count += 1

    def end(self) -> None:
        with self._lock:
            self._count -= 1
            if self._count == 0:
                self._filters.close()


_suppression = _Suppression()
