"""Connection pool: load balancing over real connections, client certificates."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from torso.errors import ConfigError, UnavailableError
from torso.proto import prediction_pb2 as pb
from torso.serve import AsyncClient, Client, RetryPolicy
from torso.serve.client.pool import Connection, ConnectionPool, Endpoint


@pytest.fixture
def pool() -> Iterator[ConnectionPool[grpc.Channel]]:
    pool = ConnectionPool([Endpoint("127.0.0.1:1").channel() for _ in range(3)])
    yield pool
    for connection in pool.connections:
        connection.channel.close()


def test_idle_connections_take_turns(pool: ConnectionPool[grpc.Channel]) -> None:
    taken = []
    for _ in range(6):
        with pool.acquire() as connection:
            taken.append(pool.connections.index(connection))
    assert taken == [0, 1, 2, 0, 1, 2]


def test_the_connection_with_least_to_do_is_next(pool: ConnectionPool[grpc.Channel]) -> None:
    first, second, third = pool.connections
    with pool.acquire() as a, pool.acquire() as b, pool.acquire() as c:
        assert (a, b, c) == (first, second, third)
        with pool.acquire() as d:
            assert d is first
            assert [each.in_flight for each in pool.connections] == [2, 1, 1]
            with pool.acquire() as e:
                assert e is second
        second.in_flight = 0
        with pool.acquire() as f:
            assert f is second
        second.in_flight = 1
    assert [each.in_flight for each in pool.connections] == [0, 0, 0]


def test_a_call_that_fails_leaves_its_connection(pool: ConnectionPool[grpc.Channel]) -> None:
    with pytest.raises(KeyError), pool.acquire():
        raise KeyError
    assert [each.in_flight for each in pool.connections] == [0, 0, 0]


def test_a_method_is_made_once(pool: ConnectionPool[grpc.Channel]) -> None:
    connection: Connection[grpc.Channel] = pool.connections[0]
    arguments = (pb.ListModelsRequest, pb.ListModelsResponse)
    assert connection.method("/a/B", *arguments) is connection.method("/a/B", *arguments)
    assert connection.method("/a/B", *arguments) is not connection.method("/a/C", *arguments)


@dataclass
class Peers:
    """A real server that records its clients' addresses and certificates."""

    port: int
    seen: list[str]
    names: list[Any]


def serve(credentials: grpc.ServerCredentials | None) -> tuple[grpc.Server, Peers]:
    peers = Peers(0, [], [])

    def answer(_request: bytes, context: grpc.ServicerContext) -> bytes:
        peers.seen.append(context.peer())
        peers.names.append(context.auth_context().get("x509_common_name"))
        return b""

    server = grpc.server(ThreadPoolExecutor(max_workers=8))
    handlers = {"ListModels": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("torso.v1.PredictionService", handlers),))
    if credentials is None:
        peers.port = server.add_insecure_port("127.0.0.1:0")
    else:
        peers.port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    return server, peers


@pytest.fixture
def peers() -> Iterator[Peers]:
    server, peers = serve(None)
    yield peers
    server.stop(None).wait()


def test_calls_are_spread_over_the_connections(peers: Peers) -> None:
    address = f"127.0.0.1:{peers.port}"
    with Client(address, connections=3) as client:
        for _ in range(6):
            client.list_models()
    assert len(set(peers.seen)) == 3
    assert peers.seen[:3] == peers.seen[3:]
    peers.seen.clear()

    async def scenario() -> None:
        async with AsyncClient(address, connections=4) as client:
            await asyncio.gather(*(client.list_models() for _ in range(8)))

    asyncio.run(scenario())
    assert sorted(peers.seen.count(peer) for peer in set(peers.seen)) == [2, 2, 2, 2]
    with pytest.raises(ConfigError, match="connections must be at least 1, got 0"):
        Client(address, connections=0)


@dataclass(frozen=True)
class Papers:
    authority: Path
    cert: Path
    key: Path


@pytest.fixture
def papers(tmp_path: Path) -> tuple[Papers, grpc.ServerCredentials]:
    """A client's certificate and its key, and credentials of a server that requires one."""
    authority = trustme.CA()
    papers = Papers(tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem")
    authority.cert_pem.write_to_path(papers.authority)
    issued = authority.issue_cert("a-client", common_name="a-client")
    for blob in issued.cert_chain_pems:
        blob.write_to_path(papers.cert, append=True)
    issued.private_key_pem.write_to_path(papers.key)
    server = authority.issue_cert("localhost", "127.0.0.1")
    chain = b"".join(blob.bytes() for blob in server.cert_chain_pems)
    credentials = grpc.ssl_server_credentials(
        [(server.private_key_pem.bytes(), chain)], authority.cert_pem.bytes(), require_client_auth=True
    )
    return papers, credentials


def test_a_client_shows_its_certificate(papers: tuple[Papers, grpc.ServerCredentials]) -> None:
    files, credentials = papers
    server, peers = serve(credentials)
    address = f"localhost:{peers.port}"
    shown = {"tls_ca": files.authority, "tls_cert": files.cert, "tls_key": files.key}
    try:
        with Client(address, **shown) as client:
            client.list_models()

        async def scenario() -> None:
            async with AsyncClient(address, **shown) as client:
                await client.list_models()

        asyncio.run(scenario())
        assert peers.names == [[b"a-client"], [b"a-client"]]
        never = RetryPolicy(max_attempts=1)
        with Client(address, tls_ca=files.authority, retries=never) as client, pytest.raises(UnavailableError):
            client.list_models()
    finally:
        server.stop(None).wait()


def test_papers_that_cannot_be_used_are_refused_at_once(
    papers: tuple[Papers, grpc.ServerCredentials], tmp_path: Path
) -> None:
    files, _ = papers
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n")
    for settings, text in (
        ({"tls_cert": files.cert}, "must go together, got one; give both or neither"),
        ({"tls_key": files.key}, "go together"),
        ({"tls_ca": tmp_path / "none.pem"}, "tls_ca: cannot read"),
        ({"tls_ca": broken}, "tls_ca: cannot read"),
        ({"tls_cert": files.cert, "tls_key": tmp_path / "none.pem"}, "tls_cert: cannot use"),
        ({"tls_cert": files.authority, "tls_key": files.key}, "tls_cert: cannot use"),
    ):
        with pytest.raises(ConfigError, match=text):
            Client("127.0.0.1:1", **settings)  # type: ignore[arg-type]
