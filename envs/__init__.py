"""Where experience comes from: worlds that reward (Gymnasium vector envs) and data sets that label."""

from torso.envs.datasets import dataset_names, load_dataset
from torso.envs.identity import IdentityEnv
from torso.envs.observations import observation_layout
from torso.envs.splits import Dataset, ImageDescription, Splits
from torso.envs.vector import (
    EnvSource,
    SeededVectorEnv,
    Wrapper,
    action_start,
    env_seeds,
    make_vector,
    require_next_step,
)

__all__ = [
    "Dataset",
    "EnvSource",
    "IdentityEnv",
    "ImageDescription",
    "SeededVectorEnv",
    "Splits",
    "Wrapper",
    "action_start",
    "dataset_names",
    "env_seeds",
    "load_dataset",
    "make_vector",
    "observation_layout",
    "require_next_step",
]
