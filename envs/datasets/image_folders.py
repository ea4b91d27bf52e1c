"""Read a folder of images by class as a data set: FOLDER/CLASS/IMAGE, or FOLDER/train/CLASS/IMAGE and so on.

Classes are the names of the folders, in natural order ("2" before "10"), integers where all are; files are in natural
order too. They are PNG or JPEG, all of one size. Where every picture is gray, inputs are uint8 [N, H, W], otherwise
[N, H, W, 3]; 0 to 255. Parts may have a folder each: train, and test or validation (or valid, val) or both; what has no
folder is split off by the rule of ``splits.py``. Names that begin with a dot or "__" are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from torso.envs.datasets.labelling import class_indices, class_names, natural_order
from torso.envs.datasets.splits import Dataset, Parts, listed
from torso.errors import DatasetError, InputError
from torso.image_spec import ImageSpec
from torso.pictures import Pixels, decode_pixels

_PARTS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
_IMAGES = frozenset({".png", ".jpg", ".jpeg"})
_OTHER_IMAGES = frozenset({".bmp", ".gif", ".tif", ".tiff", ".webp", ".heic", ".ppm", ".pgm"})


def read_image_folder(folder: Path, *, name: str) -> Parts:
    """Read a folder of images; see ``load_dataset``.

    Raises ``DatasetError``: no class, a class without images, an image that cannot be read or has another size.
    """
    parts = _parts(folder)
    files = {part: list(_files(path)) for part, path in parts.items()}  # (class, image)
    names = class_names([label for pairs in files.values() for label, _ in pairs])
    pixels = _read_images([path for pairs in files.values() for _, path in pairs])
    datasets, start = {}, 0
    for part, pairs in files.items():
        labels = class_indices([label for label, _ in pairs], names)
        datasets[part] = _dataset(name, pixels[start : start + len(pairs)], labels, names)
        start += len(pairs)
    return Parts(train=datasets["train"], validation=datasets.get("validation"), test=datasets.get("test"))


def _dataset(name: str, pixels: Pixels, labels: npt.NDArray[np.int64], names: tuple[str | int, ...]) -> Dataset:
    return Dataset(
        name=name,
        inputs=pixels,
        labels=labels,
        label_names=names,
        image=ImageSpec(
            channels=1 if pixels.ndim == 3 else 3,
            height=pixels.shape[1],
            width=pixels.shape[2],
            polarity="none",
            centring="none",
            max_value=255.0,
        ),
    )


def _parts(folder: Path) -> dict[str, Path]:
    """Find each part's folder of classes; the folder itself is train where it holds the classes."""
    inner = _folders(folder)
    if not any(path.name.lower() == "train" and _folders(path) for path in inner):
        return {"train": folder}
    parts: dict[str, Path] = {}
    for path in inner:
        part = _PARTS.get(path.name.lower())
        if part is None or part in parts:
            raise DatasetError(
                f"{folder} must have no folders but train, validation and test, once each, got {path.name!r}"
            )
        parts[part] = path
    return {part: parts[part] for part in ("train", "validation", "test") if part in parts}


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the class and the path of every image."""
    classes = _folders(folder)
    if stray := _images(folder):
        raise DatasetError(
            f"{folder} must have a folder for each class, got images beside them, {stray[0].name!r} first"
        )
    if not classes:
        raise DatasetError(f"{folder} must have a folder for each class with its images, got no folders")
    for path in classes:
        images = _images(path)
        if not images:
            nested = "; it holds further folders, which are not searched" if _folders(path) else ""
            raise DatasetError(f"{path} must have PNG or JPEG images, got none{nested}")
        for image in images:
            yield path.name, image


def _images(folder: Path) -> list[Path]:
    files = [path for path in _visible(folder) if path.is_file()]
    if others := [path.name for path in files if path.suffix.lower() in _OTHER_IMAGES]:
        raise DatasetError(f"{folder} must have images in PNG or JPEG, got {listed(others)}; convert them")
    return [path for path in files if path.suffix.lower() in _IMAGES]


def _folders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]


def _visible(folder: Path) -> list[Path]:
    try:
        paths = [path for path in folder.iterdir() if not path.name.startswith((".", "__"))]
    except OSError as error:
        raise DatasetError(f"{folder} cannot be read: {error.strerror or error}") from error
    return sorted(paths, key=lambda path: natural_order(path.name))


def _read_images(paths: Sequence[Path]) -> Pixels:
    """Read images of one size, 0 to 255: [N, H, W] where all are gray, else [N, H, W, 3].

    Raises ``DatasetError`` naming the file that cannot be read, is too large, or has another size than the first.
    """
    images: list[Pixels] = []
    for path in paths:
        image = _read_image(path)
        if images and image.shape[:2] != images[0].shape[:2]:
            raise DatasetError(
                f"{path} must have {_size(images[0])} pixels like {paths[0]}, got {_size(image)}; bring all images to "
                "one size"
            )
        images.append(image)
    if any(image.ndim == 3 for image in images):
        images = [image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2) for image in images]
    return np.stack(images)


def _read_image(path: Path) -> Pixels:
    """Read one image: [H, W] where it is gray, whatever its file's mode, else [H, W, 3]."""
    try:
        pixels = decode_pixels(path.read_bytes(), field=str(path))  # [H, W, 1 or 3]
    except OSError as error:
        raise DatasetError(f"{path} must be a whole PNG or JPEG, got one that cannot be read ({error})") from error
    except InputError as error:
        raise DatasetError(str(error)) from error
    return np.ascontiguousarray(pixels[..., 0]) if (pixels == pixels[..., :1]).all() else pixels


def _size(image: Pixels) -> str:
    height, width = image.shape[:2]
    return f"{width} x {height}"
