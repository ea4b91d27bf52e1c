"""Arguments that clients refuse before a call: settings, and arguments that no request can carry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torso.cli import main
from torso.errors import ConfigError, InputError, InvalidRequestError, TorsoError, UnauthenticatedError
from torso.serve import AsyncClient, Client, RetryPolicy
from torso.serve.client.arguments import check_address, check_timeout, check_token

ROW = np.zeros(4, np.float32)
SCAN = np.zeros((8, 8), np.uint8)


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8500",
        "127.0.0.1:1",
        "[::1]:65535",
        "[fe80::1%eth0]:8500",
        "torso.example:8500",
        "dns:///torso:8500",
        "dns:torso:8500",
        "dns://8.8.8.8/torso:8500",
        "dns:///[::1]:8500",
        "ipv4:127.0.0.1:8500",
        "ipv4:127.0.0.1:8500,127.0.0.2:8500",
        "ipv6:[::1]:8500",
        "unix:/run/torso.sock",
        "unix:torso.sock",
        "unix:///run/torso.sock",
        "unix-abstract:torso",
        "xds:///torso",
    ],
)
def test_addresses_with_a_port_and_grpcs_targets_are_taken(address: str) -> None:
    assert check_address(address) == address
    Client(address).close()


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("localhost", "torso serve listens on port 8500 unless told otherwise: localhost:8500"),
        ("127.0.0.1", ": 127.0.0.1:8500"),
        ("dns:///torso", ": dns:///torso:8500"),
        ("dns:torso", ": dns:torso:8500"),
        ("ipv4:127.0.0.1", ": ipv4:127.0.0.1:8500"),
        ("ipv4:127.0.0.1:8500,127.0.0.2", "127.0.0.2:8500"),
        ("", ": localhost:8500"),
        ("::1", r"in brackets, and its port follows, as in \[::1\]:8500"),
        ("[::1]", r"as in \[::1\]:8500"),
        ("::1:8500", "in brackets"),
        ("2001:db8::7", "in brackets"),
        ("http://localhost:8500", "leave out 'http://'"),
        ("https://localhost", "leave out 'https://'"),
        ("grpc://localhost:8500", "leave out 'grpc://'"),
        ("localhost:", "a port is a number from 1 to 65535, not ''"),
        ("localhost:0", "not '0'"),
        ("localhost:65536", "not '65536'"),
        ("localhost:http", "not 'http'"),
        ("localhost:8500\n", "not '8500"),
        ("localhost:-1", "not '-1'"),
        (":8500", "a host is a name or an IP address, not ''"),
        ("a b:8500", "a host is a name or an IP address, not 'a b'"),
        ("a:b:8500", "a host is a name or an IP address"),
        ("/run/torso.sock", "unix:/run/torso.sock"),
        ("localhost:8500/v1", "a host has no path"),
        ("unix:", "a socket's path follows unix:"),
        ("unix://run/torso.sock", "a socket's path follows unix:"),
    ],
)
def test_other_addresses_are_refused_with_what_would_do(address: str, advice: str) -> None:
    for make in (Client, AsyncClient):
        with pytest.raises(ConfigError, match=r"address must be .*" + advice) as caught:
            make(address)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("address", [b"localhost:8500", 8500, None, ("localhost", 8500)])
def test_an_address_is_text(address: Any) -> None:
    with pytest.raises(ConfigError, match=r"address must be text, HOST:PORT, .*, got "):
        Client(address)


@given(st.text(st.sampled_from("a1:[]/. \n%,")) | st.text())
def test_any_address_is_taken_or_refused(address: str) -> None:
    try:
        assert check_address(address) == address
    except ConfigError:
        return
    assert ":" in address


def test_the_command_line_names_the_port_too(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["act", "[0]", "--model", "m"], ["bench-serve"], ["play", "--model", "m"]):
        assert main([*command, "--address", "localhost"]) == 2
        assert "localhost:8500" in capsys.readouterr().err


# -- tokens and other settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "got"),
    [
        ("secret\n", r"got some, such as the end of a file's line; use .strip\(\)"),
        (" secret", "got some"),
        ("sec\nret", "got other characters among its 7"),
        ("s\x00t", "got other characters"),
        ("s\x7f", "got other characters"),
        ("geheimnüs", "got other characters"),
        ("", "got none; leave it out"),
        (b"secret", "got bytes"),
        (7, "got int"),
    ],
)
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(token: Any, got: str) -> None:
    for make in (Client, AsyncClient):
        with pytest.raises(ConfigError, match=f"token must be text of printable ASCII .*{got}") as caught:
            make("127.0.0.1:1", token)
        assert "secret" not in str(caught.value)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1))
def test_what_a_header_can_carry_is_a_token(token: str) -> None:
    if token == token.strip():
        assert check_token(token) == token


def test_a_token_of_printable_characters_reaches_the_server(config: Any, running: Any, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"someone {'0' * 64} predict never\n")
    with (
        running(config(token_file=tokens)) as server,
        Client(server.address, "of two words, and ~!@#$%") as client,
        pytest.raises(UnauthenticatedError, match="not known here"),
    ):
        client.list_models()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"timeout_s": "3"}, "timeout_s must be a number of seconds, got '3'"),
        ({"timeout_s": True}, "timeout_s must be a number of seconds, got True"),
        ({"timeout_s": None}, "timeout_s must be a number of seconds, got None"),
        ({"timeout_s": float("nan")}, "timeout_s must be more than 0 seconds, got nan"),
        ({"timeout_s": -1}, "timeout_s must be more than 0 seconds, got -1"),
        ({"connections": 0}, "connections must be at least 1, got 0"),
        ({"connections": 2.0}, "connections must be a whole number, got 2.0"),
        ({"connections": True}, "connections must be a whole number, got True"),
        ({"tls": "yes"}, "tls must be True or False, got 'yes'"),
        ({"tls_ca": 3}, "tls_ca must be a path, got 3"),
        ({"tls_cert": "", "tls_key": "k"}, "tls_cert must be a path, got ''"),
        ({"retries": 3}, "retries must be a RetryPolicy, got 3"),
        ({"retries": None}, "retries must be a RetryPolicy, got None"),
    ],
)
def test_settings_of_other_types_are_refused(settings: dict[str, Any], message: str) -> None:
    for make in (Client, AsyncClient):
        with pytest.raises(ConfigError, match=message):
            make("127.0.0.1:1", **settings)


@pytest.mark.parametrize("settings", [{"max_attempts": "3"}, {"max_attempts": 2.5}, {"first_wait_s": "1"}])
def test_policies_of_other_types_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"must be a .*number"):
        RetryPolicy(**settings)


# -- arguments of operations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, np.int64(1), np.uint8(1)])
def test_whole_numbers_of_numpy_are_taken(served: Any, number: Any) -> None:
    with Client(served.address, timeout_s=np.float32(20), connections=number) as client:
        assert client.classify("digits", SCAN, top_k=number).indices.shape == (1, 1)
        assert len(list(client.classify_many("digits", [SCAN] * 2, rows=number, in_flight=number))) == 2
        with client.act_stream(np.str_("cartpole")) as stream:
            assert stream.act(ROW, episode=number, start=np.bool_(True), epsilon=np.float32(0), seed=number)


@pytest.mark.parametrize("timeout_s", [1e6, 1e9, 1e20, float("inf"), np.float64(1e300)])
def test_very_long_timeouts_are_none(served: Any, timeout_s: float) -> None:
    with Client(served.address, timeout_s=timeout_s) as client:
        assert client.act("cartpole", ROW, timeout_s=timeout_s).actions.shape == (1,)
        with client.act_stream("cartpole") as stream:
            assert stream.act(ROW, start=True).values.shape == (2,)
            assert stream.act(ROW, timeout_s=timeout_s).values.shape == (2,)
    assert check_timeout(timeout_s) in (timeout_s, float("inf"))


CALLS: list[tuple[Callable[[Any], Any], type[TorsoError], str]] = [
    (lambda c: c.classify("digits", SCAN, version=1), InputError, "version must be text such as '1', got 1"),
    (lambda c: c.classify("digits", SCAN, version=None), InputError, "version must be text, got None"),
    (lambda c: c.classify(3, SCAN), InputError, "model must be text such as '3', got 3"),
    (lambda c: c.classify(b"digits", SCAN), InputError, "model must be text, got b'digits'"),
    (lambda c: c.classify("\ud800", SCAN), InputError, "model must be text that UTF-8 can encode"),
    (lambda c: c.classify("digits", SCAN, top_k="3"), InputError, "top_k must be a whole number, got '3'"),
    (lambda c: c.classify("digits", SCAN, top_k=2.5), InputError, "top_k must be a whole number, got 2.5"),
    (lambda c: c.classify("digits", SCAN, top_k=2.0), InputError, "top_k must be a whole number, got 2.0"),
    (lambda c: c.classify("digits", SCAN, top_k=True), InputError, "top_k must be a whole number, got True"),
    (lambda c: c.classify("digits", SCAN, top_k=None), InputError, "top_k must be a whole number, got None"),
    (lambda c: c.classify("digits", SCAN, top_k=np.bool_(True)), InputError, "top_k must be a whole number"),
    (lambda c: c.classify("digits", SCAN, top_k=2**31), InputError, "top_k must be a 32-bit number"),
    (lambda c: c.classify("digits", SCAN, top_k=0), InvalidRequestError, "top_k must be at least 1, got 0"),
    (lambda c: c.classify("digits", SCAN, top_k=-1), InvalidRequestError, "top_k must be at least 1, got -1"),
    (lambda c: c.classify("digits", None), InputError, "tensor must be an array of one of"),
    (lambda c: c.classify("digits", SCAN, timeout_s="1"), ConfigError, "timeout_s must be a number of seconds"),
    (lambda c: c.classify("digits", SCAN, timeout_s=0), ConfigError, "timeout_s must be more than 0 seconds"),
    (lambda c: c.classify_images("digits", [], top_k="1"), InputError, "top_k must be a whole number"),
    (lambda c: c.classify_images("digits", [], version=1), InputError, "version must be text"),
    (lambda c: c.classify_images("digits", ["a.png"]), InputError, r"images\[0\] must be a PNG or JPEG file's bytes"),
    (lambda c: c.classify_images("digits", [b"", SCAN]), InputError, r"images\[1\] must be a PNG or JPEG file's"),
    (lambda c: c.classify_images("digits", "a.png"), InputError, "images must be a list of files' bytes, got 'a.png'"),
    (lambda c: c.classify_images("digits", None), InputError, "images must be a list of files' bytes, got None"),
    (lambda c: c.classify_images("digits", b""), InputError, "images must be a list .*, got one file's bytes"),
    (lambda c: c.act("cartpole", ROW, version=1), InputError, "version must be text"),
    (lambda c: c.act("cartpole", ROW, None), InputError, "state must be a result's state"),
    (lambda c: c.act("cartpole", ROW, 3), InputError, "state must be a result's state"),
    (lambda c: c.act("cartpole", ROW, ([[1], [1, 2]],)), InputError, r"state\[0\] must be an array of one shape"),
    (lambda c: c.act("cartpole", [["a"]]), InputError, "observations must be an array of one of"),
    (lambda c: c.get_model("cartpole", version=1), InputError, "version must be text"),
    (lambda c: c.get_model(None), InputError, "model must be text, got None"),
    (lambda c: c.healthy(3), InputError, "model must be text"),
    (lambda c: c.list_models(timeout_s="1"), ConfigError, "timeout_s must be"),
    (lambda c: c.wait_ready("1"), ConfigError, "timeout_s must be"),
]


@pytest.mark.parametrize(("call", "error", "message"), CALLS)
def test_arguments_of_other_types_are_refused_by_both_clients(
    served: Any, call: Callable[[Any], Any], error: type[TorsoError], message: str
) -> None:
    async def awaited() -> None:
        async with AsyncClient(served.address) as client:
            await call(client)

    with Client(served.address) as client, pytest.raises(error, match=message) as caught:
        call(client)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(error, match=message):
        asyncio.run(awaited())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"top_k": "3"}, InputError, "top_k must be a whole number"),
        ({"version": 1}, InputError, "version must be text"),
        ({"rows": "3"}, ConfigError, "rows must be a whole number, got '3'"),
        ({"rows": 0}, ConfigError, "rows must be at least 1, got 0"),
        ({"in_flight": 1.5}, ConfigError, "in_flight must be a whole number"),
        ({"inputs": 3}, InputError, "tensor must be an array of .* or an iterable of inputs, got 3"),
        ({"inputs": None}, InputError, "or an iterable of inputs, got None"),
    ],
)
def test_arguments_of_many_are_refused(
    served: Any, arguments: dict[str, Any], error: type[TorsoError], message: str
) -> None:
    async def awaited() -> None:
        async with AsyncClient(served.address) as client:
            async for _ in client.classify_many("digits", **{"inputs": [SCAN], **arguments}):
                pass

    with Client(served.address) as client, pytest.raises(error, match=message):
        list(client.classify_many("digits", **{"inputs": [SCAN], **arguments}))
    with pytest.raises(error, match=message):
        asyncio.run(awaited())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"episode": "1"}, InputError, r"episode must be a number from 0 to 2\*\*64 - 1, got '1'"),
        ({"episode": -1}, InputError, "episode must be a number from 0"),
        ({"episode": 1.5}, InputError, "episode must be a number from 0"),
        ({"start": "yes"}, InputError, "start must be True or False, got 'yes'"),
        ({"start": None}, InputError, "start must be True or False"),
        ({"epsilon": "0"}, InputError, r"epsilon must be a number in \[0, 1\], got '0'"),
        ({"epsilon": None}, InputError, "epsilon must be a number"),
        ({"epsilon": 1.5}, InvalidRequestError, "epsilon must be a number"),
        ({"seed": 1.5}, InputError, "seed must be a number from 0"),
        ({"timeout_s": "1"}, ConfigError, "timeout_s must be a number of seconds"),
        ({"timeout_s": -1}, ConfigError, "timeout_s must be more than 0 seconds"),
        ({"observation": [[1], [1, 2]]}, InputError, "observation must be an array of one shape"),
        ({"observation": None}, InputError, "observation must be an array of one of"),
    ],
)
def test_arguments_of_streams_are_refused(
    served: Any, arguments: dict[str, Any], error: type[TorsoError], message: str
) -> None:
    given_arguments = {"observation": ROW, "start": True, **arguments}

    async def awaited() -> None:
        async with AsyncClient(served.address) as client, client.act_stream("cartpole") as stream:
            await stream.act(**given_arguments)

    with Client(served.address) as client, client.act_stream("cartpole") as stream:
        with pytest.raises(error, match=message):
            stream.act(**given_arguments)
        assert stream.act(ROW, start=True).values.shape == (2,)  # the stream goes on
        with pytest.raises(InputError, match="episode must be"):
            stream.end("1")  # type: ignore[arg-type]
    with pytest.raises(error, match=message):
        asyncio.run(awaited())
    with Client(served.address) as client, pytest.raises(InputError, match="version must be text"):
        client.act_stream("cartpole", version=1)  # type: ignore[arg-type]
