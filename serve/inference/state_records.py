"""Rows of a recurrent policy as records: an array's rows hold all that a row needs, so that they batch like any other.

A request's record is an observation and its state; an answer's, the action values and the next state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from torso.arrays import Array, ArrayState
from torso.errors import ModelError
from torso.nets import Predictor


class StateRecords:
    """Encoder and decoder of a recurrent policy's records, and, as a callable, its forward from records to records."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        spec = predictor.input
        state = [(f"state_{i}", part.dtype, part.shape[1:]) for i, part in enumerate(predictor.initial_state)]
        self._request = np.dtype([("observations", spec.numpy_dtype, spec.shape), *state])
        self._answer = np.dtype([("values", np.dtype(np.float32), (predictor.num_outputs,)), *state])

    def pack(self, observations: Array, state: Sequence[ArrayLike]) -> Array:
        """Encode prepared observations, [B, *shape], with a state as `Predictor.prepare_state` takes it: [B] records.

        Raises InputError for a state that does not fit.
        """
        return _packed(self._request, (observations, *self._predictor.prepare_state(state, len(observations))))

    def __call__(self, records: Array) -> Array:
        """Compute a request's records, [B], to an answer's.

        Raises ModelError where the next state has another shape or dtype than the initial one.
        """
        observations, state = self.unpack(records)
        values, next_state = self._predictor.step(observations, state)
        return _packed(self._answer, (values, *next_state))

    def unpack(self, records: Array) -> tuple[Array, ArrayState]:
        """Decode records, [B], to contiguous arrays, [B, ...]: observations or values, and the state's tensors."""
        first, *state = (np.ascontiguousarray(records[name]) for name in records.dtype.names or ())
        return first, tuple(state)


def _packed(dtype: np.dtype[np.void], arrays: Sequence[Array]) -> Array:
    records = np.empty(len(arrays[0]), dtype)
    for name, array in zip(dtype.names or (), arrays, strict=True):
        field = records[name]
        if array.shape != field.shape or array.dtype != field.dtype:
            raise ModelError(
                f"{name} of a recurrent model must be {field.dtype} {list(field.shape)}, as at an episode's start, "
                f"got {array.dtype} {list(array.shape)}"
            )
        field[...] = array
    return records
