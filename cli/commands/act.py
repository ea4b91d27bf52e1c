"""``torso act``: observations in, actions out."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

from torso.cli.models import ModelOptions, error_text, open_model, read_npy
from torso.cli.output import result
from torso.cli.parsing import Flag
from torso.errors import ConfigError

_EXAMPLE = "'[0.1, 0, 0.02, 0]'"


@tyro.conf.configure(tyro.conf.DisallowNone)
@dataclass(frozen=True, kw_only=True)
class ActOptions(ModelOptions):
    """Choose the best action for observations, with a model here or one that is served."""

    observations: tyro.conf.Positional[str]
    """One observation or a list of them: JSON numbers such as '[0.1, 0, 0.02, 0]', a .npy or .json file, or - to read
    JSON from stdin."""
    json: Flag = False
    """Print one JSON object."""


def run(options: ActOptions) -> int:
    """Act, and print a line for each observation."""
    observations = _read(options.observations)
    with open_model(options) as model:
        actions, values = model.act(observations)
    lines = [
        f"action {action}  values {' '.join(f'{value:.4g}' for value in row)}"
        for action, row in zip(actions.tolist(), values.tolist(), strict=True)
    ]
    figures = {"model": options.model, "actions": actions.tolist(), "values": values.tolist()}
    result(figures, "\n".join(lines), as_json=options.json)
    return 0


def _read(given: str) -> NDArray[Any]:
    if given.endswith(".npy"):
        return read_npy(Path(given))
    if given == "-":
        return _from_json(sys.stdin.read(), "stdin")
    if given.endswith(".json"):
        try:
            return _from_json(Path(given).read_text(encoding="utf-8"), given)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{given} cannot be read: {error_text(error)}") from error
    return _from_json(given, repr(given))


def _from_json(text: str, source: str) -> NDArray[Any]:
    """Numbers, or lists of them of one shape, as an array."""
    try:
        array = np.asarray(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{source} is not JSON numbers of one shape ({error}); expected one observation such as {_EXAMPLE}, a list "
            "of them, or a .npy or .json file"
        ) from error
    if array.dtype.kind not in "biuf":
        raise ConfigError(f"{source} holds more than numbers; expected one observation such as {_EXAMPLE}, or a list")
    return array
