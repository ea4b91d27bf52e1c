"""``model.onnx``: the same network for ONNX Runtime, raw input to readout, any batch size.

The file ends in metadata entries: which weights it came from, the SHA-256 of all that stands before the entries, and,
since format 3, which means and deviations its input is normalised by where it is; they may change while the weights do
not. So a stale or damaged file is known as such without an ONNX library.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from google.protobuf.message import Message
from torch import Tensor, nn

from torso.errors import ModelError
from torso.files import atomic_write_bytes, json_bytes, remove_leftovers, sha256_hex
from torso.nets.models.card import ModelCard, read_card
from torso.nets.models.directory import find_model, remove_temporary_files
from torso.nets.models.loading import load_model
from torso.nets.modules.network import Network
from torso.private_apis import ONNX_EXPORTER_LOGGER

ONNX = "model.onnx"
WEIGHTS_KEY, GRAPH_KEY, STATISTICS_KEY = "torso.weights_sha256", "torso.graph_sha256", "torso.statistics_sha256"
INPUT_NAME, OUTPUT_NAME = "obs", "readout"
PROBABILITIES = "probabilities"  # an output that `with_probabilities` adds
_LARGEST = float(torch.finfo(torch.float32).max)

_exporting = threading.Lock()  # held while the process' filters of warnings are others


class _Readout(nn.Module):
    """A network as one tensor in, one tensor out."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, obs: Tensor) -> Tensor:
        return self.network.readout(obs)


def export_onnx(path: str | os.PathLike[str]) -> Path:
    """Write ``model.onnx`` into a model directory (or a run directory's model) from the weights it holds.

    Raises:
        ModelError: the network holds an operation that ONNX cannot express; the directory is as it was.
        StorageError: the file could not be written; the directory is as it was.
    """
    directory = find_model(path)
    data = onnx_bytes(*load_model(directory), directory)
    remove_temporary_files(directory)  # the save that ends a training is the last chance
    remove_leftovers(directory / ONNX)
    atomic_write_bytes(directory / ONNX, data)
    return directory / ONNX


def onnx_bytes(card: ModelCard, network: Network, source: str | os.PathLike[str]) -> bytes:
    """A loaded model as the bytes of a ``model.onnx``; ``source`` is named in errors.

    The graph takes ``obs`` [batch, *shape] in the model's dtype and gives ``readout`` [batch, K] float32.

    Raises:
        ModelError: the network holds an operation that ONNX cannot express.
    """
    example = torch.zeros((2, *card.network.input.shape), dtype=getattr(torch, card.network.input.dtype))
    with _exporting, _quiet():
        try:
            program = torch.onnx.export(
                _Readout(network).eval(),
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
            raise ModelError(f"cannot export {source} to ONNX (the model itself is saved): {reason[0]}") from error
    if program is None:
        raise ModelError(f"cannot export {source} to ONNX: the exporter gave no program")
    model = program.model_proto
    _drop_remarks(model)
    return seal(model.SerializeToString(deterministic=True), card)


def onnx_path(directory: str | os.PathLike[str]) -> Path | None:
    """The model directory's ``model.onnx``, or None where it is missing, damaged or came from another model."""
    path = Path(directory) / ONNX
    if not path.is_file():
        return None
    return None if read_onnx(path, read_card(directory)) is None else path


def read_onnx(path: str | os.PathLike[str], card: ModelCard) -> bytes | None:
    """The bytes of an ONNX file, or None where it is missing, damaged or came from another model than ``card``'s."""
    try:
        data = Path(path).read_bytes()
    except OSError:
        return None
    return data if data == seal(data[: -len(seal(b"", card))], card) else None


def seal(graph: bytes, card: ModelCard) -> bytes:
    """A serialised ONNX graph with the entries that tell `onnx_path` what it is and that it is whole."""
    values = {WEIGHTS_KEY: card.weights_sha256, GRAPH_KEY: sha256_hex(graph)}
    normalisation = card.network.input
    if card.format_version >= 3 and normalisation.mean is not None:
        values[STATISTICS_KEY] = sha256_hex(json_bytes([normalisation.mean, normalisation.std]))
    entries = b""  # of ModelProto.metadata_props, in protobuf's bytes, which may follow a serialised message
    for key, value in values.items():
        entries += _field(14, _field(1, key.encode()) + _field(2, value.encode()))
    return graph + entries


def with_probabilities(model: bytes) -> bytes:
    """A classifier's ONNX model with a second output, ``probabilities`` [batch, K] float32: its readout's softmax.

    Infinite log-odds count as the largest finite ones, as in `torso.nets.Predictor.probabilities`.
    """
    from onnx import GraphProto, ModelProto, TensorProto, helper  # takes long to import, and only servers need it

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
    """A length-delimited protobuf field of fewer than 16,384 bytes."""
    length = len(content)
    size = bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])
    return bytes([number << 3 | 2]) + size + content


def _drop_remarks(message: Message) -> None:
    """Drop what the exporter notes of its own work, which names the exporting machine's folders."""
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in [value] if isinstance(value, Message) else value:
                _drop_remarks(part)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks about itself (absent torchvision, its own deprecations) from the user."""
    registration = logging.getLogger(ONNX_EXPORTER_LOGGER)
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        registration.setLevel(level)
