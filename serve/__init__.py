"""Serving: the gRPC server and its clients.

Names are imported lazily, so that a client's process imports grpc, numpy and the wire format, and never torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torso.lazy import lazy_exports

if TYPE_CHECKING:
    from torso.serve.client.async_client import AsyncClient
    from torso.serve.client.results import (
        ActResult,
        ClassifyResult,
        ImageInput,
        ModelInfo,
        ModelSummary,
        StepResult,
        TensorSpec,
    )
    from torso.serve.client.retries import RetryPolicy
    from torso.serve.client.streams import ActStream, AsyncActStream
    from torso.serve.client.sync_client import Client
    from torso.serve.config import ServeConfig
    from torso.serve.run import serve
    from torso.serve.server.grpc_server import Server, create_server

_HOMES = {
    "ActResult": "client.results",
    "ActStream": "client.streams",
    "AsyncActStream": "client.streams",
    "AsyncClient": "client.async_client",
    "ClassifyResult": "client.results",
    "Client": "client.sync_client",
    "ImageInput": "client.results",
    "ModelInfo": "client.results",
    "ModelSummary": "client.results",
    "RetryPolicy": "client.retries",
    "ServeConfig": "config",
    "Server": "server.grpc_server",
    "StepResult": "client.results",
    "TensorSpec": "client.results",
    "create_server": "server.grpc_server",
    "serve": "run",
}

__all__ = [
    "ActResult",
    "ActStream",
    "AsyncActStream",
    "AsyncClient",
    "ClassifyResult",
    "Client",
    "ImageInput",
    "ModelInfo",
    "ModelSummary",
    "RetryPolicy",
    "ServeConfig",
    "Server",
    "StepResult",
    "TensorSpec",
    "create_server",
    "serve",
]

__getattr__, __dir__ = lazy_exports(__name__, _HOMES)
