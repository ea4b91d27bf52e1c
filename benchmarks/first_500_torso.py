"""torso's side of ``first_500.py``: ``python first_500_torso.py ALGORITHM SEED PERIOD``. Prints one JSON object."""

import json
import sys
import time
from dataclasses import replace

from timed_training import TimedTraining

from torso.agents import World, preset

ENV, EPISODES, GOAL = "CartPole-v1", 20, 500.0

algorithm, seed, period = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
known = preset(algorithm, ENV)
config = replace(known.config, evaluation_period=period, evaluation_episodes=EPISODES, stop_return=GOAL)
training = TimedTraining(World(env=ENV), config, seed=seed)
began_s = time.perf_counter()
for _ in training.run(known.total_steps):
    pass
total_s = time.perf_counter() - began_s
print(
    json.dumps(
        {
            "reached_step": training.total_steps if training.session.best.mean == GOAL else None,
            "learning_s": total_s - training.evaluation_s,
            "total_s": total_s,
        }
    )
)
