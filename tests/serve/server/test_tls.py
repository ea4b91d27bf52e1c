"""TLS certificates: which clients are accepted, which files are refused, reload while the server serves."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
import trustme
from bare_http2 import Connection
from bare_listener import listening
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from torso.errors import ConfigError, ServerError, UnavailableError
from torso.serve import AsyncClient, Client, RetryPolicy, ServeConfig
from torso.serve.server import listener as listen

ECHO = "/test.Echo/Echo"
OWN = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))  # each channel makes its own connection
PAST = {"not_before": datetime(2020, 1, 1), "not_after": datetime(2021, 1, 1)}
FUTURE = {"not_before": datetime(2100, 1, 1), "not_after": datetime(2101, 1, 1)}


class Issued(NamedTuple):
    """A certificate and its key, PEM files."""

    cert: Path
    key: Path


class Authority:
    """Certificate authority of servers and clients, and its own certificate as a PEM file."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self._ca = trustme.CA()
        self.pem = directory / "authority.pem"
        self._ca.cert_pem.write_to_path(self.pem)

    def issue(self, name: str = "server", **dates: Any) -> Issued:
        issued = self._ca.issue_cert("localhost", "127.0.0.1", **dates)
        files = Issued(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        files.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(files.key)
        return files


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "theirs")


@pytest.fixture(scope="module")
def issued(authority: Authority) -> Issued:
    return authority.issue()


@contextlib.contextmanager
def channel(
    port: int, trusted: Authority, own: Issued | None = None, host: str = "127.0.0.1"
) -> Iterator[grpc.Channel]:
    pair = (None, None) if own is None else (own.key.read_bytes(), own.cert.read_bytes())
    credentials = grpc.ssl_channel_credentials(trusted.pem.read_bytes(), *pair)
    with grpc.secure_channel(f"{host}:{port}", credentials, OWN) as opened:
        yield opened


def answers(port: int, trusted: Authority, own: Issued | None = None, host: str = "127.0.0.1") -> bool:
    """Check whether a new client gets an answer; UNAVAILABLE means that no connection was made."""
    with channel(port, trusted, own, host) as opened:
        try:
            return bool(opened.unary_unary(ECHO)(b"hello", timeout=30) == b"hello")
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return False
            raise


# -- whose are taken ----------------------------------------------------------------------------------------------


def test_a_server_with_a_certificate_speaks_tls(
    config: Callable[..., ServeConfig], running: Any, authority: Authority, issued: Issued, tmp_path: Path
) -> None:
    with running(config(tls_cert=issued.cert, tls_key=issued.key)) as server:
        with Client(server.address, tls_ca=authority.pem) as client:
            assert len(client.list_models()) == 2
        for settings in ({}, {"tls": True}):  # plaintext; a certificate that nobody vouches for
            with Client(server.address, **settings) as client, pytest.raises(UnavailableError):
                client.list_models()
    with pytest.raises(ConfigError, match="tls_ca: cannot read"):
        Client("127.0.0.1:1", tls_ca=tmp_path / "none")


def test_a_client_says_how_tls_may_be_why_there_is_no_connection(
    config: Callable[..., ServeConfig], running: Any, authority: Authority, stranger: Authority, issued: Issued
) -> None:
    never = RetryPolicy(max_attempts=1)
    own = {"tls_cert": issued.cert, "tls_key": issued.key}
    with (
        running(config()) as plain,
        running(config(**own)) as secure,
        running(config(**own, tls_client_ca=authority.pem)) as mutual,
    ):
        for address, settings, advice in (
            (secure.address, {}, "the server may use TLS: try tls or tls_ca"),
            (mutual.address, {}, "the server may use TLS: try tls or tls_ca"),
            (plain.address, {"tls": True}, "the server seems to use no TLS: try without tls and tls_ca"),
            (secure.address, {"tls": True}, "TLS certificate is not trusted: tls_ca must be"),
            (secure.address, {"tls_ca": stranger.pem}, "TLS certificate is not trusted: tls_ca must be"),
            (f"127.0.0.2:{secure.server.port}", {"tls_ca": authority.pem}, r"Connection refused( \(111\))?$"),
            (mutual.address, {"tls_ca": authority.pem}, "TLS client certificate: try tls_cert and tls_key"),
        ):
            with (
                Client(address, retries=never, **settings) as client,
                pytest.raises(UnavailableError, match=advice) as caught,
            ):
                client.list_models()
            assert "TLS" in str(caught.value) or "refused" in advice
    with running(config(**own, host="127.0.0.2")) as elsewhere:  # the certificate does not name it
        for open_client in (Client, AsyncClient):
            with pytest.raises(UnavailableError, match="TLS certificate is for other names: the address must have"):
                list_models(open_client, elsewhere.address, tls_ca=authority.pem, retries=never)


def list_models(client_class: type[Client] | type[AsyncClient], address: str, **settings: Any) -> Any:
    async def awaited() -> Any:
        async with AsyncClient(address, **settings) as client:
            return await client.list_models()

    if client_class is AsyncClient:
        return asyncio.run(awaited())
    with Client(address, **settings) as client:
        return client.list_models()


def test_clients_refuse_what_nobody_they_trust_vouches_for(
    authority: Authority, stranger: Authority, issued: Issued
) -> None:
    with listening(tls_cert=issued.cert, tls_key=issued.key) as server:
        port = server.listener.port
        assert not answers(port, stranger)
        assert not answers(port, authority, host="127.0.0.2")  # the certificate does not name it
        assert answers(port, authority)


def test_bytes_that_are_no_tls_hurt_nobody(authority: Authority, issued: Issued) -> None:
    with listening(tls_cert=issued.cert, tls_key=issued.key) as server:
        port = server.listener.port
        with channel(port, authority) as opened:
            echo = opened.unary_unary(ECHO)
            for said in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(300), b"\0" * 1000):
                with Connection(port, settings=None) as mute, Connection(port, settings=None) as babbling:
                    babbling.send(said)
                    assert echo(b"1", timeout=30) == b"1"
                    mute.close()
            with Connection(port) as plain:  # HTTP/2, unencrypted
                assert all(frame.kind != 4 for frame in plain.read_to_end())
            assert echo(b"2", timeout=30) == b"2"
        assert answers(port, authority)


def test_who_begins_no_handshake_is_gone(issued: Issued, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "ANSWER_S", 0.1)
    with (
        listening(tls_cert=issued.cert, tls_key=issued.key) as server,
        Connection(server.listener.port, settings=None) as mute,
    ):
        assert mute.read_to_end() == []


def test_mutual_tls_takes_only_its_own_authoritys_clients(
    authority: Authority, stranger: Authority, issued: Issued
) -> None:
    with listening(tls_cert=issued.cert, tls_key=issued.key, tls_client_ca=authority.pem) as server:
        port = server.listener.port
        assert answers(port, authority, authority.issue("client"))
        assert not answers(port, authority)  # no certificate
        assert not answers(port, authority, stranger.issue("client"))
        assert not answers(port, authority, authority.issue("former", **PAST))
        assert not answers(port, authority, authority.issue("early", **FUTURE))
        assert answers(port, authority, authority.issue("another"))


def test_a_client_certificate_is_enough_to_listen_beyond_this_machine(authority: Authority, issued: Issued) -> None:
    tls = {"host": "0.0.0.0", "tls_cert": issued.cert, "tls_key": issued.key}
    with pytest.raises(ServerError, match="--tls-client-ca"), listening(**tls):
        pass
    with listening(**tls, tls_client_ca=authority.pem) as server:
        client = authority.issue("client")
        assert answers(server.listener.port, authority, client)
        with channel(server.listener.port, authority, client) as opened, pytest.raises(grpc.RpcError) as caught:
            opened.unary_unary("/inference.GRPCInferenceService/RepositoryModelUnload")(b"", timeout=30)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED  # that takes a token


def test_with_tokens_too_a_client_needs_both(authority: Authority, issued: Issued, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"  # the hash is that of "p"
    tokens.write_text("me 148de9c5a7a44d19e56cd9ae1a554bf67847afb0c58f6e12fa29ac7ddfca9940 predict never\n")
    with listening(tls_cert=issued.cert, tls_key=issued.key, tls_client_ca=authority.pem, token_file=tokens) as server:
        with channel(server.listener.port, authority, authority.issue("client")) as opened:
            echo = opened.unary_unary(ECHO)
            with pytest.raises(grpc.RpcError) as caught:
                echo(b"1", timeout=30)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert echo(b"1", timeout=30, metadata=(("authorization", "Bearer p"),)) == b"1"
        assert not answers(server.listener.port, authority)


# -- which files cannot be used -----------------------------------------------------------------------------------


def unusable(authority: Authority, directory: Path) -> dict[str, Issued]:
    good, other = authority.issue("good"), authority.issue("other")
    locked = directory / "locked.key"
    key = load_pem_private_key(good.key.read_bytes(), None)
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"x")))
    words = directory / "words.pem"
    words.write_text("no certificate at all")
    return {
        "No such file": Issued(good.cert, directory / "none"),
        "No such file or directory": Issued(directory / "none", good.key),
        "key values mismatch": Issued(good.cert, other.key),
        "PEM lib": Issued(good.cert, good.cert),
        "PEM": Issued(words, good.key),
        "certificate has expired": authority.issue("former", **PAST),
        "certificate is not yet valid": authority.issue("early", **FUTURE),
        "the key needs a pass phrase": Issued(good.cert, locked),
    }


def test_a_certificate_that_cannot_be_used_is_named(authority: Authority, tmp_path: Path) -> None:
    for reason, (cert, key) in unusable(authority, tmp_path).items():
        with (
            pytest.raises(ServerError, match=f"cannot use the certificate .*{cert.name} with .*{key.name}: .*{reason}"),
            listening(tls_cert=cert, tls_key=key),
        ):
            pass


def test_client_authorities_that_cannot_be_used_are_named(issued: Issued, tmp_path: Path) -> None:
    for content in (None, b"", b"no certificate at all", issued.key.read_bytes(), b"\xff\xfe"):
        path = tmp_path / "ca.pem"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with (
            pytest.raises(ServerError, match=r"cannot use the client authorities .*ca\.pem"),
            listening(tls_cert=issued.cert, tls_key=issued.key, tls_client_ca=path),
        ):
            pass


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize("mode", [0o660, 0o602])
def test_files_that_others_may_write_are_refused(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    used, trusted = Issued(tmp_path / "cert.pem", tmp_path / "key.pem"), tmp_path / "ca.pem"
    put(authority.issue("first"), used)
    trusted.write_bytes(authority.pem.read_bytes())
    settings = {"tls_cert": used.cert, "tls_key": used.key, "tls_client_ca": trusted}
    for path, what in [(used.key, "TLS key"), (trusted, "client authorities")]:
        message = f"{what} {path} must be writable by its owner alone, got mode {mode:04o}; do chmod go-w {path}"
        path.chmod(mode)
        with pytest.raises(ServerError, match=message), listening(**settings):
            pass
        path.chmod(0o600)
        with listening(**settings) as server:
            path.chmod(mode)
            caplog.clear()
            server.reload()
            assert message in caplog.text
        path.chmod(0o600)


# -- how they change ----------------------------------------------------------------------------------------------


def put(source: Issued, target: Issued) -> None:
    target.cert.write_bytes(source.cert.read_bytes())
    target.key.write_bytes(source.key.read_bytes())


def test_a_reload_is_for_new_connections_and_old_ones_go_on(
    authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    used = Issued(tmp_path / "cert.pem", tmp_path / "key.pem")
    put(authority.issue("first"), used)
    with listening(tls_cert=used.cert, tls_key=used.key) as server:
        port = server.listener.port
        with channel(port, authority) as old:
            assert old.unary_unary(ECHO)(b"1", timeout=30) == b"1"
            put(stranger.issue("second"), used)
            assert answers(port, authority)  # nothing is read unasked
            server.reload()
            assert answers(port, stranger)
            assert not answers(port, authority)
            assert old.unary_unary(ECHO)(b"2", timeout=30) == b"2"
            server.reload()  # the same again
            put(authority.issue("third"), used)
            server.reload()
            assert answers(port, authority)
            assert not answers(port, stranger)


def test_a_bad_file_leaves_the_old_certificate_in_use(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    used = Issued(tmp_path / "cert.pem", tmp_path / "key.pem")
    bad = unusable(authority, tmp_path)
    put(authority.issue("first"), used)
    with listening(tls_cert=used.cert, tls_key=used.key) as server:
        for reason in ("key values mismatch", "certificate has expired", "the key needs a pass phrase", "PEM lib"):
            put(bad[reason], used)
            caplog.clear()
            server.reload()
            assert reason in caplog.text
            assert "what was read before stays in use" in caplog.text
            assert answers(server.listener.port, authority)


def test_client_authorities_are_reloaded_too(authority: Authority, stranger: Authority, tmp_path: Path) -> None:
    trusted = tmp_path / "ca.pem"
    trusted.write_bytes(authority.pem.read_bytes())
    issued, ours, theirs = authority.issue("a server"), authority.issue("client"), stranger.issue("client")
    with listening(tls_cert=issued.cert, tls_key=issued.key, tls_client_ca=trusted) as server:
        port = server.listener.port
        assert answers(port, authority, ours)
        assert not answers(port, authority, theirs)
        trusted.write_bytes(stranger.pem.read_bytes())
        server.reload()
        assert answers(port, authority, theirs)
        assert not answers(port, authority, ours)
        trusted.write_bytes(authority.pem.read_bytes() + stranger.pem.read_bytes())
        server.reload()
        assert answers(port, authority, theirs)
        assert answers(port, authority, ours)


def test_a_server_that_takes_over_has_the_newest_certificate(
    authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    used = Issued(tmp_path / "cert.pem", tmp_path / "key.pem")
    put(authority.issue("first"), used)
    with listening(tls_cert=used.cert, tls_key=used.key) as server:
        port = server.listener.port
        put(stranger.issue("second"), used)
        server.reload()
        server.break_down()
        assert answers(port, stranger)
        put(authority.issue("third"), used)
        server.reload()
        assert answers(port, authority)
        assert not answers(port, stranger)
