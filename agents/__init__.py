"""What learns: DQN agents from worlds that reward, classifiers from data sets that label."""

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
from torso.agents.world import World

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
