"""Serving: the gRPC server, and the clients that ask it.

Names are handed on lazily, so that a client's process imports grpc, numpy and the wire format, and never torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torso.serve.client import AsyncClient, Client
    from torso.serve.config import ServeConfig
    from torso.serve.results import ActResult, ClassifyResult, ImageInput, ModelInfo, ModelSummary, TensorSpec
    from torso.serve.server import Server, create_server, serve

_HOMES = {
    "ActResult": "results",
    "AsyncClient": "client",
    "ClassifyResult": "results",
    "Client": "client",
    "ImageInput": "results",
    "ModelInfo": "results",
    "ModelSummary": "results",
    "ServeConfig": "config",
    "Server": "server",
    "TensorSpec": "results",
    "create_server": "server",
    "serve": "server",
}

__all__ = [
    "ActResult",
    "AsyncClient",
    "ClassifyResult",
    "Client",
    "ImageInput",
    "ModelInfo",
    "ModelSummary",
    "ServeConfig",
    "Server",
    "TensorSpec",
    "create_server",
    "serve",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
