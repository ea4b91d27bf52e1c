"""The learning rate that a data set and a configuration ask for."""

from __future__ import annotations

from dataclasses import replace

from torso.agents.fit_config import ClassifierConfig, RegressorConfig
from torso.agents.fit_runs import examples_of, spec_of
from torso.agents.fitting import Fitting, resolve
from torso.agents.gradient import torch_threads
from torso.agents.lr_finder import RangeTest, range_test
from torso.envs import Splits


def range_test_of(
    data: Splits, config: ClassifierConfig | RegressorConfig, *, seed: int, num_steps: int = 100
) -> RangeTest:
    """Run a range test (Smith 2017) on fresh weights and the training data, at the configuration's other settings.

    Raises:
        ConfigError: settings that cannot work, or a loss that no learning rate lowers.
    """
    spec = spec_of(data.train, config)
    constant = replace(config, schedule="constant", max_epochs=num_steps)  # every step is an epoch at the least
    train = examples_of(data.train, spec.input, config)
    fitting = Fitting(constant, spec, train, None, seed=seed, resolved=resolve(constant, spec))
    with torch_threads(fitting.resolved["num_threads"]):
        return range_test(fitting.step_at, num_steps=num_steps)
