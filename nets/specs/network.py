"""Network specification as plain data: input, torso and head.

A `NetworkSpec` is saved to ``model.json`` and restored without loss; it holds everything that a served input needs.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from torso.errors import SpecError
from torso.nets.specs import heads, torsos  # noqa: F401 - they register the built-in kinds
from torso.nets.specs.inputs import InputSpec
from torso.nets.specs.registry import COUNT_FIELDS, HEADS, TORSOS, ModelKind
from torso.plain import from_fields, plain, shown


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """Specification of a whole network. `to_json` and `from_json` are each other's inverse."""

    input: InputSpec
    """Shape, dtype and scaling of one input."""
    torso: Any
    """Specification of a registered torso, such as `torso.nets.MLPSpec`."""
    head: Any
    """Specification of a registered head, such as `torso.nets.LogitsHeadSpec`."""

    def __post_init__(self) -> None:
        if not isinstance(self.input, InputSpec):
            raise SpecError(f"input must be an InputSpec, got {shown(self.input)}")
        # A specification that cannot be saved fails now, not at the end of a training.
        parts = {"torso": TORSOS.to_json(self.torso), "head": HEADS.to_json(self.head)}
        object.__setattr__(self, "_parts", parts)

    @property
    def num_outputs(self) -> int:
        """Number of classes, actions or targets."""
        return int(getattr(self.head, COUNT_FIELDS[self.kind]))

    @property
    def kind(self) -> ModelKind:
        """Kind of model, as the head's specification implies it."""
        return next(kind for kind, field in COUNT_FIELDS.items() if hasattr(self.head, field))

    @property
    def probabilistic(self) -> bool:
        """Whether the network is a classifier whose readout can be read as probabilities; a step unit's cannot."""
        return self.kind == "classifier" and bool(getattr(self.head, "probabilistic", True))

    def to_json(self) -> dict[str, Any]:
        """Return the specification as plain data: dicts, lists, strings, numbers, booleans, None."""
        fields = {name: getattr(self.input, name) for name in InputSpec.__dataclass_fields__}
        fields["image"] = None if self.input.image is None else dict(vars(self.input.image))
        parts: dict[str, Any] = copy.deepcopy(self.__dict__["_parts"])
        return {"input": plain(fields, "input"), **parts}

    @classmethod
    def from_json(cls, data: object) -> NetworkSpec:
        """Build the specification that `to_json` wrote; SpecError names what is wrong with anything else."""
        if not isinstance(data, dict) or set(data) != {"input", "torso", "head"}:
            raise SpecError(f"a network must be an object of input, torso and head, got {shown(data)}")
        try:
            return cls(
                input=from_fields(InputSpec, data["input"], "input"),
                torso=TORSOS.from_json(data["torso"]),
                head=HEADS.from_json(data["head"]),
            )
        except RecursionError as error:
            raise SpecError("a network must be plain data, got lists that are nested too deeply") from error
