"""``torso play``: episodes, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

from torso.cli.models import Model, ModelOptions, open_model
from torso.cli.output import result
from torso.cli.parsing import Flag
from torso.errors import ConfigError


@tyro.conf.configure(tyro.conf.DisallowNone)
@dataclass(frozen=True, kw_only=True)
class PlayOptions(ModelOptions):
    """Play episodes greedily, with a model here or one that is served, and print each return."""

    env: str | None = None
    """A Gymnasium id; None: the one that the model was trained in."""
    env_kwargs: str | None = None
    """Arguments of the env's constructor, as a JSON object; None: those of the model's training."""
    episodes: int = 1
    """How many episodes."""
    seed: int = 0
    """Which episodes: a seed gives the same ones each time, and to torso evaluate."""
    render: Flag = False
    """Show the env in a window."""
    json: Flag = False
    """Print one JSON object."""


def run(options: PlayOptions) -> int:
    """Play, and print a line for each episode as it ends."""
    from torso.agents.evaluation import Evaluation, evaluate, evaluation_seeds
    from torso.cli.worlds import choose_env, stage

    if options.episodes < 1:
        raise ConfigError(f"--episodes must be at least 1, got {options.episodes}")
    returns: list[float] = []
    lengths: list[int] = []
    with open_model(options) as model:
        env_id, env_kwargs = choose_env(options.env, options.env_kwargs, model.provenance("policy"))
        with stage(env_id, env_kwargs, render=options.render) as world:
            for seed in evaluation_seeds(options.seed, options.episodes, "score"):
                played = evaluate(_actor(model), world, [seed])
                returns += played.returns
                lengths += played.lengths_steps
                if not options.json:
                    print(f"episode {len(returns)}: return {returns[-1]:,.1f}, {lengths[-1]:,} steps", flush=True)
    evaluation = Evaluation(returns=tuple(returns), lengths_steps=tuple(lengths))
    figures = {"model": options.model, "env_id": env_id, "seed": options.seed, **evaluation.to_json()}
    result({**figures, "lengths_steps": lengths}, f"mean return {evaluation.mean:,.1f}", as_json=options.json)
    return 0


def _actor(model: Model) -> Any:
    def act(observations: NDArray[Any], state: tuple[Any, ...]) -> tuple[NDArray[np.int64], tuple[Any, ...]]:
        return model.act(observations)[0], state

    return act
