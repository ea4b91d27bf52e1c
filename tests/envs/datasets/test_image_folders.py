from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torso.envs import ImageDescription, load_dataset
from torso.envs.datasets.image_folders import list_test_images
from torso.errors import ConfigError, DatasetError
from torso.nets.prediction.image_inputs import decode_image
from torso.nets.specs.inputs import ImageSpec


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape or (4, 3), dtype=np.uint8)


def save(path: Path, array: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of 10 and 3 gray images; number k of a class is full of its class' start + k."""
    for name, count, start in (("cat", 10, 0), ("dog", 3, 100)):
        for k in range(count):
            save(tmp_path / "pets" / name / f"{name}{k + 1}.png", np.full((4, 3), start + k, np.uint8))
    return tmp_path / "pets"


def values(split) -> list[int]:
    return split.inputs.reshape(len(split), -1)[:, 0].tolist()


def test_gray_images_by_class(folder: Path):
    splits = load_dataset(folder)
    assert [values(split) for split in splits] == [[*range(7), 100], [7, 101], [8, 9, 102]]
    assert [split.labels.tolist() for split in splits] == [[0] * 7 + [1], [0, 1], [0, 0, 1]]
    for split in splits:
        assert split.inputs.shape == (len(split), 4, 3)
        assert split.inputs.dtype == np.uint8
        assert (split.name, split.task, split.label_names) == (str(folder), "classification", ("cat", "dog"))
        assert split.image == ImageDescription(
            channels=1, height=4, width=3, polarity="none", centring="none", max_value=255.0
        )
    kept = load_dataset(str(folder), classes=["dog", "cat"])
    assert kept.test.labels.tolist() == [1, 1, 0]


def test_colour_images(folder: Path):
    colour = pixels(0, 4, 3, 3)
    save(folder / "dog" / "dog0.png", colour)  # before dog1
    splits = load_dataset(folder)
    assert splits.train.inputs.shape == (9, 4, 3, 3)
    assert splits.train.image.channels == 3
    np.testing.assert_array_equal(splits.train.inputs[7], colour)
    np.testing.assert_array_equal(splits.train.inputs[1], np.full((4, 3, 3), 1))


def test_gray_pictures_in_colour_files_are_gray(folder: Path):
    save(folder / "cat" / "cat1.png", np.full((4, 3, 3), 77, np.uint8))
    (folder / "cat" / "cat2.png").unlink()
    save(folder / "cat" / "cat2.JPG", np.full((4, 3), 42, np.uint8), quality=100)
    splits = load_dataset(folder)
    assert splits.train.inputs.shape == (8, 4, 3)
    assert values(splits.train)[:2] == [77, 42]


def test_natural_order_of_numbered_classes(tmp_path: Path):
    for name in ("10", "9", "1"):
        for k in (10, 9, 1):
            save(tmp_path / "d" / name / f"{k}.png", np.full((2, 2), 10 * int(name) + k, np.uint8))
    splits = load_dataset(tmp_path / "d")
    assert splits.train.label_names == (1, 9, 10)
    assert [values(split) for split in splits] == [[11, 91, 101], [19, 99, 109], [20, 100, 110]]


@pytest.mark.parametrize("word", ["validation", "valid", "Val"])
def test_parts_in_folders(folder: Path, word: str):
    split_folder = folder.parent / "split"
    for part in ("train", "Test"):
        for name in ("cat", "dog"):
            for k in range(3):
                save(split_folder / part / name / f"{k}.png", np.full((2, 2), len(part) * 10 + k, np.uint8))
    splits = load_dataset(split_folder)
    assert [values(split) for split in splits] == [[50, 52] * 2, [51] * 2, [40, 41, 42] * 2]
    save(split_folder / word / "dog" / "0.png", np.full((2, 2), 7, np.uint8))
    splits = load_dataset(split_folder)
    assert [values(split) for split in splits] == [[50, 51, 52] * 2, [7], [40, 41, 42] * 2]
    assert splits.validation.labels.tolist() == [1]
    (split_folder / "more").mkdir()
    with pytest.raises(
        DatasetError, match="must have no folders but train, validation and test, once each, got 'more'"
    ):
        load_dataset(split_folder)


def test_a_class_may_be_called_train(folder: Path):
    (folder / "dog").rename(folder / "train")
    assert load_dataset(folder).train.label_names == ("cat", "train")


def test_hidden_files_and_texts_are_passed_over(folder: Path):
    (folder / ".cache").mkdir()
    (folder / "__MACOSX").mkdir()
    (folder / "README.txt").write_text("pets")
    (folder / "cat" / ".DS_Store").write_bytes(b"")
    (folder / "cat" / "._cat1.png").write_bytes(b"x")
    (folder / "cat" / "notes.csv").write_text("a")
    assert sum(map(len, load_dataset(folder))) == 13


# no picture is lost silently


@pytest.mark.parametrize(
    "suffix", [".jfif", ".jpe", ".JPE", ".JFIF", ".apng", ".PNG", ".jpg_large", "", ".tif", ".txt"]
)
def test_pngs_and_jpegs_are_read_whatever_their_suffix(folder: Path, suffix: str):
    kind = "JPEG" if suffix.lower() in (".jfif", ".jpe", ".jpg_large") else "PNG"
    path = folder / "dog" / f"dog0{suffix}"
    Image.fromarray(np.full((4, 3), 200, np.uint8)).save(path, kind, **({"quality": 100} if kind == "JPEG" else {}))
    splits = load_dataset(folder)
    assert sum(map(len, splits)) == 14
    assert 200 in values(splits.train)


def test_images_in_sub_folders_belong_to_the_class(folder: Path):
    save(folder / "dog" / "dog2" / "b" / "x.png", np.full((4, 3), 200, np.uint8))
    save(folder / "fox" / "red" / "fox1.png", np.full((4, 3), 201, np.uint8))
    for k in (2, 3):
        save(folder / "fox" / "gray" / f"fox{k}.png", np.full((4, 3), 200 + k, np.uint8))
    splits = load_dataset(folder)
    assert splits.train.label_names == ("cat", "dog", "fox")
    assert sum(map(len, splits)) == 17
    assert values(splits.train)[7:] == [100, 200, 202]  # "dog2" comes before "dog2.png", "gray" before "red"
    save(folder / "dog" / "__MACOSX" / "x.png", np.full((4, 3), 200, np.uint8))
    assert sum(map(len, load_dataset(folder))) == 17


def test_files_that_are_no_images_are_counted(folder: Path, caplog: pytest.LogCaptureFixture):
    assert sum(map(len, load_dataset(folder))) == 13
    assert caplog.records == []
    (folder / "cat" / "more").mkdir()
    (folder / "cat" / "more" / "notes.csv").write_text("a")
    (folder / "cat" / "Thumbs.db").write_bytes(b"\0" * 20)
    assert sum(map(len, load_dataset(folder))) == 13
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert (
        record.getMessage()
        == f"{folder / 'cat'}: files left out, since they are no images: 2 ('Thumbs.db', 'more/notes.csv')"
    )


@pytest.mark.parametrize("suffix", [".bmp", ".GIF", ".webp", ".tif", ".tiff", ".avif", ".heic", ".jp2", ".ppm", ".tga"])
def test_images_of_other_formats_are_named(folder: Path, suffix: str):
    for k in (1, 2):
        (folder / "dog" / "more").mkdir(exist_ok=True)
        (folder / "dog" / "more" / f"{k}{suffix}").write_bytes(b"BM or others")
    with pytest.raises(
        DatasetError, match=rf"more must have images in PNG or JPEG, got '1{suffix}', '2{suffix}'; convert them"
    ):
        load_dataset(folder)


def test_links(folder: Path):
    link = folder / "dog" / "dog0.png"
    link.symlink_to(folder / "missing.png")
    with pytest.raises(DatasetError, match=r"dog0.png must be a file, got a broken link; remove it or mend it"):
        load_dataset(folder)
    link.unlink()
    link.symlink_to(folder / "cat" / "cat1.png")
    assert sum(map(len, load_dataset(folder))) == 14
    link.unlink()
    (folder / "dog" / "loop").symlink_to(folder)
    with pytest.raises(DatasetError, match=r"loop.* must not be a link to a folder that holds it"):
        load_dataset(folder)


def test_what_is_no_file_is_named(folder: Path):
    os.mkfifo(folder / "dog" / "dog0.png")  # to open it would wait for ever
    with pytest.raises(DatasetError, match=r"dog0.png must be a file, got no file; remove it or mend it"):
        load_dataset(folder)


# for a model that is fitted


def names_of(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_all_images_are_tested_on(folder: Path):
    paths, labels, names = list_test_images(folder, ["dog", "cat"])
    assert names_of(paths) == [
        *(f"cat{index}.png" for index in range(1, 11)),
        *(f"dog{index}.png" for index in range(1, 4)),
    ]
    assert labels.tolist() == [1] * 10 + [0] * 3
    assert names == ("dog", "cat")


@pytest.mark.parametrize("part", ["test", "Test"])
def test_a_folder_of_test_images_alone(folder: Path, part: str):
    (folder.parent / "held").mkdir()
    folder.rename(folder.parent / "held" / part)
    _, labels, _ = list_test_images(folder.parent / "held", ["cat", "dog"])
    assert labels.tolist() == [0] * 10 + [1] * 3
    with pytest.raises(DatasetError, match=r"held must have a folder train, got only test"):
        load_dataset(folder.parent / "held")


def test_classes_that_lack_or_are_unknown_are_named(folder: Path, caplog: pytest.LogCaptureFixture):
    save(folder / "fox" / "0.png", pixels(0))
    _, labels, names = list_test_images(folder, ["bee", "dog", "cat"])
    assert labels.tolist() == [2] * 10 + [1] * 3 + [3]
    assert names == ("bee", "dog", "cat", "fox")
    assert [record.getMessage() for record in caplog.records] == [f"{folder}: no images of the classes 'bee'"]
    with pytest.raises(
        DatasetError, match=r"must have a folder of one of the classes 'bee', 'ant', got 'cat', 'dog', 'fox'"
    ):
        list_test_images(folder, ["bee", "ant"])


# as the prediction service sees the same file


def files(folder: Path) -> dict[str, Path]:
    rng = np.random.default_rng(1)
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = Image.fromarray(pixels(2, 5, 7, 3)).quantize(8)
    palette.save(folder / "palette.png")
    Image.fromarray(rng.integers(0, 65536, (5, 7), dtype=np.uint16)).save(folder / "deep.png")
    Image.fromarray(pixels(3, 5, 7) > 99).save(folder / "bits.png")
    Image.fromarray(pixels(9, 5, 7)).convert("CMYK").save(folder / "cmyk.jpg")
    return {
        "gray": save(folder / "gray.png", pixels(4, 5, 7)),
        "colour": save(folder / "colour.png", pixels(5, 5, 7, 3)),
        "transparent": save(folder / "transparent.png", pixels(6, 5, 7, 4)),
        "gray-transparent": save(folder / "la.png", pixels(7, 5, 7, 2)),
        "jpeg": save(folder / "photo.jpeg", pixels(8, 5, 7, 3)),
        "turned": save(folder / "turned.jpg", pixels(8, 7, 5, 3), exif=exif),
        "palette": folder / "palette.png",
        "deep": folder / "deep.png",
        "bits": folder / "bits.png",
        "cmyk": folder / "cmyk.jpg",
    }


@pytest.mark.parametrize(
    "kind",
    ["gray", "colour", "transparent", "gray-transparent", "jpeg", "turned", "palette", "deep", "bits", "cmyk"],
)
def test_a_file_is_the_same_input_in_training_and_in_serving(tmp_path: Path, kind: str):
    path = files(tmp_path)[kind]
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(3):
            (tmp_path / "data" / name / f"{k}{path.suffix}").write_bytes(path.read_bytes())
    train = load_dataset(tmp_path / "data").train
    assert train.inputs.shape[1:3] == (5, 7)
    # One of the two is the picture's own polarity, under which it is not inverted.
    served = [
        decode_image(
            path.read_bytes(), ImageSpec(channels=train.image.channels, height=5, width=7, polarity=polarity)
        ).reshape(train.inputs.shape[1:])
        for polarity in ("light-on-dark", "dark-on-light")
    ]
    assert any(np.array_equal(train.inputs[0], picture) for picture in served)


# mistakes


def test_folders_that_are_no_data_set(folder: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"empty must have a folder for each class with its images, got no folders"):
        load_dataset(tmp_path / "empty")
    (folder / "fox" / "red").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"fox must have PNG or JPEG images, got none; it holds further folders"):
        load_dataset(folder)
    (folder / "fox" / "red").rmdir()
    with pytest.raises(DatasetError, match=r"fox must have PNG or JPEG images, got none$"):
        load_dataset(folder)
    save(folder / "fox" / "fox.bmp", pixels(0))
    with pytest.raises(DatasetError, match=r"fox must have images in PNG or JPEG, got 'fox.bmp'; convert them"):
        load_dataset(folder)
    save(folder / "stray.png", pixels(0))
    with pytest.raises(DatasetError, match=r"got images beside them, 'stray.png' first"):
        load_dataset(folder)


def test_one_class_only_and_small_classes(folder: Path):
    (folder / "dog" / "dog3.png").unlink()
    with pytest.raises(DatasetError, match="got 2 rows of class 'dog'"):
        load_dataset(folder)
    for path in (folder / "dog").iterdir():
        path.unlink()
    (folder / "dog").rmdir()
    with pytest.raises(DatasetError, match="must have at least 2 classes, got only 'cat'"):
        load_dataset(folder)


def test_images_of_another_size_are_named(folder: Path):
    odd = save(folder / "dog" / "dog2.png", pixels(0, 5, 3))
    with pytest.raises(DatasetError) as caught:
        load_dataset(folder)
    first = folder / "cat" / "cat1.png"
    assert str(caught.value) == f"{odd} must have 3 x 4 pixels like {first}, got 3 x 5; bring all images to one size"


def test_images_that_cannot_be_read_are_named(folder: Path):
    path = folder / "dog" / "dog2.png"
    content = save(path, pixels(0, 40, 30, 3)).read_bytes()
    for broken, message in (
        (b"", "a PNG or JPEG, got 0 bytes that are neither"),
        (b"no image", "a PNG or JPEG, got 8 bytes that are neither"),
        (content[:60], "a whole PNG or JPEG, got one that cannot be decoded"),
        (content[: len(content) // 2], "a whole PNG or JPEG, got one that cannot be decoded"),
    ):
        path.write_bytes(broken)
        with pytest.raises(DatasetError, match=rf"dog2.png must be {message}"):
            load_dataset(folder)
    save(path, np.zeros((4097, 4096), np.uint8))
    with pytest.raises(DatasetError, match=r"dog2.png must be at most 16777216 decoded pixels, got 4096 x 4097"):
        load_dataset(folder)


def test_a_bomb_is_not_decoded(folder: Path):
    path = save(folder / "dog" / "dog2.png", pixels(0))
    content = bytearray(path.read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2  # the header's width and height
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"dog2.png must be at most 16777216 decoded pixels, got far more"):
        load_dataset(folder)


def test_there_is_nothing_to_predict(folder: Path):
    with pytest.raises(
        ConfigError,
        match=r"task must be 'classification' for .*, a folder of images by class, got 'regression'; leave task out",
    ):
        load_dataset(folder, task="regression")
