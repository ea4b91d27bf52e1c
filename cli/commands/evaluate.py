"""``torso evaluate``: score a model on test data or on fresh episodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torso.cli.arguments.options import POSITIONAL
from torso.cli.terminal.output import print_result
from torso.errors import ConfigError

if TYPE_CHECKING:
    from torso.nets import Predictor


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Evaluate a model: a policy by the returns of fresh greedy episodes, a classifier or a regressor on test data."""

    model: Path = field(metadata=POSITIONAL)
    """A model directory, or a run directory, whose best model is used."""
    episodes: int | None = None
    """For a policy: number of episodes; None: 20."""
    seed: int | None = None
    """For a policy: seed of the episodes; None: its training's. No seed repeats the episodes of model selection."""
    env: str | None = None
    """For a policy: a Gymnasium id; None: the env that it was trained in."""
    env_kwargs: str | None = None
    """For a policy: arguments of the env's constructor, as a JSON object; None: those of its training."""
    dataset: str | None = None
    """For other models: the data set whose test data to use; None: the one that the model was fitted to.

    Your own files, where they are others than that, are scored whole; a folder of images is read in the model's size
    and colours."""
    data_dir: Path | None = None
    """For other models: a folder that holds the data set's files; None: $TORSO_DATA/DATASET or the user's cache."""
    json: bool = False
    """Print one JSON object."""


def run(options: EvaluateOptions) -> int:
    """Evaluate the model, and print the figures."""
    from torso.nets import Predictor

    predictor = Predictor.load(options.model)
    if predictor.kind == "policy":
        _reject_options(options, "policy", ("dataset", "data_dir"))
        _evaluate_policy(options, predictor)
    else:
        _reject_options(options, predictor.kind, ("episodes", "seed", "env", "env_kwargs"))
        _evaluate_on_test_data(options, predictor)
    return 0


def _reject_options(options: EvaluateOptions, kind: str, names: tuple[str, ...]) -> None:
    flags = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) is not None]
    if flags:
        raise ConfigError(
            f"{', '.join(flags)} must be omitted: {options.model} is a {kind}, to which it does not apply"
        )


def _evaluate_policy(options: EvaluateOptions, predictor: Predictor) -> None:
    from torso.agents.acting.evaluation import MAX_ENVS, evaluate, evaluation_seeds
    from torso.cli.worlds import choose_world, format_score

    provenance = predictor.card.provenance
    world = choose_world(options.env, options.env_kwargs, provenance)
    seed = options.seed if options.seed is not None else provenance.get("seed") or 0
    episodes = 20 if options.episodes is None else options.episodes
    if episodes < 1:
        raise ConfigError(f"--episodes must be at least 1, got {episodes}")
    recorded = provenance.get("config") or {}
    max_envs = recorded.get("evaluation_envs", MAX_ENVS) or recorded.get("num_envs", 1)
    seeds = evaluation_seeds(seed, episodes, "score")
    score = evaluate(predictor.act, world, seeds, max_envs=max_envs).to_json(world.name, world.env_kwargs)
    figures = {"model": str(options.model), "env_id": world.name, "seed": seed, **score}
    print_result(figures, f"{world.name}: {format_score(score)}", as_json=options.json)


def _evaluate_on_test_data(options: EvaluateOptions, predictor: Predictor) -> None:
    from torso.envs.datasets.splits import listed
    from torso.insight.inspect.held_out import load_test_data
    from torso.insight.metrics.scoring import score_on_test, score_text

    test = load_test_data(predictor.card, options.dataset, options.data_dir)
    if test is None:
        raise ConfigError(f"{options.model} does not record the data set it was fitted to; name one with --dataset")
    if not len(test):
        raise ConfigError(f"{test.name} has no test data to score on")
    scored = score_on_test(predictor, test)
    metrics = scored.metrics
    figures = {"model": str(options.model), "dataset": test.name, **scored.figures}
    figures["test_metrics"] = None if metrics is None else metrics.to_json()
    lines = [f"{test.name}: {score_text(scored.figures)}"]
    if unknown := test.label_names[predictor.num_outputs :] if predictor.kind == "classifier" else ():
        count = scored.figures["num_unknown_labels"]
        lines.append(f"{count:,} of them have labels that the model does not know, {listed(unknown)}: errors")
    lines += [] if metrics is None else ["", metrics.text()]
    print_result(figures, "\n".join(lines), as_json=options.json)
