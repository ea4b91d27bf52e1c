"""Registry of torsos and heads by name: built-in ones and those that users register.

A kind is a name, a specification class (a frozen dataclass of plain values) and a build function. The name is what
``model.json`` stores, so a model with a registered torso loads wherever the same registration has run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

from torso.errors import SpecError
from torso.plain import from_fields, plain, shown

if TYPE_CHECKING:
    from torch import Tensor, nn

State = tuple["Tensor", ...]
ModelKind = Literal["classifier", "policy", "regressor"]

# The kind of a model follows from which count its head's specification holds.
COUNT_FIELDS: dict[ModelKind, str] = {
    "classifier": "num_classes",
    "policy": "num_actions",
    "regressor": "num_targets",
}

# Metadata of a field that was added to a specification later. ``model.json`` leaves it out at its default, so that
# older torsos read the model.
LATER: Mapping[str, bool] = {"later": True}

TorsoBuild = Callable[[Any, tuple[int, ...]], "nn.Module"]
HeadBuild = Callable[[Any, int], "nn.Module"]
B = TypeVar("B")


@dataclass(frozen=True)
class Kind(Generic[B]):
    """A registered kind of torso or head.

    ``builder`` is the build function, or ``"module:name"`` of one that is imported when a network is built, so that
    specifications are plain data without torch.
    """

    name: str
    spec_class: type
    builder: B | str

    @property
    def build(self) -> B:
        """The build function."""
        if not isinstance(self.builder, str):
            return self.builder
        module, _, name = self.builder.partition(":")
        return cast(B, getattr(import_module(module), name))


class Registry(Generic[B]):
    """Registry of kinds by name and by specification class."""

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._by_name: dict[str, Kind[B]] = {}

    def register(self, name: str, spec_class: type, build: B | str) -> None:
        """Register a kind, or replace it by itself (a notebook's cell that runs again defines its class anew).

        Raises:
            SpecError: a name or a class that another kind has; a class that cannot be a specification.
        """
        if not (isinstance(name, str) and name):
            raise SpecError(f"a {self.noun}'s name must be text, got {shown(name)}")
        if not (dataclasses.is_dataclass(spec_class) and isinstance(spec_class, type)):
            raise SpecError(f"a {self.noun} spec must be a dataclass of plain values, got {shown(spec_class)}")
        if any(field.name == "kind" for field in dataclasses.fields(spec_class)):
            raise SpecError(f"{spec_class.__name__} cannot have a field 'kind': model.json keeps the name there")
        for kind in self._by_name.values():
            if (kind.name == name) != _same_class(kind.spec_class, spec_class):
                raise SpecError(
                    f"{self.noun} {name!r} ({spec_class.__name__}) clashes with {kind.name!r} "
                    f"({kind.spec_class.__name__}), which is registered already; choose another name"
                )
        self._by_name[name] = Kind(name, spec_class, build)

    def of(self, spec: object) -> Kind[B]:
        """Return the kind of a specification; SpecError when its class was never registered."""
        for kind in self._by_name.values():
            if type(spec) is kind.spec_class:
                return kind
        raise SpecError(
            f"a {self.noun} spec must be of a registered class ({', '.join(sorted(self._by_name))}), got {shown(spec)}"
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all registered kinds, in the order of their registration."""
        return tuple(self._by_name)

    def spec_class(self, name: str) -> type:
        """Return the specification class of a registered name."""
        return self._by_name[name].spec_class

    def to_json(self, spec: object) -> dict[str, Any]:
        """Return a specification as plain data, its kind's name under ``kind``."""
        kind = self.of(spec)
        values = dataclasses.asdict(spec)  # type: ignore[call-overload]
        for each in dataclasses.fields(kind.spec_class):
            if each.metadata.get("later") and values[each.name] == each.default:
                del values[each.name]
        fields = plain(values, f"{self.noun} {kind.name!r}")
        return {"kind": kind.name, **fields}

    def from_json(self, data: object) -> Any:
        """Build the specification that `to_json` wrote; SpecError for anything else."""
        if not isinstance(data, Mapping) or not isinstance(data.get("kind"), str):
            raise SpecError(f"a {self.noun} must be an object with a 'kind', got {shown(data)}")
        name = data["kind"]
        if name not in self._by_name:
            known = ", ".join(sorted(self._by_name))
            raise SpecError(
                f"a {self.noun}'s kind must be one of {known}; got {shown(name)} (register others before loading)"
            )
        fields = {key: value for key, value in data.items() if key != "kind"}
        return from_fields(self._by_name[name].spec_class, fields, f"{self.noun} {name!r}")


def _same_class(one: type, other: type) -> bool:
    return one is other or (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


TORSOS: Registry[TorsoBuild] = Registry("torso")
HEADS: Registry[HeadBuild] = Registry("head")


def register_torso(name: str, spec_class: type, build: TorsoBuild | str) -> None:
    """Register a torso of your own.

    ``build(spec, input_shape)`` returns a module with an int attribute ``num_features`` and
    ``forward(inputs, state, generator) -> (features [B, num_features], state)``; ``input_shape`` is ``(F,)`` for
    vectors and ``(C, H, W)`` for images. ``spec_class`` is a frozen dataclass whose fields are numbers, strings,
    booleans or tuples of them; ``takes_images = True`` in it (a ClassVar) makes images of a classifier's rows of a
    square number of pixels. ``build`` may be ``"module:name"``, which is imported when a network is built.
    """
    TORSOS.register(name, spec_class, build)


def register_head(name: str, spec_class: type, build: HeadBuild | str) -> None:
    """Register a head of your own.

    ``build(spec, num_features)`` returns a `ValueHead`, a `LabelHead` or a `TargetHead`.
    ``spec_class`` must hold the number of outputs, as ``num_actions`` (a policy), ``num_classes`` (a classifier) or
    ``num_targets`` (a regressor); a property will do. A classifier's may set ``probabilistic = False``. ``build`` may
    be ``"module:name"``, which is imported when a network is built.
    """
    if hasattr(spec_class, "__dataclass_fields__"):
        names = {*spec_class.__dataclass_fields__, *dir(spec_class)}
        if len(names.intersection(COUNT_FIELDS.values())) != 1:
            raise SpecError(
                f"the head spec {spec_class.__name__} must have either num_actions, num_classes or num_targets"
            )
    HEADS.register(name, spec_class, build)
