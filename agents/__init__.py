"""What learns: DQN agents from worlds that reward, classifiers from data sets that label.

Names are handed on lazily: who plays with a model that is served elsewhere needs `evaluation` alone, and no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torso.lazy import lazy_exports

if TYPE_CHECKING:
    from torso.agents.agent import DQN
    from torso.agents.callbacks import Callback
    from torso.agents.classifier import Classifier
    from torso.agents.dqn_config import DQNConfig
    from torso.agents.evaluation import Evaluation, evaluate, evaluation_seeds
    from torso.agents.fit_config import ClassifierConfig, RegressorConfig
    from torso.agents.fit_runs import FitResult, fit_run
    from torso.agents.plots import plot_fit, plot_training
    from torso.agents.presets import Preset, preset
    from torso.agents.regressor import Regressor
    from torso.agents.rundir import RunDirectory
    from torso.agents.train_runs import TrainingResult, train_run
    from torso.agents.training import Training
    from torso.envs.vector.world import World

_HOMES = {
    "Callback": "callbacks",
    "Classifier": "classifier",
    "ClassifierConfig": "fit_config",
    "DQN": "agent",
    "DQNConfig": "dqn_config",
    "Evaluation": "evaluation",
    "FitResult": "fit_runs",
    "Preset": "presets",
    "Regressor": "regressor",
    "RegressorConfig": "fit_config",
    "RunDirectory": "rundir",
    "Training": "training",
    "TrainingResult": "train_runs",
    "World": "torso.envs.vector.world",
    "evaluate": "evaluation",
    "evaluation_seeds": "evaluation",
    "fit_run": "fit_runs",
    "plot_fit": "plots",
    "plot_training": "plots",
    "preset": "presets",
    "train_run": "train_runs",
}

__all__ = [
    "DQN",
    "Callback",
    "Classifier",
    "ClassifierConfig",
    "DQNConfig",
    "Evaluation",
    "FitResult",
    "Preset",
    "Regressor",
    "RegressorConfig",
    "RunDirectory",
    "Training",
    "TrainingResult",
    "World",
    "evaluate",
    "evaluation_seeds",
    "fit_run",
    "plot_fit",
    "plot_training",
    "preset",
    "train_run",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOMES)
