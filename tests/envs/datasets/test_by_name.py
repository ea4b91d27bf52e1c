from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from torso.envs import Dataset, ImageDescription, Splits, dataset_names, load_dataset
from torso.envs.datasets.download import RemoteFile
from torso.envs.datasets.idx_datasets import FASHION_MNIST, MNIST, IdxDataset, IdxFile
from torso.errors import ConfigError, DatasetError, StorageError

REAL_DATA = os.environ.get("TORSO_DATA", "")
IMAGE = ImageDescription(channels=1, height=4, width=3, polarity="light-on-dark", centring="none", max_value=255.0)


NAMES = "digits, mnist, fashion-mnist, iris, wine, breast-cancer, diabetes, xor, circles, moons, spirals"
USER_PATH = "the path of a FILE.npz, a FILE.csv or a folder of images by class"


def test_known_and_unknown_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert dataset_names() == tuple(NAMES.split(", "))
    with pytest.raises(
        DatasetError, match=rf"unknown data set 'Digit'; known: {NAMES}; or {USER_PATH}; did you mean 'digits'\?$"
    ):
        load_dataset("Digit", tmp_path)
    with pytest.raises(DatasetError, match=rf"unknown data set 'zzz'; known: {NAMES}; or {USER_PATH}$"):
        load_dataset("zzz")
    for path in ("zzz.csv", "zzz.NPZ", "data/zzz"):
        with pytest.raises(
            DatasetError, match=rf"{path}: no such file or folder; pass {USER_PATH}, or one of {NAMES}$"
        ):
            load_dataset(path)
    (tmp_path / "scans.txt").write_text("x")
    with pytest.raises(DatasetError, match=rf"scans.txt must be {USER_PATH}, got another kind of file"):
        load_dataset(Path("scans.txt"))


def test_a_name_goes_before_a_folder_that_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "iris").mkdir()
    assert len(load_dataset("iris").train) == 105
    for path in ("./iris", Path("iris")):
        with pytest.raises(DatasetError, match="iris must have a folder for each class"):
            load_dataset(path)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("iris", {"task": "regression"}, "task must be 'classification' for 'iris', got 'regression'; leave task out"),
        ("diabetes", {"task": "classification"}, "task must be 'regression' for 'diabetes', got 'classification'"),
        (
            "diabetes",
            {"classes": ("0", "1")},
            r"classes must be omitted for diabetes, which has numbers to predict and no classes, got \('0', '1'\)",
        ),
        (
            "wine",
            {"label_column": "label"},
            "label_column must be omitted for 'wine', which has its labels, got 'label'",
        ),
        (
            "moons",
            {"data_dir": Path("d")},
            "data_dir must be omitted for 'moons', which is computed and reads no files, got d",
        ),
        (
            "own.npz",
            {"data_dir": Path("d")},
            "data_dir must be omitted for 'own.npz', which is the data set's own path, got d",
        ),
        (
            "own.npz",
            {"label_column": "y"},
            "label_column must be omitted for 'own.npz', which is no CSV file, got 'y'",
        ),
        ("folder", {"label_column": "y"}, "label_column must be omitted for 'folder', which is no CSV file, got 'y'"),
        (
            "folder",
            {"task": "regression"},
            "task must be 'classification' for 'folder', a folder of images by class, got 'regression'",
        ),
        ("digits", {"classes": "01"}, "classes must be a list of at least 2 names, got the text '01'"),
    ],
)
def test_arguments_that_a_data_set_has_no_use_for(
    name: str, arguments: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    np.savez("own.npz", X=np.zeros((20, 2)), y=np.arange(20) % 2)
    Path("folder").mkdir()
    with pytest.raises(ConfigError, match=message):
        load_dataset(name, **arguments)


def test_what_a_task_may_say_of_a_known_data_set():
    assert load_dataset("iris", task="classification").train.task == "classification"
    assert load_dataset("diabetes", task="regression").train.task == "regression"


# digits


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_dataset("digits")


def test_digits_are_scikit_learns_scans_as_they_come(digits: Splits):
    for split in digits:
        assert split.name == "digits"
        assert split.inputs.dtype == np.uint8
        assert split.inputs.shape == (len(split), 8, 8)
        assert split.labels.dtype == np.int64
        assert split.label_names == tuple(range(10))
        assert split.image == ImageDescription(
            channels=1, height=8, width=8, polarity="light-on-dark", centring="none", max_value=16.0
        )
    assert max(split.inputs.max() for split in digits) == 16
    assert [len(split) for split in digits] == [1266, 178, 353]


def test_digits_are_split_by_the_documented_rule(digits: Splits):
    bunch = load_digits()
    seen: dict[int, int] = defaultdict(int)
    expected: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for row, label in enumerate(bunch.target):
        k = seen[label] % 10
        expected["test" if k in (8, 9) else "validation" if k == 7 else "train"].append(row)
        seen[label] += 1
    for name, rows in expected.items():
        split = getattr(digits, name)
        np.testing.assert_array_equal(split.inputs, bunch.images[rows])
        np.testing.assert_array_equal(split.labels, bunch.target[rows])
    assert sorted(row for rows in expected.values() for row in rows) == list(
        range(1797)
    )  # disjoint, and nothing left out


def test_digits_are_stratified(digits: Splits):
    whole = np.bincount(load_digits().target)
    for split, share in zip(digits, (0.7, 0.1, 0.2), strict=True):
        counts = np.bincount(split.labels, minlength=10)
        assert (np.abs(counts - share * whole) < 2.5).all()  # at most 9 of a class make no full ten


def test_digits_are_the_same_each_time(digits: Splits):
    for first, second in zip(digits, load_dataset("digits"), strict=True):
        np.testing.assert_array_equal(first.inputs, second.inputs)
        np.testing.assert_array_equal(first.labels, second.labels)


def test_two_classes_of_the_digits_are_the_rows_of_all_ten(digits: Splits):
    for whole, part in zip(digits, load_dataset("digits", classes=["7", "1"]), strict=True):
        rows = np.flatnonzero(np.isin(whole.labels, [7, 1]))
        np.testing.assert_array_equal(part.inputs, whole.inputs[rows], strict=True)
        np.testing.assert_array_equal(part.labels, (whole.labels[rows] == 1).astype(np.int64), strict=True)
        assert (part.label_names, part.image, part.name) == ((7, 1), whole.image, "digits")


def test_digits_read_no_files(tmp_path: Path):
    with pytest.raises(
        ConfigError, match="omitted for 'digits', which comes with scikit-learn and reads no files, got"
    ):
        load_dataset("digits", tmp_path)


# a Dataset


def dataset(**changes) -> Dataset:
    fields = {"inputs": np.zeros((3, 4, 3), np.uint8), "labels": np.array([0, 1, 1]), "label_names": ("no", "yes")}
    return Dataset(name="tiny", image=IMAGE, **(fields | changes))


def test_arrays_are_read_only_and_their_owner_keeps_his():
    inputs = np.zeros((3, 4, 3), np.uint8)
    held = dataset(inputs=inputs)
    for array in (held.inputs, held.labels, held.take(slice(2)).inputs, held.take(np.array([0, 2])).labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    inputs[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        held.name = "other"  # type: ignore[misc]


def test_take():
    held = dataset(inputs=np.arange(36, dtype=np.uint8).reshape(3, 4, 3))
    taken = held.take(np.array([2, 0]))
    np.testing.assert_array_equal(taken.inputs, held.inputs[[2, 0]])
    assert taken.labels.tolist() == [1, 0]
    assert (taken.name, taken.label_names, taken.image) == ("tiny", ("no", "yes"), IMAGE)
    assert len(held.take(slice(0))) == 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"labels": np.array([0, 1])}, "tiny must have a label for each of 3 inputs, got 2"),
        ({"labels": np.array([0, 1, 2])}, r"tiny must have labels 0\.\.1, got 0\.\.2"),
        ({"labels": np.array([0, -1, 1])}, r"tiny must have labels 0\.\.1, got -1\.\.1"),
        ({"labels": np.array([0.0, 1.0, 1.0])}, r"tiny must have labels \[N\] of integers, got \(3,\) float64"),
        ({"labels": np.zeros((3, 1), int)}, r"tiny must have labels \[N\] of integers, got \(3, 1\) int64"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict, expected: str):
    with pytest.raises(DatasetError, match=expected):
        dataset(**changes)


# IDX data sets: a small row of the table, from files and from a mirror


@dataclasses.dataclass
class Tiny:
    row: IdxDataset
    arrays: list[np.ndarray]
    packed: dict[str, bytes]
    plain: dict[str, bytes]


@pytest.fixture
def tiny(encode_idx: Callable[[np.ndarray], bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tiny:
    """A data set of MNIST's form with 20 + 6 images; ``$TORSO_DATA`` is an empty folder."""
    monkeypatch.setenv("TORSO_DATA", str(tmp_path / "home"))
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(0, 256, (20, 4, 3), dtype=np.uint8),
        rng.integers(0, 3, 20, dtype=np.uint8),
        rng.integers(0, 256, (6, 4, 3), dtype=np.uint8),
        rng.integers(0, 3, 6, dtype=np.uint8),
    ]
    files, packed, plain = [], {}, {}
    for like, array in zip(MNIST.files, arrays, strict=True):
        name = like.remote.name
        data = encode_idx(array)
        plain[name.removesuffix(".gz")] = data
        packed[name] = gzip.compress(data, mtime=0)
        digest = hashlib.sha256(packed[name]).hexdigest()
        remote = RemoteFile(name=name, num_bytes=len(packed[name]), sha256=digest)
        files.append(IdxFile(remote=remote, shape=array.shape, sha256=hashlib.sha256(data).hexdigest()))
    row = IdxDataset(
        name="tiny",
        mirrors=("http://127.0.0.1:9",),
        files=(files[0], files[1], files[2], files[3]),
        validation_size=5,
        label_names=("a", "b", "c"),
        image=IMAGE,
    )
    return Tiny(row, arrays, packed, plain)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def assert_tiny(splits: Splits, tiny: Tiny) -> None:
    images, labels, test_images, test_labels = tiny.arrays
    expected = [(images[:15], labels[:15]), (images[15:], labels[15:]), (test_images, test_labels)]
    for split, (inputs, targets) in zip(splits, expected, strict=True):
        np.testing.assert_array_equal(split.inputs, inputs, strict=True)
        np.testing.assert_array_equal(split.labels, targets)
        assert split.labels.dtype == np.int64
        assert not split.inputs.flags.writeable
        assert (split.name, split.label_names, split.image) == ("tiny", ("a", "b", "c"), IMAGE)


def test_a_row_of_the_table_is_all_that_a_further_data_set_needs(mirrors, tiny: Tiny, tmp_path: Path):
    mirror = mirrors(tiny.packed)
    assert_tiny(tiny.row.load(mirrors=[mirror.url]), tiny)
    assert len(mirror.requests) == 4
    assert sorted(path.name for path in (tmp_path / "home" / "tiny").glob("*.gz")) == sorted(tiny.packed)
    assert_tiny(tiny.row.load(download=False), tiny)  # from the cache


def test_only_what_is_missing_is_fetched(mirrors, tiny: Tiny, tmp_path: Path):
    mirror = mirrors(tiny.packed)
    name = "train-images-idx3-ubyte"
    write(tmp_path / "home" / "tiny", {name: tiny.plain[name]})
    assert_tiny(tiny.row.load(mirrors=[mirror.url]), tiny)
    assert len(mirror.requests) == 3


@pytest.mark.parametrize("inner", ["", "tiny"])
@pytest.mark.parametrize("form", ["packed", "plain", "both"])
def test_files_in_a_folder(tiny: Tiny, tmp_path: Path, inner: str, form: str):
    files = {"packed": tiny.packed, "plain": tiny.plain, "both": tiny.packed | tiny.plain}[form]
    write(tmp_path / "mine" / inner, files)
    assert_tiny(tiny.row.load(tmp_path / "mine", download=False), tiny)


def test_files_packed_differently_are_the_same_data(tiny: Tiny, tmp_path: Path):
    again = {name + ".gz": gzip.compress(data, compresslevel=1, mtime=7) for name, data in tiny.plain.items()}
    assert again != tiny.packed
    assert_tiny(tiny.row.load(write(tmp_path / "mine", again)), tiny)


def test_a_named_folder_is_neither_filled_nor_passed_over(mirrors, tiny: Tiny, tmp_path: Path):
    mirror = mirrors(tiny.packed)
    with pytest.raises(DatasetError, match=r"tiny: data_dir must be a folder, got .*nowhere"):
        tiny.row.load(tmp_path / "nowhere", mirrors=[mirror.url])
    name = "t10k-labels-idx1-ubyte.gz"
    folder = write(tmp_path / "mine", {key: data for key, data in tiny.packed.items() if key != name})
    with pytest.raises(DatasetError, match=f"{folder} lacks {name}. Without data_dir, torso looks in .*home/tiny"):
        tiny.row.load(folder, mirrors=[mirror.url])
    assert mirror.requests == []


def test_without_download_or_network_the_way_by_hand_is_said(tiny: Tiny, tmp_path: Path):
    by_hand = f"put {', '.join(tiny.packed)} (or unpacked) into {tmp_path / 'home' / 'tiny'}, or name their folder"
    with pytest.raises(DatasetError, match="downloading is off") as caught:
        tiny.row.load(download=False)
    assert by_hand in str(caught.value)
    with pytest.raises(DatasetError, match="no connection") as caught:
        tiny.row.load(mirrors=["http://127.0.0.1:9", "http://[::1]:9"])
    assert by_hand in str(caught.value)
    for mirror in ("http://127.0.0.1:9/train-images", "http://[::1]:9/train-images"):
        assert mirror in str(caught.value)


def test_a_home_that_cannot_be_written_to(mirrors, tiny: Tiny, tmp_path: Path):
    (tmp_path / "home").write_bytes(b"")
    with pytest.raises(StorageError, match="could not be written"):
        tiny.row.load(mirrors=[mirrors(tiny.packed).url])


def test_counts_that_differ_name_the_file(tiny: Tiny, encode_idx: Callable[[np.ndarray], bytes], tmp_path: Path):
    name = "train-labels-idx1-ubyte"
    folder = write(tmp_path / "mine", tiny.plain | {name: encode_idx(tiny.arrays[1][:-1])})
    with pytest.raises(DatasetError, match=f"{name} must have 20 values, got 19 in its header"):
        tiny.row.load(folder)


def test_another_data_set_under_the_same_names_is_refused(
    tiny: Tiny, encode_idx: Callable[[np.ndarray], bytes], tmp_path: Path
):
    name = "t10k-images-idx3-ubyte"
    folder = write(tmp_path / "mine", tiny.plain | {name: encode_idx(255 - tiny.arrays[2])})
    with pytest.raises(DatasetError, match=f"{name} must have SHA-256 .* well-formed, but not the right file"):
        tiny.row.load(folder)


def test_a_damaged_file_is_named(tiny: Tiny, tmp_path: Path):
    name = "train-images-idx3-ubyte.gz"
    folder = write(tmp_path / "mine", tiny.packed | {name: tiny.packed[name][:100]})
    with pytest.raises(DatasetError, match=f"{folder / name}: damaged gzip data"):
        tiny.row.load(folder)


def test_mnist_goes_the_same_way(mirrors, tiny: Tiny):
    mirror = mirrors(tiny.packed)  # files of MNIST's names, and not MNIST's
    with pytest.raises(DatasetError, match=r"train-images-idx3-ubyte.gz: Content-Length must be 9912422 bytes, got"):
        load_dataset("mnist", mirrors=[mirror.url])
    with pytest.raises(DatasetError, match=r"train-images-idx3-ubyte.gz: Content-Length must be 26421880 bytes, got"):
        load_dataset("fashion-mnist", mirrors=[mirror.url])
    for name in ("mnist", "fashion-mnist"):
        with pytest.raises(DatasetError, match=rf"{name}: train-images-idx3-ubyte.gz, .* missing in .*home.{name}"):
            load_dataset(name, download=False)


def test_fashion_mnist_has_its_own_files_and_names():
    assert FASHION_MNIST.label_names[0] == "T-shirt/top"
    assert FASHION_MNIST.label_names[9] == "Ankle boot"
    assert len(set(FASHION_MNIST.label_names)) == 10
    assert [file.shape for file in FASHION_MNIST.files] == [file.shape for file in MNIST.files]
    assert [file.remote.name for file in FASHION_MNIST.files] == [file.remote.name for file in MNIST.files]
    hashes = [digest for row in (MNIST, FASHION_MNIST) for f in row.files for digest in (f.sha256, f.remote.sha256)]
    assert len(set(hashes)) == 16
    assert all(len(digest) == 64 and int(digest, 16) for digest in hashes)
    assert FASHION_MNIST.image == dataclasses.replace(MNIST.image, centring="none")


# MNIST itself


@pytest.mark.skipif(not REAL_DATA, reason="needs MNIST's files in $TORSO_DATA/mnist")
def test_the_real_mnist(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORSO_DATA", REAL_DATA)
    splits = load_dataset("mnist", download=False)
    assert [len(split) for split in splits] == [55_000, 5_000, 10_000]
    for split in splits:
        assert split.inputs.dtype == np.uint8
        assert split.inputs.shape == (len(split), 28, 28)
        assert (split.inputs.min(), split.inputs.max()) == (0, 255)
        shares = np.bincount(split.labels, minlength=10) / len(split)
        assert ((shares > 0.085) & (shares < 0.12)).all()
    # the first labels of both official files, and the two ends of the official training set
    assert splits.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert splits.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert splits.validation.labels[-3:].tolist() == [5, 6, 8]
    # light strokes on dark paper, centred by mass: what the description promises
    edge = np.concatenate([splits.test.inputs[:, 0], splits.test.inputs[:, -1]])
    assert edge.mean() < 1
    mass = splits.test.inputs.sum(axis=0, dtype=np.float64)
    for axis in (0, 1):
        centre = (mass.sum(axis=1 - axis) * np.arange(28)).sum() / mass.sum()
        assert abs(centre - 14) < 0.6


@pytest.mark.skipif(not REAL_DATA, reason="needs MNIST's files in $TORSO_DATA/mnist")
def test_the_real_mnist_is_not_fashion_mnist():
    with pytest.raises(DatasetError, match=r"must have SHA-256 .* well-formed, but not the right file"):
        load_dataset("fashion-mnist", Path(REAL_DATA) / "mnist", download=False)


@pytest.mark.skipif(
    not (Path(REAL_DATA) / "fashion-mnist").is_dir(), reason="needs Fashion-MNIST's files in $TORSO_DATA/fashion-mnist"
)
def test_the_real_fashion_mnist(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORSO_DATA", REAL_DATA)
    splits = load_dataset("fashion-mnist", download=False)
    assert [len(split) for split in splits] == [55_000, 5_000, 10_000]
    assert np.bincount(splits.test.labels).tolist() == [1_000] * 10


@pytest.mark.skipif(not REAL_DATA, reason="needs MNIST's files in $TORSO_DATA/mnist")
@pytest.mark.parametrize("inner", ["", "mnist"])
def test_the_real_mnist_from_a_named_folder(inner: str):
    splits = load_dataset("mnist", Path(REAL_DATA) / inner, download=False)
    assert len(splits.train) == 55_000
