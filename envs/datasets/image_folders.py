"""Read a folder of images by class as a data set: FOLDER/CLASS/IMAGE, or FOLDER/train/CLASS/IMAGE and so on.

Classes are the names of the folders, in natural order ("2" before "10"), integers where all are; files are in natural
order too, those of a class's sub-folders among them. They are PNG or JPEG, whatever their suffix, all of one size.
Where every picture is gray, inputs are uint8 [N, H, W], otherwise [N, H, W, 3]; 0 to 255. Parts may have a folder each:
train, and test or validation (or valid, val) or both; what has no folder is split off by the rule of ``splits.py``.

No picture is lost silently: one that cannot be read, or is of another format, is an error; files in a class's folder
that are no pictures are counted in a warning. Names that begin with a dot or "__" are ignored.
"""

from __future__ import annotations

import logging
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
_IMAGES = frozenset({".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif"})
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")  # how PNG and JPEG files begin
_OTHER_IMAGES = frozenset(
    {
        *(".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jxl"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".pcx", ".psd", ".svg"),
    }
)

logger = logging.getLogger(__name__)


def read_image_folder(folder: Path, *, name: str) -> Parts:
    """Read a folder of images; see ``load_dataset``.

    Raises ``DatasetError``: no class, a class without images, an image that cannot be read or has another size.
    """
    parts = _parts(folder)
    if "train" not in parts:
        raise DatasetError(f"{folder} must have a folder train, got only {', '.join(parts)}")
    files = {part: list(_files(path)) for part, path in parts.items()}  # (class, image)
    names = class_names([label for pairs in files.values() for label, _ in pairs])
    pixels = _read_images([path for pairs in files.values() for _, path in pairs])
    datasets, start = {}, 0
    for part, pairs in files.items():
        labels = class_indices([label for label, _ in pairs], names)
        datasets[part] = _dataset(name, pixels[start : start + len(pairs)], labels, names)
        start += len(pairs)
    return Parts(train=datasets["train"], validation=datasets.get("validation"), test=datasets.get("test"))


def list_test_images(folder: Path, labels: Sequence[str]) -> tuple[list[Path], npt.NDArray[np.int64], tuple[str, ...]]:
    """List the images to test a fitted model on: those of the part test or, where there is none, all of the folder.

    Returns their paths, their classes as indices [N] int64, and the names of the classes: ``labels``, then those that
    are not among them. The folder may lack classes; a warning says so.

    Raises ``DatasetError``: none of the classes is there, or as `read_image_folder`.
    """
    parts = _parts(folder)
    if not parts.keys() & {"test", "train"}:
        raise DatasetError(f"{folder} must have a folder test or train, got only {', '.join(parts)}")
    files = list(_files(parts.get("test", parts.get("train", folder))))
    found = class_names([label for label, _ in files])
    if not set(map(str, found)) & set(labels):
        raise DatasetError(f"{folder} must have a folder of one of the classes {listed(labels)}, got {listed(found)}")
    if missing := [label for label in labels if label not in set(map(str, found))]:
        logger.warning("%s: no images of the classes %s", folder, listed(missing))
    names = (*labels, *(str(name) for name in found if str(name) not in labels))
    return [path for _, path in files], class_indices([label for label, _ in files], names), names


def read_file(path: Path) -> bytes:
    """Read an image file's bytes; raises ``DatasetError`` where that fails."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} must be a whole PNG or JPEG, got one that cannot be read ({error})") from error


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
    has_train = any(path.name.lower() == "train" and _folders(path) for path in inner)
    only_parts = bool(inner) and all(path.name.lower() in _PARTS and _folders(path) for path in inner)
    if not has_train and not only_parts:
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
    if stray := [path for path in _visible(folder) if not path.is_dir() and _is_image(path)]:
        raise DatasetError(
            f"{folder} must have a folder for each class, got images beside them, {stray[0].name!r} first"
        )
    classes = _folders(folder)
    if not classes:
        raise DatasetError(f"{folder} must have a folder for each class with its images, got no folders")
    for path in classes:
        images: list[Path] = []
        others: list[str] = []
        for file in _walk(path, ()):
            if _is_image(file):
                images.append(file)
            else:
                others.append(str(file.relative_to(path)))
        if others:
            logger.warning("%s: files left out, since they are no images: %d (%s)", path, len(others), listed(others))
        if not images:
            nested = "; it holds further folders, which have none either" if _folders(path) else ""
            raise DatasetError(f"{path} must have PNG or JPEG images, got none{nested}")
        yield from ((path.name, image) for image in images)


def _walk(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """Yield the files of a folder and of its sub-folders, in natural order. above: the folders that it lies in."""
    here = (*above, folder.resolve())
    if here[-1] in above:
        raise DatasetError(f"{folder} must not be a link to a folder that holds it, got one to {here[-1]}")
    for path in _visible(folder):
        if path.is_dir():
            yield from _walk(path, here)
        else:
            yield path


def _is_image(path: Path) -> bool:
    """Whether a file is a PNG or JPEG, by its suffix or, of other suffixes, by its first bytes.

    Raises ``DatasetError`` for an image of another format, and for what is no file, such as a broken link.
    """
    if not path.is_file():
        kind = "a broken link" if path.is_symlink() else "no file"
        raise DatasetError(f"{path} must be a file, got {kind}; remove it or mend it")
    suffix = path.suffix.lower()
    if suffix in _IMAGES:
        return True
    try:
        with path.open("rb") as file:
            start = file.read(len(_SIGNATURES[0]))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from error
    if start.startswith(_SIGNATURES):
        return True
    if suffix in _OTHER_IMAGES:
        raise _other_format_error(path)
    return False


def _other_format_error(path: Path) -> DatasetError:
    others = [file.name for file in _visible(path.parent) if file.suffix.lower() in _OTHER_IMAGES]
    return DatasetError(f"{path.parent} must have images in PNG or JPEG, got {listed(others)}; convert them")


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
        pixels = decode_pixels(read_file(path), field=str(path))  # [H, W, 1 or 3]
    except InputError as error:
        raise DatasetError(str(error)) from error
    return np.ascontiguousarray(pixels[..., 0]) if (pixels == pixels[..., :1]).all() else pixels


def _size(image: Pixels) -> str:
    height, width = image.shape[:2]
    return f"{width} x {height}"
