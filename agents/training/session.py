"""All that a DQN run knows at a step, and its way into a checkpoint and back."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torso.agents.optim.devices import Precision
from torso.agents.optim.observation_moments import RunningMoments
from torso.agents.optim.states import numpy_generator_state, restore_numpy_generator, strip_prefix, with_prefix
from torso.agents.replay.batches import Sampler
from torso.agents.replay.prioritized import PrioritizedSampler
from torso.agents.replay.ring import ReplayRing
from torso.agents.replay.uniform import UniformSampler
from torso.agents.runs.checkpoints import Checkpoint, Segment, plan_segments
from torso.agents.runs.events import Tick
from torso.agents.training.interaction import Interaction
from torso.agents.value_based.config import DQNConfig
from torso.agents.value_based.learner import DQNLearner
from torso.agents.value_based.network import first_network, input_spec, q_network_spec
from torso.envs import env_seeds
from torso.envs.vector.world import World
from torso.errors import CheckpointError, ConfigError
from torso.nets import Network, NetworkSpec

_RECENT_EPISODES = 100
_SEGMENT_BYTES = 256 * 1024**2  # of a replay segment at most, so that writing one needs little memory


def require_trainable(world: World, config: DQNConfig, seed: int, first: Network | None = None) -> None:
    """Refuse what cannot work before anything is written: raises EnvError, ConfigError or SpecError.

    ``first`` is the network whose weights it would begin with, instead of the seed's.
    """
    if seed < 0:
        raise ConfigError(f"seed must not be negative, got {seed}")
    if world.is_constructed and config.num_envs > 1:
        raise ConfigError(
            f"num_envs is {config.num_envs}, but {world.name} is one constructed env: pass its id, its class or a "
            "function that makes it"
        )
    env = world.spec
    least = (config.n_step + env.frame_stack) * config.num_envs
    if config.replay_capacity < least:
        raise ConfigError(
            f"replay_capacity must hold {config.n_step} steps and a stack of {env.frame_stack} frames of each env, "
            f"{least} steps in all, got {config.replay_capacity}"
        )
    spec = q_network_spec(config, input_spec(env), env.num_actions, first)
    if first is not None:
        _require_same(first.spec, spec)
    network = first_network(config, spec, seed) if first is None else copy.deepcopy(first)
    DQNLearner(config, network, device=torch.device("cpu"), precision="float32")


class Session:
    """The learner, the replay, the interaction, their generators, and the running figures of one run."""

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
            network = first_network(config, spec, seed)
        else:
            _require_same(network.spec, spec)
        self.learner = DQNLearner(config, copy.deepcopy(network), device=device, precision=precision)
        self.replay = ReplayRing(
            capacity_steps=config.replay_capacity,
            num_envs=config.num_envs,
            shape=env.shape,
            dtype=env.dtype,
            device=device,
            frame_stack=env.frame_stack,
            num_actions=env.num_actions if env.has_action_masks else None,
        )
        self.sampler: Sampler = (
            PrioritizedSampler(
                self.replay, n_step=config.n_step, exponent=config.priority_exponent, batch_size=config.batch_size
            )
            if config.prioritized
            else UniformSampler(self.replay, n_step=config.n_step)
        )
        self.moments = RunningMoments(math.prod(env.shape)) if config.normalise_observations else None
        acting, sampling = np.random.SeedSequence(entropy=seed, spawn_key=(0xAC7,)).spawn(2)
        self.interaction = Interaction(
            config,
            self.learner,
            self.replay,
            self.sampler,
            lambda step: world.make(env_seeds(seed, config.num_envs, step)),
            action_start=env.action_start,
            acting_rng=np.random.default_rng(acting),
            sampling_generator=torch.Generator(device).manual_seed(int(sampling.generate_state(1)[0])),
            moments=self.moments,
        )
        self.best_network: Network | None = None  # of the evaluations so far, with its mean return and its step
        self.best_mean: float | None = None
        self.best_step = 0
        self.cuts: list[int] = []  # steps of checkpoints that no period asked for: interruptions, ends of runs
        self.num_episodes = 0
        self._recent_returns: deque[float] = deque(maxlen=_RECENT_EPISODES)
        self._recent_lengths: deque[int] = deque(maxlen=_RECENT_EPISODES)
        self._sums: dict[str, Tensor] = {}  # of the metrics since the last log line, on the device
        self._num_metrics = 0

    @property
    def total_steps(self) -> int:
        """Steps made so far."""
        return self.interaction.total_steps

    def take_in(self, tick: Tick) -> None:
        """Add a tick to the running figures, without waiting for the device."""
        for episode in tick.episodes:
            self.num_episodes += 1
            self._recent_returns.append(episode.episode_return)
            self._recent_lengths.append(episode.length_steps)
        if tick.metrics:
            self._num_metrics += 1
            for name, value in tick.metrics.items():
                self._sums[name] = self._sums[name] + value if name in self._sums else value

    def take_figures(self) -> dict[str, float | None]:
        """The figures of the steps since this was last asked."""
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
        """Everything but the replay's rows, as JSON and tensors."""
        learner_state, learner_tensors = self.learner.state()
        sampler_state, sampler_tensors = self.sampler.state()
        state = {
            "total_steps": self.total_steps,
            "learner": learner_state,
            "sampler": sampler_state,
            "moments": None if self.moments is None else self.moments.state(),
            "input": _statistics(self.learner.online),
            "best_input": None if self.best_network is None else _statistics(self.best_network),
            "acting_rng": numpy_generator_state(self.interaction.acting_rng),
            "best_mean": self.best_mean,
            "best_step": self.best_step,
            "cuts": self.cuts,
            "num_episodes": self.num_episodes,
            "recent_returns": list(self._recent_returns),
            "recent_lengths": list(self._recent_lengths),
            "num_metrics": self._num_metrics,
        }
        tensors = {
            **with_prefix("learner", learner_tensors),
            **with_prefix("sampler", sampler_tensors),
            **with_prefix("best", {} if self.best_network is None else self.best_network.state_dict()),
            **with_prefix("sums", self._sums),
            "sampling_generator": self.interaction.sampling_generator.get_state(),
        }
        return state, tensors

    def segments(self, on_disk: tuple[tuple[int, int], ...]) -> Iterator[Segment]:
        """The replay as append-only segments; those that are on disk already are named again, not read."""
        replay = self.replay
        rows = max(1, _SEGMENT_BYTES * replay.capacity_rows // replay.num_bytes)
        for start, stop in plan_segments(on_disk, replay.first_row, replay.num_rows, rows):
            yield Segment(start_row=start, stop_row=stop, read=lambda a=start, b=stop: replay.read_rows(a, b))  # type: ignore[misc]

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become what was saved; CheckpointError when the checkpoint is of another run."""
        state, tensors = checkpoint.state, checkpoint.tensors
        try:
            self.learner.restore(state["learner"], strip_prefix("learner", tensors))
            if state["input"] is not None:
                self.learner.set_input_statistics(**state["input"])
            if self.moments is not None:
                self.moments.restore(state["moments"])
            restore_numpy_generator(self.interaction.acting_rng, state["acting_rng"])
            self.interaction.sampling_generator.set_state(tensors["sampling_generator"])
            self.interaction.total_steps = state["total_steps"]
            self.best_mean, self.best_step = state["best_mean"], state["best_step"]
            if self.best_mean is not None:
                self.best_network = copy.deepcopy(self.learner.online).eval()
                self.best_network.load_state_dict(strip_prefix("best", tensors))
                if state["best_input"] is not None:
                    self.best_network.set_input_statistics(**state["best_input"])
            self.cuts, self.num_episodes = list(state["cuts"]), state["num_episodes"]
            self._recent_returns.extend(state["recent_returns"])
            self._recent_lengths.extend(state["recent_lengths"])
            self._num_metrics = state["num_metrics"]
        except KeyError as error:
            raise CheckpointError(f"the checkpoint lacks {error}; it is of another version or another kind") from error
        except RuntimeError as error:
            raise CheckpointError(f"the checkpoint does not fit this run: {error}") from error
        self._sums = {name: t.to(self.learner.device) for name, t in strip_prefix("sums", tensors).items()}
        for start_row, _, rows in checkpoint.segments():
            self.replay.write_rows(start_row, rows)
        self.sampler.restore(state["sampler"], strip_prefix("sampler", tensors))


def _require_same(first: NetworkSpec, spec: NetworkSpec) -> None:
    """ConfigError unless a network is of the spec that is asked for; what it scales its input by may have moved."""
    scaled = replace(spec.input, mean=first.input.mean, std=first.input.std)
    if first != replace(spec, input=scaled) or (first.input.mean is None) != (spec.input.mean is None):
        raise ConfigError(f"the first weights are of {first}, these settings ask for {spec}")


def _statistics(network: Network) -> dict[str, list[float]] | None:
    """The mean and deviation that a network scales its observations by; None where it does not."""
    scaling = network.spec.input
    return None if scaling.mean is None or scaling.std is None else {"mean": [*scaling.mean], "std": [*scaling.std]}
