"""Input specifications from arrays: images, rows, scaling, standardisation, and arrays that are refused."""

from __future__ import annotations

import numpy as np
import pytest

from torso.agents.supervised.inputs import as_inputs, input_spec_of
from torso.errors import InputError
from torso.nets import ImageSpec


@pytest.mark.parametrize("convolutional", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64"])
def test_images_keep_their_dtype_and_are_scaled(dtype: str, convolutional: bool) -> None:
    images = np.arange(2 * 4 * 5).reshape(2, 4, 5).astype(dtype)
    spec = input_spec_of(images, convolutional=convolutional)
    assert (spec.shape, spec.layout) == ((4, 5), "hw")
    assert spec.dtype == ("float32" if dtype.startswith("float") else dtype)
    assert spec.scale == 1 / 39
    assert spec.mean is None


def test_images_that_are_not_learnt_from_do_not_say_what_white_is() -> None:
    images = np.arange(600 * 4.0).reshape(600, 2, 2)
    assert input_spec_of(images, convolutional=True, training_rows=np.array([3, 300, 2])).scale == 1 / 1203
    assert input_spec_of(-images, convolutional=True, training_rows=np.arange(500)).scale == 1 / 1999
    assert input_spec_of(np.full((1, 2, 2), -128, np.int8), convolutional=True).scale == 1 / 128


def test_rows_that_are_not_learnt_from_do_not_say_how_to_standardise() -> None:
    rows = np.random.default_rng(0).normal(5, 3, size=(700, 2))
    training_rows = np.repeat(np.arange(0, 700, 2), 2)
    spec = input_spec_of(rows, convolutional=False, training_rows=training_rows)
    np.testing.assert_allclose(spec.mean, rows[::2].mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(spec.std, rows[::2].std(axis=0), rtol=1e-12)
    rows[1:] = rows[1]
    with pytest.raises(InputError, match="constant columns alone"):
        input_spec_of(rows, convolutional=False, training_rows=np.arange(1, 700))


def test_an_image_description_gives_the_scale() -> None:
    image = ImageSpec(channels=1, height=2, width=2, max_value=16.0)
    spec = input_spec_of(np.ones((3, 2, 2), np.uint8), convolutional=True, image=image)
    assert (spec.scale, spec.image) == (1 / 16, image)


def test_black_images_are_not_divided_by_zero() -> None:
    assert input_spec_of(np.zeros((3, 2, 2)), convolutional=True).scale == 1.0


def test_rows_are_standardised_within_the_network() -> None:
    rows = np.array([[1.0, 5.0, 1e6], [3.0, 5.0, 3e6]])
    spec = input_spec_of(rows, convolutional=False)
    assert (spec.shape, spec.dtype, spec.layout) == ((3,), "float32", None)
    assert spec.mean == (2.0, 5.0, 2e6)
    assert spec.std == (1.0, 1.0, 1e6)  # a constant column is not divided by 0


@pytest.mark.parametrize(("dtype", "kept"), [("uint8", "uint8"), ("int64", "float32"), ("float64", "float32")])
def test_square_rows_are_images_to_a_convolutional_net(dtype: str, kept: str) -> None:
    spec = input_spec_of(np.full((2, 64), 16, dtype), convolutional=True)
    assert (spec.shape, spec.layout, spec.dtype, spec.scale) == ((8, 8), "hw", kept, 1 / 16)


@pytest.mark.parametrize(
    ("inputs", "convolutional", "message"),
    [
        (
            np.ones((3, 10)),
            True,
            r"X must be images .*square number of pixels.* got rows of 10; reshape X, or use net='mlp'",
        ),
        (np.ones(3), False, r"X must be rows \[N, F\].*got \[3\]"),
        (np.ones((0, 3)), False, r"got \[0, 3\]"),
        (np.ones((2, 3, 4, 5, 6, 7)), False, r"got \[2, 3, 4, 5, 6, 7\]"),
        (np.array([[1.0, np.nan]]), False, "NaN"),
        (np.array([["a"]]), False, "X must be numbers, got dtype"),
        (np.ones((2, 3)), False, "X must be rows with at least one column that varies"),
    ],
)
def test_what_is_no_input(inputs: np.ndarray, convolutional: bool, message: str) -> None:
    with pytest.raises(InputError, match=message):
        input_spec_of(inputs, convolutional=convolutional)


def test_inputs_take_the_shape_and_dtype_of_the_specification() -> None:
    spec = input_spec_of(np.full((2, 4, 4), 3, np.uint8), convolutional=True)
    flat = as_inputs(np.full((5, 16), 2.0), spec)
    assert (flat.shape, flat.dtype) == ((5, 4, 4), np.uint8)
    for wrong, message in (
        (np.full((5, 4, 4), 0.5), "uint8 can hold"),
        (np.full((5, 4, 4), 256), "uint8 can hold"),
        (np.ones((5, 4, 5)), r"\[N, 4, 4\], got \[5, 4, 5\]"),
        (np.ones((5, 15)), r"\[N, 4, 4\], got \[5, 15\]"),
    ):
        with pytest.raises(InputError, match=message):
            as_inputs(wrong, spec)


def test_numbers_beyond_float32_are_refused() -> None:
    spec = input_spec_of(np.eye(3), convolutional=False)
    with np.errstate(over="ignore"), pytest.raises(InputError, match="float32"):
        as_inputs(np.full((1, 3), 1e300), spec)
