"""All that a DQN run knows at a step, and its way into a checkpoint and back."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torso.agents.checkpoints import Checkpoint, Segment, plan_segments
from torso.agents.dqn import DQNConfig, DQNLearner, q_network_spec
from torso.agents.gradient import Precision
from torso.agents.loop import Interaction, Tick
from torso.agents.replay import ReplayRing
from torso.agents.states import numpy_generator_state, restore_numpy_generator, strip_prefix, with_prefix
from torso.agents.world import World
from torso.envs import env_seeds
from torso.errors import CheckpointError, ConfigError
from torso.nets import Network, build_network

_RECENT_EPISODES = 100
_SEGMENT_ROWS = 50_000  # rows of a replay segment at most, so that writing one needs little memory


def require_trainable(world: World, config: DQNConfig, seed: int) -> None:
    """Refuse what cannot work before anything is written: raises EnvError or ConfigError."""
    if seed < 0:
        raise ConfigError(f"seed must not be negative, got {seed}")
    if world.is_constructed and config.num_envs > 1:
        raise ConfigError(
            f"num_envs is {config.num_envs}, but {world.name} is one constructed env: pass its id, its class or a "
            "function that makes it"
        )
    door = world.door
    build_network(q_network_spec(config, door.network_input, door.num_actions), torch.Generator())


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
        door = world.door
        spec = q_network_spec(config, door.network_input, door.num_actions)
        if network is None:
            self.learner = DQNLearner.build(config, spec, device=device, precision=precision, seed=seed)
        else:
            if network.spec != spec:
                raise ConfigError(f"the first weights are of {network.spec}, these settings ask for {spec}")
            self.learner = DQNLearner(config, copy.deepcopy(network), device=device, precision=precision)
        self.replay = ReplayRing(
            capacity_steps=config.replay_capacity,
            num_envs=config.num_envs,
            shape=door.network_input.shape,
            dtype=door.network_input.dtype,
            device=device,
        )
        acting, sampling = np.random.SeedSequence(entropy=seed, spawn_key=(0xAC7,)).spawn(2)
        self.interaction = Interaction(
            config,
            self.learner,
            self.replay,
            lambda step: world.make(env_seeds(seed, config.num_envs, step)),
            action_start=door.action_start,
            acting_rng=np.random.default_rng(acting),
            sampling_generator=torch.Generator(device).manual_seed(int(sampling.generate_state(1)[0])),
        )
        self.best_network: Network | None = None  # of the evaluations so far, with its mean return and its step
        self.best_mean: float | None = None
        self.best_step = 0
        self.cuts: list[int] = []  # steps of checkpoints that no period asked for: interruptions, ends of runs
        self.num_episodes = 0
        self._recent_returns: deque[float] = deque(maxlen=_RECENT_EPISODES)
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
            "epsilon": self.config.epsilon(self.total_steps),
            "updates": self.learner.num_updates,
            "loss": means.get("loss"),
            "target": means.get("target"),
        }

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Everything but the replay's rows, as JSON and tensors."""
        learner_state, learner_tensors = self.learner.state()
        state = {
            "total_steps": self.total_steps,
            "learner": learner_state,
            "acting_rng": numpy_generator_state(self.interaction.acting_rng),
            "best_mean": self.best_mean,
            "best_step": self.best_step,
            "cuts": self.cuts,
            "num_episodes": self.num_episodes,
            "recent_returns": list(self._recent_returns),
            "num_metrics": self._num_metrics,
        }
        tensors = {
            **with_prefix("learner", learner_tensors),
            **with_prefix("best", {} if self.best_network is None else self.best_network.state_dict()),
            **with_prefix("sums", self._sums),
            "sampling_generator": self.interaction.sampling_generator.get_state(),
        }
        return state, tensors

    def segments(self, on_disk: tuple[tuple[int, int], ...]) -> Iterator[Segment]:
        """The replay as append-only segments; those that are on disk already are named again, not read."""
        replay = self.replay
        for start, stop in plan_segments(on_disk, replay.first_row, replay.num_rows, _SEGMENT_ROWS):
            yield Segment(start_row=start, stop_row=stop, read=lambda a=start, b=stop: replay.read_rows(a, b))  # type: ignore[misc]

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become what was saved; CheckpointError when the checkpoint is of another run."""
        state, tensors = checkpoint.state, checkpoint.tensors
        try:
            self.learner.restore(state["learner"], strip_prefix("learner", tensors))
            restore_numpy_generator(self.interaction.acting_rng, state["acting_rng"])
            self.interaction.sampling_generator.set_state(tensors["sampling_generator"])
            self.interaction.total_steps = state["total_steps"]
            self.best_mean, self.best_step = state["best_mean"], state["best_step"]
            if self.best_mean is not None:
                self.best_network = copy.deepcopy(self.learner.online).eval()
                self.best_network.load_state_dict(strip_prefix("best", tensors))
            self.cuts, self.num_episodes = list(state["cuts"]), state["num_episodes"]
            self._recent_returns.extend(state["recent_returns"])
            self._num_metrics = state["num_metrics"]
        except KeyError as error:
            raise CheckpointError(f"the checkpoint lacks {error}; it is of another version or another kind") from error
        except RuntimeError as error:
            raise CheckpointError(f"the checkpoint does not fit this run: {error}") from error
        self._sums = {name: t.to(self.learner.device) for name, t in strip_prefix("sums", tensors).items()}
        for start_row, _, rows in checkpoint.segments():
            self.replay.write_rows(start_row, rows)
