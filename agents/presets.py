"""Settings that are known to work, as data: one row an algorithm and env, each with where it comes from."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from torso.agents.dqn import DQNConfig
from torso.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings, the steps they are meant for, and their source."""

    config: DQNConfig
    total_steps: int
    source: str


_PRESETS: dict[tuple[str, str], Preset] = {
    ("dqn", "CartPole-v1"): Preset(
        config=DQNConfig(
            hidden=(256, 256),
            learning_rate=2.3e-3,
            batch_size=64,
            replay_capacity=100_000,
            min_replay_size=1_000,
            learn_period=256,
            updates_per_phase=128,
            target_update_period=10,
            epsilon_end=0.04,
            epsilon_decay_steps=8_000,
            evaluation_period=2_500,
        ),
        total_steps=50_000,
        source="RL Baselines3 Zoo, dqn.yml, CartPole-v1",
    ),
}
_DEFAULT = Preset(config=DQNConfig(), total_steps=100_000, source="defaults")
ALGORITHMS = ("dqn",)


def preset(algorithm: str, env_id: str) -> Preset:
    """The preset of an algorithm in an env; the algorithm's defaults for an env that has none.

    Raises:
        ConfigError: no such algorithm.
    """
    if algorithm not in ALGORITHMS:
        close = difflib.get_close_matches(algorithm, ALGORITHMS)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"unknown algorithm {algorithm!r}; known are {', '.join(ALGORITHMS)}{hint}")
    return _PRESETS.get((algorithm, env_id), _DEFAULT)
