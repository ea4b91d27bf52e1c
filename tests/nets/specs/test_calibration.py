"""Calibrations as plain data: hand-worked probabilities, exactness at huge readouts, independent rows, validation."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from torso.errors import SpecError
from torso.nets.specs.calibration import (
    CALIBRATION_METHODS,
    Calibration,
    IsotonicCalibration,
    PlattScaling,
    TemperatureScaling,
    class_scores,
)

LN2, LN3, LN5 = math.log(2), math.log(3), math.log(5)

TWO = [
    TemperatureScaling(num_classes=2, temperature=2.5),
    PlattScaling(num_classes=2, slopes=(0.7,), intercepts=(-0.3,)),
    IsotonicCalibration(num_classes=2, scores=((-1.0, 0.5, 2.0),), values=((0.0, 0.25, 1.0),)),
]
THREE = [
    TemperatureScaling(num_classes=3, temperature=0.4),
    PlattScaling(num_classes=3, slopes=(0.7, 1.2, -0.1), intercepts=(-0.3, 0.0, 2.0)),
    IsotonicCalibration(num_classes=3, scores=((-1.0, 2.0),) * 3, values=((0.0, 0.5), (0.1, 1.0), (0.0, 0.0))),
]
TWENTY = [  # sums of so many terms depend on their order
    TemperatureScaling(num_classes=20, temperature=300.0),
    PlattScaling(num_classes=20, slopes=(0.01,) * 20, intercepts=(0.1,) * 20),
    IsotonicCalibration(num_classes=20, scores=((-2000.0, 2000.0),) * 20, values=((0.1, 0.9),) * 20),
]
ALL = [*TWO, *THREE, *TWENTY]


def by_definition(readout: np.ndarray) -> np.ndarray:
    """Compute each class's log-odds from the odds themselves, which overflow for large readouts."""
    odds = np.exp(readout)
    columns = [np.log(odds[:, k]) - np.log(np.delete(odds, k, axis=1).sum(axis=1)) for k in range(readout.shape[1])]
    return np.stack(columns, axis=1)


# -- scores ------------------------------------------------------------------------------------------------------------


def test_scores_are_log_odds() -> None:
    readout = np.array([[LN2, LN3, LN5], [0.0, 0.0, 0.0]])  # shares 2, 3, 5 in 10; a third each
    expected = [[math.log(2 / 8), math.log(3 / 7), 0.0], [-LN2, -LN2, -LN2]]
    np.testing.assert_allclose(class_scores(readout), expected, rtol=1e-14, atol=1e-15)


def test_the_score_of_two_classes_is_their_margin() -> None:
    np.testing.assert_array_equal(class_scores(np.array([[1.0, 4.0], [2.0, -1.0]])), [[3.0], [-3.0]])


def test_scores_are_exact_where_a_softmax_is_0_or_1() -> None:
    readout = np.array([[1000.0, -1000.0, -1000.0], [1000.0, 1000.0, -1000.0], [0.0, 40.0, 1.0]])
    expected = [
        [2000 - LN2, -2000.0, -2000.0],
        [0.0, 0.0, -2000 - LN2],
        [-40 - math.log1p(math.exp(-39)), 39 - math.log1p(math.exp(-1)), -39 - math.log1p(math.exp(-40))],
    ]
    np.testing.assert_allclose(class_scores(readout), expected, rtol=1e-15)


@given(arrays(np.float64, (4, 5), elements=st.floats(-8, 8)), st.floats(-500, 500))
def test_scores_equal_their_definition_and_ignore_a_shift(readout: np.ndarray, shift: float) -> None:
    scores = class_scores(readout)
    np.testing.assert_allclose(scores, by_definition(readout), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(class_scores(readout + shift), scores, rtol=1e-9, atol=1e-9)


# -- probabilities by hand ---------------------------------------------------------------------------------------------


def test_temperature_2_halves_the_logits() -> None:
    calibration = TemperatureScaling(num_classes=3, temperature=2.0)
    got = calibration.apply([[2 * LN2, 2 * LN3, 2 * LN5]])
    np.testing.assert_allclose(got, [[0.2, 0.3, 0.5]], rtol=1e-15)


def test_platt_of_two_classes_is_a_sigmoid_of_the_margin() -> None:
    calibration = PlattScaling(num_classes=2, slopes=(2.0,), intercepts=(LN3,))
    got = calibration.apply([[1.0, 1.0], [LN3, LN2]])  # log-odds LN3, and 2 (LN2 - LN3) + LN3
    np.testing.assert_allclose(got, [[1 / 4, 3 / 4], [3 / 7, 4 / 7]], rtol=1e-15)


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_platt_of_slope_1_and_intercept_0_is_the_softmax(num_classes: int) -> None:
    maps = 1 if num_classes == 2 else num_classes
    calibration = PlattScaling(num_classes=num_classes, slopes=(1.0,) * maps, intercepts=(0.0,) * maps)
    readout = np.random.default_rng(0).normal(size=(20, num_classes)) * 3
    softmax = np.exp(readout) / np.exp(readout).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(calibration.apply(readout), softmax, rtol=1e-13)


def test_platt_of_three_classes_is_normalised() -> None:
    calibration = PlattScaling(num_classes=3, slopes=(0.0, 0.0, 0.0), intercepts=(0.0, LN3, -LN3))
    np.testing.assert_allclose(calibration.apply([[5.0, 1.0, 2.0]]), [[2 / 6, 3 / 6, 1 / 6]], rtol=1e-15)


def test_isotonic_interpolates_and_holds_its_ends() -> None:
    calibration = IsotonicCalibration(num_classes=2, scores=((-1.0, 1.0),), values=((0.2, 0.6),))
    got = calibration.apply([[0.0, -9.0], [0.0, -1.0], [0.0, 0.5], [0.0, 9.0]])
    np.testing.assert_allclose(got[:, 1], [0.2, 0.2, 0.5, 0.6], rtol=1e-15)
    np.testing.assert_allclose(got[:, 0], [0.8, 0.8, 0.5, 0.4], rtol=1e-15)


def test_isotonic_of_three_classes_is_normalised_and_uniform_where_all_is_0() -> None:
    step = ((-1.0, 0.0),) * 3
    calibration = IsotonicCalibration(num_classes=3, scores=step, values=((0.0, 0.6), (0.0, 0.6), (0.0, 0.3)))
    halves = [0.0, 0.0, -1000.0]  # scores 0, 0 and about -1000
    thirds = [0.0, 0.0, 0.0]  # scores -ln 2: values in proportion to 0.6, 0.6 and 0.3
    np.testing.assert_allclose(calibration.apply([halves, thirds]), [[0.5, 0.5, 0.0], [0.4, 0.4, 0.2]], rtol=1e-15)
    never = IsotonicCalibration(num_classes=3, scores=step, values=((0.0, 0.0),) * 3)
    np.testing.assert_allclose(never.apply([halves]), [[1 / 3, 1 / 3, 1 / 3]], rtol=1e-15)


# -- huge readouts, and each row by itself -----------------------------------------------------------------------------


@pytest.mark.parametrize(("at", "expected"), [(1000.0, [0.0, 1.0]), (-1000.0, [1.0, 0.0])])
@pytest.mark.parametrize("calibration", TWO, ids=lambda value: value.method)
def test_two_classes_are_exact_at_1000(calibration: Calibration, at: float, expected: list[float]) -> None:
    assert calibration.apply([[-at, at]]).tolist() == [expected]


def test_small_probabilities_keep_their_digits() -> None:
    platt = PlattScaling(num_classes=2, slopes=(1.0,), intercepts=(0.0,))
    np.testing.assert_allclose(platt.apply([[600.0, 0.0], [0.0, 600.0]])[[0, 1], [1, 0]], math.exp(-600), rtol=1e-13)
    three = PlattScaling(num_classes=3, slopes=(1.0,) * 3, intercepts=(-2000.0,) * 3)  # each sigmoid alone is 0
    odds = np.array([2 / 8, 3 / 7, 5 / 5])  # where sigmoids are exp
    np.testing.assert_allclose(three.apply([[LN2, LN3, LN5]]), [odds / odds.sum()], rtol=1e-12)
    tiny = IsotonicCalibration(num_classes=3, scores=((0.0,),) * 3, values=((1e-300,), (3e-300,), (0.0,)))
    np.testing.assert_allclose(tiny.apply([[0.0, 0.0, 0.0]]), [[0.25, 0.75, 0.0]], rtol=1e-13)


EXTREME = st.one_of(st.floats(-1000, 1000), st.sampled_from([-np.inf, np.inf, 3e38, -3e38, 1e300, 0.0, 5e-324]))


@pytest.mark.parametrize("calibration", ALL, ids=lambda value: f"{value.method}{value.num_classes}")
@given(data=st.data())
def test_rows_sum_to_1_and_depend_on_themselves_alone(calibration: Calibration, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 9))
    readout = data.draw(arrays(np.float64, (size, calibration.num_classes), elements=EXTREME))
    got = calibration.apply(readout)
    assert got.shape == readout.shape
    assert got.dtype == np.float64
    assert (got >= 0).all()
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-15)
    for row, alone in zip(got, readout, strict=True):
        assert calibration.apply(alone[None])[0].tobytes() == row.tobytes()
    assert calibration.apply(np.asfortranarray(readout)).tobytes() == got.tobytes()


@pytest.mark.parametrize("readout", [np.zeros(3), np.zeros((2, 4)), np.zeros((2, 3, 1))])
def test_a_readout_of_another_shape_is_refused(readout: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\[B, 3\]"):
        THREE[0].apply(readout)


# -- as JSON -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("calibration", ALL, ids=lambda value: f"{value.method}{value.num_classes}")
def test_json_gives_back_the_same_map(calibration: Calibration) -> None:
    data = calibration.to_json()
    assert json.loads(json.dumps(data)) == data
    assert data["method"] == calibration.method
    again = Calibration.from_json(json.loads(json.dumps(data)))
    assert again == calibration
    assert type(again) is type(calibration)
    assert hash(again) == hash(calibration)


@given(st.floats(-5, 5), st.floats(-5, 5))
def test_json_keeps_every_digit(slope: float, intercept: float) -> None:
    calibration = PlattScaling(num_classes=2, slopes=(slope,), intercepts=(intercept,))
    assert Calibration.from_json(json.loads(json.dumps(calibration.to_json()))) == calibration


def test_every_method_is_listed() -> None:
    assert set(CALIBRATION_METHODS) == {calibration.method for calibration in TWO}


STAIR = {"scores": [[0.0, 1.0]], "values": [[0.0, 1.0]]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "must be an object"),
        ([1.0], "must be an object"),
        ({}, "method must be one of platt, isotonic, temperature; got None"),
        ({"method": "beta"}, "got 'beta'"),
        ({"method": ["platt"]}, "method must be one of"),
        ({"method": "temperature", "num_classes": 3}, "temperature"),
        ({"method": "temperature", "num_classes": 3, "temperature": 0}, "temperature must be positive, got 0"),
        ({"method": "temperature", "num_classes": 3, "temperature": "1"}, "temperature must be a finite number"),
        ({"method": "temperature", "num_classes": 3, "temperature": 1.0, "bias": 2}, "unknown fields"),
        ({"method": "temperature", "num_classes": 1, "temperature": 1.0}, "num_classes must be a whole number"),
        ({"method": "platt", "num_classes": 3, "slopes": [1.0], "intercepts": [0.0, 0, 0]}, "slopes must have 3 items"),
        (
            {"method": "platt", "num_classes": 2, "slopes": [1.0], "intercepts": [0.0, 0]},
            "intercepts must have 1 items",
        ),
        ({"method": "platt", "num_classes": 2, "slopes": [math.nan], "intercepts": [0.0]}, "finite number"),
        ({"method": "isotonic", "num_classes": 3, **STAIR}, "scores must have 3 items for 3 classes, got 1"),
        ({"method": "isotonic", "num_classes": 2, **STAIR, "scores": [[0.0]]}, "one length above 0, got 1 and 2"),
        ({"method": "isotonic", "num_classes": 2, "scores": [[]], "values": [[]]}, "one length above 0, got 0 and 0"),
        ({"method": "isotonic", "num_classes": 2, **STAIR, "scores": [[1.0, 1.0]]}, "must rise strictly"),
        ({"method": "isotonic", "num_classes": 2, **STAIR, "values": [[0.5, 0.4]]}, "never fall"),
        ({"method": "isotonic", "num_classes": 2, **STAIR, "values": [[-0.1, 0.4]]}, "never fall"),
        ({"method": "isotonic", "num_classes": 2, **STAIR, "values": [[0.1, 1.1]]}, "never fall"),
        ({"method": "isotonic", "num_classes": 2, **STAIR, "values": [0.1, 1.1]}, "must be a tuple"),
    ],
)
def test_what_is_no_calibration_is_refused(data: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message.replace("[", r"\[")):
        Calibration.from_json(data)
