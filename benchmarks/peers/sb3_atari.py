"""Stable-Baselines3's DQN on Pong, for ``atari_vs_sb3.py``. Prints one JSON object.

Runs in the peers' own virtual environment: ``python sb3_atari.py SETTINGS``, a JSON object. An update every 4 steps
whatever the number of envs: with several, a tick is followed by as many updates as steps were made, divided by 4.
"""

import json
import os
import resource
import sys
import time

settings = json.loads(sys.argv[1])
if hasattr(os, "sched_setaffinity"):  # one thread is one core, for whatever runs in this process
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: settings["threads"]])

import ale_py  # noqa: E402
import gymnasium as gym  # noqa: E402
import torch  # noqa: E402
from stable_baselines3 import DQN  # noqa: E402
from stable_baselines3.common.buffers import ReplayBuffer  # noqa: E402
from stable_baselines3.common.callbacks import BaseCallback  # noqa: E402
from stable_baselines3.common.env_util import make_atari_env  # noqa: E402
from stable_baselines3.common.vec_env import VecFrameStack  # noqa: E402

gym.register_envs(ale_py)
torch.set_num_threads(settings["threads"])


def fill(replay: ReplayBuffer) -> None:
    """Repeat what is in the replay until it is full."""
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        array = getattr(replay, name, None)  # a replay that saves memory has no next_observations
        if array is not None:
            for start in range(replay.pos, replay.buffer_size, replay.pos):
                array[start : start + replay.pos] = array[: min(replay.pos, replay.buffer_size - start)]
    replay.full = True


class Clock(BaseCallback):
    """Fills the replay after the warm-up, lets learning settle, then takes the time of ``steps``."""

    began: tuple[int, int, float, float] | None = None  # steps, updates, seconds, CPU seconds
    ended: tuple[int, int, float, float] | None = None

    def _on_step(self) -> bool:
        replay, learnt = self.model.replay_buffer, self.num_timesteps - settings["warm_up"]
        if learnt >= 0 and not replay.full:
            fill(replay)
        now = (self.num_timesteps, self.model._n_updates, time.perf_counter(), time.process_time())
        if self.began is None and learnt >= settings["settle"]:
            self.began = now
        elif self.began is not None and learnt >= settings["settle"] + settings["steps"]:
            self.ended = now
        return self.ended is None


num_envs, saves_memory = settings["num_envs"], settings["optimize_memory_usage"]
model = DQN(
    "CnnPolicy",
    VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=num_envs, seed=settings["seed"]), 4),
    learning_rate=settings["learning_rate"],
    batch_size=settings["batch_size"],
    buffer_size=settings["replay_capacity"],
    optimize_memory_usage=saves_memory,
    replay_buffer_kwargs={"handle_timeout_termination": not saves_memory},  # it refuses both together
    learning_starts=settings["warm_up"],
    train_freq=max(1, 4 // num_envs),  # ticks
    gradient_steps=max(1, num_envs // 4),
    target_update_interval=settings["target_update_period"],
    exploration_initial_eps=settings["epsilon"],
    exploration_final_eps=settings["epsilon"],
    gamma=settings["gamma"],
    max_grad_norm=settings["max_grad_norm"],
    seed=settings["seed"],
    device="cpu",
    verbose=0,
)
clock = Clock()
model.learn(10_000_000, callback=clock)
(steps, updates, began_s, began_cpu_s), (last_step, last_update, ended_s, ended_cpu_s) = clock.began, clock.ended
replay = model.replay_buffer
print(
    json.dumps(
        {
            "steps": last_step - steps,
            "updates": last_update - updates,
            "seconds": ended_s - began_s,
            "cpu_s": ended_cpu_s - began_cpu_s,
            "steps_per_s": (last_step - steps) / (ended_s - began_s),
            "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
            "replay_gb": sum(value.nbytes for value in vars(replay).values() if hasattr(value, "nbytes")) / 1e9,
            "parameters": sum(parameter.numel() for parameter in model.q_net.parameters()),
        }
    )
)
