"""Inference backends: ONNX Runtime where its answers equal torch's, else torch; or CUDA graphs.

A backend implements `torso.nets.Backend`: arrays in, arrays out; the predictor validates inputs and reads outputs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from torso.errors import ModelDamagedError, ModelError
from torso.nets import Backend, InputSpec, ModelCard, Network, Predictor, TorchBackend
from torso.nets.models.onnx_export import INPUT_NAME, ONNX, OUTPUT_NAME, PROBABILITIES, read_onnx, with_probabilities
from torso.private_apis import onnxruntime_errors
from torso.serve.config import BackendChoice
from torso.serve.inference.export_cache import cached_onnx
from torso.serve.inference.padding import batch_sizes

logger = logging.getLogger(__name__)

WrapBackend = Callable[[str, Backend], Backend]  # wraps the backend of a model, named first, for example in a tracer

RTOL, ATOL = 1e-4, 1e-5  # what "equal" means for answers of different backends or batch sizes
PROBE_ROWS = 16
IO_BINDING_ROWS = 8

_ONNX_ERRORS = onnxruntime_errors()


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
        except _ONNX_ERRORS as error:
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


def choose_backend(
    directory: Path,
    card: ModelCard,
    network: Network,
    choice: BackendChoice = "auto",
    *,
    threads: int = 1,
    cache_dir: Path | None = None,
    max_rows: int = PROBE_ROWS,
) -> Backend:
    """Choose the backend of a model directory's network; all but torch itself must equal torch on a probe batch.

    ``auto`` takes ONNX Runtime where it can; where not, that is logged and torch serves. ``onnx`` never falls back:
    ModelError instead. Where the directory has no whole model.onnx of these weights, ``cache_dir`` keeps one (see
    ``export_cache.py``). ``cuda`` is torch on a CUDA device, in batches of at most ``max_rows``; ServerError where that
    cannot be. ``threads`` is for ONNX Runtime; torch's are the process' own (`torch.set_num_threads`).
    """
    reference = TorchBackend(network)
    if choice == "torch":
        return reference
    if choice == "cuda":
        from torso.serve.inference.cuda_backend import CudaBackend

        cuda = CudaBackend(network, max_rows=max_rows)
        _require_equal(cuda, reference, card, batch_sizes(max_rows), "the CUDA device")
        return cuda
    try:
        model = read_onnx(directory / ONNX, card)
        if model is None:
            model = cached_onnx(card, network, directory, cache_dir)
        plain_softmax = card.kind == "classifier" and card.network.probabilistic and card.calibration is None
        backend_class = OnnxClassifier if plain_softmax else OnnxBackend
        backend = backend_class(model, source=f"{directory}'s model.onnx", threads=threads)
        _require_equal(backend, reference, card, (1, PROBE_ROWS), "model.onnx")
    except ModelError as error:
        if choice == "onnx":
            raise
        logger.warning("torch serves, at less speed: %s", error)
        return reference
    return backend


def _require_equal(backend: Backend, reference: Backend, card: ModelCard, sizes: Iterable[int], source: str) -> None:
    predictors = Predictor(card, backend), Predictor(card, reference)
    for rows in sizes:
        probe = probe_batch(card.network.input, rows)
        try:
            readouts = [predictor.run(probe) for predictor in predictors]
            answers = [predictor.answer(probe) for predictor in predictors]
        except _ONNX_ERRORS as error:
            raise ModelDamagedError(f"{source} fails on a probe batch of {rows}: {error}") from error
        if not (equal_readouts(*readouts) and equal_readouts(*answers)):
            raise ModelDamagedError(f"{source} does not give torch's answers on a probe batch of {rows}")


def equal_readouts(answers: NDArray[np.float32], reference: NDArray[np.float32]) -> bool:
    """Compare two readouts, [B, K]: whether they are equal for served answers.

    Values agree within ``RTOL`` and ``ATOL``, and so does the argmax of each row wherever the reference's margin
    between its best two exceeds that.
    """
    if answers.shape != reference.shape or not np.allclose(answers, reference, rtol=RTOL, atol=ATOL):
        return False
    if reference.shape[1] == 1:
        return True
    second, best = np.sort(reference, axis=1)[:, -2:].T  # [B] each
    clear = best - second > ATOL + RTOL * np.abs(best)
    return bool(np.array_equal(answers.argmax(axis=1)[clear], reference.argmax(axis=1)[clear]))


def probe_batch(spec: InputSpec, rows: int) -> NDArray[Any]:
    """Draw probe inputs, [rows, *shape], the same at every start: bytes over their whole range, floats around 0."""
    rng = np.random.default_rng(0)
    dtype = spec.numpy_dtype
    shape = (rows, *spec.shape)
    if dtype.kind == "b":
        return rng.integers(2, size=shape).astype(dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return rng.integers(max(limits.min, -128), min(limits.max, 255), size=shape, endpoint=True).astype(dtype)
    return (rng.standard_normal(shape) / spec.scale).astype(dtype)
