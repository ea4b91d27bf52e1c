"""``torso export``: export a model to ONNX."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torso.cli.arguments.options import POSITIONAL
from torso.cli.terminal.output import print_result


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Export a model to model.onnx beside its weights: from raw input to readout, for any batch size.

    Runs export their models when they end; this is for models saved without it. A server never writes the file.
    """

    model: Path = field(metadata=POSITIONAL)
    """A model directory, or a run directory, whose best model is used."""
    json: bool = False
    """Print one JSON object."""


def run(options: ExportOptions) -> int:
    """Export the model, and print the path of the file."""
    from torso.nets import export_onnx

    path = export_onnx(options.model)
    num_bytes = path.stat().st_size
    print_result({"onnx": str(path), "bytes": num_bytes}, f"{path}  {num_bytes / 1024:,.0f} KiB", as_json=options.json)
    return 0
