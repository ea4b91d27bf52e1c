"""ONNX Runtime backends: a model.onnx on the CPU, with IO binding for small batches."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from torso.errors import ModelDamagedError
from torso.nets.models.onnx_export import INPUT_NAME, OUTPUT_NAME, PROBABILITIES, with_probabilities
from torso.private_apis import onnxruntime_errors

IO_BINDING_ROWS = 8  # batches of at most so many rows run on arrays that ONNX Runtime knows
ONNX_ERRORS = onnxruntime_errors()


class OnnxBackend:
    """Backend of a model.onnx on ONNX Runtime's CPU provider: one thread by default, asleep between batches.

    ``model`` is the file or its bytes; ``source`` is its name in errors.
    """

    name = "onnx"

    def __init__(self, model: Path | bytes, *, source: str = "model.onnx", threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; they are also raised
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except ONNX_ERRORS as error:
            raise ModelDamagedError(f"{source} cannot be loaded by ONNX Runtime: {error}") from error
        self._bindings: dict[tuple[str, int], _IoBinding] = {}
        self._lock = threading.Lock()  # bound arrays serve one caller at a time

    def run(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Compute the readout of inputs, [B, *shape] in the model's dtype, contiguous; returns [B, K] float32."""
        return self._compute(OUTPUT_NAME, inputs)

    def _compute(self, output: str, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Compute one of the graph's outputs.

        For a few rows, ONNX Runtime's checks of its arguments are the larger part of the work, so inputs and outputs of
        such sizes are bound once to fixed arrays (I/O binding).
        """
        rows = len(inputs)
        if rows > IO_BINDING_ROWS:
            return self._run_unbound(output, inputs)
        with self._lock:
            binding = self._bindings.get((output, rows))
            if binding is None:
                binding = _IoBinding(self._session, output, inputs, self._run_unbound(output, inputs))
                self._bindings[output, rows] = binding
            return binding.run(inputs)

    def _run_unbound(self, output: str, inputs: NDArray[Any]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = self._session.run([output], {INPUT_NAME: inputs})[0]
        return result


class _IoBinding:
    """I/O binding of a session to fixed arrays, shaped as the examples ``inputs`` and ``outputs``."""

    def __init__(
        self, session: onnxruntime.InferenceSession, name: str, inputs: NDArray[Any], outputs: NDArray[np.float32]
    ) -> None:
        self._session = session
        self._inputs, self._outputs = np.empty_like(inputs), np.empty_like(outputs)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(INPUT_NAME, onnxruntime.OrtValue.ortvalue_from_numpy(self._inputs))
        self._binding.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_numpy(self._outputs))

    def run(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        np.copyto(self._inputs, inputs)
        self._session.run_with_iobinding(self._binding)
        return self._outputs.copy()


class OnnxClassifier(OnnxBackend):
    """Backend of a classifier whose softmax is part of the graph: a fraction of its cost in numpy, a row at a time.

    Only for models whose probabilities are the readout's softmax: probabilistic ones without a calibration.
    """

    def __init__(self, model: bytes, *, source: str = "model.onnx", threads: int = 1) -> None:
        super().__init__(with_probabilities(model), source=source, threads=threads)

    def probabilities(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Compute the probabilities of inputs, [B, *shape] in the model's dtype, contiguous.

        Returns [B, K] float32; rows sum to 1.
        """
        return self._compute(PROBABILITIES, inputs)
