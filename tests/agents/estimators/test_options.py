"""Options of the estimators: the parameters of ``__init__`` equal the fields of the configuration classes."""

from __future__ import annotations

import ast
import inspect
from dataclasses import Field, fields, make_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from torso.agents import Classifier, ClassifierConfig, Regressor, RegressorConfig
from torso.agents.supervised import config as config_module
from torso.agents.supervised.config import FitConfig

Estimator = Classifier | Regressor
PAIRS = [(Classifier, ClassifierConfig), (Regressor, RegressorConfig)]
# Parameters that take more types than the field, which holds plain data: `Estimator._config` or the configuration's
# checks convert them. Field's annotation, parameter's annotation.
CONVERTED = {
    "hidden": ("tuple[int, ...] | None", "Sequence[int] | None"),
    "init_torso": ("str | None", "str | os.PathLike[str] | None"),
    "random_state": ("int | None", "int | np.random.RandomState | None"),
}


def parameters_of(estimator: type[Estimator]) -> dict[str, inspect.Parameter]:
    parameters = dict(inspect.signature(estimator.__init__).parameters)
    del parameters["self"]
    return parameters


def fields_of(config: type[FitConfig]) -> dict[str, Field[Any]]:
    return {field.name: field for field in fields(config)}


@pytest.mark.parametrize(("estimator", "config"), PAIRS)
def test_parameters_are_named_like_the_fields(estimator: type[Estimator], config: type[FitConfig]) -> None:
    assert estimator.config_class is config
    assert set(parameters_of(estimator)) == set(fields_of(config))


@pytest.mark.parametrize(("estimator", "config"), PAIRS)
def test_parameters_have_the_defaults_of_the_fields(estimator: type[Estimator], config: type[FitConfig]) -> None:
    defaults = {name: (type(field.default), field.default) for name, field in fields_of(config).items()}
    assert {name: (type(each.default), each.default) for name, each in parameters_of(estimator).items()} == defaults


@pytest.mark.parametrize(("estimator", "config"), PAIRS)
def test_parameters_have_the_annotations_of_the_fields(estimator: type[Estimator], config: type[FitConfig]) -> None:
    annotations = {name: (field.type, field.type) for name, field in fields_of(config).items()} | CONVERTED
    parameters = parameters_of(estimator)
    assert {name: (field.type, parameters[name].annotation) for name, field in fields_of(config).items()} == annotations
    assert all(wider != narrower for narrower, wider in CONVERTED.values())


@pytest.mark.parametrize(("estimator", "config"), PAIRS)
def test_every_parameter_reaches_the_configuration(estimator: type[Estimator], config: type[FitConfig]) -> None:
    """With a configuration class of the same fields and without their checks, so that any value passes."""
    unchecked = make_dataclass("Unchecked", [(name, Any) for name in fields_of(config)], kw_only=True)
    subclass = type("Subclass", (estimator,), {"config_class": unchecked})
    values = {name: object() for name in fields_of(config)} | {"random_state": 7}
    assert vars(subclass(**values)._config()) == values
    assert type(estimator()._config()) is config


def test_every_field_is_documented_under_it_and_nowhere_else() -> None:
    tree = ast.parse(Path(str(config_module.__file__)).read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    documented: dict[str, str] = {}
    for name in ("FitConfig", "ClassifierConfig", "RegressorConfig"):
        for node, following in pairwise([*classes[name].body, ast.Pass()]):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                assert isinstance(following, ast.Expr), node.target.id
                documented[node.target.id] = ast.literal_eval(following.value)
    assert set(documented) == set(fields_of(ClassifierConfig)) | set(fields_of(RegressorConfig))
    for name, text in documented.items():
        assert text.endswith("."), name
        for estimator in (Classifier, Regressor):
            assert text not in inspect.getsource(estimator), name
