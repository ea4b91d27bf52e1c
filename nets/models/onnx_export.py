"""ONNX export, ``model.onnx``: the network for ONNX Runtime, raw input to readout, any batch size.

A recurrent network's graph also takes its state, ``state_0`` and on, and returns the next, ``next_state_0`` and on. A
calibrated classifier's has the calibrated ``probabilities`` as its last output. The metadata say what inputs and
outputs mean, and name the labels.

The file ends in metadata entries: the SHA-256 of the weights it was exported from, that of all bytes before the entries
and, where there are any, those of what may change while the weights do not: since format 3 the means and deviations of
a normalised input, and a classifier's calibration. So a stale or damaged file is detected without an ONNX library.
Files of older torsos have no calibration, neither in the graph nor among the entries; their readout is as good.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from google.protobuf.message import Message
from torch import Tensor, nn

from torso.errors import ModelError
from torso.files import atomic_write_bytes, json_bytes, read_regular, remove_leftovers, sha256_hex
from torso.nets.models.card import ModelCard, card_bytes, read_card
from torso.nets.models.directory import find_model, remove_temporary_files
from torso.nets.models.loading import load_model
from torso.nets.models.weights import weights_bytes
from torso.nets.modules.network import Network
from torso.nets.modules.probability_maps import CalibrationModule
from torso.nets.specs.calibration import Calibration
from torso.private_apis import ONNX_EXPORTER_LOGGER

ONNX = "model.onnx"
MAX_ONNX_BYTES = 2**31  # protobuf's own limit
GRAPH_BYTES = 1 << 26  # of an ONNX file beside its weights: operations, and tables computed from constants
WEIGHTS_KEY, GRAPH_KEY = "torso.weights_sha256", "torso.graph_sha256"
STATISTICS_KEY, CALIBRATION_KEY = "torso.statistics_sha256", "torso.calibration_sha256"
INPUT_NAME, OUTPUT_NAME = "obs", "readout"
STATE_NAME, NEXT_STATE_NAME = "state_", "next_state_"  # each with the tensor's index in the state
PROBABILITIES = "probabilities"  # the output of a calibrated classifier, and that which `with_probabilities` adds
_LARGEST = float(torch.finfo(torch.float32).max)

_export_lock = threading.Lock()  # held while the process' filters of warnings are changed


class _Readout(nn.Module):
    """Module from tensors to tensors, for the exporter: input and state to readout, next state and probabilities."""

    def __init__(self, network: Network, calibration: Calibration | None) -> None:
        super().__init__()
        self.network = network
        self.calibration = None if calibration is None else CalibrationModule(calibration)

    def forward(self, obs: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        readout, next_state = self.network.step(obs, state)
        probabilities = () if self.calibration is None else (self.calibration(readout),)
        return readout, *next_state, *probabilities


def export_onnx(path: str | os.PathLike[str], network: Network | None = None) -> Path:
    """Write ``model.onnx`` into a model directory (or a run directory's model) from the weights it holds.

    network: the one that was saved there, where it is in memory; where it is what the directory names, nothing is
    loaded.

    Raises:
        ModelError: the network holds an operation that ONNX cannot express; the directory is unchanged.
        StorageError: the file could not be written; the directory is unchanged.
    """
    directory = find_model(path)
    card = read_card(directory)
    if network is None or network.spec != card.network or sha256_hex(weights_bytes(network)) != card.weights_sha256:
        card, network = load_model(directory)
    else:  # a copy, since exporting sets the mode
        network = copy.deepcopy(network).cpu().eval().set_memory_format("contiguous")
    data = onnx_bytes(card, network, directory)
    remove_temporary_files(directory)  # the export that ends a training is the last chance to do so
    remove_leftovers(directory / ONNX)
    atomic_write_bytes(directory / ONNX, data)
    return directory / ONNX


def onnx_bytes(card: ModelCard, network: Network, source: str | os.PathLike[str]) -> bytes:
    """Export a loaded model to the bytes of a ``model.onnx``; ``source`` is named in errors.

    The graph takes ``obs`` [batch, *shape] in the model's dtype and returns ``readout`` [batch, K] float32; a recurrent
    network's takes and returns the tensors of the state, too, [batch, ...] each, and a calibrated one returns
    ``probabilities`` [batch, K] float32.

    Raises:
        ModelError: the network holds an operation that ONNX cannot express.
    """
    example = torch.zeros((2, *card.network.input.shape), dtype=getattr(torch, card.network.input.dtype))
    # Clones, since the exporter takes a tensor that comes twice for one input.
    state = tuple(part.detach().clone() for part in network.initial_state(2))
    batch = {0: torch.export.Dim("batch", min=1)}
    with _export_lock, _suppressed_warnings():
        try:
            program = torch.onnx.export(
                _Readout(network, card.calibration).eval(),
                (example, *state),
                dynamo=True,
                dynamic_shapes=(batch, (batch,) * len(state)) if state else (batch,),
                input_names=[INPUT_NAME, *state_names(STATE_NAME, len(state))],
                output_names=[
                    *(OUTPUT_NAME, *state_names(NEXT_STATE_NAME, len(state))),
                    *([] if card.calibration is None else [PROBABILITIES]),
                ],
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
            raise ModelError(f"cannot export {source} to ONNX (the model itself is saved): {reason[0]}") from error
    if program is None:
        raise ModelError(f"cannot export {source} to ONNX: the exporter returned no program")
    model = program.model_proto
    _strip_metadata(model)
    for key, value in _descriptions(card, len(state)).items():
        model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    return append_metadata(model.SerializeToString(deterministic=True), card)


def state_names(prefix: str, count: int) -> list[str]:
    """Return the graph's names of so many state tensors: ``STATE_NAME`` or ``NEXT_STATE_NAME``, and their index."""
    return [f"{prefix}{index}" for index in range(count)]


def onnx_path(directory: str | os.PathLike[str]) -> Path | None:
    """Find the model directory's ``model.onnx``; None where it is missing, damaged or of another model."""
    path = Path(directory) / ONNX
    if not path.is_file():
        return None
    return None if read_onnx(path, read_card(directory)) is None else path


def max_onnx_bytes(card: ModelCard, network: Network) -> int:
    """Compute the most bytes that a network's ONNX file may have: for its weights, its card's texts, and the graph."""
    num_bytes: int = sum(tensor.nbytes for tensor in network.state_dict().values())
    return min(MAX_ONNX_BYTES, 2 * num_bytes + 4 * len(card_bytes(card)) + GRAPH_BYTES)


def read_onnx(path: str | os.PathLike[str], card: ModelCard, max_bytes: int = MAX_ONNX_BYTES) -> bytes | None:
    """Read an ONNX file's bytes; None where it is missing, damaged, too large or of another model than ``card``'s."""
    try:
        data = read_regular(path, max_bytes)
    except OSError:
        return None
    seals = (_seal(card, b""), _seal(card, b"", calibrated=False))  # the second is that of older torsos
    for calibrated, seal in zip((True, False), seals, strict=True):
        graph = data[: -len(seal)]
        if data == graph + _seal(card, graph, calibrated=calibrated):
            return data
    return None


def append_metadata(graph: bytes, card: ModelCard) -> bytes:
    """Append the metadata entries by which `onnx_path` verifies a serialised ONNX graph."""
    return graph + _seal(card, graph)


def _seal(card: ModelCard, graph: bytes, *, calibrated: bool = True) -> bytes:
    """Build the entries of a graph. calibrated: whether that of a classifier's calibration is among them."""
    values = {WEIGHTS_KEY: card.weights_sha256, GRAPH_KEY: sha256_hex(graph)}
    normalisation = card.network.input
    if card.format_version >= 3 and normalisation.mean is not None:
        values[STATISTICS_KEY] = sha256_hex(json_bytes([normalisation.mean, normalisation.std]))
    if calibrated and card.kind == "classifier":
        values[CALIBRATION_KEY] = sha256_hex(
            json_bytes(None if card.calibration is None else card.calibration.to_json())
        )
    entries = b""  # of ModelProto.metadata_props, in protobuf's bytes, which may follow a serialised message
    for key, value in values.items():
        entries += _field(14, _field(1, key.encode()) + _field(2, value.encode()))
    return entries


def _descriptions(card: ModelCard, num_states: int) -> dict[str, Any]:
    """Describe a graph for those who have nothing but the file: texts, and plain data that become JSON."""
    spec = card.network.input
    inputs = {INPUT_NAME: f"raw inputs, {spec.dtype} [batch, {', '.join(map(str, spec.shape))}]; the graph scales them"}
    outputs = {OUTPUT_NAME: _readout_meaning(card)}
    for index in range(num_states):
        inputs[f"{STATE_NAME}{index}"] = "recurrent state before the inputs"
        outputs[f"{NEXT_STATE_NAME}{index}"] = "recurrent state after them"
    if card.calibration is not None:
        outputs[PROBABILITIES] = f"probability of each label, calibrated ({card.calibration.method})"
    found: dict[str, Any] = {"torso.kind": card.kind, "torso.inputs": inputs, "torso.outputs": outputs}
    if spec.image is not None:
        found["torso.image"] = dataclasses.asdict(spec.image)
    if card.labels is not None:
        found["torso.labels"] = list(card.labels)
    if card.kind == "policy":
        found["torso.action_start"] = card.action_start
    return found


def _readout_meaning(card: ModelCard) -> str:
    if card.kind == "policy":
        return "value of each action; the best is the argmax, counted from torso.action_start"
    if card.kind == "regressor":
        return "estimate of each target, in its own units"
    if not card.network.probabilistic:
        return "score of each label; the predicted one is the argmax"
    if card.calibration is None:
        return "log-odds of each label; their softmax is the probabilities"
    return "uncalibrated log-odds of each label; use the probabilities"


def with_probabilities(model: bytes) -> bytes:
    """Add a second output to a classifier's ONNX model: ``probabilities`` [batch, K] float32, the readout's softmax.

    Infinite log-odds count as the largest finite ones, as in `torso.nets.Predictor.probabilities`.
    """
    from onnx import GraphProto, ModelProto, TensorProto, helper  # slow to import, and only servers need it

    limits = {"torso.lowest": -_LARGEST, "torso.largest": _LARGEST}
    addition = GraphProto(
        initializer=[helper.make_tensor(name, TensorProto.FLOAT, (), [limit]) for name, limit in limits.items()],
        node=[
            helper.make_node("Clip", [OUTPUT_NAME, *limits], ["torso.finite"]),
            helper.make_node("Softmax", ["torso.finite"], [PROBABILITIES], axis=-1),
        ],
        output=[helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, None)],
    )
    # Serialised messages that follow one another are one message, their lists joined.
    return model + ModelProto(graph=addition).SerializeToString()


def _field(number: int, content: bytes) -> bytes:
    """Encode a length-delimited protobuf field of fewer than 16,384 bytes."""
    length = len(content)
    size = bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])
    return bytes([number << 3 | 2]) + size + content


def _strip_metadata(message: Message) -> None:
    """Remove the exporter's own metadata, which names the exporting machine's folders."""
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in [value] if isinstance(value, Message) else value:
                _strip_metadata(part)


@contextmanager
def _suppressed_warnings() -> Iterator[None]:
    """Suppress the exporter's warnings about itself: absent torchvision, its deprecations, one axis of many inputs."""
    exporter_logger = logging.getLogger(ONNX_EXPORTER_LOGGER)
    level = exporter_logger.level
    exporter_logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.filterwarnings("ignore", "# The axis name: batch will not be used", UserWarning)
            yield
    finally:
        exporter_logger.setLevel(level)
