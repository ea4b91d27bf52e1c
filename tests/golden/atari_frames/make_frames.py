"""Make the golden Atari frames, with ale-py alone: ``python tests/golden/atari_frames/make_frames.py``.

For each game ``frames.npz`` holds ``NAME/frames``, uint8 [n, 2, H, 160, 3], some steps' last two raw RGB frames as the
emulator shows them, and ``NAME/planes``, uint8 [n, 84, 84], the newest plane that ale-py's vector env gave for the same
steps. They were made by ale-py 0.12.1, whose OpenCV is 4.10.0. It refuses to write over them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from ale_py import ALEInterface, LoggerMode, roms
from ale_py.vector_env import AtariVectorEnv

FILE = Path(__file__).parent / "frames.npz"
# Colourful games, one that draws only every other frame, and every height of screen: 210, 214, 220, 230, 250 rows.
GAMES = (
    *("asteroids", "beam_rider", "breakout", "enduro", "ms_pacman", "pong", "qbert", "seaquest", "video_pinball"),
    *("carnival", "pooyan", "journey_escape", "king_kong"),
)
STEPS = (1, 40, 97)  # the first, and two later ones


def play(game: str) -> dict[str, np.ndarray[Any, Any]]:
    screen = ALEInterface()
    screen.setFloat("repeat_action_probability", 0.0)
    screen.setInt("random_seed", 1)
    screen.loadROM(str(roms.get_rom_path(game)))
    screen.reset_game()
    actions = screen.getMinimalActionSet()
    games = AtariVectorEnv(game, 1, num_threads=1, noop_max=0, use_fire_reset=False)
    games.reset(seed=np.array([1]))
    rng = np.random.default_rng(1)
    frames, planes = [], []
    for step in range(1, max(STEPS) + 1):
        action = int(rng.integers(len(actions)))
        shown = []
        for _ in range(4):
            screen.act(actions[action])
            shown.append(screen.getScreenRGB())
        obs, _, terminated, truncated, _ = games.step(np.array([action]))
        if terminated[0] or truncated[0]:
            sys.exit(f"error: {game} ended in step {step}; choose other steps")
        if step in STEPS:
            frames.append(shown[-2:])
            planes.append(obs[0, -1])
    return {f"{game}/frames": np.array(frames), f"{game}/planes": np.array(planes)}


if __name__ == "__main__":
    if FILE.exists():
        sys.exit(f"error: {FILE} is there already, and is never made again")
    ALEInterface.setLoggerMode(LoggerMode.Error)
    arrays = {name: array for game in GAMES for name, array in play(game).items()}
    np.savez_compressed(FILE, **arrays)  # type: ignore[arg-type]
