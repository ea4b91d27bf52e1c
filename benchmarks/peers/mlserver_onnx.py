"""A model.onnx as a runtime of MLServer (its `model-settings.json` names this class as its implementation)."""

from __future__ import annotations

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    """Decode the first input, run the session, encode the readout."""

    async def load(self) -> bool:
        """Open the session that `parameters.uri` names."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            self.settings.parameters.uri, options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one request, or one batch that MLServer's adaptive batching made of several."""
        rows = np.ascontiguousarray(NumpyCodec.decode_input(payload.inputs[0]))
        readout = self._session.run(None, {self._input: rows})[0]
        return InferenceResponse(
            model_name=self.name, id=payload.id, outputs=[NumpyCodec.encode_output("values", readout)]
        )
