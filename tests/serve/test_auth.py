from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
import trustme
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from torso.errors import ConfigError, ForbiddenError, ServerError, UnauthenticatedError, UnavailableError
from torso.serve import Client, ServeConfig
from torso.serve.auth import check_bind, is_local, read_tokens
from torso.serve.status import from_wire


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(
        "# who     sha256     role     expires\n\n"
        f"dashboard {digest('p')} predict 2999-12-31\n"
        f"operator\t{digest('a').upper()}\tadmin\tnever  # forever\n"
        f"former {digest('old')} admin 2020-01-31\n"
    )
    return path


def list_services(address: str, token: str) -> list[str]:
    with grpc.insecure_channel(address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        answers = stub.ServerReflectionInfo(asked, metadata=(("authorization", f"Bearer {token}"),))
        return [service.name for answer in answers for service in answer.list_services_response.service]


def test_a_token_file_is_read(token_file: Path) -> None:
    dashboard, operator, former = read_tokens(token_file)
    assert (dashboard.name, dashboard.role, dashboard.expires) == ("dashboard", "predict", date(2999, 12, 31))
    assert (operator.sha256, operator.role, operator.expires) == (digest("a"), "admin", None)
    assert not former.expired(date(2020, 1, 31))
    assert former.expired(date(2020, 2, 1))
    assert not operator.expired(date.max)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a line `name sha256 role expires` or more, got none"),
        ("# only a comment\n", "got none"),
        ("\nme abc predict\n", "line 2: expected `name sha256 role expires`, got 3 fields"),
        ("me abc predict never\n", "line 1: expected a SHA-256 of 64 hexadecimal digits, got 3 characters"),
        (f"me {digest('x')} root never\n", "line 1: expected a role of predict, admin, got 'root'"),
        (f"me {digest('x')} admin tomorrow\n", "line 1: expected a date such as 2027-01-31, or never, got 'tomorrow'"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_token_file_that_cannot_be_understood_names_its_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ServerError, match=message):
        read_tokens(path)
    with pytest.raises(ServerError, match="cannot be read"):
        read_tokens(tmp_path / "none")


def test_a_server_with_a_token_file_asks_for_tokens(
    config: Callable[..., ServeConfig], running: Any, token_file: Path
) -> None:
    with running(config(token_file=token_file)) as server:
        for token, message in [(None, "no token"), ("wrong", "not known"), ("old", "expired"), ("", "not known")]:
            with Client(server.address, token=token) as client:
                with pytest.raises(UnauthenticatedError, match=message) as caught:
                    client.list_models()
                assert caught.value.status == "UNAUTHENTICATED"
                assert client.healthy("digits")  # health is open
        for token in ("p", "a"):
            with Client(server.address, token=token) as client:
                assert client.classify("digits", [[0] * 8] * 8).labels
        with pytest.raises(grpc.RpcError) as refused:
            list_services(server.address, "p")
        error = from_wire(refused.value, "here")
        assert isinstance(error, ForbiddenError)
        assert "needs role admin; token 'dashboard' has role predict" in str(error)
        assert "torso.v1.PredictionService" in list_services(server.address, "a")


@pytest.mark.parametrize(
    "metadata",
    [
        (("authorization", "Basic p"),),
        (("authorization", "p"),),
        (("authorization", "Bearer p"), ("authorization", "Bearer p")),
        (("authorization-bin", b"Bearer p"),),
        (("authorization", "Bearer " + "p" * 5000),),
    ],
)
def test_only_one_bearer_token_will_do(
    config: Callable[..., ServeConfig], running: Any, token_file: Path, metadata: Any
) -> None:
    with running(config(token_file=token_file)) as server, grpc.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/torso.v1.PredictionService/ListModels")(b"", metadata=metadata)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        answer = channel.unary_unary("/torso.v1.PredictionService/ListModels")(
            b"", metadata=(("authorization", "bearer p"),)
        )
        assert b"digits" in answer


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("unix:/run/torso.sock", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.7", False),
        ("example.org", False),
    ],
)
def test_which_hosts_are_this_machine_alone(host: str, local: bool) -> None:
    assert is_local(host) is local


def test_beyond_this_machine_a_server_wants_tls_and_tokens_unless_told_otherwise() -> None:
    def check(host: str, **settings: bool) -> None:
        nothing = {"tls": False, "tokens": False, "allow_plaintext": False, "allow_anonymous": False}
        check_bind(host, **{**nothing, **settings})

    check("127.0.0.1")
    check("0.0.0.0", tls=True, tokens=True)
    check("0.0.0.0", allow_plaintext=True, allow_anonymous=True)
    with pytest.raises(ServerError, match="--allow-plaintext"):
        check("0.0.0.0", tokens=True)
    with pytest.raises(ServerError, match="--allow-anonymous"):
        check("0.0.0.0", tls=True)


def test_a_server_applies_the_bind_rules(config: Callable[..., ServeConfig], running: Any) -> None:
    with pytest.raises(ServerError, match="can be reached from other machines"), running(config(host="0.0.0.0")):
        pass
    with (
        running(config(host="0.0.0.0", allow_plaintext=True, allow_anonymous=True)) as server,
        Client(f"127.0.0.1:{server.server.port}") as client,
    ):
        assert client.healthy()


class Certificate(NamedTuple):
    """PEM files: who vouches for the server, its certificate, and its key."""

    authority: Path
    cert: Path
    key: Path


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    directory = tmp_path_factory.mktemp("tls")
    files = Certificate(directory / "authority.pem", directory / "cert.pem", directory / "key.pem")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(files.authority)
    for blob in issued.cert_chain_pems:
        blob.write_to_path(files.cert, append=True)
    issued.private_key_pem.write_to_path(files.key)
    return files


def test_a_server_with_a_certificate_speaks_tls(
    config: Callable[..., ServeConfig], running: Any, certificate: Certificate, tmp_path: Path
) -> None:
    authority, cert, key = certificate
    with running(config(tls_cert=cert, tls_key=key)) as server:
        with Client(server.address, tls_ca=authority) as client:
            assert len(client.list_models()) == 2
        for settings in ({}, {"tls": True}):  # plaintext; a certificate that nobody vouches for
            with Client(server.address, **settings) as client, pytest.raises(UnavailableError):
                client.list_models()
    with pytest.raises(ConfigError, match="tls_ca: cannot read"):
        Client("127.0.0.1:1", tls_ca=tmp_path / "none")


def test_a_certificate_that_cannot_be_used_is_named(
    config: Callable[..., ServeConfig], running: Any, certificate: Certificate, tmp_path: Path
) -> None:
    cert = certificate.cert
    with (
        pytest.raises(ServerError, match=r"cannot use the certificate .*cert\.pem with"),
        running(config(tls_cert=cert, tls_key=tmp_path / "none")),
    ):
        pass
    with pytest.raises(ServerError, match="cannot use the certificate"), running(config(tls_cert=cert, tls_key=cert)):
        pass
