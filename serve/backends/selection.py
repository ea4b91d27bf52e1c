"""Inference backends: ONNX Runtime where its answers equal torch's, else torch; or CUDA graphs.

A backend implements `torso.nets.Backend`: arrays in, arrays out; the predictor validates inputs and reads outputs.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torso.arrays import ArrayState
from torso.errors import ModelDamagedError, ModelError
from torso.nets import Backend, InputSpec, ModelCard, Network, Predictor, TorchBackend
from torso.nets.models.onnx_export import ONNX, max_onnx_bytes, read_onnx
from torso.nets.modules.layers import MemoryFormat
from torso.nets.prediction.memory_formats import channels_last_problem, faster_format
from torso.nets.prediction.recurrent_state import repeat_rows
from torso.serve.backends.export_cache import cached_onnx
from torso.serve.backends.forward_memory import measure_row_bytes
from torso.serve.backends.onnx_backend import ONNX_ERRORS, OnnxBackend, OnnxClassifier
from torso.serve.backends.onnx_graph import require_small_graph
from torso.serve.backends.padding import batch_sizes
from torso.serve.config import BackendChoice

logger = logging.getLogger(__name__)

WrapBackend = Callable[[str, Backend], Backend]  # wraps the backend of a model, named first, for example in a tracer

RTOL, ATOL = 1e-4, 1e-5  # what "equal" means for answers of different backends or batch sizes
PROBE_ROWS = 16
PROBE_STEPS = 3  # of a recurrent model
FORMAT_S = 0.2  # in which two memory formats of images are compared


def choose_backend(
    directory: Path,
    card: ModelCard,
    network: Network,
    choice: BackendChoice = "auto",
    *,
    threads: int = 1,
    cache_dir: Path | None = None,
    max_rows: int = PROBE_ROWS,
    probe_rows: int | None = None,
    row_bytes: int | None = None,
) -> Backend:
    """Choose the backend of a model directory's network; all but torch itself must equal torch on a probe batch.

    ``auto`` takes ONNX Runtime where it can; where not, that is logged and torch serves. ``onnx`` never falls back:
    ModelError instead. Where the directory has no whole model.onnx of these weights, ``cache_dir`` keeps one (see
    ``export_cache.py``). ``cuda`` is torch on a CUDA device, in batches of at most ``max_rows``; ServerError where that
    cannot be. ``threads`` is for ONNX Runtime; torch's are the process' own (`torch.set_num_threads`). Probe batches
    have at most ``probe_rows``; by default there is no such limit. ``row_bytes`` is what a row takes, where known.
    """
    reference = TorchBackend(network)
    probe_rows = max(max_rows, PROBE_ROWS) if probe_rows is None else probe_rows
    row_bytes = measure_row_bytes(network) if row_bytes is None else row_bytes
    if choice == "torch":
        return _faster_torch(reference, card, probe_rows)
    if choice == "cuda":
        from torso.serve.backends.cuda_backend import CudaBackend

        cuda = CudaBackend(network, max_rows=max_rows)
        _require_equal(cuda, reference, card, batch_sizes(min(max_rows, probe_rows)), "the CUDA device")
        return cuda
    try:
        model = read_onnx(directory / ONNX, card, max_onnx_bytes(card, network))
        if model is None:
            model = cached_onnx(card, network, directory, cache_dir)
        require_small_graph(model, row_bytes, f"{directory}'s model.onnx")
        backend = _onnx_backend(card, model, f"{directory}'s model.onnx", threads, reference.initial_state)
        _require_equal(backend, reference, card, (1, min(PROBE_ROWS, probe_rows)), "model.onnx")
    except ModelError as error:
        if choice == "onnx":
            raise
        logger.warning("torch serves, at less speed: %s", error)
        return _faster_torch(reference, card, probe_rows)
    return backend


def _faster_torch(reference: TorchBackend, card: ModelCard, rows: int) -> TorchBackend:
    """Return torch's backend in the memory format that is faster for batches of ``rows``; ``reference`` is contiguous.

    Channels-last must gain in such a batch, lose nothing in one row, and give equal answers.
    """
    if not reference.network.has_convolutions:
        return reference
    problem = channels_last_problem(reference.network)
    if problem is None:
        other = TorchBackend(copy.deepcopy(reference.network).set_memory_format("channels-last"))
        if not _is_faster(other, reference, card, rows):
            return reference
        try:
            _require_equal(other, reference, card, (1, rows), "the network with channels-last images")
        except ModelDamagedError as error:
            problem = str(error)
        else:
            logger.info("torch computes images channels-last, which is faster here")
            return other
    logger.info("torch computes images as they lie in memory: %s", problem)
    return reference


def _is_faster(other: TorchBackend, reference: TorchBackend, card: ModelCard, rows: int) -> bool:
    """Whether a channels-last network is faster in a batch of ``rows``, and not slower in one row."""
    probe, state = probe_batch(card.network.input, rows), reference.initial_state
    runs: dict[MemoryFormat, Callable[[int], object]] = {
        "contiguous": lambda rows: reference.run(probe[:rows], *repeat_rows(state, rows)),
        "channels-last": lambda rows: other.run(probe[:rows], *repeat_rows(state, rows)),
    }
    if faster_format(runs, rows, "contiguous", budget_s=FORMAT_S) == "contiguous":
        return False
    return faster_format(runs, 1, "channels-last", budget_s=FORMAT_S) == "channels-last"


def _onnx_backend(card: ModelCard, model: bytes, source: str, threads: int, initial_state: ArrayState) -> OnnxBackend:
    plain_softmax = card.kind == "classifier" and card.network.probabilistic and card.calibration is None
    if plain_softmax and not initial_state:
        return OnnxClassifier(model, source=source, threads=threads)
    return OnnxBackend(model, source=source, threads=threads, initial_state=initial_state)


def _require_equal(backend: Backend, reference: Backend, card: ModelCard, sizes: Iterable[int], source: str) -> None:
    predictor, expected = Predictor(card, backend), Predictor(card, reference)
    for rows in sizes:
        probe = probe_batch(card.network.input, rows)
        state = expected.prepare_state((), rows)
        try:
            answers_equal = equal_readouts(predictor.answer(probe), expected.answer(probe))
            for _ in range(PROBE_STEPS if state else 1):  # a state that is lost shows from the second step on
                readout, next_state = predictor.step(probe, state)
                expected_readout, state = expected.step(probe, state)
                answers_equal &= equal_readouts(readout, expected_readout) and _equal_states(next_state, state)
        except ONNX_ERRORS as error:
            raise ModelDamagedError(f"{source} fails on a probe batch of {rows}: {error}") from error
        if not answers_equal:
            raise ModelDamagedError(f"{source} does not give torch's answers on a probe batch of {rows}")


def _equal_states(state: ArrayState, reference: ArrayState) -> bool:
    """Compare two states: whether they are equal in number, dtypes and shapes, and in values as readouts are."""
    return len(state) == len(reference) and all(
        part.dtype == own.dtype and part.shape == own.shape and np.allclose(part, own, rtol=RTOL, atol=ATOL)
        for part, own in zip(state, reference, strict=True)
    )


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
    batch = np.empty((rows, *spec.shape), spec.numpy_dtype)
    for index in range(rows):  # one at a time: what is drawn is larger than what is kept
        batch[index] = _draw(rng, spec)
    return batch


def _draw(rng: np.random.Generator, spec: InputSpec) -> NDArray[Any]:
    dtype = spec.numpy_dtype
    if dtype.kind == "b":
        return rng.integers(2, size=spec.shape)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return rng.integers(max(limits.min, -128), min(limits.max, 255), size=spec.shape, endpoint=True)
    return rng.standard_normal(spec.shape) / spec.scale
