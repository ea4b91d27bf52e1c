"""``torso act``: choose actions for observations."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torso.cli.arguments.options import POSITIONAL
from torso.cli.models import ModelOptions, error_text, open_model, read_npy
from torso.cli.terminal.output import print_result
from torso.errors import ConfigError

_EXAMPLE = "'[0.1, 0, 0.02, 0]'"


@dataclass(frozen=True, kw_only=True)
class ActOptions(ModelOptions):
    """Choose the best action for observations, with a local or a served model."""

    observations: str = field(metadata=POSITIONAL)
    """One observation or a list of them: JSON numbers such as '[0.1, 0, 0.02, 0]', objects for an env that observes a
    Dict, a .npy or .json file, or - to read JSON from stdin."""
    json: bool = False
    """Print one JSON object."""


def run(options: ActOptions) -> int:
    """Choose the actions, and print a line for each observation."""
    observations = _read_observations(options.observations)
    with open_model(options) as model:
        actions, values = model.act(observations)
    lines = [
        f"action {action}  values {' '.join(f'{value:.4g}' for value in row)}"
        for action, row in zip(actions.tolist(), values.tolist(), strict=True)
    ]
    figures = {"model": options.model, "actions": actions.tolist(), "values": values.tolist()}
    print_result(figures, "\n".join(lines), as_json=options.json)
    return 0


def _read_observations(text: str) -> Any:
    if text.endswith(".npy"):
        return read_npy(Path(text))
    if text == "-":
        return _parse_json(sys.stdin.read(), "stdin")
    if text.endswith(".json"):
        try:
            return _parse_json(Path(text).read_text(encoding="utf-8"), text)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{text} cannot be read: {error_text(error)}") from error
    return _parse_json(text, repr(text))


def _parse_json(text: str, source: str) -> Any:
    """Parse JSON numbers, or nested lists of them of one shape, into an array; objects stay as they are."""
    try:
        parsed = json.loads(text)
        if isinstance(parsed, dict) or (isinstance(parsed, list) and any(isinstance(each, dict) for each in parsed)):
            return parsed
        array: NDArray[Any] = np.asarray(parsed)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"observations must be JSON numbers of one shape, got {source} ({error}); give one observation such as "
            f"{_EXAMPLE}, a list of them, or a .npy or .json file"
        ) from error
    if array.dtype.kind not in "biuf":
        raise ConfigError(
            f"observations must be numbers alone, got {source} with other values; give one observation such as "
            f"{_EXAMPLE}, or a list of them"
        )
    return array
