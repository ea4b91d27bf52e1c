"""Refusals of the page: other pages of the browser, names that are rebound, callers without the token."""

from __future__ import annotations

import http.client
from collections.abc import Callable

import pytest
from playground_process import Playground

from torso.errors import ConfigError
from torso.playground.config import PlaygroundConfig
from torso.playground.sessions import POLICY

SOCKET = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def ask(playground: Playground, path: str = "/", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", playground.port, timeout=30)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.putrequest("GET", path, skip_host=True)
    for name, value in {"Host": f"127.0.0.1:{playground.port}", **names}.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    if answer.status != 101:
        answer.read()
    connection.close()
    return answer


def cookie(playground: Playground) -> str:
    answer = ask(playground, f"/?token={playground.token}")
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    value = answer.headers["Set-Cookie"]
    assert "HttpOnly" in value
    assert "SameSite=Strict" in value
    return value.partition(";")[0]


def test_the_printed_address_opens_the_page_and_its_files(playground: Playground) -> None:
    session = cookie(playground)
    for path, kind in {"/": "text/html", "/main.js": "text/javascript", "/style.css": "text/css"}.items():
        answer = ask(playground, path, Cookie=session)
        assert answer.status == 200
        assert answer.headers["Content-Type"] == f"{kind}; charset=utf-8"
        assert answer.headers["Content-Security-Policy"] == POLICY
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Server"] == "torso"
    assert ask(playground, "/nothing", Cookie=session).status == 404
    assert ask(playground, "/../config.py", Cookie=session).status == 404


@pytest.mark.parametrize("path", ["/", "/main.js", "/socket", "/nothing", "/?token=", "/?token=guess", "/?token=%ff"])
def test_without_the_token_nothing_is_told(playground: Playground, path: str) -> None:
    for headers in ({}, {"Cookie": f"torso_{playground.port}=guess"}, {"Cookie": f"torso={playground.token}"}):
        assert ask(playground, path, **headers).status == 403


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        "",
        "localhost.evil.example:{port}",
        "[::]:{port}",
        "93.184.216.34:{port}",
    ],
)
def test_a_rebound_name_is_refused(playground: Playground, host: str) -> None:
    session = cookie(playground)
    host = host.format(port=playground.port)
    assert ask(playground, "/", Host=host, Cookie=session).status in (400, 403)
    assert ask(playground, f"/?token={playground.token}", Host=host).status in (400, 403)
    origin = f"http://{host}"
    assert ask(playground, "/socket", Host=host, Cookie=session, Origin=origin, **SOCKET).status in (400, 403)


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1", "https://127.0.0.1:{port}", "http://localhost:{port}", None],
)
def test_a_socket_of_another_site_is_refused(playground: Playground, origin: str | None) -> None:
    session = cookie(playground)
    headers = {} if origin is None else {"Origin": origin.format(port=playground.port)}
    assert ask(playground, "/socket", Cookie=session, **headers, **SOCKET).status == 403
    if origin is not None:
        assert ask(playground, "/main.js", Cookie=session, **headers).status == 403


def test_the_page_itself_may_open_a_socket(playground: Playground) -> None:
    for name in ("127.0.0.1", "localhost"):
        host = f"{name}:{playground.port}"
        answer = ask(playground, "/socket", Host=host, Origin=f"http://{host}", Cookie=cookie(playground), **SOCKET)
        assert answer.status == 101
    assert ask(playground, "/socket", Origin=f"http://127.0.0.1:{playground.port}", **SOCKET).status == 403


def test_two_playgrounds_have_sessions_of_their_own(playground: Playground, start: Callable[..., Playground]) -> None:
    other = start()
    assert other.token != playground.token
    assert ask(other, Cookie=cookie(playground)).status == 403
    assert ask(other, Cookie=f"torso_{other.port}={playground.token}").status == 403
    other.end()


def test_beyond_this_machine_it_says_what_that_needs() -> None:
    for host in ("0.0.0.0", "::", "192.168.0.7", "example.org"):
        with pytest.raises(ConfigError, match=r"host must be of this machine.*--allow-plaintext"):
            PlaygroundConfig(host=host)
        PlaygroundConfig(host=host, allow_plaintext=True)
    for host in ("127.0.0.1", "::1", "[::1]", "localhost", "127.3.2.1"):
        PlaygroundConfig(host=host)


def test_what_goes_with_a_served_model_needs_one() -> None:
    with pytest.raises(ConfigError, match=r"--tls must go with --address"):
        PlaygroundConfig(tls=True)
    with pytest.raises(ConfigError, match="port must be from 0 to 65535, got 65536"):
        PlaygroundConfig(port=65536)
