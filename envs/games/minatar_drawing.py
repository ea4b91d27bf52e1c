"""Rendering of MinAtar's boards, with a colour for each channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_CELL_PX = 40
_BACKGROUND = (18, 20, 28)
_FLOOR = (28, 31, 42)
# The style of a channel: its colour, and its margin to the edge of its cell, in pixels. Later ones are drawn on top.
_CHANNEL_STYLES: dict[str, tuple[tuple[int, int, int], int]] = {
    "speed5": ((44, 52, 84), 12),  # slow
    "speed4": ((58, 76, 128), 12),
    "speed3": ((108, 84, 150), 12),
    "speed2": ((176, 92, 110), 12),
    "speed1": ((232, 112, 64), 12),  # fast
    "trail": ((92, 96, 112), 13),
    "oxygen_guage": ((86, 190, 236), 5),
    "diver_guage": ((250, 226, 110), 8),
    "brick": ((214, 92, 74), 1),
    "alien": ((122, 200, 96), 4),
    "alien_left": ((122, 200, 96), 4),
    "alien_right": ((84, 186, 150), 4),
    "car": ((226, 72, 72), 3),
    "gold": ((250, 206, 76), 8),
    "diver": ((250, 226, 110), 9),
    "enemy": ((226, 72, 72), 3),
    "enemy_fish": ((238, 130, 66), 6),
    "enemy_sub": ((226, 72, 72), 3),
    "enemy_bullet": ((255, 110, 150), 14),
    "friendly_bullet": ((245, 245, 250), 14),
    "ball": ((245, 245, 250), 7),
    "sub_back": ((54, 122, 190), 4),
    "sub_front": ((92, 170, 240), 2),
    "paddle": ((92, 170, 240), 2),
    "cannon": ((92, 170, 240), 2),
    "chicken": ((250, 226, 110), 4),
    "player": ((92, 170, 240), 2),
}


def draw_board(board: NDArray[np.bool_], channels: Sequence[str]) -> NDArray[np.uint8]:
    """Draw a board bool [H, W, C], whose channels are named, as uint8 [40 H, 40 W, 3]."""
    height, width, _ = board.shape
    frame = np.empty((height * _CELL_PX, width * _CELL_PX, 3), dtype=np.uint8)
    frame[:] = _FLOOR
    frame[::_CELL_PX] = frame[:, ::_CELL_PX] = _BACKGROUND
    for name in sorted(channels, key=list(_CHANNEL_STYLES).index):
        colour, margin = _CHANNEL_STYLES[name]
        for y, x in np.argwhere(board[:, :, channels.index(name)]) * _CELL_PX:
            frame[y + margin : y + _CELL_PX - margin, x + margin : x + _CELL_PX - margin] = colour
    return frame
