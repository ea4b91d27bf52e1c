"""The bare minimum beside a server: grpc.aio that decodes a V2 request and encodes a V2 answer, and computes nothing.

    python benchmarks/peers/echo_server.py PORT_FILE OUTPUT_BYTES

The answer to a request carries its id and, a row, as many zero bytes as a model's outputs have.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import uvloop

from torso.proto import oip_pb2 as pb

SERVICE = "inference.GRPCInferenceService"


async def serve(port_file: Path, row_bytes: int) -> None:
    """Answer until killed."""

    async def infer(request: pb.ModelInferRequest, _context: Any) -> pb.ModelInferResponse:
        rows = request.inputs[0].shape[0]
        output = pb.ModelInferResponse.InferOutputTensor(name="values", datatype="FP32", shape=[rows, row_bytes // 4])
        return pb.ModelInferResponse(
            model_name=request.model_name,
            model_version="1",
            id=request.id,
            outputs=[output],
            raw_output_contents=[bytes(rows * row_bytes)],
        )

    method = grpc.unary_unary_rpc_method_handler(
        infer, pb.ModelInferRequest.FromString, pb.ModelInferResponse.SerializeToString
    )
    server = grpc.aio.server(options=(("grpc.max_receive_message_length", 64 << 20),))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    port_file.write_text(f"{port}\n")
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
