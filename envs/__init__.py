"""Where experience comes from: worlds that reward (Gymnasium vector envs) and data sets that label."""

from torso.envs.atari_scores import human_normalized_score
from torso.envs.datasets import dataset_names, load_dataset
from torso.envs.identity import IdentityEnv
from torso.envs.masks import action_masks
from torso.envs.observations import observation_layout, observation_scale
from torso.envs.single_envs import EnvSource, Wrapper, load_wrapper
from torso.envs.splits import Dataset, Splits
from torso.envs.vector import (
    SeededVectorEnv,
    action_start,
    env_seeds,
    has_raw_frames,
    make_vector,
    require_next_step,
)
from torso.image_spec import ImageSpec as ImageDescription

__all__ = [
    "Dataset",
    "EnvSource",
    "IdentityEnv",
    "ImageDescription",
    "SeededVectorEnv",
    "Splits",
    "Wrapper",
    "action_masks",
    "action_start",
    "dataset_names",
    "env_seeds",
    "has_raw_frames",
    "human_normalized_score",
    "load_dataset",
    "load_wrapper",
    "make_vector",
    "observation_layout",
    "observation_scale",
    "require_next_step",
]
