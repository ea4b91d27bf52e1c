"""``model.onnx``: the same network for ONNX Runtime, raw input to readout, any batch size."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from torso.errors import ModelError
from torso.nets.checkpoint import find_model, load_model, read_card
from torso.nets.files import atomic_write_bytes
from torso.nets.network import Network

ONNX = "model.onnx"
WEIGHTS_KEY = "torso.weights_sha256"  # the metadata entry that says which weights a model.onnx came from
INPUT_NAME, OUTPUT_NAME = "obs", "readout"


class _Readout(nn.Module):
    """A network as one tensor in, one tensor out."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, obs: Tensor) -> Tensor:
        return self.network.readout(obs)


def export_onnx(path: str | os.PathLike[str]) -> Path:
    """Write ``model.onnx`` into a model directory (or a run directory's model) from the weights it holds.

    The graph takes ``obs`` [batch, *shape] in the model's dtype and gives ``readout`` [batch, K] float32.

    Raises:
        ModelError: the network holds an operation that ONNX cannot express; the directory is as it was.
    """
    directory = find_model(path)
    card, network = load_model(directory)
    example = torch.zeros((2, *card.network.input.shape), dtype=getattr(torch, card.network.input.dtype))
    with _quiet():
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
            raise ModelError(f"cannot export {directory} to ONNX: {error}") from error
    if program is None:
        raise ModelError(f"cannot export {directory} to ONNX: the exporter gave no program")
    model = program.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = WEIGHTS_KEY, card.weights_sha256
    atomic_write_bytes(directory / ONNX, model.SerializeToString())
    return directory / ONNX


def onnx_path(directory: str | os.PathLike[str]) -> Path | None:
    """The model directory's ``model.onnx``, or None where it is missing, unreadable or came from other weights."""
    import onnx  # half a second to import, and only this check needs it
    from google.protobuf.message import DecodeError

    path = Path(directory) / ONNX
    try:
        model = onnx.load_model(path, load_external_data=False)
    except (OSError, DecodeError):
        return None
    named = {entry.key: entry.value for entry in model.metadata_props}
    return path if named.get(WEIGHTS_KEY) == read_card(directory).weights_sha256 else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks about itself (absent torchvision, its own deprecations) from the user."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        registration.setLevel(level)
