"""Served model: one loaded version, with its batcher and its counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torso.errors import WrongKindError
from torso.nets import Predictor
from torso.serve.inference.batcher import Batcher
from torso.serve.inference.state_records import StateRecords
from torso.serve.observability.metrics import ModelMetrics
from torso.serve.wire.oip_signature import Signature
from torso.serve.wire.oip_tensors import OIP_SERVICE

METHODS = {  # the method for a model of each kind
    "classifier": "Classify",
    "policy": "Act",
    "regressor": f"the Open Inference Protocol's ModelInfer ({OIP_SERVICE})",
}


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """One loaded version of one model. Those who hold it may go on using it, whatever is served meanwhile.

    ``records`` is set for recurrent policies: their batcher takes and returns records of rows and their state. A
    recurrent classifier computes each row from the initial state.
    """

    name: str
    version: str
    directory: Path
    predictor: Predictor
    signature: Signature
    batcher: Batcher
    metrics: ModelMetrics
    records: StateRecords | None = None

    def require(self, kind: str) -> ServedModel:
        """Return the model; WrongKindError where it is of another kind."""
        if self.predictor.kind != kind:
            got = self.predictor.kind
            raise WrongKindError(f"model {self.name!r} is a {got}, not a {kind}; use {METHODS[got]}")
        return self
