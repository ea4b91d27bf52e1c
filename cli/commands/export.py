"""``torso export``: a model for ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from torso.cli.output import result
from torso.cli.parsing import Flag


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write model.onnx beside a model's weights: raw input to readout, for any batch size.

    Runs that end export their models themselves; this is for models saved without it. A server never writes one.
    """

    model: tyro.conf.Positional[Path]
    """A model directory, or a run's, whose best model is meant."""
    json: Flag = False
    """Print one JSON object."""


def run(options: ExportOptions) -> int:
    """Export, and print where to."""
    from torso.nets import export_onnx

    path = export_onnx(options.model)
    num_bytes = path.stat().st_size
    result({"onnx": str(path), "bytes": num_bytes}, f"{path}  {num_bytes / 1024:,.0f} KiB", as_json=options.json)
    return 0
