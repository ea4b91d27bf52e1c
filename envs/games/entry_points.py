"""Registration of torso's games: Gymnasium ids, and the vector envs and specs of whole namespaces, by entry point."""

from __future__ import annotations

import gymnasium as gym

from torso.envs.vector.registry import register_adapter, register_specs, register_vector

gym.register("torso/Digits-v0", entry_point="torso.envs.games.digits:DigitsEnv")
gym.register("torso/Forager-v0", entry_point="torso.envs.games.forager:ForagerEnv", max_episode_steps=1_000)
gym.register("torso/Identity-v0", entry_point="torso.envs.games.identity:IdentityEnv")

register_specs("MinAtar", "torso.envs.games.minatar:single_spec")

register_adapter("ALE", "torso.envs.games.atari_single:adapted_arguments")

register_vector("ALE", "torso.envs.games.atari:AtariVector")
register_vector("MinAtar", "torso.envs.games.minatar:MinAtarVector")
register_vector("torso/Forager-v0", "torso.envs.games.forager:ForagerVector")
