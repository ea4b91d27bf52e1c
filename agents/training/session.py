"""Session: the complete state of a DQN run at a step, with save to and restore from a checkpoint."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from torso.agents.acting.collector import EnvCollector
from torso.agents.optim.devices import Precision
from torso.agents.optim.observation_moments import RunningMoments
from torso.agents.optim.states import strip_prefix, with_prefix
from torso.agents.protocols import Stateful
from torso.agents.replay.batches import Sampler
from torso.agents.replay.prioritized import PrioritizedSampler
from torso.agents.replay.ring import ReplayRing
from torso.agents.replay.transitions import Transitions
from torso.agents.replay.uniform import UniformSampler
from torso.agents.runs.checkpoints import Checkpoint, Segment, plan_segments
from torso.agents.runs.events import Tick
from torso.agents.training.core import TrainingCore
from torso.agents.value_based.config import DQNConfig
from torso.agents.value_based.exploration import EpsilonGreedy
from torso.agents.value_based.learner import DQNLearner, input_statistics
from torso.agents.value_based.network import initial_network, input_spec, q_network_spec
from torso.envs import env_seeds
from torso.envs.vector.world import World
from torso.errors import CheckpointError, ConfigError
from torso.nets import Network, NetworkSpec

_RECENT_EPISODES = 100
_SEGMENT_BYTES = 256 * 1024**2  # maximum of a replay segment, so that writing one needs little memory


def require_trainable(world: World, config: DQNConfig, seed: int, initial: Network | None = None) -> None:
    """Validate a training before anything is written: raises EnvError, ConfigError or SpecError.

    ``initial`` is the network with the initial weights, instead of the seed's.
    """
    if seed < 0:
        raise ConfigError(f"seed must not be negative, got {seed}")
    if world.is_constructed and config.num_envs > 1:
        raise ConfigError(
            f"num_envs must be 1 for {world.name}, which is one constructed env, got {config.num_envs}; "
            "pass its id, its class or a function that makes it"
        )
    env = world.spec
    minimum = (config.n_step + env.frame_stack) * config.num_envs
    if config.replay_capacity < minimum:
        raise ConfigError(
            f"replay_capacity must hold {config.n_step} steps and a stack of {env.frame_stack} frames of each env, "
            f"{minimum} steps in all, got {config.replay_capacity}"
        )
    spec = q_network_spec(config, input_spec(env), env.num_actions, initial)
    if initial is not None:
        _require_same_spec(initial.spec, spec)
    network = initial_network(config, spec, seed) if initial is None else copy.deepcopy(initial)
    DQNLearner(config, network, device=torch.device("cpu"), precision="float32")


class Session:
    """Training core of one run: learner, experience and collector, their random generators, and the running metrics."""

    def __init__(
        self,
        world: World,
        config: DQNConfig,
        *,
        seed: int,
        device: torch.device,
        precision: Precision,
        network: Network | None = None,
    ) -> None:
        self.world, self.config, self.seed = world, config, seed
        env = world.spec
        spec = q_network_spec(config, input_spec(env), env.num_actions, network)
        if network is None:
            network = initial_network(config, spec, seed)
        else:
            _require_same_spec(network.spec, spec)
        moments = RunningMoments(math.prod(env.shape)) if config.normalise_observations else None
        streams = np.random.SeedSequence(entropy=seed, spawn_key=(0xAC7,))
        acting, sampling, learning, noise = streams.spawn(4)  # in the order in which they were added
        self.learner = DQNLearner(
            config,
            copy.deepcopy(network),
            device=device,
            precision=precision,
            moments=moments,
            generator=_torch_generator(learning, device),
        )
        self.replay = ReplayRing(
            capacity_steps=config.replay_capacity,
            num_envs=config.num_envs,
            shape=env.shape,
            dtype=env.dtype,
            device=device,
            frame_stack=env.frame_stack,
            num_actions=env.num_actions if env.has_action_masks else None,
        )
        self.core = assemble(
            config,
            self.learner,
            self.replay,
            lambda step: world.make(env_seeds(seed, config.num_envs, step)),
            action_start=env.action_start,
            acting_rng=np.random.default_rng(acting),
            sampling_generator=_torch_generator(sampling, device),
            noise_generator=_torch_generator(noise, device),
        )
        self._parts: Mapping[str, Stateful] = self.core.parts()
        self.best_network: Network | None = None  # by evaluation so far, with its mean return and its step
        self.best_mean: float | None = None
        self.best_step = 0
        self.cuts: list[int] = []  # steps of checkpoints outside the period: interruptions, ends of runs
        self.num_episodes = 0
        self.num_cut_episodes = 0  # which a checkpoint or an evaluation truncated; they are not among num_episodes
        self._recent_returns: deque[float] = deque(maxlen=_RECENT_EPISODES)
        self._recent_lengths: deque[int] = deque(maxlen=_RECENT_EPISODES)
        self._sums: dict[str, Tensor] = {}  # of the metrics since the last log line, on the device
        self._num_metrics = 0

    @property
    def total_steps(self) -> int:
        """Steps made so far."""
        return self.core.total_steps

    def cut(self) -> None:
        """Truncate all unfinished episodes and begin new ones."""
        self.num_cut_episodes += len(self.core.cut())

    def record_tick(self, tick: Tick) -> None:
        """Add a tick to the running metrics, without synchronising with the device."""
        for episode in tick.episodes:
            self.num_episodes += 1
            self._recent_returns.append(episode.episode_return)
            self._recent_lengths.append(episode.length_steps)
        if tick.updates:
            self._num_metrics += 1
            for name, value in tick.metrics.items():
                self._sums[name] = self._sums[name] + value if name in self._sums else value

    def require_finite(self) -> None:
        """Raise ConfigError where a metric since the last log line is not finite: the training has diverged."""
        for name, total in self._sums.items():
            if not math.isfinite(value := float(total)):
                raise ConfigError(
                    f"the {name} must be finite, got {value} by step {self.total_steps}: the training diverged; lower "
                    "learning_rate, set max_grad_norm, or check the env's rewards"
                )

    def pop_metrics(self) -> dict[str, float | None]:
        """Return the metrics of the steps since the last call, and reset their sums."""
        means = {name: float(total) / self._num_metrics for name, total in self._sums.items()}
        self._sums, self._num_metrics = {}, 0
        return {
            "episodes": self.num_episodes,
            "episode_return": float(np.mean(self._recent_returns)) if self._recent_returns else None,
            "episode_length": float(np.mean(self._recent_lengths)) if self._recent_lengths else None,
            "epsilon": self.config.epsilon(self.total_steps),
            "updates": self.learner.num_updates,
            **{"loss": None, "target": None, **means},
        }

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return all state but the replay's rows, as JSON and tensors."""
        parts = {name: part.state() for name, part in self._parts.items()}
        state = {
            "parts": {name: part for name, (part, _) in parts.items()},
            "best_input": None if self.best_network is None else input_statistics(self.best_network),
            "best_mean": self.best_mean,
            "best_step": self.best_step,
            "cuts": self.cuts,
            "num_episodes": self.num_episodes,
            "num_cut_episodes": self.num_cut_episodes,
            "recent_returns": list(self._recent_returns),
            "recent_lengths": list(self._recent_lengths),
            "num_metrics": self._num_metrics,
        }
        tensors: dict[str, Tensor] = {}
        for name, (_, part) in parts.items():
            tensors |= with_prefix(name, part)
        tensors |= with_prefix("best", {} if self.best_network is None else self.best_network.state_dict())
        tensors |= with_prefix("sums", self._sums)
        return state, tensors

    def segments(self, on_disk: tuple[tuple[int, int], ...]) -> Iterator[Segment]:
        """Yield the replay as append-only segments; those that are on disk already are listed again, not read."""
        replay = self.replay
        rows = max(1, _SEGMENT_BYTES * replay.capacity_rows // replay.num_bytes)
        for start, stop in plan_segments(on_disk, replay.first_row, replay.num_rows, rows):
            yield Segment(start_row=start, stop_row=stop, read=lambda a=start, b=stop: replay.read_rows(a, b))  # type: ignore[misc]

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the state of a checkpoint; CheckpointError when it is of another run."""
        state, tensors = upgrade(checkpoint.state, checkpoint.tensors)
        for start_row, _, rows in checkpoint.segments():
            self.replay.write_rows(start_row, rows)
        try:
            for name, part in self._parts.items():
                part.restore(state["parts"][name], strip_prefix(name, tensors))
            self.best_mean, self.best_step = state["best_mean"], state["best_step"]
            if self.best_mean is not None:
                self.best_network = copy.deepcopy(self.learner.online).eval()
                self.best_network.load_state_dict(strip_prefix("best", tensors))
                if state["best_input"] is not None:
                    self.best_network.set_input_statistics(**state["best_input"])
            self.cuts, self.num_episodes = list(state["cuts"]), state["num_episodes"]
            self.num_cut_episodes = state["num_cut_episodes"]
            self._recent_returns.extend(state["recent_returns"])
            self._recent_lengths.extend(state["recent_lengths"])
            self._num_metrics = state["num_metrics"]
        except KeyError as error:
            raise CheckpointError(f"the checkpoint lacks {error}; it is of another version or another kind") from error
        except RuntimeError as error:
            raise CheckpointError(f"the checkpoint does not fit this run: {error}") from error
        self._sums = {name: t.to(self.learner.device) for name, t in strip_prefix("sums", tensors).items()}


def assemble(
    config: DQNConfig,
    learner: DQNLearner,
    ring: ReplayRing,
    make_envs: Callable[[int], VectorEnv[Any, Any, Any]],
    *,
    action_start: int,
    acting_rng: np.random.Generator,
    sampling_generator: torch.Generator,
    noise_generator: torch.Generator | None = None,
) -> TrainingCore:
    """Assemble the training core of a learner: epsilon-greedy acting in envs, transitions in a ring."""
    collector = EnvCollector(
        learner.policy(noise_generator),
        EpsilonGreedy(config.epsilon, acting_rng),
        make_envs,
        num_envs=config.num_envs,
        action_start=action_start,
        has_masks=ring.has_masks,
    )
    return TrainingCore(collector, transitions_of(config, ring, sampling_generator), learner)


def transitions_of(config: DQNConfig, ring: ReplayRing, generator: torch.Generator) -> Transitions:
    """Experience in a ring, sampled and learnt from as the settings say."""
    sampler: Sampler = (
        PrioritizedSampler(ring, n_step=config.n_step, exponent=config.priority_exponent, batch_size=config.batch_size)
        if config.prioritized
        else UniformSampler(ring, n_step=config.n_step)
    )
    return Transitions(
        ring,
        sampler,
        generator,
        n_step=config.n_step,
        gamma=config.gamma,
        clip_rewards=config.clip_rewards,
        learn_period=config.learn_period,
        samples_per_phase=config.updates_per_phase * config.batch_size,
        min_replay_size=config.min_replay_size,
        importance=config.importance,
    )


def upgrade(state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    """Bring a checkpoint of a run to the form of today: a mapping of names to the state of each part.

    Before torso had parts, the same values stood side by side.
    """
    if "parts" in state:
        return state, tensors
    try:
        steps = state["total_steps"]
        learner = {**state["learner"], "advanced_to": steps, "moments": state["moments"], "input": state["input"]}
        parts = {
            "learner": learner,
            "experience": {"sampler": state["sampler"]},
            "collector": {"total_steps": steps, "explorer": {"rng": state["acting_rng"]}, "policy": {}},
        }
    except KeyError as error:
        raise CheckpointError(f"the checkpoint lacks {error}; it is of another version or another kind") from error
    renamed = {"sampling_generator": "experience/generator"}
    moved = {
        f"experience/{name}" if name.startswith("sampler/") else renamed.get(name, name): tensor
        for name, tensor in tensors.items()
    }
    return {**state, "parts": parts, "num_cut_episodes": 0}, moved  # they were not counted


def _torch_generator(sequence: np.random.SeedSequence, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(int(sequence.generate_state(1)[0]))


def _require_same_spec(initial: NetworkSpec, spec: NetworkSpec) -> None:
    """Raise ConfigError unless a network has the required spec; its input statistics may differ."""
    scaled = replace(spec.input, mean=initial.input.mean, std=initial.input.std)
    if initial != replace(spec, input=scaled) or (initial.input.mean is None) != (spec.input.mean is None):
        raise ConfigError(f"the initial weights must be of {spec}, as these settings require, got {initial}")
