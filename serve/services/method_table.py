"""Table of a server's methods, filled by servicers in the way in which they register with a gRPC server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import grpc

RpcHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # grpc's own class is generic only in its stubs


class MethodTable:
    """Handlers by their methods' paths, such as ``/torso.v1.PredictionService/Act``."""

    def __init__(self) -> None:
        self.handlers: dict[str, RpcHandler] = {}

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, RpcHandler]) -> None:
        """Add a service's methods."""
        self.handlers.update({f"/{service}/{name}": handler for name, handler in handlers.items()})

    def add_generic_rpc_handlers(self, _handlers: object) -> None:
        """Do nothing: generated code calls this, and then registers the same methods."""
