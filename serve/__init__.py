"""Serving: the gRPC server, and the clients that ask it.

Names are handed on lazily, so that a client's process imports grpc, numpy and the wire format, and never torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torso.lazy import lazy_exports

if TYPE_CHECKING:
    from torso.serve.async_client import AsyncClient
    from torso.serve.client import Client
    from torso.serve.config import ServeConfig
    from torso.serve.results import (
        ActResult,
        ClassifyResult,
        ImageInput,
        ModelInfo,
        ModelSummary,
        StepResult,
        TensorSpec,
    )
    from torso.serve.retries import RetryPolicy
    from torso.serve.server import Server, create_server, serve
    from torso.serve.streams import ActStream, AsyncActStream

_HOMES = {
    "ActResult": "results",
    "ActStream": "streams",
    "AsyncActStream": "streams",
    "AsyncClient": "async_client",
    "ClassifyResult": "results",
    "Client": "client",
    "ImageInput": "results",
    "ModelInfo": "results",
    "ModelSummary": "results",
    "RetryPolicy": "retries",
    "ServeConfig": "config",
    "Server": "server",
    "StepResult": "results",
    "TensorSpec": "results",
    "create_server": "server",
    "serve": "server",
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
