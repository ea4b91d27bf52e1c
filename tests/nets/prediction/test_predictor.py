"""Predictor: accepted and rejected inputs, probabilities, top-k, and greedy and exploring actions."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from torso.errors import ConfigError, InputError
from torso.nets import (
    Calibration,
    ImageSpec,
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    ModelCard,
    Network,
    NetworkSpec,
    OneVsRestHeadSpec,
    Predictor,
    RegressionHeadSpec,
    ScalarHeadSpec,
    SigmoidHeadSpec,
    StepHeadSpec,
    TorchBackend,
    build_network,
    save_model,
)
from torso.nets.specs.calibration import IsotonicCalibration, PlattScaling, TemperatureScaling
from torso.nets.specs.inputs import INPUT_DTYPES

Array = np.ndarray[Any, Any]


def predictor(
    network_input: InputSpec,
    *,
    labels: tuple[Any, ...] | None = None,
    actions: int = 0,
    head: Any = None,
    calibration: Calibration | None = None,
) -> Predictor:
    if head is None:
        head = ScalarHeadSpec(num_actions=actions) if actions else LogitsHeadSpec(num_classes=3)
    spec = NetworkSpec(input=network_input, torso=MLPSpec(hidden=(4,)), head=head)
    card = ModelCard(
        kind=spec.kind,
        network=spec,
        weights_sha256="",
        labels=labels,
        action_start=2 if actions else 0,
        calibration=calibration,
    )
    return Predictor(card, TorchBackend(build_network(spec, torch.Generator().manual_seed(0))))


VECTOR = predictor(InputSpec(shape=(4,)))
SCAN = predictor(InputSpec(shape=(2, 3), dtype="uint8", layout="hw"))
SCALAR = predictor(InputSpec(shape=(), dtype="int64"))

# -- prepare -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "inputs", "shape"),
    [
        (VECTOR, [1, 2, 3, 4], (1, 4)),
        (VECTOR, [[1, 2, 3, 4]], (1, 4)),
        (VECTOR, [[True, False, True, False]] * 2, (2, 4)),
        (VECTOR, np.zeros((5, 4), np.int64), (5, 4)),
        (VECTOR, torch.zeros(5, 4), (5, 4)),
        (SCAN, np.zeros((2, 3)), (1, 2, 3)),
        (SCAN, np.zeros((7, 2, 3), np.int32), (7, 2, 3)),
        (SCAN, np.zeros((7, 6)), (7, 2, 3)),
        (SCAN, np.full((1, 2, 3), 255.0), (1, 2, 3)),
        (SCALAR, 7, (1,)),
        (SCALAR, [7, 8], (2,)),
        (SCALAR, [[7], [8]], (2,)),
        (SCALAR, [7.0], (1,)),
    ],
)
def test_inputs_that_are_taken(model: Predictor, inputs: Any, shape: tuple[int, ...]) -> None:
    prepared = model.prepare(inputs)
    assert prepared.shape == shape
    assert prepared.dtype == model.input.numpy_dtype
    assert prepared.flags.c_contiguous
    np.testing.assert_array_equal(prepared.ravel(), np.asarray(inputs).ravel())
    assert model.run(prepared).shape == (shape[0], 3)
    np.testing.assert_array_equal(model.prepare(prepared, strict=True), prepared)


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (VECTOR, [], r"inputs\.shape must be float32 \[batch, 4\], got \[0\]"),
        (VECTOR, [[]], r"must be float32 \[batch, 4\], got \[1, 0\]"),
        (VECTOR, np.zeros((0, 4)), "at least 1 row, got 0 rows"),
        (VECTOR, np.zeros((2, 3)), r"got \[2, 3\]"),
        (VECTOR, np.zeros((2, 2, 4)), r"got \[2, 2, 4\]"),
        (VECTOR, np.zeros((2, 4, 1)), r"got \[2, 4, 1\]"),
        (VECTOR, 3.0, r"got \[\]"),
        (VECTOR, [[1, 2], [3]], r"inputs must be float32 \[batch, 4\], got list that is not an array"),
        (VECTOR, torch.zeros(2, 4, requires_grad=True), "got Tensor that is not an array .*requires grad"),
        (VECTOR, [["a", "b", "c", "d"]], r"inputs\.dtype must be .* got <U1"),
        (VECTOR, [[None, 1, 2, 3]], r"inputs\.dtype must be .* got object"),
        (VECTOR, np.array([[1, 2, 3, 4]], dtype=object), r"inputs\.dtype must be .* got object"),
        (VECTOR, [[10**400, 1, 2, 3]], r"inputs\.dtype must be .* got object"),
        (VECTOR, np.zeros((1, 4), complex), r"inputs\.dtype must be .* got complex128"),
        (VECTOR, np.zeros((1, 4), "M8[s]"), r"inputs\.dtype must be .* got datetime64"),
        (VECTOR, {"a": 1}, r"inputs\.dtype must be .* got object"),
        (VECTOR, None, r"inputs\.dtype must be .* got object"),
        (VECTOR, [[math.nan, 1, 2, 3]], "inputs must be finite numbers, got NaN or infinity"),
        (VECTOR, [[math.inf, 1, 2, 3]], "inputs must be finite numbers"),
        (VECTOR, [[1e300, 1, 2, 3]], r"values that float32 can hold, got float64 values from 1\.0 to 1e\+300"),
        (SCAN, np.full((1, 2, 3), 256), "values that uint8 can hold, got int64 values from 256 to 256"),
        (SCAN, np.full((1, 2, 3), -1), "values that uint8 can hold"),
        (SCAN, np.full((1, 2, 3), 0.5), "values that uint8 can hold"),
        (SCAN, np.full((1, 2, 3), math.nan), "values that uint8 can hold, got float64 values from nan to nan"),
        (SCAN, np.full((1, 2, 3), 1e30), "values that uint8 can hold"),
        (SCAN, np.zeros((1, 3, 2)), r"got \[1, 3, 2\]"),
        (SCAN, np.zeros(6), r"got \[6\]"),
        (SCAN, np.zeros((0, 6)), "0 rows"),
        (SCALAR, [], "0 rows"),
        (SCALAR, [[1, 2]], r"must be int64 \[batch\], got \[1, 2\]"),
        (SCALAR, [2**63], "values that int64 can hold"),
        (SCALAR, [0.5], "values that int64 can hold"),
    ],
)
def test_inputs_that_are_refused(model: Predictor, inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        model.prepare(inputs)
    assert caught.value.field.startswith("inputs")
    assert caught.value.expected
    assert caught.value.got


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((2, 4), np.float64), r"tensor\.dtype must be float32, got float64"),
        (np.zeros((2, 4), ">f4"), r"tensor\.dtype must be float32, got >f4"),
        (np.zeros(4, np.float32), r"tensor\.shape must be float32 \[batch, 4\], got \[4\]"),
        (np.zeros((0, 4), np.float32), "0 rows"),
        (np.full((1, 4), np.inf, np.float32), "tensor must be finite numbers"),
    ],
)
def test_the_wires_inputs_are_taken_as_they_are_or_not_at_all(inputs: Array, message: str) -> None:
    with pytest.raises(InputError, match=message):
        VECTOR.prepare(inputs, strict=True, field="tensor")


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[::2],
        lambda a: a[::-1],
        lambda a: a[:, ::-1],
        np.asfortranarray,
        lambda a: a.astype(">f4"),
        lambda a: a.astype("<f8"),
        lambda a: np.broadcast_to(a[:1], (6, 4)),
        lambda a: np.ma.array(a),
        np.asmatrix,
    ],
)
@pytest.mark.filterwarnings("ignore:.*matrix:PendingDeprecationWarning")
def test_strides_byte_orders_and_subclasses_are_straightened(view: Any) -> None:
    original = view(np.arange(24, dtype=np.float32).reshape(6, 4))
    original.flags.writeable = False
    prepared = VECTOR.prepare(original)
    assert type(prepared) is np.ndarray
    assert prepared.dtype == np.float32
    assert prepared.dtype.isnative
    assert prepared.flags.c_contiguous
    np.testing.assert_array_equal(prepared, np.asarray(original))
    np.testing.assert_array_equal(VECTOR.run(prepared), VECTOR.run(prepared.copy()))


any_array = hnp.arrays(
    dtype=st.one_of(hnp.scalar_dtypes(), hnp.unicode_string_dtypes(), st.just(np.dtype(object))),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=12,
)


@given(st.data(), any_array | nested, st.sampled_from(INPUT_DTYPES), st.booleans())
def test_whatever_comes_is_taken_or_refused_by_name(data: st.DataObject, inputs: Any, dtype: str, strict: bool) -> None:
    own = inputs.shape if isinstance(inputs, np.ndarray) else ()
    shape = data.draw(st.sampled_from([s for s in (own, own[1:], (2,), (2, 3), ()) if 0 not in s]))
    model = predictor(InputSpec(shape=shape, dtype=dtype))
    try:
        prepared = model.prepare(inputs, strict=strict)
    except InputError:
        return
    assert prepared.dtype == model.input.numpy_dtype
    assert prepared.shape[1:] == shape
    assert len(prepared) >= 1
    values = np.asarray(inputs).astype(np.float64).ravel()
    tolerance = 1e-2 if dtype == "float16" else 1e-6
    np.testing.assert_allclose(prepared.astype(np.float64).ravel(), values, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(model.prepare(prepared, strict=True), prepared)


# -- image files -------------------------------------------------------------------------------------------------------


def png(pixels: Array) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


SCAN_IMAGE = ImageSpec(channels=1, height=4, width=6, max_value=16.0)
COLOUR = ImageSpec(channels=3, height=4, width=6, max_value=1.0)


@pytest.mark.parametrize("shape", [(4, 6), (24,), (1, 4, 6), (4, 6, 1)])
def test_image_files_fill_inputs_of_any_layout(shape: tuple[int, ...]) -> None:
    layout: Any = {(4, 6): "hw", (1, 4, 6): "chw", (4, 6, 1): "hwc"}.get(shape)
    model = predictor(InputSpec(shape=shape, dtype="uint8", layout=layout, image=SCAN_IMAGE))
    scans = np.random.default_rng(0).integers(17, size=(3, 4, 6), dtype=np.uint8)
    scans[:, [0, -1]] = scans[:, :, [0, -1]] = 0
    prepared = model.prepare_images([png(np.rint(scan * (255 / 16)).astype(np.uint8)) for scan in scans])
    np.testing.assert_array_equal(prepared, scans.reshape(3, *shape))
    assert prepared.dtype == np.uint8
    assert model.run(prepared).shape == (3, 3)


@pytest.mark.parametrize(("shape", "layout"), [((3, 4, 6), "chw"), ((4, 6, 3), "hwc"), ((72,), None)])
def test_colours_find_their_places(shape: tuple[int, ...], layout: Any) -> None:
    model = predictor(InputSpec(shape=shape, layout=layout, image=COLOUR))
    picture = np.random.default_rng(0).integers(256, size=(4, 6, 3), dtype=np.uint8)
    picture[[0, -1]] = picture[:, [0, -1]] = 0
    (prepared,) = model.prepare_images([png(picture)])
    expected = picture.transpose(2, 0, 1) if layout == "chw" else picture
    np.testing.assert_allclose(prepared, expected.reshape(shape) / 255.0, atol=1e-7)


def test_a_boolean_input_is_the_nearer_of_black_and_white() -> None:
    image = ImageSpec(channels=1, height=4, width=6, max_value=1.0)
    model = predictor(InputSpec(shape=(4, 6), dtype="bool", layout="hw", image=image))
    scan = np.zeros((4, 6), np.uint8)
    scan[1:3, 1:3] = [[100, 200], [127, 128]]
    (prepared,) = model.prepare_images([png(scan)])
    assert prepared[1:3, 1:3].tolist() == [[False, True], [False, True]]
    assert prepared.sum() == 2


IMAGES = predictor(InputSpec(shape=(4, 6), dtype="uint8", layout="hw", image=SCAN_IMAGE))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "images must be a list of at least 1 image, got 0 images"),
        (b"\x89PNG", "images must be a list of image files, got bytes"),
        ("scan.png", "images must be a list of image files, got str"),
        (["scan.png"], r"images\[0\] must be the bytes of a PNG or JPEG, got str"),
        ([png(np.eye(4, 6, 1, np.uint8) * 255), b"nonsense"], r"images\[1\] must be a PNG or JPEG, got 8 bytes"),
    ],
)
def test_image_files_that_are_refused(images: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        IMAGES.prepare_images(images)


def test_a_model_of_vectors_takes_no_images() -> None:
    with pytest.raises(InputError, match=r"must be tensors of float32 \[4\], got image files"):
        VECTOR.prepare_images([png(np.zeros((4, 6), np.uint8))])


# -- probabilities and top_k -------------------------------------------------------------------------------------------

readouts = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.floats(width=32, allow_nan=False),  # infinities too: a large finite input can overflow a network
)


@given(readouts)
def test_probabilities_are_probabilities(readout: Array) -> None:
    probabilities = VECTOR.probabilities(readout)
    assert probabilities.dtype == np.float32
    assert probabilities.shape == readout.shape
    assert np.all((probabilities >= 0) & (probabilities <= 1))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-6)
    assert np.all(
        np.take_along_axis(probabilities, readout.argmax(axis=1)[:, None], 1) == probabilities.max(1)[:, None]
    )


@given(hnp.arrays(np.float32, (3, 4), elements=st.floats(-50, 50, width=32)))
def test_probabilities_are_softmaxs(readout: Array) -> None:
    odds = np.exp(readout.astype(np.float64))
    np.testing.assert_allclose(
        VECTOR.probabilities(readout), odds / odds.sum(axis=1, keepdims=True), rtol=1e-6, atol=1e-30
    )


CALIBRATIONS = {
    "temperature": TemperatureScaling(num_classes=3, temperature=2.5),
    "platt": PlattScaling(num_classes=3, slopes=(0.5, 1.0, 2.0), intercepts=(0.0, -1.0, 0.5)),
    "isotonic": IsotonicCalibration(
        num_classes=3, scores=((-1.0, 1.0), (-2.0, 0.0, 2.0), (0.0,)), values=((0.1, 0.9), (0.0, 0.5, 1.0), (0.25,))
    ),
}


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_a_models_calibration_makes_its_probabilities(name: str) -> None:
    model = predictor(InputSpec(shape=(4,)), calibration=CALIBRATIONS[name])
    assert model.probabilistic
    readout = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32) * 3
    probabilities = model.probabilities(readout)
    assert probabilities.dtype == np.float32
    np.testing.assert_array_equal(probabilities, CALIBRATIONS[name].apply(readout.astype(float)).astype(np.float32))
    assert np.abs(probabilities - VECTOR.probabilities(readout)).max() > 0.05
    obs = np.random.default_rng(1).normal(size=(5, 4))
    _, indices, best = model.classify(obs, top_k=3)
    expected = model.probabilities(model.run(model.prepare(obs)))
    np.testing.assert_array_equal(best, np.take_along_axis(expected, indices, axis=1))


@given(
    st.sampled_from(sorted(CALIBRATIONS)), hnp.arrays(np.float32, (4, 3), elements=st.floats(width=32, allow_nan=False))
)
def test_calibrated_probabilities_are_probabilities(name: str, readout: Array) -> None:
    probabilities = predictor(InputSpec(shape=(1,)), calibration=CALIBRATIONS[name]).probabilities(readout)
    assert np.all((probabilities >= 0) & (probabilities <= 1))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-6)


def test_a_step_unit_has_no_degrees() -> None:
    model = predictor(InputSpec(shape=(4,)), labels=("no", "yes"), head=StepHeadSpec())
    assert not model.probabilistic
    readout = np.array([[0, 1e-6], [0, 0], [0, -5], [0, np.inf], [0, -np.inf]], np.float32)
    assert model.probabilities(readout).tolist() == [[0, 1], [1, 0], [1, 0], [0, 1], [1, 0]]
    assert model.probabilities(readout).dtype == np.float32
    obs = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32) * 5
    labels, _, probabilities = model.classify(obs)
    assert labels == [["yes"] if z > 0 else ["no"] for z in model.run(obs)[:, 1]]
    assert {label for (label,) in labels} == {"yes", "no"}
    assert (probabilities == 1).all()


def test_one_sigmoid_output_answers_for_two_classes() -> None:
    model = predictor(InputSpec(shape=(4,)), labels=("no", "yes"), head=SigmoidHeadSpec())
    assert model.probabilistic
    obs = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    z = model.run(obs)[:, 1].astype(np.float64)
    sigmoid = 1 / (1 + np.exp(-z))
    probabilities = model.probabilities(model.run(obs))
    np.testing.assert_allclose(probabilities, np.stack([1 - sigmoid, sigmoid], axis=1), rtol=1e-6)
    assert model.classify(obs).labels == [["yes"] if p > 0.5 else ["no"] for p in sigmoid]


def test_one_against_the_rest_answers_by_normalised_sigmoids() -> None:
    model = predictor(InputSpec(shape=(4,)), head=OneVsRestHeadSpec(num_classes=3))
    obs = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    assert isinstance(model.backend, TorchBackend)
    with torch.no_grad():
        logits = model.backend.network(torch.from_numpy(obs))[0].output.double().numpy()
    sigmoids = 1 / (1 + np.exp(-logits))
    expected = sigmoids / sigmoids.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.probabilities(model.run(obs)), expected, rtol=1e-5)


few_values = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.sampled_from([0.1, 0.2, 0.3])
)


@given(few_values, st.integers(1, 9))
def test_top_k_is_best_first_and_the_lower_index_first_among_equals(probabilities: Array, k: int) -> None:
    indices, best = VECTOR.top_k(probabilities, k)
    assert indices.dtype == np.int64
    assert best.dtype == np.float32
    for row, chosen, values in zip(probabilities.tolist(), indices.tolist(), best.tolist(), strict=True):
        expected = sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]
        assert chosen == expected
        assert values == [row[i] for i in expected]


@pytest.mark.parametrize("k", [0, -1, 1.5, "2", None])
def test_a_top_k_that_cannot_be(k: Any) -> None:
    with pytest.raises(InputError, match=f"top_k must be a whole number of at least 1, got {k}"):
        VECTOR.top_k(np.zeros((1, 3), np.float32), k)


# -- in one call -------------------------------------------------------------------------------------------------------


def test_classify_names_the_best() -> None:
    model = predictor(InputSpec(shape=(4,)), labels=("a", "b", "c"))
    obs = np.random.default_rng(0).normal(size=(5, 4))
    labels, indices, probabilities = model.classify(obs, top_k=2)
    expected = model.probabilities(model.run(model.prepare(obs)))
    assert indices.shape == probabilities.shape == (5, 2)
    assert labels == [["abc"[i] for i in row] for row in indices]
    assert np.array_equal(indices[:, 0], expected.argmax(axis=1))
    assert np.all(probabilities[:, 0] >= probabilities[:, 1])
    assert model.classify(obs[0]).labels == [[labels[0][0]]]
    assert len(model.classify(obs[0], top_k=99).labels[0]) == 3


def test_without_labels_the_numbers_name_the_outputs() -> None:
    assert VECTOR.labels == (0, 1, 2)
    assert VECTOR.num_outputs == 3


def test_act_gives_the_envs_own_numbers() -> None:
    model = predictor(InputSpec(shape=(4,)), actions=3)
    obs = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    actions, state = model.act(obs)
    assert state == ()
    assert actions.dtype == np.int64
    assert np.array_equal(actions, model.run(obs).argmax(axis=1) + 2)
    assert np.array_equal(model.act(obs[7])[0], actions[7:8])


def test_exploration_is_the_generators() -> None:
    model = predictor(InputSpec(shape=(4,)), actions=3)
    obs = np.zeros((3000, 4), np.float32)
    greedy = model.act(obs)[0]
    assert np.array_equal(model.act(obs, epsilon=0.0, rng=np.random.default_rng(0))[0], greedy)
    some, again = (model.act(obs, epsilon=0.3, rng=np.random.default_rng(1))[0] for _ in range(2))
    assert np.array_equal(some, again)
    share = float((some != greedy).mean())  # epsilon times 2/3, since a third of the draws are greedy by chance
    assert abs(share - 0.2) < 5 * math.sqrt(0.2 * 0.8 / 3000)
    every = model.act(obs, epsilon=1.0, rng=np.random.default_rng(2))[0]
    assert set(every.tolist()) == {2, 3, 4}


@pytest.mark.parametrize("epsilon", [-0.1, 1.1, math.nan])
def test_an_epsilon_that_cannot_be(epsilon: float) -> None:
    model = predictor(InputSpec(shape=(4,)), actions=3)
    with pytest.raises(InputError, match=r"epsilon must be a number in \[0, 1\]"):
        model.act(np.zeros(4), epsilon=epsilon, rng=np.random.default_rng(0))


def test_exploration_needs_a_generator() -> None:
    with pytest.raises(InputError, match="rng must be a numpy Generator"):
        predictor(InputSpec(shape=(4,)), actions=3).act(np.zeros(4), epsilon=0.5)


# -- masks -------------------------------------------------------------------------------------------------------------

POLICY = predictor(InputSpec(shape=(4,)), actions=3)  # whose actions the env calls 2, 3 and 4
MASKS = np.array([[1, 1, 1], [0, 1, 1], [1, 0, 0], [0, 0, 1], [1, 1, 0], [0, 1, 0]], bool)


@given(
    hnp.arrays(np.float32, (6, 3), elements=st.sampled_from([-np.inf, -1e38, -1.0, 0.0, 2.0, np.inf])),
    st.permutations(range(6)),
)
def test_the_best_legal_action_is_the_first_of_equals(readout: Array, order: list[int]) -> None:
    mask = MASKS[order]
    actions = POLICY.greedy(readout, mask)
    assert actions.dtype == np.int64
    for row, legal, action in zip(readout.tolist(), mask.tolist(), (actions - 2).tolist(), strict=True):
        possible = [a for a in range(3) if legal[a]]
        assert action == max(possible, key=lambda a: (row[a], -a))
    assert np.array_equal(POLICY.greedy(readout, np.ones_like(mask)), POLICY.greedy(readout))


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_an_illegal_action_is_never_chosen(epsilon: float) -> None:
    mask = np.tile(MASKS, (500, 1))
    obs = np.random.default_rng(0).normal(size=(3000, 4))
    actions, state = POLICY.act(obs, epsilon=epsilon, rng=np.random.default_rng(1), mask=mask)
    assert state == ()
    assert actions.dtype == np.int64
    assert mask[np.arange(3000), actions - 2].all()
    if epsilon == 0:
        assert np.array_equal(actions, POLICY.greedy(POLICY.run(POLICY.prepare(obs)), mask))


def test_random_legal_actions_are_drawn_evenly() -> None:
    rows = 3000
    obs = np.zeros((rows, 4))
    for legal in ([2], [0, 2], [0, 1, 2]):
        mask = np.zeros((rows, 3), bool)
        mask[:, legal] = True
        actions, _ = POLICY.act(obs, epsilon=1.0, rng=np.random.default_rng(2), mask=mask)
        counts = np.bincount(actions - 2, minlength=3)
        share = 1 / len(legal)
        assert np.abs(counts[legal] / rows - share).max() <= 5 * math.sqrt(share * (1 - share) / rows)
        assert counts.sum() == counts[legal].sum()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((2, 4), bool), r"mask must be bool \[2, 3\], True for legal actions, got bool \[2, 4\]"),
        (np.ones(3, bool), r"mask must be bool \[2, 3\].*, got bool \[3\]"),
        (np.ones((2, 3), np.int8), r"mask must be bool \[2, 3\].*, got int8 \[2, 3\]"),
        ([[True] * 3] * 2, r"mask must be bool \[2, 3\].*, got list"),
        (np.array([[0, 1, 0], [0, 0, 0]], bool), "mask must be True for at least one action a row, got none in row 1"),
    ],
)
def test_masks_that_are_refused(mask: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        POLICY.act(np.zeros((2, 4)), mask=mask)
    with pytest.raises(InputError, match=message):
        POLICY.greedy(np.zeros((2, 3), np.float32), mask)


def test_draws_without_a_mask_are_as_they_always_were() -> None:
    """A run's actions follow from its seed, also in a later version."""
    obs = np.zeros((1000, 4), np.float32)
    rng = np.random.default_rng(3)
    explore, drawn = rng.random(1000) < 0.4, rng.integers(3, size=1000) + 2
    expected = np.where(explore, drawn, POLICY.act(obs)[0])
    assert np.array_equal(POLICY.act(obs, epsilon=0.4, rng=np.random.default_rng(3))[0], expected)


REGRESSOR = predictor(
    InputSpec(shape=(4,)), head=RegressionHeadSpec(num_targets=2, mean=(100.0, -1.0), std=(10.0, 0.5))
)


def test_a_regressor_answers_in_the_targets_units() -> None:
    assert (REGRESSOR.kind, REGRESSOR.num_outputs, REGRESSOR.probabilistic) == ("regressor", 2, False)
    obs = np.random.default_rng(0).normal(size=(30, 4))
    answers = REGRESSOR.regress(obs)
    assert answers.dtype == np.float32
    assert answers.shape == (30, 2)
    assert isinstance(REGRESSOR.backend, TorchBackend)
    with torch.no_grad():
        standardised = REGRESSOR.backend.network(torch.tensor(obs, dtype=torch.float32))[0].output.numpy()
    np.testing.assert_allclose(answers, standardised * [10.0, 0.5] + [100.0, -1.0], rtol=1e-6)
    np.testing.assert_allclose(REGRESSOR.regress(obs[3]), answers[3:4], rtol=1e-6)
    with pytest.raises(InputError, match=r"must be float32 \[batch, 4\]"):
        REGRESSOR.regress(np.zeros((2, 5)))


@pytest.mark.parametrize(("kind", "own"), [("classifier", "classify"), ("policy", "act"), ("regressor", "regress")])
def test_each_kind_does_its_own(kind: str, own: str) -> None:
    model = {"classifier": VECTOR, "policy": predictor(InputSpec(shape=(4,)), actions=3), "regressor": REGRESSOR}[kind]
    for other, method in (("classifier", "classify"), ("policy", "act"), ("regressor", "regress")):
        if method == own:
            getattr(model, method)(np.zeros(4))
            continue
        with pytest.raises(InputError, match=rf"model must be a {other}, got a {kind}; use {own}\(\)"):
            getattr(model, method)(np.zeros(4))


# -- loading -----------------------------------------------------------------------------------------------------------


def test_a_loaded_predictor_answers_as_the_network_that_was_saved(tmp_path: Path, make_policy: Any) -> None:
    network: Network = make_policy(hidden=(8, 8))
    save_model(tmp_path, network, kind="policy", onnx=False)
    obs = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    model = Predictor.load(tmp_path)
    assert model.backend.name == "torch"
    with torch.no_grad():
        assert np.array_equal(model.run(obs), network.eval().readout(torch.from_numpy(obs)).numpy())


def test_another_backend_may_compute(tmp_path: Path, make_policy: Any) -> None:
    class Zeros:
        name = "zeros"

        def run(self, inputs: Array, *_state: Array) -> tuple[Array]:
            return (np.zeros((len(inputs), 2), np.float32),)

    save_model(tmp_path, make_policy(), kind="policy", onnx=False)
    seen = []

    def backend(directory: Path, card: ModelCard) -> Zeros:
        seen.append((directory, card.kind))
        return Zeros()

    model = Predictor.load(tmp_path, backend=backend)
    assert seen == [(tmp_path, "policy")]
    assert model.act(np.ones((3, 4)))[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "tpu0"])
def test_a_device_that_is_not_there(tmp_path: Path, make_policy: Any, device: str) -> None:
    save_model(tmp_path, make_policy(), kind="policy", onnx=False)
    with pytest.raises(ConfigError, match=f"device .*{device}"):
        Predictor.load(tmp_path, device=device)
