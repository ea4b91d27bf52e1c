"""Entry point: run one server, or a supervisor of several workers, until a signal ends it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from torso.serve.config import ServeConfig
from torso.serve.event_loop import new_event_loop
from torso.serve.server.lifecycle import (
    Signals,
    freeze_garbage_collector,
    import_modules,
    remove_port_files,
    run_service,
)

if TYPE_CHECKING:
    from torso.serve.backends.selection import WrapBackend


def serve(config: ServeConfig, wrap_backend: WrapBackend | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return; a second signal ends it at once. Raises ServerError.

    ``wrap_backend(name, backend)`` may put something around what computes a model; not with several workers, which are
    processes of their own.
    """
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(config, wrap_backend))


async def _serve(config: ServeConfig, wrap_backend: WrapBackend | None) -> None:
    signals = Signals()  # before anything takes time
    remove_port_files(config)  # processes that wait for one must not read an old one
    import_modules(config)
    if config.workers > 1:
        from torso.serve.workers.supervisor import Supervisor

        await run_service(Supervisor(config, wrap_backend), config, signals)
    else:
        import torch

        from torso.serve.server.grpc_server import Server

        torch.set_num_threads(config.threads)  # the process is the server's own, and its cores may be few
        freeze_garbage_collector()
        await run_service(Server(config, wrap_backend), config, signals)
