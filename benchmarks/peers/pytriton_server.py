"""A model.onnx behind nvidia-pytriton, dynamic batching on.

    PYTRITON/bin/python benchmarks/peers/pytriton_server.py GRPC_PORT HTTP_PORT METRICS_PORT NAME MODEL.onnx

Needs a Python whose pytriton stub loads (3.11.2, as Debian's, does; 3.11.5 and later do not). It leaves its
tritonserver behind when it is killed alone: start it in a process group of its own, and end the group.
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def main() -> None:
    """Serve until killed."""
    grpc_port, http_port, metrics_port, name, path = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    wanted, answered = session.get_inputs()[0], session.get_outputs()[0]
    image = len(wanted.shape) > 2
    input_name = "observations" if image else "tensor"

    @batch
    def infer(**inputs: np.ndarray) -> list[np.ndarray]:
        return list(session.run(None, {wanted.name: inputs[input_name]}))

    config = TritonConfig(
        grpc_address="127.0.0.1",
        grpc_port=int(grpc_port),
        http_address="127.0.0.1",
        http_port=int(http_port),
        metrics_port=int(metrics_port),
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=name,
            infer_func=infer,
            inputs=[
                Tensor(name=input_name, dtype=np.uint8 if image else np.float32, shape=tuple(wanted.shape[1:])),
            ],
            outputs=[Tensor(name="values", dtype=np.float32, shape=(int(answered.shape[1]),))],
            config=ModelConfig(max_batch_size=64, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
            strict=False,
        )
        triton.serve()


if __name__ == "__main__":
    main()
