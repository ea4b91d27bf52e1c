"""Model directory: its files, and how a path to one or to a run is resolved.

The model directory is all that passes from training to serving.

``weights.safetensors`` holds the tensors, ``model.json`` the rest and the SHA-256 of the weights; it is renamed into
place last and is the commit point. While a model is saved over an older one, the older weights are kept beside the new
ones as ``weights.previous.safetensors``, so that at every moment a card and its weights are both there.
Nothing is ever unpickled.
"""

from __future__ import annotations

import os
from pathlib import Path

from torso.errors import ModelNotFoundError
from torso.files import remove_leftovers
from torso.nets.models.card import CARD, WEIGHTS

PREVIOUS_WEIGHTS = "weights.previous.safetensors"
__all__ = ["CARD", "PREVIOUS_WEIGHTS", "WEIGHTS", "find_model", "remove_temporary_files"]


def remove_temporary_files(directory: Path) -> None:
    """Remove the temporary files that killed saves left in a model directory."""
    for name in (WEIGHTS, PREVIOUS_WEIGHTS, CARD):
        remove_leftovers(directory / name)


def find_model(path: str | os.PathLike[str]) -> Path:
    """Find the model directory that ``path`` names: itself, or a run directory's ``best/``, or else its ``model/``.

    Raises:
        ModelNotFoundError: there is neither.
    """
    directory = Path(path)
    try:
        for candidate in (directory, directory / "best", directory / "model"):
            if (candidate / CARD).is_file():
                return candidate
        exists, is_directory = directory.exists(), directory.is_dir()
    except OSError as error:  # a name too long, a directory that may not be entered
        raise ModelNotFoundError(f"no model at {directory}: {error.strerror or error}") from error
    if not exists:
        raise ModelNotFoundError(f"no model at {directory}: there is no such directory")
    if not is_directory:
        raise ModelNotFoundError(f"no model at {directory}: it is a file; expected a model or run directory")
    raise ModelNotFoundError(
        f"no model in {directory}: {CARD} must be in it (a model directory), or in best/ or model/ (a run directory)"
    )
