"""Count the rooms on the way of a learning tick: ``python benchmarks/tick_rooms.py [--calls]``.

A training on CartPole-v1 with one env and an update a step runs in this process. One tick, from a callback's step to
the next, is followed by a profiler: every call of a function of torso's, in order; it acts, stores, samples, learns and
records. `call_tracer.py` says what is counted. ``--calls`` prints every call, indented by its depth.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from call_tracer import Tracer

import torso.agents
import torso.envs
import torso.nets
from torso.agents import Callback, DQNConfig, Training, World

FOLDERS = {
    package.__name__.rpartition(".")[2]: Path(str(package.__file__)).parent
    for package in (torso.agents, torso.envs, torso.nets)
}
TICK = 200  # long after the first update, and before the first log line, evaluation and checkpoint


class OneTick(Callback):
    """Callback that traces one tick, and then ends the training."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer

    def on_step(self, tick: Any) -> bool | None:
        """Begin or end the trace."""
        if tick.total_steps == TICK:
            self.tracer.start()
        if tick.total_steps > TICK:
            self.tracer.stop()
        return tick.total_steps > TICK


def main() -> None:
    """Trace, and print what was counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", action="store_true", help="print every call")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tracer = Tracer(FOLDERS, {"on_step"})
    config = DQNConfig(hidden=(16,), batch_size=8, min_replay_size=100, learn_period=1, evaluation_episodes=1)
    training = Training(World(env="CartPole-v1"), config, seed=0)
    for _ in training.run(10_000, callbacks=[OneTick(tracer)]):
        pass
    tracer.report(calls=arguments.calls)


if __name__ == "__main__":
    main()
