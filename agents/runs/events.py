"""Events of a training run: ticks, episodes, evaluations, log lines, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from torso.agents.protocols import Episode
from torso.envs.games.atari_scores import human_normalized_score, incomparable_score_note

if TYPE_CHECKING:
    from torch import Tensor  # acting through a model server needs no torch


def mean_of(values: Sequence[Tensor]) -> Tensor:
    """Mean of scalar tensors, on their device."""
    import torch  # acting through a model server needs none

    return torch.stack(list(values)).mean()


class Tick(NamedTuple):
    """Result of one vector env step: finished episodes, and the metrics of each update that was due.

    metrics of updates: tensors on the device that learns.
    """

    steps_before: int
    total_steps: int
    episodes: tuple[Episode, ...]
    updates: tuple[Mapping[str, Tensor], ...]

    @property
    def metrics(self) -> Mapping[str, Tensor]:
        """Metrics of the tick, means over its updates; empty where nothing was learnt."""
        if len(self.updates) < 2:
            return self.updates[0] if self.updates else {}
        return {name: mean_of([each[name] for each in self.updates]) for name in self.updates[0]}


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """An evaluation on the selection seeds, and whether it is the best so far."""

    total_steps: int
    evaluation: Evaluation
    is_best: bool


@dataclass(frozen=True, kw_only=True)
class Logged:
    """A line of progress.jsonl."""

    total_steps: int
    figures: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Checkpointed:
    """A completed checkpoint."""

    total_steps: int


TrainingEvent = Episode | Evaluated | Logged | Checkpointed


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Returns and lengths of episodes, in the order of their seeds.

    ``num_cut`` of them were truncated at the maximum length; their returns are the sums up to there.
    """

    returns: tuple[float, ...]
    lengths_steps: tuple[int, ...]
    num_cut: int = 0

    @property
    def mean(self) -> float:
        """Mean of the returns."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation of the returns (over the episodes; n in the denominator)."""
        return float(np.std(self.returns))

    def to_json(self, env_id: str | None = None, env_kwargs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Convert to JSON data; with the human-normalised score in an Atari game that has published scores.

        env_kwargs: where given, a score that cannot be compared with the published ones has a note that says so.
        """
        human = None if env_id is None else human_normalized_score(env_id, self.mean)
        note = None if env_id is None or env_kwargs is None else incomparable_score_note(env_id, env_kwargs)
        return {
            "episodes": len(self.returns),
            "mean_return": self.mean,
            "std_return": self.std,
            "min_return": min(self.returns),
            "max_return": max(self.returns),
            "mean_length_steps": float(np.mean(self.lengths_steps)),
            "num_cut": self.num_cut,
            **({} if human is None else {"human_normalized_score": human}),
            **({} if note is None else {"human_normalized_score_note": note}),
            "returns": list(self.returns),
        }
