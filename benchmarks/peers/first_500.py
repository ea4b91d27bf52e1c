"""SBX's or Stable-Baselines3's DQN on CartPole-v1 until an evaluation is 500, for ``first_500.py``.

Runs in the peers' own virtual environment: ``python first_500.py sb3|sbx SEED STEPS PERIOD``. Prints one JSON object.
"""

import json
import sys
import time

from rl_zoo import cartpole_dqn
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env

peer, seed, steps, period = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
EPISODES = 20


class Until500(EvalCallback):
    """An EvalCallback that ends the training at a mean of 500, and knows how long it took itself."""

    seconds = 0.0
    reached_step: int | None = None

    def _on_step(self) -> bool:
        began_s = time.perf_counter()
        super()._on_step()
        if self.n_calls % self.eval_freq:
            return True
        self.seconds += time.perf_counter() - began_s
        if self.last_mean_reward >= 500:
            self.reached_step = self.num_timesteps
        return self.reached_step is None


evaluation = Until500(
    make_vec_env("CartPole-v1", n_envs=EPISODES, seed=10_000 + seed),
    n_eval_episodes=EPISODES,
    eval_freq=period,
    verbose=0,
    warn=False,
)
model = cartpole_dqn(peer, seed)
began_s = time.perf_counter()
model.learn(steps, callback=evaluation)
total_s = time.perf_counter() - began_s
print(
    json.dumps(
        {
            "reached_step": evaluation.reached_step,
            "learning_s": total_s - evaluation.seconds,
            "total_s": total_s,
        }
    )
)
