"""Image files as pixels, as the prediction service decodes them too: upright, transparent parts white, 8 bits."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from torso.errors import DatasetError

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 16_777_216  # of one picture, decoded; what the service takes
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


def read_images(paths: Sequence[Path]) -> Pixels:
    """Pictures of one size, 0 to 255: [N, H, W] where all are gray, else [N, H, W, 3].

    Raises ``DatasetError`` naming the file that cannot be read, is too large, or has another size than the first.
    """
    pictures: list[Pixels] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's: what matters of them is an error here
        for path in paths:
            picture = _read(path)
            if pictures and picture.shape[:2] != pictures[0].shape[:2]:
                raise DatasetError(
                    f"{path}: expected {_size(pictures[0])} pixels like {paths[0]}, got {_size(picture)}; bring all "
                    "images to one size"
                )
            pictures.append(picture)
    if any(picture.ndim == 3 for picture in pictures):
        pictures = [picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2) for picture in pictures]
    return np.stack(pictures)


def _read(path: Path) -> Pixels:
    """[H, W] where the picture is gray, whatever its file's mode, else [H, W, 3]."""
    try:
        with Image.open(path, formats=_FORMATS) as image:  # reads the header only
            if image.width * image.height > MAX_PIXELS:
                raise DatasetError(f"{path}: expected at most {MAX_PIXELS} pixels, got {image.width} x {image.height}")
            image.load()
            pixels = _pixels(_upright(image))
    except Image.DecompressionBombError as error:
        raise DatasetError(f"{path}: expected at most {MAX_PIXELS} pixels, got far more") from error
    except _UNREADABLE as error:
        raise DatasetError(f"{path}: expected a whole PNG or JPEG, got one that cannot be decoded ({error})") from error
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        return np.ascontiguousarray(pixels[..., 0])
    return pixels


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except _UNREADABLE:  # damaged Exif data says nothing about the picture itself
        return image
    return image if turn is None else image.transpose(turn)


def _pixels(image: Image.Image) -> Pixels:
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow's own conversion cuts off at 255
        gray: Pixels = np.rint(np.asarray(image).astype(np.float32) / 257.0).astype(np.uint8)
        return gray
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    pixels: Pixels = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    return pixels


def _size(picture: Pixels) -> str:
    height, width = picture.shape[:2]
    return f"{width} x {height}"
