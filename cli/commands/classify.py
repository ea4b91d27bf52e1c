"""``torso classify``: classify images or arrays."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torso.cli.arguments.options import POSITIONAL
from torso.cli.models import AnyModel, ModelOptions, RankedLabels, error_text, open_model, read_npy
from torso.cli.terminal.output import print_result
from torso.errors import ConfigError, InputError, InvalidRequestError

_ARRAYS = (".npy", ".csv", ".tsv")


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions(ModelOptions):
    """Classify images or arrays, with a local or a served model."""

    inputs: tuple[Path, ...] = field(metadata=POSITIONAL)
    """PNG or JPEG files, or one file of inputs like those that the model was fitted to: .npy, [N, ...], or .csv, whose
    columns are taken by name where the model knows their names."""
    top_k: int = 1
    """Number of labels for each input, best first."""
    json: bool = False
    """Print one JSON object."""


def run(options: ClassifyOptions) -> int:
    """Classify the inputs, and print a line for each."""
    arrays = [path for path in options.inputs if path.suffix.lower() in _ARRAYS]
    if arrays and len(options.inputs) > 1:
        raise ConfigError(
            f"inputs must be image files, or one .npy file alone, got {arrays[0]} among {len(options.inputs)} files; "
            "one .csv file alone is taken too"
        )
    if arrays:
        from torso.envs.datasets.csv_files import read_csv_inputs

        is_table = arrays[0].suffix.lower() != ".npy"
        with open_model(options) as model:
            inputs = read_csv_inputs(arrays[0], model.feature_names()) if is_table else read_npy(arrays[0])
            labels = model.label(inputs, options.top_k)
        names = [f"{arrays[0]}[{row}]" for row in range(len(labels))]
    else:
        images = [_read_image(path) for path in options.inputs]
        with open_model(options) as model:
            labels = _label_images(model, options.inputs, images, options.top_k)
        names = [str(path) for path in options.inputs]
    _print_labels(options.model, names, labels, as_json=options.json)
    return 0


def _read_image(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error_text(error)}; give a PNG, JPEG or .npy file") from error


def _label_images(model: AnyModel, paths: Sequence[Path], images: Sequence[bytes], top_k: int) -> RankedLabels:
    try:
        return model.label_images(images, top_k)
    except (InputError, InvalidRequestError) as error:  # they name an image by its index, the user knows its path
        text = re.sub(r"images(?:\.encoded)?\[(\d+)\]", lambda match: str(paths[int(match[1])]), str(error))
        raise ConfigError(text) from error


def _print_labels(model: str, names: Sequence[str], labels: RankedLabels, *, as_json: bool) -> None:
    rows = [
        {"input": name, "top": [{"label": label, "probability": probability} for label, probability in row]}
        for name, row in zip(names, labels, strict=True)
    ]
    width = max(map(len, names))
    lines = [
        f"{name:<{width}}  " + "  ".join(f"{label} {probability:.1%}" for label, probability in row)
        for name, row in zip(names, labels, strict=True)
    ]
    print_result({"model": model, "rows": rows}, "\n".join(lines), as_json=as_json)
