"""Loaders of scikit-learn's bundled data sets: one of small images and four tables, with unscaled values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from torso.envs.datasets.splits import Dataset
from torso.image_spec import ImageSpec


def load_digits() -> Dataset:
    """Load 1,797 scans of handwritten digits, uint8 [N, 8, 8], 0..16 (Alpaydin and Kaynak 1998; test part only)."""
    from sklearn import datasets  # here, since the import takes a second that no agent needs

    bunch = datasets.load_digits()
    return Dataset(
        name="digits",
        inputs=bunch.images.astype(np.uint8),
        labels=bunch.target.astype(np.int64),
        label_names=tuple(range(10)),
        image=ImageSpec(channels=1, height=8, width=8, polarity="light-on-dark", centring="none", max_value=16.0),
    )


def load_iris() -> Dataset:
    """Load 150 irises, four measures in cm (Fisher 1936); three species."""
    from sklearn import datasets

    return _table("iris", datasets.load_iris())


def load_wine() -> Dataset:
    """Load 178 wines, 13 chemical measures (Aeberhard and Forina 1991); three growers."""
    from sklearn import datasets

    return _table("wine", datasets.load_wine())


def load_breast_cancer() -> Dataset:
    """Load 569 tumours, 30 measures of cell nuclei (Street, Wolberg and Mangasarian 1993); malignant or benign."""
    from sklearn import datasets

    return _table("breast-cancer", datasets.load_breast_cancer())


def load_diabetes() -> Dataset:
    """Load 442 patients: ten measures in their own units; the target is the disease's progression a year later.

    Source: Efron, Hastie, Johnstone and Tibshirani 2004, "Least angle regression".
    """
    from sklearn import datasets

    bunch = datasets.load_diabetes(scaled=False)  # unscaled: a served model takes ages in years
    return Dataset(
        name="diabetes",
        inputs=bunch.data.astype(np.float32),
        labels=bunch.target.astype(np.float32)[:, np.newaxis],
        label_names=("progression",),
        task="regression",
        feature_names=tuple(map(str, bunch.feature_names)),
    )


def _table(name: str, bunch: Any) -> Dataset:
    return Dataset(
        name=name,
        inputs=bunch.data.astype(np.float32),
        labels=bunch.target.astype(np.int64),
        label_names=tuple(map(str, bunch.target_names)),
        feature_names=tuple(map(str, bunch.feature_names)),
    )


BUNDLED: dict[str, Callable[[], Dataset]] = {
    "digits": load_digits,
    "iris": load_iris,
    "wine": load_wine,
    "breast-cancer": load_breast_cancer,
    "diabetes": load_diabetes,
}
