"""torso's side of ``cartpole_vs_peers.py``: ``python cartpole_torso.py SEED STEPS``. Prints one JSON object.

Evaluations happen in envs of their own and change no bit of the training; their seconds are left out of its speed.
"""

import json
import sys
import time

from timed_training import TimedTraining

from torso.agents.acting.evaluation import evaluate, evaluation_seeds
from torso.agents.value_based.config import DQNConfig
from torso.envs.vector.world import World
from torso.nets import ModelCard, Network, Predictor, TorchBackend

RL_ZOO = DQNConfig(  # rl-baselines3-zoo, hyperparams/dqn.yml, CartPole-v1
    hidden=(256, 256),
    learning_rate=2.3e-3,
    batch_size=64,
    replay_capacity=100_000,
    min_replay_size=1_000,
    gamma=0.99,
    target_update_period=10,
    learn_period=256,
    updates_per_phase=128,
    epsilon_end=0.04,
    epsilon_decay_steps=8_000,  # 16% of 50,000
    max_grad_norm=10.0,
    precision="auto",
    num_threads=1,
    evaluation_period=2_500,
    evaluation_episodes=20,
)


def greedy_returns(network: Network, world: World, seed: int) -> list[float]:
    """Returns of 20 fresh greedy episodes."""
    card = ModelCard(kind="policy", network=network.spec, weights_sha256="")
    predictor = Predictor(card, TorchBackend(network))
    return list(evaluate(predictor.act, world, evaluation_seeds(seed, 20, "score")).returns)


seed, steps = int(sys.argv[1]), int(sys.argv[2])
world = World(env="CartPole-v1")
training = TimedTraining(world, RL_ZOO, seed=seed)
began_s = time.perf_counter()
for _ in training.run(steps):
    pass
seconds = time.perf_counter() - began_s - training.evaluation_s
print(
    json.dumps(
        {
            "seconds": seconds,
            "steps_per_s": steps / seconds,
            "returns": greedy_returns(training.session.learner.online, world, seed),
            "best_returns": list(training.score(20).returns),
        }
    )
)
