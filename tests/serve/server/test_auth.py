"""Authentication and authorisation: roles, expiry, and what refused callers see."""

from __future__ import annotations

import hashlib
import json
import queue
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from bare_http2 import HEADERS, Connection
from bare_listener import listening
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given, settings
from hypothesis import strategies as st

from torso.errors import ForbiddenError, ServerError, UnauthenticatedError
from torso.serve import Client, ServeConfig
from torso.serve.config import is_local
from torso.serve.server import auth
from torso.serve.server.auth import check_bind
from torso.serve.wire.status import from_wire

ECHO = "/test.Echo/Echo"
PUBLIC = ("", "torso.v1.PredictionService", "inference.GRPCInferenceService")
ADMIN_ONLY = tuple(f"/inference.GRPCInferenceService/RepositoryModel{verb}" for verb in ("Load", "Unload"))
ANYONES = (ECHO, "/inference.GRPCInferenceService/ModelInfer", "/inference.GRPCInferenceService/RepositoryIndex")


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


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def ask(address: str, method: str, metadata: Any = (), data: bytes = b"hello") -> Any:
    """Make a call of bytes; return the answer, or the status."""
    with grpc.insecure_channel(address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        try:
            return channel.unary_unary(method)(data, metadata=metadata, timeout=30)
        except grpc.RpcError as error:
            return error.code()


def list_services(address: str, metadata: Any) -> list[str]:
    with grpc.insecure_channel(address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        answers = stub.ServerReflectionInfo(asked, metadata=metadata)
        return [service.name for answer in answers for service in answer.list_services_response.service]


# -- tokens and roles ---------------------------------------------------------------------------------------------


def test_a_server_with_a_token_file_asks_for_tokens(
    config: Callable[..., ServeConfig], running: Any, token_file: Path
) -> None:
    with running(config(token_file=token_file)) as server:
        for token, message in [(None, "no token"), ("wrong", "not known"), ("old", "expired")]:
            with Client(server.address, token=token) as client:
                with pytest.raises(UnauthenticatedError, match=message) as caught:
                    client.list_models()
                assert caught.value.status == "UNAUTHENTICATED"
                assert client.healthy()
        for token in ("p", "a"):
            with Client(server.address, token=token) as client:
                assert client.classify("digits", [[0] * 8] * 8).labels
                assert client.healthy("digits")


def test_refusals_are_counted(config: Callable[..., ServeConfig], running: Any, token_file: Path) -> None:
    with running(config(token_file=token_file)) as server:
        statuses = server.server.handler.metrics.unknown.statuses
        assert ask(server.address, ECHO) is grpc.StatusCode.UNAUTHENTICATED
        assert ask(server.address, ADMIN_ONLY[0], bearer("p")) is grpc.StatusCode.PERMISSION_DENIED
        assert ask(server.address, ECHO, bearer("p")) is grpc.StatusCode.UNIMPLEMENTED
        assert statuses == {"UNAUTHENTICATED": 1, "PERMISSION_DENIED": 1}


def test_only_admins_see_how_a_model_was_trained(
    config: Callable[..., ServeConfig], running: Any, models: Any, token_file: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(models.cartpole, tmp_path / "grid"))
    card = json.loads((path / "model.json").read_text())
    card["provenance"] = {
        **{"env_id": "my.envs:Grid-v0", "env_kwargs": {"size": 3}, "wrappers": ["my.envs:Same"], "seed": 1},
        **{"made_by": "me", "made_at": "today", "versions": {"torch": "2"}, "source": {"path": "/home/me/data"}},
        **{"config": {"algorithm": "double", "init_torso": "/home/me/model"}, "dataset": "/home/me/data.csv"},
    }
    (path / "model.json").write_text(json.dumps(card))
    everything = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in card["provenance"].items()
    }
    public = {"env_id": "Grid-v0", "env_kwargs": '{"size": 3}', "wrappers": '["my.envs:Same"]', "algorithm": "double"}
    with running(config(models=(str(path),), token_file=token_file)) as server:
        for token, provenance in [("p", public), ("a", everything), ("p", public)]:
            with Client(server.address, token=token) as client:
                info = client.get_model("grid")
                assert info.provenance == provenance
                assert info.inputs[0].shape == (4,)
    with running(config(models=(str(path),))) as server, Client(server.address) as client:
        assert client.get_model("grid").provenance == everything  # callers on this machine are admins
    away = config(models=(str(path),), host="0.0.0.0", allow_plaintext=True, allow_anonymous=True)
    with running(away) as server, Client(f"127.0.0.1:{server.address.rpartition(':')[2]}") as client:
        assert client.get_model("grid").provenance == public


@pytest.mark.parametrize(
    "metadata",
    [
        (("authorization", "Basic p"),),
        (("authorization", "p"),),
        (("authorization", "Bearer"),),
        (("authorization", "Bearer p"), ("authorization", "Bearer p")),
        (("authorization", "Bearer p"), ("authorization", "Bearer a")),
        (("authorization-bin", b"Bearer p"),),
        (("authorization", "Bearer " + "p" * 5000),),
        (("authorization", f"Bearer {digest('p')}"),),
    ],
)
def test_only_one_bearer_token_will_do(token_file: Path, metadata: Any) -> None:
    with listening(token_file=token_file) as server:
        assert ask(server.address, ECHO, metadata) is grpc.StatusCode.UNAUTHENTICATED
        assert ask(server.address, ECHO, (("authorization", "bearer p"),)) == b"hello"


def test_any_other_header_is_no_token(token_file: Path) -> None:
    values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80)
    with listening(token_file=token_file) as server, grpc.insecure_channel(server.address) as channel:
        echo = channel.unary_unary(ECHO)

        @settings(max_examples=300, derandomize=True, database=None)
        @given(values | values.map("Bearer {}".format), st.booleans())
        def refused(value: str, twice: bool) -> None:
            if value.strip() not in ("Bearer p", "Bearer a"):
                with pytest.raises(grpc.RpcError) as caught:
                    echo(b"", metadata=(("authorization", value),) * (1 + twice), timeout=30)
                assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED

        refused()
        assert echo(b"hello", metadata=bearer("p")) == b"hello"


def test_what_changes_the_server_or_tells_of_it_needs_role_admin(token_file: Path) -> None:
    with listening(token_file=token_file) as server:
        for method in ANYONES:
            assert ask(server.address, method, bearer("p")) == ask(server.address, method, bearer("a")) == b"hello"
        for method in ADMIN_ONLY:
            assert ask(server.address, method, bearer("p")) is grpc.StatusCode.PERMISSION_DENIED
            assert ask(server.address, method, bearer("old")) is grpc.StatusCode.UNAUTHENTICATED
            assert ask(server.address, method) is grpc.StatusCode.UNAUTHENTICATED
            assert ask(server.address, method, bearer("a")) == b"hello"
        with pytest.raises(grpc.RpcError) as refused:
            list_services(server.address, bearer("p"))
        error = from_wire(refused.value, "here")
        assert isinstance(error, ForbiddenError)
        assert "needs role admin; token 'dashboard' has role predict" in str(error)
        assert "grpc.reflection.v1alpha.ServerReflection" in list_services(server.address, bearer("a"))


def test_without_tokens_this_machine_is_admin_and_others_predict() -> None:
    with listening() as server:
        for method in (*ANYONES, *ADMIN_ONLY):
            assert ask(server.address, method) == b"hello"
        assert list_services(server.address, ())
    with listening(host="0.0.0.0", allow_plaintext=True, allow_anonymous=True) as server:
        address = f"127.0.0.1:{server.listener.port}"
        for method in ANYONES:
            assert ask(address, method) == b"hello"
        for method in ADMIN_ONLY:
            assert ask(address, method) is grpc.StatusCode.PERMISSION_DENIED
        with pytest.raises(grpc.RpcError, match="which only a token gives, and this server has no tokens"):
            list_services(address, ())


# -- strangers ----------------------------------------------------------------------------------------------------


def test_strangers_see_the_health_of_the_whole_and_nothing_else(token_file: Path) -> None:
    def health(channel: grpc.Channel, service: str, metadata: Any = ()) -> Any:
        stub, request = health_pb2_grpc.HealthStub(channel), health_pb2.HealthCheckRequest(service=service)
        watching = stub.Watch(request, metadata=metadata)
        seen = []
        for look in (lambda: stub.Check(request, metadata=metadata), lambda: next(watching)):
            try:
                seen.append(look().status)
            except grpc.RpcError as error:
                seen.append(error.code())
        watching.cancel()
        return seen

    unauthenticated, not_found = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.NOT_FOUND
    with listening(token_file=token_file) as server, grpc.insecure_channel(server.address) as channel:
        assert health(channel, "") == [1, 1]
        for service in PUBLIC[1:]:  # nobody has set these
            assert health(channel, service) == [not_found, 3]
        for service in ("secret_model", "no_model", "grpc.health.v1.Health"):
            assert health(channel, service) == [unauthenticated, unauthenticated]
        assert health(channel, "secret_model", bearer("p")) == [1, 1]
        assert health(channel, "no_model", bearer("p")) == [not_found, 3]
        methods = ("/grpc.health.v1.Health/List", *ANYONES, *ADMIN_ONLY, "/no.Service/Method", "/x", "/grpc.health.v1.")
        for method in methods:
            for metadata in ((), bearer("wrong"), bearer("old")):
                assert ask(server.address, method, metadata) is unauthenticated, method


def test_a_refusal_names_nothing(config: Callable[..., ServeConfig], running: Any, token_file: Path) -> None:
    settings = config(token_file=token_file)
    secrets = (b"cartpole", b"digits", b"dashboard", b"operator", str(token_file).encode(), b"/", b"torso", b"python")
    with running(settings) as server:
        for path in (b"/torso.v1.PredictionService/GetModel", b"/grpc.health.v1.Health/Check", b"/nothing"):
            with Connection(server.server.port) as connection:
                connection.call(path, b"\n\x08cartpole")
                received = connection.read_until(HEADERS, 1).payload
                assert b"grpc-status" in received
                assert b"16" in received
                received = received.replace(b"application/grpc", b"")
                for secret in (*secrets, grpc.__version__.encode()):
                    assert secret not in received.lower(), received


def test_a_health_request_that_is_none_tells_nothing(token_file: Path) -> None:
    with listening(token_file=token_file) as server, grpc.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff\xff", timeout=30)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "protobuf" not in str(caught.value.details())


# -- changes ------------------------------------------------------------------------------------------------------


class Chat:
    """A stream on which messages are sent one at a time."""

    def __init__(self, channel: grpc.Channel, token: str) -> None:
        self._say: queue.Queue[bytes | None] = queue.Queue()
        self._answers = channel.stream_stream("/test.Echo/Chat")(
            iter(self._say.get, None), metadata=bearer(token), timeout=60
        )

    def say(self, data: bytes) -> Any:
        self._say.put(data)
        try:
            return next(self._answers)
        except grpc.RpcError as error:
            self._say.put(None)
            return error.code()


def test_a_reload_takes_tokens_away_and_brings_new_ones(token_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with listening(token_file=token_file) as server, grpc.insecure_channel(server.address) as channel:
        leaving, staying = Chat(channel, "p"), Chat(channel, "a")
        assert leaving.say(b"1") == staying.say(b"1") == b"1"
        token_file.write_text(f"operator {digest('a')} admin never\nnew {digest('n')} predict never\n")
        assert ask(server.address, ECHO, bearer("n")) is grpc.StatusCode.UNAUTHENTICATED  # nothing is read unasked
        server.reload()
        assert ask(server.address, ECHO, bearer("n")) == ask(server.address, ECHO, bearer("a")) == b"hello"
        assert ask(server.address, ECHO, bearer("p")) is grpc.StatusCode.UNAUTHENTICATED
        assert leaving.say(b"2") is grpc.StatusCode.UNAUTHENTICATED
        assert staying.say(b"2") == b"2"
        for broken in (b"", b"nonsense", b"\xff"):
            token_file.write_bytes(broken)
            caplog.clear()
            server.reload()
            assert "what was read before stays in use" in caplog.text
            assert str(token_file) in caplog.text
        token_file.write_text(f"intruder {digest('i')} admin never\n")
        token_file.chmod(0o666)
        caplog.clear()
        server.reload()
        assert "must be writable by its owner alone, got mode 0666" in caplog.text
        assert ask(server.address, ECHO, bearer("i")) is grpc.StatusCode.UNAUTHENTICATED
        token_file.unlink()
        server.reload()
        assert ask(server.address, ECHO, bearer("n")) == b"hello"
        assert staying.say(b"3") == b"3"


def test_a_stream_that_outlives_its_token_ends(token_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(token_file=token_file) as server, grpc.insecure_channel(server.address) as channel:
        mortal, immortal = Chat(channel, "p"), Chat(channel, "a")
        assert mortal.say(b"1") == immortal.say(b"1") == b"1"
        monkeypatch.setattr(auth, "_today", lambda: date(2999, 12, 31))
        assert mortal.say(b"2") == immortal.say(b"2") == b"2"
        monkeypatch.setattr(auth, "_today", lambda: date(3000, 1, 1))
        assert mortal.say(b"3") is grpc.StatusCode.UNAUTHENTICATED
        assert immortal.say(b"3") == b"3"


def test_a_token_is_good_to_the_end_of_its_last_day(token_file: Path) -> None:
    today = datetime.now(UTC).date()
    lines = [(f"d{days}", days) for days in (-2, 1)]  # whatever the hour, these stay what they are
    token_file.write_text("".join(f"{name} {digest(name)} predict {today + timedelta(days)}\n" for name, days in lines))
    with listening(token_file=token_file) as server:
        assert ask(server.address, ECHO, bearer("d-2")) is grpc.StatusCode.UNAUTHENTICATED
        assert ask(server.address, ECHO, bearer("d1")) == b"hello"


# -- where to listen ----------------------------------------------------------------------------------------------


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


def test_beyond_this_machine_a_server_wants_tls_and_known_callers_unless_told_otherwise() -> None:
    def check(host: str, **settings: Any) -> None:
        check_bind(ServeConfig(models=("unused",), host=host, **settings))

    here = Path("here")
    tls: dict[str, Any] = {"tls_cert": here, "tls_key": here}
    check("127.0.0.1")
    check("0.0.0.0", **tls, token_file=here)
    check("0.0.0.0", **tls, tls_client_ca=here)  # a client certificate says who asks, as a token does
    check("0.0.0.0", **tls, allow_anonymous=True)
    check("0.0.0.0", allow_plaintext=True, allow_anonymous=True)
    check("0.0.0.0", allow_plaintext=True, token_file=here)
    with pytest.raises(ServerError, match="--allow-plaintext"):
        check("0.0.0.0", token_file=here)
    with pytest.raises(ServerError, match="--tls-client-ca, or --allow-anonymous"):
        check("0.0.0.0", **tls)
    with pytest.raises(ServerError, match="--allow-anonymous"):
        check("0.0.0.0", allow_plaintext=True)


def test_a_server_applies_the_bind_rules(config: Callable[..., ServeConfig], running: Any) -> None:
    with pytest.raises(ServerError, match="can be reached from other machines"), running(config(host="0.0.0.0")):
        pass
    with (
        running(config(host="0.0.0.0", allow_plaintext=True, allow_anonymous=True)) as server,
        Client(f"127.0.0.1:{server.server.port}") as client,
    ):
        assert client.healthy()
