"""Entry point: run one server, or a supervisor of several workers, until a signal ends it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from torso.errors import TorsoError
from torso.serve.config import ServeConfig
from torso.serve.event_loop import new_event_loop
from torso.serve.observability.bounded_logs import bounded_logs
from torso.serve.server.lifecycle import (
    OVERTIME_S,
    Signals,
    import_modules,
    remove_port_files,
    run_service,
    tune_interpreter,
)
from torso.serve.worker_threads import exit_without

if TYPE_CHECKING:
    from torso.serve.backends.selection import WrapBackend

WORKERS_OVERTIME_S = 15.0  # a supervisor ends its workers, which have limits of their own, and must outlive them


def serve(config: ServeConfig, wrap_backend: WrapBackend | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return; a second signal ends it at once. Raises ServerError.

    ``wrap_backend(name, backend)`` may put something around what computes a model; not with several workers, which are
    processes of their own. Where a model's code is still at work when this returns, its threads are left behind, and
    the process ends without the interpreter's last steps.
    """
    signals: list[Signals] = []
    try:
        with bounded_logs(), asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_serve(config, wrap_backend, signals))
    except Exception as error:
        exit_without(2 if isinstance(error, (TorsoError, OSError)) else 1)  # as the command line does
        raise
    finally:
        for one in signals:
            one.close()
    exit_without(0)


async def _serve(config: ServeConfig, wrap_backend: WrapBackend | None, opened: list[Signals]) -> None:
    signals = Signals(config, OVERTIME_S if config.workers == 1 else WORKERS_OVERTIME_S)  # before anything takes time
    opened.append(signals)
    remove_port_files(config)  # processes that wait for one must not read an old one
    import_modules(config)
    if config.workers > 1:
        from torso.serve.workers.supervisor import Supervisor

        await run_service(Supervisor(config, wrap_backend), config, signals)
    else:
        import torch

        from torso.serve.server.grpc_server import Server

        torch.set_num_threads(config.threads)  # the process is the server's own, and its cores may be few
        tune_interpreter()
        await run_service(Server(config, wrap_backend), config, signals)
