"""Session: the complete state of a training at a step, with save to and restore from a checkpoint."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from torso.agents.acting.collector import EnvCollector
from torso.agents.optim.devices import Precision
from torso.agents.optim.executors import ExecutorName, make_executor
from torso.agents.optim.observation_moments import RunningMoments
from torso.agents.optim.states import restore_parts
from torso.agents.protocols import Experience, Stateful
from torso.agents.replay.ring import ReplayRing
from torso.agents.replay.transitions import Transitions
from torso.agents.runs.checkpoints import Checkpoint, Segment, plan_segments
from torso.agents.training.core import TrainingCore
from torso.agents.training.figures import BestNetwork, TrainingFigures
from torso.agents.training.overlap import OverlappedCore
from torso.agents.training.profile import Profile
from torso.agents.value_based.families import family_of
from torso.agents.value_based.learner import NetworkLearner, PolicyApart, require_learnable
from torso.agents.value_based.network import initial_network, input_spec, q_network_spec
from torso.agents.value_based.training_config import TrainingConfig
from torso.envs import env_seeds
from torso.envs.vector.world import World
from torso.errors import CheckpointError, ConfigError
from torso.nets import Network, NetworkSpec
from torso.nets.modules.layers import MemoryFormat

_SEGMENT_BYTES = 256 * 1024**2  # maximum of a replay segment, so that writing one needs little memory


def build_network_for(world: World, config: TrainingConfig, seed: int, initial: Network | None = None) -> Network:
    """Build the initial network of a training, and validate the training before anything is written.

    ``initial`` is a network with the initial weights, instead of the seed's; it is copied.

    Raises:
        EnvError, ConfigError, SpecError: an env or settings that cannot work.
    """
    if seed < 0:
        raise ConfigError(f"seed must not be negative, got {seed}")
    if world.is_constructed and config.num_envs > 1:
        raise ConfigError(
            f"num_envs must be 1 for {world.name}, which is one constructed env, got {config.num_envs}; "
            "pass its id, its class or a function that makes it"
        )
    env = world.spec
    family_of(config).require_fit(config, env)
    spec = q_network_spec(config, input_spec(env, config), env.num_actions, initial)
    if initial is not None:
        _require_same_spec(initial.spec, spec)
    network = initial_network(config, spec, seed) if initial is None else copy.deepcopy(initial)
    require_learnable(config, network)
    return network


class Session:
    """Training core of one run: learner, experience and collector, their random generators, and the running figures.

    network: the initial one, from `build_network_for`; it becomes the session's own. None: it is built here. profile:
    counts the time of the parts.
    """

    def __init__(
        self,
        world: World,
        config: TrainingConfig,
        *,
        seed: int,
        device: torch.device,
        precision: Precision,
        memory_format: MemoryFormat = "contiguous",
        executor: ExecutorName = "eager",
        overlap: bool = False,
        network: Network | None = None,
        profile: Profile | None = None,
    ) -> None:
        self.world, self.config, self.seed = world, config, seed
        env = world.spec
        if network is None:
            network = build_network_for(world, config, seed)
        streams = np.random.SeedSequence(entropy=seed, spawn_key=(0xAC7,))
        acting, sampling, learning, noise = streams.spawn(4)  # in the order in which they were added
        family = family_of(config)
        self.learner = family.learner(
            config,
            network,
            device=device,
            precision=precision,
            memory_format=memory_format,
            moments=RunningMoments(math.prod(env.shape)) if config.normalise_observations else None,
            generator=_torch_generator(learning, device),
            executor=make_executor(executor, device),
        )
        self.core = assemble(
            config,
            self.learner,
            family.experience(config, env, device, _torch_generator(sampling, device)),
            partial(_make_envs, world, config.num_envs, seed, profile),
            action_start=env.action_start,
            acting_rng=np.random.default_rng(acting),
            noise_generator=_torch_generator(noise, device),
            env_name=world.name,
            overlap=overlap,
            profile=profile,
        )
        self.figures = TrainingFigures(device)
        self.best = BestNetwork(self.learner.online)

    @property
    def total_steps(self) -> int:
        """Steps made so far."""
        return self.core.total_steps

    def parts(self) -> dict[str, Stateful]:
        """Parts of a checkpoint by name, in the order in which they are restored."""
        return {**self.core.parts(), "best": self.best, "figures": self.figures}

    def cut(self, *, goes_on: bool = True) -> None:
        """Truncate all unfinished episodes, and begin new ones where the training goes on."""
        self.figures.num_cut_episodes += len(self.core.cut(goes_on=goes_on))

    def pop_figures(self) -> dict[str, float | None]:
        """Return the figures of a log line: episodes, exploration, and means of the updates since the last call."""
        means = {"loss": None, **self.figures.pop_means()}
        acting = self.core.collector.figures()
        return {**self.figures.episodes(), **acting, "updates": self.core.num_updates, **means}

    def segments(self, on_disk: tuple[tuple[int, int], ...]) -> list[Segment]:
        """List the replay as append-only segments; those that are on disk already are listed again, not read."""
        replay = self.replay
        if replay is None:
            return []
        rows = max(1, _SEGMENT_BYTES * replay.capacity_rows // replay.num_bytes)
        return [
            Segment(start_row=start, stop_row=stop, read=lambda a=start, b=stop: replay.read_rows(a, b))  # type: ignore[misc]
            for start, stop in plan_segments(on_disk, replay.first_row, replay.num_rows, rows)
        ]

    @property
    def replay(self) -> ReplayRing | None:
        """Ring of an experience that keeps its rows."""
        experience = self.core.experience
        return experience.ring if isinstance(experience, Transitions) else None

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the state of a checkpoint; CheckpointError when it is of another run."""
        states, tensors = upgrade(checkpoint.state, checkpoint.tensors)
        for start_row, _, rows in checkpoint.segments():
            if self.replay is None:
                raise CheckpointError("the checkpoint has a replay, which this algorithm does not")
            self.replay.write_rows(start_row, rows)
        restore_parts(self.parts(), states, tensors)


def _make_envs(world: World, num_envs: int, seed: int, profile: Profile | None, step: int) -> VectorEnv[Any, Any, Any]:
    """Build the vector env of the segment from a step on."""
    envs = world.make(env_seeds(seed, num_envs, step))
    if profile is not None:
        profile.watch_methods(envs, {"step": "env"})
    return envs


def assemble(
    config: TrainingConfig,
    learner: NetworkLearner,
    experience: Experience[Any],
    make_envs: Callable[[int], VectorEnv[Any, Any, Any]],
    *,
    action_start: int,
    acting_rng: np.random.Generator,
    noise_generator: torch.Generator | None = None,
    env_name: str = "the env",
    overlap: bool = False,
    profile: Profile | None = None,
) -> TrainingCore:
    """Assemble the training core of a learner: an explorer's acting in envs, and the experience that it fills.

    overlap: whether it learns while it acts, with a network of its own for acting.
    """
    policy = learner.policy_apart(noise_generator) if overlap else learner.policy(noise_generator)
    collector = EnvCollector(
        policy,
        family_of(config).explorer(config, acting_rng),
        make_envs,
        num_envs=config.num_envs,
        action_start=action_start,
        has_masks=experience.has_masks,
        name=env_name,
    )
    if profile is not None:
        profile.watch_methods(collector, {"begin": "checkpoint"})
        profile.watch_methods(collector.explorer, {"choose": "act"})
        profile.watch_methods(experience, {"append": "store", "sample": "sample", "feedback": "sample"})
    if not isinstance(policy, PolicyApart):
        if profile is not None:
            profile.watch_methods(learner, {"observe": "store", "update": "learn", "advance": "learn"})
        return TrainingCore(collector, experience, learner)
    core = OverlappedCore(collector, experience, learner, policy=policy, num_threads=config.num_threads)
    if profile is not None:
        profile.watch_methods(core, {"wait": "learn"})
    return core


_FIGURES = ("cuts", "num_episodes", "num_cut_episodes", "recent_returns", "recent_lengths", "num_metrics")


def upgrade(state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    """Bring a checkpoint of a run to the form of today: the state of each part by name.

    Before torso had parts, the same values stood side by side.
    """
    if "figures" in state.get("parts", {}):
        return state["parts"], tensors
    try:
        parts = state["parts"] if "parts" in state else _core_parts(state)
        best = {"mean": state["best_mean"], "step": state["best_step"], "input": state["best_input"]}
        figures = {name: state[name] for name in _FIGURES if name != "num_cut_episodes"}
    except KeyError as error:
        raise CheckpointError(f"the checkpoint lacks {error}; it is of another version or another kind") from error
    figures["num_cut_episodes"] = state.get("num_cut_episodes", 0)  # they were not counted
    renamed = {"sampling_generator": "experience/generator"}
    moved = {"sampler/": "experience/sampler/", "best/": "best/weights/", "sums/": "figures/"}

    def name_of_today(name: str) -> str:
        before = next((start for start in moved if name.startswith(start)), "")
        return moved[before] + name.removeprefix(before) if before else renamed.get(name, name)

    return {**parts, "best": best, "figures": figures}, {name_of_today(name): each for name, each in tensors.items()}


def _core_parts(state: Mapping[str, Any]) -> dict[str, Any]:
    steps = state["total_steps"]
    learner = {**state["learner"], "advanced_to": steps, "moments": state["moments"], "input": state["input"]}
    return {
        "learner": learner,
        "experience": {"sampler": state["sampler"]},
        "collector": {"total_steps": steps, "explorer": {"rng": state["acting_rng"]}, "policy": {}},
    }


def _torch_generator(sequence: np.random.SeedSequence, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(int(sequence.generate_state(1)[0]))


def _require_same_spec(initial: NetworkSpec, spec: NetworkSpec) -> None:
    """Raise ConfigError unless a network has the required spec; its input statistics may differ."""
    scaled = replace(spec.input, mean=initial.input.mean, std=initial.input.std)
    if initial != replace(spec, input=scaled) or (initial.input.mean is None) != (spec.input.mean is None):
        raise ConfigError(f"the initial weights must be of {spec}, as these settings require, got {initial}")
