"""Echo server: the least that a gRPC server in Python can do, as the load generator's baseline.

The load generator's throughput against it is the most that it can reach against any server on the same machine.
``python -m torso.serve.load_test.echo`` serves until its standard input closes; its first line of output is its port.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import grpc.aio

from torso.errors import ServerError

METHOD = "/torso.bare.Echo/Echo"
OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.server.max_pending_requests", 1 << 20),  # with more than 1,000 unread, gRPC would begin to cancel at random
    ("grpc.server.max_pending_requests_hard_limit", 1 << 21),
)


@contextmanager
def bare_echo() -> Iterator[str]:
    """Run the echo server in a process of its own, in a block; yields its address."""
    command = [sys.executable, "-m", "torso.serve.load_test.echo"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdin is None or process.stdout is None:
            raise ServerError("the echo server has no pipes")
        try:
            port = process.stdout.readline().strip()
            if not port:
                raise ServerError(f"the echo server ended with {process.wait()} before it had a port")
            yield f"127.0.0.1:{port}"
        finally:
            process.stdin.close()


async def serve_echo() -> None:
    """Serve on a free port until standard input closes."""

    async def echo(request: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return request

    server = grpc.aio.server(options=OPTIONS)
    _, service, name = METHOD.split("/")
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {name: grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    from torso.serve.event_loop import new_event_loop

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve_echo())
