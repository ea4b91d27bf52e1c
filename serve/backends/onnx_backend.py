"""ONNX Runtime backends: a model.onnx on the CPU, with IO binding for small batches."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from torso.arrays import Array, ArrayState, Readout
from torso.errors import ModelDamagedError
from torso.nets.models.onnx_export import (
    INPUT_NAME,
    NEXT_STATE_NAME,
    OUTPUT_NAME,
    PROBABILITIES,
    STATE_NAME,
    state_names,
    with_probabilities,
)
from torso.nets.prediction.backend import Outputs
from torso.private_apis import onnxruntime_errors

IO_BINDING_ROWS = 8  # batches of at most so many rows, and of
IO_BINDING_BYTES = 1 << 20  # at most so many bytes, run on arrays that ONNX Runtime knows and that are kept
ONNX_ERRORS = onnxruntime_errors()
_PROBABILITIES = (PROBABILITIES,)


class OnnxBackend:
    """Backend of a model.onnx on ONNX Runtime's CPU provider: one thread by default, asleep between batches.

    ``model`` is the file or its bytes; ``source`` is its name in errors. ``initial_state``: a recurrent model's state
    at an episode's start, [1, ...] each, which the file does not hold.
    """

    name = "onnx"

    def __init__(
        self,
        model: Path | bytes,
        *,
        source: str = "model.onnx",
        threads: int = 1,
        initial_state: ArrayState = (),
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; they are also raised
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except ONNX_ERRORS as error:
            raise ModelDamagedError(f"{source} cannot be loaded by ONNX Runtime: {error}") from error
        self.initial_state = initial_state
        self._inputs = (INPUT_NAME, *state_names(STATE_NAME, len(initial_state)))
        names = tuple(value.name for value in self._session.get_inputs())
        if names != self._inputs:
            raise ModelDamagedError(
                f"{source} must have the inputs {', '.join(self._inputs)}, got {', '.join(names)}; export it anew"
            )
        self._outputs = (OUTPUT_NAME, *state_names(NEXT_STATE_NAME, len(initial_state)))
        self._bindings: dict[tuple[str, int], _IoBinding] = {}
        self._lock = threading.Lock()  # bound arrays serve one caller at a time

    def run(self, inputs: Array, *state: Array) -> Outputs:
        """Compute readout, [B, K] float32, and next state of inputs, [B, *shape] in the model's dtype, and their state.

        All arrays are contiguous.
        """
        return self._compute(self._outputs, inputs, state)

    def _compute(self, outputs: tuple[str, ...], inputs: Array, state: ArrayState) -> Outputs:
        """Compute some of the graph's outputs.

        For a few rows, ONNX Runtime's checks of its arguments are the larger part of the work, so inputs and outputs of
        such sizes are bound once to fixed arrays (I/O binding).
        """
        rows = len(inputs)
        if rows > IO_BINDING_ROWS or _num_bytes(inputs, *state) > IO_BINDING_BYTES:
            return self._run_unbound(outputs, inputs, state)
        with self._lock:
            binding = self._bindings.get((outputs[0], rows))
            if binding is None:
                computed = self._run_unbound(outputs, inputs, state)
                if _num_bytes(*computed) > IO_BINDING_BYTES:
                    return computed
                arrays = dict(zip(self._inputs, (inputs, *state), strict=True))
                results = dict(zip(outputs, computed, strict=True))
                binding = self._bindings[outputs[0], rows] = _IoBinding(self._session, arrays, results)
            return binding.run(inputs, state)

    def _run_unbound(self, outputs: tuple[str, ...], inputs: Array, state: ArrayState) -> Outputs:
        results: Outputs = tuple(self._session.run(outputs, dict(zip(self._inputs, (inputs, *state), strict=True))))
        return results


def _num_bytes(*arrays: Array) -> int:
    return sum(array.nbytes for array in arrays)


class _IoBinding:
    """I/O binding of a session to fixed arrays, by the names of the graph, shaped as the examples that are given."""

    def __init__(
        self, session: onnxruntime.InferenceSession, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
    ) -> None:
        self._session = session
        self._inputs, *self._state = (np.empty_like(array) for array in inputs.values())
        self._readout, *self._next_state = (np.empty_like(array) for array in outputs.values())
        self._binding = session.io_binding()
        for name, array in zip(inputs, (self._inputs, *self._state), strict=True):
            self._binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        for name, array in zip(outputs, (self._readout, *self._next_state), strict=True):
            self._binding.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))

    def run(self, inputs: Array, state: ArrayState) -> Outputs:
        np.copyto(self._inputs, inputs)
        if not self._state:
            self._session.run_with_iobinding(self._binding)
            return (self._readout.copy(),)
        for bound, part in zip(self._state, state, strict=True):
            np.copyto(bound, part)
        self._session.run_with_iobinding(self._binding)
        return self._readout.copy(), *(part.copy() for part in self._next_state)


class OnnxClassifier(OnnxBackend):
    """Backend of a classifier whose softmax is part of the graph: a fraction of its cost in numpy, a row at a time.

    Only for models whose probabilities are the readout's softmax: probabilistic ones without a calibration or a state.
    """

    def __init__(self, model: bytes, *, source: str = "model.onnx", threads: int = 1) -> None:
        super().__init__(with_probabilities(model), source=source, threads=threads)

    def probabilities(self, inputs: Array) -> Readout:
        """Compute the probabilities of inputs, [B, *shape] in the model's dtype, contiguous.

        Returns [B, K] float32; rows sum to 1.
        """
        return self._compute(_PROBABILITIES, inputs, ())[0]
