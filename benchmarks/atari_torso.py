"""torso's side of ``atari_vs_sb3.py``: ``python atari_torso.py SETTINGS``, a JSON object. Prints one JSON object."""

import json
import os
import resource
import sys
import time
from dataclasses import replace

settings = json.loads(sys.argv[1])
if hasattr(os, "sched_setaffinity"):  # one thread is one core, for whatever runs in this process
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: settings["threads"]])

from torso.agents import DQNConfig, Training, World, preset  # noqa: E402

NEVER = 1_000_000_000
UNTIMED = {"num_threads": settings["threads"], "evaluation_period": NEVER, "checkpoint_period": NEVER}
DQN = DQNConfig(
    net="nature",
    hidden=(512,),
    num_envs=settings["num_envs"],
    learning_rate=settings["learning_rate"],
    adam_eps=1e-8,  # Stable-Baselines3's, which is torch's
    huber_delta=1.0,
    clip_rewards=True,
    batch_size=settings["batch_size"],
    replay_capacity=settings["replay_capacity"],
    min_replay_size=settings["warm_up"],
    learn_period=4,
    target_update_period=settings["target_update_period"],
    epsilon_start=1.0,
    epsilon_end=settings["epsilon"],
    epsilon_decay_steps=settings["warm_up"],
    gamma=settings["gamma"],
    max_grad_norm=settings["max_grad_norm"],
    precision=settings["precision"],
    **UNTIMED,
)
CONFIG = replace(preset("pqn", settings["env"]).config, **UNTIMED) if settings["algorithm"] == "pqn" else DQN


class Clock:
    """Fills the replay after the warm-up, lets learning settle, then takes the time of ``steps``."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.is_filled = False
        self.began: tuple[int, int, float, float] | None = None  # steps, updates, seconds, CPU seconds
        self.ended: tuple[int, int, float, float] | None = None

    def __call__(self) -> bool:
        """Look at the clock after a tick; whether it is over."""
        learnt = self.training.total_steps - settings["warm_up"]
        if learnt >= 0 and not self.is_filled:
            self._fill()
        now = (
            self.training.total_steps,
            self.training.session.learner.num_updates,
            time.perf_counter(),
            time.process_time(),
        )
        if self.began is None and learnt >= settings["settle"]:
            self.began = now
        elif self.began is not None and learnt >= settings["settle"] + settings["steps"]:
            self.ended = now
        return self.ended is not None

    def _fill(self) -> None:
        """Repeat what is in the replay, if there is one, until it is full."""
        self.is_filled = True
        replay = self.training.session.replay
        if replay is None:
            return
        rows = replay.read_rows(0, replay.num_rows)
        while replay.num_rows < replay.capacity_rows:
            replay.write_rows(replay.num_rows, rows)


training = Training(World(env=settings["env"], env_kwargs=settings["env_kwargs"]), CONFIG, seed=settings["seed"])
clock = Clock(training)
for _ in training.run(1_000_000_000, stop=clock):
    pass
if clock.began is None or clock.ended is None:
    raise SystemExit("the training ended before its time was taken")
(steps, updates, began_s, began_cpu_s), (last_step, last_update, ended_s, ended_cpu_s) = clock.began, clock.ended
print(
    json.dumps(
        {
            "steps": last_step - steps,
            "updates": last_update - updates,
            "seconds": ended_s - began_s,
            "cpu_s": ended_cpu_s - began_cpu_s,
            "steps_per_s": (last_step - steps) / (ended_s - began_s),
            "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
            "replay_gb": 0.0 if training.session.replay is None else training.session.replay.num_bytes / 1e9,
            "parameters": sum(parameter.numel() for parameter in training.session.learner.online.parameters()),
        }
    )
)
