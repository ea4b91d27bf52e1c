"""Atari preprocessing: raw frames to the observations of ale-py's vector env, bit for bit.

Gray by the ALE's weights, the brighter of a step's last two frames (sprites flicker), OpenCV's area averaging down to
84 x 84, four of those stacked: Mnih et al. 2015, in the ALE's order. So a client may send the emulator's raw frames.
"""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from torso.errors import InputError
from torso.image_spec import ATARI_STACK

STACK, SIZE, _ = ATARI_STACK
WIDTH: Final = 160
# Red, green, blue, and a bit to round halves up: in float32, whatever the colour, the result equals the exact one.
_GRAY = np.array([[0.2989, 0.587, 0.114, 5e-5]], dtype=np.float32)


def preprocess(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Preprocess a step's last two raw frames to the newest plane of an observation.

    frames: uint8 [2, H, 160, 3], RGB, in either order, or a batch of them, [B, 2, H, 160, 3]. After a reset, and where
    a step has only one frame, that frame twice. The ALE's H is 210, in some games 214 to 250.
    Returns uint8 [84, 84], or [B, 84, 84].

    Exceptions are ale-py's planes of a game's last step and of the step that reaches the frame limit, where its vector
    env stops before it has captured the screen; no action depends on those. And of its 104 games AirRaid, where in
    every other frame or so PAL's colours are lost, which ale-py shows as one gray and observes as another.
    Raises ``InputError`` for another shape or dtype.
    """
    _check_frames(frames)
    if frames.ndim == 4:
        return _plane(frames)
    planes = np.empty((len(frames), SIZE, SIZE), dtype=np.uint8)
    for plane, pair in zip(planes, frames, strict=True):
        plane[:] = _plane(pair)
    return planes


def stack(previous: NDArray[np.uint8] | None, plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Stack frames: return the next observation of an episode, uint8 [4, 84, 84], newest plane last.

    previous: the last observation, or None at an episode's start, where the older planes are zeros. plane: uint8
    [84, 84], from ``preprocess``.
    """
    older = np.zeros((STACK, SIZE, SIZE), dtype=np.uint8) if previous is None else previous
    return np.concatenate([older[1:], plane[np.newaxis]])


def _plane(pair: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height = pair.shape[1]
    gray = cv2.transform(pair.reshape(2 * height, WIDTH, 3), _GRAY)  # [2H, W]; one call for both
    brighter = np.maximum(gray[:height], gray[height:])  # [H, W]
    return np.asarray(cv2.resize(brighter, (SIZE, SIZE), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _check_frames(frames: Any) -> None:
    expected = f"a step's last two raw RGB frames, uint8 [2, height, {WIDTH}, 3], or a batch of them"
    if not isinstance(frames, np.ndarray):
        raise InputError("frames", expected=expected, got=type(frames).__name__)
    pair = frames.shape[-4:]
    fits = frames.ndim in (4, 5) and (pair[0], *pair[2:]) == (2, WIDTH, 3) and pair[1] >= SIZE
    if frames.dtype != np.uint8 or not fits:
        raise InputError("frames", expected=expected, got=f"{frames.dtype} {list(frames.shape)}")
