"""Data sets in four IDX files, such as MNIST: their mirrors, and the shapes and hashes of their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torso.envs.datasets.data_files import obtain_files
from torso.envs.datasets.download import RemoteFile
from torso.envs.datasets.idx import read_idx
from torso.envs.datasets.splits import Dataset, Splits
from torso.image_spec import ImageSpec


@dataclass(frozen=True, kw_only=True)
class IdxFile:
    """One IDX file of a data set: as mirrors hold it, and its shape and hash when decompressed."""

    remote: RemoteFile
    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True, kw_only=True)
class IdxDataset:
    """A data set in four IDX files, in the order train images, train labels, test images, test labels.

    The last ``validation_size`` training images are the validation split. Files that a user supplies may be packed
    differently or not at all: their content is checked, so another data set's files of the same names are refused.
    """

    name: str
    mirrors: tuple[str, ...]
    files: tuple[IdxFile, IdxFile, IdxFile, IdxFile]
    validation_size: int
    label_names: tuple[str | int, ...]
    image: ImageSpec

    def load(self, data_dir: Path | None = None, download: bool = True, mirrors: Sequence[str] | None = None) -> Splits:
        """Find or download the files, read and check them, and split; see ``load_dataset``."""
        paths = obtain_files(
            self.name,
            [file.remote for file in self.files],
            self.mirrors if mirrors is None else mirrors,
            data_dir=data_dir,
            may_download=download,
        )
        arrays = [
            read_idx(path, shape=file.shape, sha256=file.sha256) for path, file in zip(paths, self.files, strict=True)
        ]
        official, test = (
            Dataset(name=self.name, inputs=inputs, labels=labels, label_names=self.label_names, image=self.image)
            for inputs, labels in (arrays[:2], arrays[2:])
        )
        first = len(official) - self.validation_size
        return Splits(train=official.take(slice(first)), validation=official.take(slice(first, None)), test=test)


# Sizes and SHA-256 of the files as their authors published them in 1998 and the mirrors serve them unchanged.
MNIST = IdxDataset(
    name="mnist",
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist",
    ),
    files=(
        IdxFile(
            remote=RemoteFile(
                name="train-images-idx3-ubyte.gz",
                num_bytes=9_912_422,
                sha256="440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            shape=(60_000, 28, 28),
            sha256="ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        IdxFile(
            remote=RemoteFile(
                name="train-labels-idx1-ubyte.gz",
                num_bytes=28_881,
                sha256="3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            shape=(60_000,),
            sha256="65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        IdxFile(
            remote=RemoteFile(
                name="t10k-images-idx3-ubyte.gz",
                num_bytes=1_648_877,
                sha256="8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            shape=(10_000, 28, 28),
            sha256="0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        IdxFile(
            remote=RemoteFile(
                name="t10k-labels-idx1-ubyte.gz",
                num_bytes=4_542,
                sha256="f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
            shape=(10_000,),
            sha256="ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    validation_size=5_000,
    label_names=tuple(range(10)),
    image=ImageSpec(channels=1, height=28, width=28, polarity="light-on-dark", centring="mass", max_value=255.0),
)

# Xiao, Rasul and Vollgraf 2017, as github.com/zalandoresearch/fashion-mnist holds it since August 2017 (before, there
# were other files); drawn like MNIST, an article fills its frame and is not centred by mass.
FASHION_MNIST = IdxDataset(
    name="fashion-mnist",
    mirrors=(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    ),
    files=(
        IdxFile(
            remote=RemoteFile(
                name="train-images-idx3-ubyte.gz",
                num_bytes=26_421_880,
                sha256="3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            shape=(60_000, 28, 28),
            sha256="c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        IdxFile(
            remote=RemoteFile(
                name="train-labels-idx1-ubyte.gz",
                num_bytes=29_515,
                sha256="a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            shape=(60_000,),
            sha256="bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        IdxFile(
            remote=RemoteFile(
                name="t10k-images-idx3-ubyte.gz",
                num_bytes=4_422_102,
                sha256="346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            shape=(10_000, 28, 28),
            sha256="5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        IdxFile(
            remote=RemoteFile(
                name="t10k-labels-idx1-ubyte.gz",
                num_bytes=5_148,
                sha256="67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
            shape=(10_000,),
            sha256="0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
    validation_size=5_000,
    label_names=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    image=ImageSpec(channels=1, height=28, width=28, polarity="light-on-dark", centring="none", max_value=255.0),
)
