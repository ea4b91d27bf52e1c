"""Stable-Baselines3's DQN, or SBX's, on CartPole-v1 at RL-Zoo's settings. Prints one JSON object.

Runs in the peers' own virtual environment: ``python sb3_cartpole.py sb3|sbx SEED STEPS THREADS``. The best network is
that of their own EvalCallback, whose seconds are left out of the speed.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
from rl_zoo import cartpole_dqn
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env

peer, seed, steps, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
if peer == "sb3" and threads:
    import torch

    torch.set_num_threads(threads)


class TimedEvaluation(EvalCallback):
    """An EvalCallback that knows how long it took."""

    seconds = 0.0

    def _on_step(self) -> bool:
        began_s = time.perf_counter()
        goes_on = super()._on_step()
        if self.n_calls % self.eval_freq == 0:
            self.seconds += time.perf_counter() - began_s
        return goes_on


def greedy_returns(model: BaseAlgorithm) -> list[float]:
    """Returns of 20 fresh greedy episodes."""
    env = gym.make("CartPole-v1")
    returns = []
    for episode in range(20):
        obs, _ = env.reset(seed=1_000_003 * (seed + 1) + episode)
        total, done = 0.0, False
        while not done:
            action, _ = model.predict(obs, deterministic=True)
            obs, reward, terminated, truncated, _ = env.step(int(np.asarray(action).item()))
            total += float(reward)
            done = terminated or truncated
        returns.append(total)
    return returns


model = cartpole_dqn(peer, seed)
with tempfile.TemporaryDirectory() as folder:
    evaluation = TimedEvaluation(
        make_vec_env("CartPole-v1", n_envs=20, seed=10_000 + seed),
        n_eval_episodes=20,
        eval_freq=2_500,
        best_model_save_path=folder,
        verbose=0,
        warn=False,
    )
    began_s = time.perf_counter()
    model.learn(steps, callback=evaluation)
    seconds = time.perf_counter() - began_s - evaluation.seconds
    best = type(model).load(Path(folder) / "best_model.zip")
result = {"seconds": seconds, "steps_per_s": steps / seconds, "returns": greedy_returns(model)}
print(json.dumps({**result, "best_returns": greedy_returns(best)}))
