"""``torso classify``: images or arrays, labelled."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from torso.cli.models import AnyModel, Guesses, ModelOptions, error_text, open_model, read_npy
from torso.cli.output import result
from torso.cli.parsing import Flag
from torso.errors import ConfigError, InputError, InvalidRequestError


@tyro.conf.configure(tyro.conf.DisallowNone)
@dataclass(frozen=True, kw_only=True)
class ClassifyOptions(ModelOptions):
    """Label images or arrays, with a model here or one that is served."""

    inputs: tyro.conf.Positional[tuple[Path, ...]]
    """PNG or JPEG files, or one .npy file of [N, ...] values as the model was fitted on."""
    top_k: int = 1
    """How many labels for each input, best first."""
    json: Flag = False
    """Print one JSON object."""


def run(options: ClassifyOptions) -> int:
    """Label, and print a line for each input."""
    if not options.inputs:
        raise ConfigError("no inputs; expected PNG or JPEG files, or one .npy file")
    arrays = [path for path in options.inputs if path.suffix == ".npy"]
    if arrays and len(options.inputs) > 1:
        raise ConfigError(f"{arrays[0]} beside other inputs; expected image files, or one .npy file alone")
    if arrays:
        inputs = read_npy(arrays[0])
        with open_model(options) as model:
            guesses = model.label(inputs, options.top_k)
        names = [f"{arrays[0]}[{row}]" for row in range(len(guesses))]
    else:
        images = [_read(path) for path in options.inputs]
        with open_model(options) as model:
            guesses = _label_images(model, options.inputs, images, options.top_k)
        names = [str(path) for path in options.inputs]
    _tell(options.model, names, guesses, as_json=options.json)
    return 0


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error_text(error)}; expected a PNG, JPEG or .npy file") from error


def _label_images(model: AnyModel, paths: Sequence[Path], images: Sequence[bytes], top_k: int) -> Guesses:
    try:
        return model.label_images(images, top_k)
    except (InputError, InvalidRequestError) as error:  # they know an image by its number, the user by its name
        text = re.sub(r"images(?:\.encoded)?\[(\d+)\]", lambda match: str(paths[int(match[1])]), str(error))
        raise ConfigError(text) from error


def _tell(model: str, names: Sequence[str], guesses: Guesses, *, as_json: bool) -> None:
    rows = [
        {"input": name, "top": [{"label": label, "probability": probability} for label, probability in row]}
        for name, row in zip(names, guesses, strict=True)
    ]
    width = max(map(len, names))
    lines = [
        f"{name:<{width}}  " + "  ".join(f"{label} {probability:.1%}" for label, probability in row)
        for name, row in zip(names, guesses, strict=True)
    ]
    result({"model": model, "rows": rows}, "\n".join(lines), as_json=as_json)
