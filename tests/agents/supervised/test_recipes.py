"""Training recipes: the defaults of each net, and overrides by settings."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import pytest

from torso.agents import ClassifierConfig, RegressorConfig
from torso.agents.supervised.config import LINEAR, as_regression
from torso.agents.supervised.recipes import RECIPES, Recipe, fit_preset
from torso.cli.commands.fit import FitSettings
from torso.errors import ConfigError
from torso.nets.specs.named_torsos import NETS

OWN_NETS = ("perceptron", "logistic", "softmax")  # a head each; the others are torsos


def test_every_net_has_a_recipe() -> None:
    assert set(RECIPES) == {*NETS, *OWN_NETS}
    assert set(LINEAR) == {*OWN_NETS, "linear"}
    for net in RECIPES:
        assert ClassifierConfig(net=net).recipe() == RECIPES[net]
    for net in NETS:
        assert RegressorConfig(net=net).recipe() == RECIPES[net]


@pytest.mark.parametrize("dataset", [None, "digits", "mnist"])
@pytest.mark.parametrize("net", RECIPES)
def test_a_preset_is_settings_that_work(net: str, dataset: str | None) -> None:
    settings = fit_preset(net, dataset)
    config = ClassifierConfig(**settings)
    assert isinstance(FitSettings(**settings), ClassifierConfig)
    recipe = config.recipe()
    assert recipe == Recipe(**{field.name: settings[field.name] for field in fields(Recipe)})  # a preset says it all
    if dataset is None:
        assert settings == {"net": net, **asdict(RECIPES[net])}


def test_an_unknown_net_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown net 'resnet'; known are perceptron, logistic"):
        fit_preset("resnet")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {}),
        ({"max_epochs": 3, "batch_size": "full"}, {"max_epochs": 3, "batch_size": "full"}),
        ({"optimizer": "adamw"}, {}),
        ({"optimizer": "sgd"}, {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.0}),
        ({"optimizer": "adam"}, {"optimizer": "adam", "learning_rate": 2e-3, "weight_decay": 0.0}),
        ({"optimizer": "adadelta"}, {"optimizer": "adadelta", "learning_rate": 1.0, "weight_decay": 0.0}),
        (
            {"optimizer": "momentum", "learning_rate": 0.5},
            {"optimizer": "momentum", "learning_rate": 0.5, "weight_decay": 0.0},
        ),
        ({"weight_decay": 0.0}, {"weight_decay": 0.0}),
        ({"init": "he", "schedule": "step"}, {"init": "he", "schedule": "step"}),
    ],
)
def test_what_is_given_stands_over_the_recipe(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    assert ClassifierConfig(**settings).recipe() == Recipe(**{**asdict(Recipe()), **expected})


def test_adamw_decays_where_it_replaces_another() -> None:
    assert ClassifierConfig(net="softmax").recipe().weight_decay == 0.0
    recipe = ClassifierConfig(net="softmax", optimizer="adamw").recipe()
    assert (recipe.weight_decay, recipe.learning_rate) == (0.05, 2e-3)
    assert ClassifierConfig(net="softmax", optimizer="adamw", weight_decay=0.2).recipe().weight_decay == 0.2
    with pytest.raises(ConfigError, match=r"weight_decay is adamw's; with optimizer='adam' use l2=0.2"):
        ClassifierConfig(net="softmax", weight_decay=0.2)


def test_a_run_goes_on_with_the_recipe_that_it_recorded() -> None:
    recorded = {**RECIPES["mlp"].to_json(), "learning_rate": 0.5, "max_epochs": 7}
    recipe = ClassifierConfig(max_epochs=9).recipe(recorded)
    assert (recipe.learning_rate, recipe.max_epochs) == (0.5, 9)
    assert ClassifierConfig().recipe(RECIPES["lenet"].to_json()) == RECIPES["lenet"]


def test_a_command_lines_settings_for_numbers() -> None:
    config = FitSettings(net="mlp", hidden=(3,), l2=0.5, optimizer="rmsprop", patience=None)
    assert as_regression(config) == RegressorConfig(net="mlp", hidden=(3,), l2=0.5, optimizer="rmsprop", patience=None)
    for own in ({"loss": "softmax"}, {"class_weight": "balanced"}, {"calibration": "platt"}, {"label_smoothing": 0.1}):
        (name,) = own
        with pytest.raises(ConfigError, match=f"{name}: the targets are numbers"):
            as_regression(FitSettings(**own))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="use net='linear'"):
        as_regression(FitSettings(net="logistic"))
