"""What computes a served model on the CPU: ONNX Runtime where its answers equal torch's, else torch.

A backend is what `torso.nets.Backend` says: arrays in, arrays out, validation and reading left to the predictor.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_errors

from torso.errors import ModelDamagedError, ServerError
from torso.nets import Backend, InputSpec, ModelCard, Network, TorchBackend, onnx_path
from torso.serve.config import BackendChoice

logger = logging.getLogger(__name__)

RTOL, ATOL = 1e-4, 1e-5  # what "equal" means for answers of different backends or batch sizes
PROBE_ROWS = 16

# ONNX Runtime's errors have no common class of their own.
_ONNX_ERRORS = tuple(
    error for error in vars(onnxruntime_errors).values() if isinstance(error, type) and issubclass(error, Exception)
)


class OnnxBackend:
    """A model.onnx on ONNX Runtime's CPU provider: one thread by default, asleep between batches."""

    name = "onnx"

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; they are also raised
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except _ONNX_ERRORS as error:
            raise ModelDamagedError(f"{path} cannot be loaded by ONNX Runtime: {error}") from error
        self._input = self._session.get_inputs()[0].name

    def run(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """[B, *shape] in the model's dtype, contiguous; returns the readout, [B, K] float32."""
        readout: NDArray[np.float32] = self._session.run(None, {self._input: inputs})[0]
        return readout


def choose_backend(
    directory: Path, card: ModelCard, network: Network, choice: BackendChoice = "auto", *, threads: int = 1
) -> Backend:
    """Pick what computes a model directory's network.

    ``auto`` takes ONNX Runtime where there is a model.onnx of these weights that equals torch on a probe batch; where
    not, that is logged and torch serves. ``onnx`` insists: ServerError or ModelDamagedError instead. ``threads`` is for
    ONNX Runtime; torch's are the process' own (`torch.set_num_threads`).
    """
    reference = TorchBackend(network)
    if choice == "torch":
        return reference
    path = onnx_path(directory)
    try:
        if path is None:
            raise ServerError(f"{directory} has no whole model.onnx of its weights: run `torso export {directory}`")
        backend = OnnxBackend(path, threads=threads)
        probe = probe_batch(card.network.input, PROBE_ROWS)
        _require_equal(backend, reference, probe)
        _require_equal(backend, reference, probe[:1])
    except (ServerError, ModelDamagedError) as error:
        if choice == "onnx":
            raise
        logger.warning("torch serves, at less speed: %s", error)
        return reference
    return backend


def _require_equal(backend: Backend, reference: Backend, probe: NDArray[Any]) -> None:
    try:
        answers = backend.run(probe)
    except _ONNX_ERRORS as error:
        raise ModelDamagedError(f"model.onnx fails on a probe batch of {len(probe)}: {error}") from error
    if not equal_readouts(answers, reference.run(probe)):
        raise ModelDamagedError(f"model.onnx does not give torch's answers on a probe batch of {len(probe)}")


def equal_readouts(answers: NDArray[np.float32], reference: NDArray[np.float32]) -> bool:
    """Say whether two readouts, [B, K], are equal for served answers.

    Values agree within ``RTOL`` and ``ATOL``, and so does the best of each row wherever the reference's margin between
    its best two exceeds that.
    """
    if answers.shape != reference.shape or not np.allclose(answers, reference, rtol=RTOL, atol=ATOL):
        return False
    if reference.shape[1] == 1:
        return True
    second, best = np.sort(reference, axis=1)[:, -2:].T  # [B] each
    clear = best - second > ATOL + RTOL * np.abs(best)
    return bool(np.array_equal(answers.argmax(axis=1)[clear], reference.argmax(axis=1)[clear]))


def probe_batch(spec: InputSpec, rows: int) -> NDArray[Any]:
    """Draw the same varied inputs at every start, [rows, *shape]: bytes over their whole range, floats around 0."""
    rng = np.random.default_rng(0)
    dtype = spec.numpy_dtype
    shape = (rows, *spec.shape)
    if dtype.kind == "b":
        return rng.integers(2, size=shape).astype(dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return rng.integers(max(limits.min, -128), min(limits.max, 255), size=shape, endpoint=True).astype(dtype)
    return (rng.standard_normal(shape) / spec.scale).astype(dtype)
