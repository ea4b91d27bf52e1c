"""Trial of a fit's updates on made-up examples, by which settings of its network are measured."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from torso.agents.optim.devices import Precision
from torso.agents.optim.memory_formats import made_up_inputs
from torso.agents.supervised.config import FitConfig
from torso.agents.supervised.learner import Examples, SupervisedLearner
from torso.agents.supervised.recipes import Recipe
from torso.nets import Network
from torso.nets.modules.heads import LabelHead
from torso.nets.modules.layers import MemoryFormat

_UPDATES = 1_000  # that the schedule of the learning rate spans, more than a trial makes
_MOST_ROWS = 256  # of a minibatch that is measured; a batch of all examples may have any number


def trial_rows(recipe: Recipe) -> int:
    """Rows of a trial's minibatches: those of the fit, up to a limit."""
    return _MOST_ROWS if recipe.batch_size == "full" else min(_MOST_ROWS, int(recipe.batch_size))


def trial_fit(
    config: FitConfig,
    recipe: Recipe,
    network: Network,
    memory_format: MemoryFormat,
    *,
    device: torch.device,
    precision: Precision,
) -> Callable[[int], object]:
    """Return a function that updates a copy of a network on so many made-up examples, `trial_rows` at most."""
    learner = SupervisedLearner(
        config,
        recipe,
        copy.deepcopy(network),
        device=device,
        precision=precision,
        memory_format=memory_format,
        seed=0,
        total_updates=_UPDATES,
    )
    spec, rows = network.spec, trial_rows(recipe)
    is_labelled = isinstance(network.head, LabelHead)
    targets = torch.zeros(rows, dtype=torch.int64) if is_labelled else torch.zeros(rows, spec.num_outputs)
    examples = learner.prepare(Examples(made_up_inputs(spec.input, rows), targets))
    return lambda num_rows: learner.update(Examples(examples.inputs[:num_rows], examples.targets[:num_rows]))
