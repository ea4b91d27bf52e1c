"""Environments (Gymnasium vector envs) and data sets: the sources of experience and of labelled examples."""

from torso.envs.datasets.by_name import dataset_names, load_dataset
from torso.envs.datasets.splits import Dataset, Splits
from torso.envs.games import entry_points  # noqa: F401 - importing it registers the games
from torso.envs.games.atari_scores import human_normalized_score
from torso.envs.games.identity import IdentityEnv
from torso.envs.vector.making import (
    SeededVectorEnv,
    action_start,
    env_seeds,
    has_raw_frames,
    make_vector,
    require_next_step,
)
from torso.envs.vector.masks import action_masks
from torso.envs.vector.observations import observation_layout, observation_scale
from torso.envs.vector.single_envs import EnvSource, Wrapper, load_wrapper
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
