"""Predictor: a loaded model that validates, preprocesses, runs and decodes; evaluation and the server share it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from torso.arrays import Array, ArrayState
from torso.errors import InputError
from torso.nets.models.card import Label, ModelCard
from torso.nets.models.describing import describe
from torso.nets.models.directory import find_model
from torso.nets.models.loading import load_model
from torso.nets.prediction.backend import Backend, ProbabilitiesBackend, TorchBackend
from torso.nets.prediction.choosing import best_k, best_legal, random_legal
from torso.nets.prediction.image_inputs import decode_inputs
from torso.nets.prediction.recurrent_state import check_state, repeat_rows
from torso.nets.specs.inputs import InputSpec
from torso.pictures import MAX_PIXELS
from torso.space_spec import Interface
from torso.tables import columns_by_name

_LARGEST = float(np.finfo(np.float32).max)
_METHOD_OF_KIND = {"classifier": "classify", "policy": "act", "regressor": "regress"}


class Classification(NamedTuple):
    """Top-k classes of each row, best first. ``indices``: int64 [B, k]; ``probabilities``: float32 [B, k]."""

    labels: list[list[Label]]
    indices: NDArray[np.int64]
    probabilities: NDArray[np.float32]


class Predictor:
    """Predictor: a model and the inference backend that computes it.

    The stages are separate so that a server can validate before it queues and batch several callers' inputs:
    `prepare` or `prepare_images`, then `run`, then `probabilities` and `top_k`, or `greedy`; a regressor's readout is
    its prediction. ``probabilistic`` tells classifiers with real probabilities from step units and other kinds;
    ``is_recurrent``, models with a state: `prepare_state` and `step` take it, and all else computes from an episode's
    start.
    """

    def __init__(self, card: ModelCard, backend: Backend) -> None:
        self.card = card
        self.backend = backend
        self.kind = card.kind
        self.input: InputSpec = card.network.input
        self.observation_space = card.observation_space
        self.num_outputs = card.network.num_outputs
        self.probabilistic = card.network.probabilistic
        self.is_recurrent = bool(getattr(backend, "initial_state", ()))
        self._softmax = backend.probabilities if isinstance(backend, ProbabilitiesBackend) else None
        self.labels: tuple[Label, ...] = card.labels if card.labels is not None else tuple(range(self.num_outputs))

    def __repr__(self) -> str:
        return f"Predictor({describe(self.card)})"

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | torch.device = "cpu",
        backend: Callable[[Path, ModelCard], Backend] | None = None,
    ) -> Predictor:
        """Load a model or run directory; ``backend`` builds another backend than torch.

        Raises:
            ModelNotFoundError, ModelDamagedError, ModelFormatError: see `torso.errors`.
        """
        directory = find_model(path)
        card, network = load_model(directory, device)
        return cls(card, TorchBackend(network, device) if backend is None else backend(directory, card))

    @property
    def interface(self) -> Interface | None:
        """Interface of a policy, as an env has one: observations and actions; None for other models."""
        return self.card.interface

    # -- validation ------------------------------------------------------------------------------------------------

    def prepare(self, inputs: ArrayLike, *, strict: bool = False, field: str = "inputs") -> Array:
        """Validate inputs and convert them for the backend: [B, *shape], the model's dtype, contiguous.

        Strict (for requests): shape and dtype must be exactly those. Otherwise one input may lack its batch axis, a
        batch may be flat [B, size], and any numbers are taken that the model's dtype can hold.

        Of a frame whose columns have names, a model that knows the names takes its own, in its own order.

        A policy whose observations were flattened takes them as its env gives them, too, as `SpaceSpec.flatten` says.

        Raises:
            InputError: naming the field, what it must be and what it got; also for 0 rows, NaN and infinity.
        """
        expected = f"{self.input.dtype} [{', '.join(map(str, ('batch', *self.input.shape)))}]"
        if not strict:
            inputs = columns_by_name(inputs, self.card.feature_names, field)
        if self.observation_space is not None:
            rows, _ = self.observation_space.flatten(inputs, field, strict=strict)
            inputs = inputs if rows is None else rows.astype(self.input.numpy_dtype, copy=False)
        try:
            array = np.asarray(inputs)
        except (ValueError, TypeError, RuntimeError) as error:  # rows of several lengths, tensors of another device
            raise InputError(
                field, expected=expected, got=f"{type(inputs).__name__} that is not an array ({error})"
            ) from error
        if not strict:
            array = self._reshape(self._cast(array, field, expected))
        elif array.dtype != self.input.numpy_dtype:
            raise InputError(f"{field}.dtype", expected=self.input.dtype, got=str(array.dtype))
        if array.ndim != len(self.input.shape) + 1 or array.shape[1:] != self.input.shape:
            raise InputError(f"{field}.shape", expected=expected, got=str(list(array.shape)))
        if array.shape[0] == 0:
            raise InputError(f"{field}.shape", expected="at least 1 row", got="0 rows")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(field, expected="finite numbers", got="NaN or infinity")
        return np.ascontiguousarray(array)

    def is_one(self, inputs: ArrayLike) -> bool:
        """Whether inputs that `prepare` takes are one, without a batch axis."""
        if self.observation_space is not None:
            return self.observation_space.flatten(inputs)[1]
        try:
            return np.shape(inputs) == self.input.shape
        except ValueError:  # rows of several lengths, which `prepare` refuses
            return False

    def _reshape(self, array: Array) -> Array:
        if array.shape == self.input.shape:
            return array[np.newaxis]
        if array.ndim == 2 and len(self.input.shape) != 1 and array.shape[1] == self.input.size:
            return array.reshape(-1, *self.input.shape)
        return array

    def _cast(self, array: Array, field: str, expected: str) -> Array:
        target = self.input.numpy_dtype
        if array.dtype == target:
            return array
        if array.dtype.kind not in "biuf":
            raise InputError(f"{field}.dtype", expected=expected, got=str(array.dtype))
        with np.errstate(over="ignore", invalid="ignore"):
            cast = array.astype(target)
        if target.kind == "f":
            held = bool(np.array_equal(np.isfinite(cast), np.isfinite(array)))  # rounded, but not to infinity
        else:
            held = np.can_cast(array.dtype, target, "safe") or np.array_equal(cast, array)
        if not held:
            raise InputError(field, expected=f"values that {self.input.dtype} can hold", got=_value_range(array))
        return cast

    def prepare_images(
        self,
        images: Sequence[bytes],
        *,
        field: str = "images",
        max_pixels: int = MAX_PIXELS,
        before_each: Callable[[], object] | None = None,
    ) -> Array:
        """Decode PNG or JPEG files and convert them for the backend: [B, *shape], the model's dtype.

        before_each: called before each image is decoded; what it raises ends the work.

        Raises:
            InputError: a model without an image input, no images, or one that cannot be read, by its index.
        """
        if self.input.image is None:
            raise InputError(
                field, expected=f"tensors of {self.input.dtype} {list(self.input.shape)}", got="image files"
            )
        if isinstance(images, (bytes, bytearray, str)):
            raise InputError(field, expected="a list of image files", got=type(images).__name__)
        if len(images) == 0:
            raise InputError(field, expected="a list of at least 1 image", got="0 images")
        fields = [f"{field}[{index}]" for index in range(len(images))]
        return decode_inputs(images, self.input, fields=fields, max_pixels=max_pixels, before_each=before_each)

    @property
    def initial_state(self) -> ArrayState:
        """State at an episode's start, one row of each tensor, [1, ...]; () for models that are not recurrent."""
        state: ArrayState = getattr(self.backend, "initial_state", ())
        return state

    def prepare_state(self, state: Sequence[ArrayLike], rows: int, *, field: str = "state") -> ArrayState:
        """Validate the state for so many observations, and convert it for the backend: contiguous, [rows, ...] each.

        state: as `step` and `act` return it; empty: an episode's start in each row.

        Raises:
            InputError: another number of tensors, another shape or dtype, NaN and infinity; any state for a model that
                is not recurrent.
        """
        initial_state = self.initial_state
        return check_state(state, initial_state, rows, field) if len(state) else repeat_rows(initial_state, rows)

    # -- forward and decoding --------------------------------------------------------------------------------------

    def run(self, prepared: Array) -> NDArray[np.float32]:
        """Compute the readout of prepared inputs: [B, *shape] to [B, K] float32."""
        if self.is_recurrent:
            return self.step(prepared, self.prepare_state((), len(prepared)))[0]
        return self.backend.run(prepared)[0]

    def step(self, prepared: Array, state: ArrayState) -> tuple[NDArray[np.float32], ArrayState]:
        """Compute the readout, [B, K] float32, and the next state of prepared inputs and a prepared state."""
        readout, *next_state = self.backend.run(prepared, *state)
        return readout, tuple(next_state)

    def answer(self, prepared: Array) -> NDArray[np.float32]:
        """Predict from prepared inputs: a classifier's probabilities, or the readout. [B, K] float32."""
        if self._softmax is not None:
            return self._softmax(prepared)
        readout = self.run(prepared)
        return self.probabilities(readout) if self.kind == "classifier" else readout

    def probabilities(self, readout: NDArray[np.float32]) -> NDArray[np.float32]:
        """Convert a classifier's readout [B, K] to probabilities, [B, K] float32, rows sum to 1.

        They are calibrated where the model holds a calibration. A step unit's are 1 for the predicted class,
        0 for the other.
        """
        logits = readout.astype(np.float64)
        np.minimum(logits, _LARGEST, out=logits)  # infinity minus infinity would be NaN
        np.maximum(logits, -_LARGEST, out=logits)
        calibration = self.card.calibration
        if calibration is not None:
            probabilities = calibration.apply(logits)
        elif self.probabilistic:
            logits -= np.maximum.reduce(logits, axis=1, keepdims=True)
            probabilities = np.exp(logits, out=logits)
            probabilities /= np.add.reduce(probabilities, axis=1, keepdims=True)
        else:
            probabilities = np.eye(logits.shape[1])[logits.argmax(axis=1)]
        return probabilities.astype(np.float32)

    def top_k(self, probabilities: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return indices and probabilities of the ``k`` best classes, best first, the lower index first among equals.

        probabilities: [B, K]. Returns int64 [B, k] and float32 [B, k]; a ``k`` above K means all of them.

        Raises:
            InputError: ``k`` below 1.
        """
        if not isinstance(k, (int, np.integer)) or k < 1:
            raise InputError("top_k", expected="a whole number of at least 1", got=str(k))
        return best_k(probabilities, k)

    def greedy(self, readout: NDArray[np.float32], mask: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Choose greedy actions: the env's number of each row's best action, the lowest among equals.

        readout: [B, A]; mask: bool [B, A], True for legal actions, of which the best is taken; None: all are legal.
        Returns int64 [B].

        Raises:
            InputError: a mask of another shape or dtype, or one with a row without a legal action.
        """
        if mask is not None:
            _check_mask(mask, readout.shape)
        return best_legal(readout, mask) + self.card.action_start

    def explore(
        self,
        actions: NDArray[np.int64],
        epsilon: float,
        rng: np.random.Generator | None,
        mask: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.int64]:
        """Explore: replace each row's action, with probability ``epsilon``, by a uniformly drawn legal one.

        actions: int64 [B], as `greedy` returns them; mask: as it takes it. ``rng`` draws; an ``epsilon`` of 0
        draws nothing.

        Raises:
            InputError: an ``epsilon`` outside [0, 1], or above 0 without an ``rng``.
        """
        if not 0 <= epsilon <= 1:
            raise InputError("epsilon", expected="a number in [0, 1]", got=str(epsilon))
        if epsilon == 0:
            return actions
        if rng is None:
            raise InputError("rng", expected="a numpy Generator when epsilon is above 0", got="None")
        explores = rng.random(len(actions)) < epsilon
        drawn = rng.integers(self.num_outputs, size=len(actions)) if mask is None else random_legal(mask, rng)
        return np.where(explores, drawn + self.card.action_start, actions)

    # -- in one call -----------------------------------------------------------------------------------------------

    def classify(self, inputs: ArrayLike, top_k: int = 1) -> Classification:
        """Classify inputs: the ``top_k`` best labels of each, best first. inputs: as `prepare` takes them."""
        self._require_kind("classifier")
        probabilities = self.answer(self.prepare(inputs))
        indices, best = self.top_k(probabilities, top_k)
        return Classification([[self.labels[i] for i in row] for row in indices], indices, best)

    def act(
        self,
        observations: ArrayLike,
        state: ArrayState = (),
        *,
        epsilon: float = 0.0,
        rng: np.random.Generator | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int64], ArrayState]:
        """Choose the env's action for each observation; returns actions and the next state.

        observations: as `prepare` takes them. state: a recurrent model's, as the previous call returned it, a tuple of
        arrays [B, ...]; ``()`` where all episodes start, and for other models. With ``epsilon`` above 0, each row's
        action is, with that probability, one drawn uniformly from all that are legal; ``rng`` draws. mask: as `greedy`
        takes it. Returns int64 [B].

        Raises:
            InputError: as `prepare`, `prepare_state`, `greedy` and `explore`; a model that is no policy.
        """
        self._require_kind("policy")
        prepared = self.prepare(observations, field="observations")
        readout, next_state = self.step(prepared, self.prepare_state(state, len(prepared)))
        return self.explore(self.greedy(readout, mask), epsilon, rng, mask), next_state

    def regress(self, inputs: ArrayLike) -> NDArray[np.float32]:
        """Estimate targets with a regressor, [B, K] float32, in their own units. inputs: as `prepare` takes them."""
        self._require_kind("regressor")
        return self.run(self.prepare(inputs))

    def _require_kind(self, kind: str) -> None:
        if self.kind != kind:
            raise InputError("model", expected=f"a {kind}", got=f"a {self.kind}; use {_METHOD_OF_KIND[self.kind]}()")


def _check_mask(mask: object, shape: tuple[int, ...]) -> None:
    expected = f"bool {list(shape)}, True for legal actions"
    if not isinstance(mask, np.ndarray):
        raise InputError("mask", expected=expected, got=type(mask).__name__)
    if mask.dtype != np.bool_ or mask.shape != shape:
        raise InputError("mask", expected=expected, got=f"{mask.dtype} {list(mask.shape)}")
    illegal = np.flatnonzero(~mask.any(axis=1))
    if len(illegal):
        raise InputError("mask", expected="True for at least one action a row", got=f"none in row {illegal[0]}")


def _value_range(array: Array) -> str:
    return f"{array.dtype} values from {array.min()} to {array.max()}" if array.size else f"no {array.dtype} values"
