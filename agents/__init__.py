"""Reinforcement learning agents (DQN) and supervised estimators (classifier, regressor).

Exports are lazy: acting through a model server imports `evaluation` alone, and no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torso.lazy import lazy_exports

if TYPE_CHECKING:
    from torso.agents.acting.evaluation import evaluate, evaluation_seeds
    from torso.agents.estimators.classifier import Classifier
    from torso.agents.estimators.regressor import Regressor
    from torso.agents.presets.lookup import Preset, preset
    from torso.agents.protocols import Episode
    from torso.agents.runs.callbacks import Callback
    from torso.agents.runs.events import Checkpointed, Evaluated, Evaluation, Logged, Tick
    from torso.agents.runs.learning_curves import plot_fit, plot_training
    from torso.agents.runs.run_directory import RunDirectory
    from torso.agents.supervised.config import ClassifierConfig, RegressorConfig
    from torso.agents.supervised.fit_runs import FitResult, fit_run
    from torso.agents.training.agent import DQN, PQN
    from torso.agents.training.driver import Training
    from torso.agents.training.train_runs import TrainingResult, train_run
    from torso.agents.value_based.algorithms import Algorithm, register_algorithm
    from torso.agents.value_based.config import DQNConfig
    from torso.agents.value_based.next_policies import (
        GREEDY_ONLINE,
        GREEDY_TARGET,
        Forwards,
        NextPolicy,
        SoftmaxPolicy,
    )
    from torso.agents.value_based.pqn_config import PQNConfig
    from torso.envs.vector.world import World

_HOMES = {
    "Algorithm": "value_based.algorithms",
    "Callback": "runs.callbacks",
    "Checkpointed": "runs.events",
    "Classifier": "estimators.classifier",
    "ClassifierConfig": "supervised.config",
    "DQN": "training.agent",
    "DQNConfig": "value_based.config",
    "Episode": "protocols",
    "Evaluated": "runs.events",
    "Evaluation": "runs.events",
    "FitResult": "supervised.fit_runs",
    "Forwards": "value_based.next_policies",
    "GREEDY_ONLINE": "value_based.next_policies",
    "GREEDY_TARGET": "value_based.next_policies",
    "Logged": "runs.events",
    "NextPolicy": "value_based.next_policies",
    "PQN": "training.agent",
    "PQNConfig": "value_based.pqn_config",
    "Preset": "presets.lookup",
    "Regressor": "estimators.regressor",
    "RegressorConfig": "supervised.config",
    "RunDirectory": "runs.run_directory",
    "SoftmaxPolicy": "value_based.next_policies",
    "Tick": "runs.events",
    "Training": "training.driver",
    "TrainingResult": "training.train_runs",
    "World": "torso.envs.vector.world",
    "evaluate": "acting.evaluation",
    "evaluation_seeds": "acting.evaluation",
    "fit_run": "supervised.fit_runs",
    "plot_fit": "runs.learning_curves",
    "plot_training": "runs.learning_curves",
    "preset": "presets.lookup",
    "register_algorithm": "value_based.algorithms",
    "train_run": "training.train_runs",
}

__all__ = [
    "DQN",
    "GREEDY_ONLINE",
    "GREEDY_TARGET",
    "PQN",
    "Algorithm",
    "Callback",
    "Checkpointed",
    "Classifier",
    "ClassifierConfig",
    "DQNConfig",
    "Episode",
    "Evaluated",
    "Evaluation",
    "FitResult",
    "Forwards",
    "Logged",
    "NextPolicy",
    "PQNConfig",
    "Preset",
    "Regressor",
    "RegressorConfig",
    "RunDirectory",
    "SoftmaxPolicy",
    "Tick",
    "Training",
    "TrainingResult",
    "World",
    "evaluate",
    "evaluation_seeds",
    "fit_run",
    "plot_fit",
    "plot_training",
    "preset",
    "register_algorithm",
    "train_run",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOMES)
