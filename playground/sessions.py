"""Sessions: a token for whoever may speak to the page, and checks that no other site of the browser can pass.

Any page that a browser shows can send requests to a loopback port, and a name that resolves to 127.0.0.1 can make them
look like its own (DNS rebinding). So each request must name a host of this machine, come from the page itself where it
says where from, and bear the session's cookie, which is set in exchange for the token of the printed address.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Awaitable, Callable

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}


class PageSession:
    """Session of one run of the playground. ``host``: what the page is served on; ``port``: set once it is known."""

    def __init__(self, host: str) -> None:
        self.token = secrets.token_urlsafe(24)
        self.port = 0
        self._host = host.strip("[]").lower()

    @property
    def url(self) -> str:
        """The address to open: it holds the token."""
        host = self._host
        if _is_any(host):
            host = "127.0.0.1"
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/?token={self.token}"

    @property
    def cookie(self) -> str:
        """Name of the cookie. Cookies of one host are shared between its ports, so it says the port."""
        return f"torso_{self.port}"

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what is not the page's own request; exchange the token of the printed address for the cookie."""
        if not self._is_host(request.headers.get("Host", "")):
            raise web.HTTPForbidden(text="this host is not the playground's: open the address that it printed\n")
        origin = request.headers.get("Origin")
        is_socket = request.headers.get("Upgrade", "").lower() == "websocket"
        if (origin is not None or is_socket) and origin != f"http://{request.headers['Host']}":
            raise web.HTTPForbidden(text="requests of other pages are refused\n")
        if request.method == "GET" and request.path == "/" and "token" in request.query:
            if not self._is_token(request.query["token"]):
                raise web.HTTPForbidden(text="this token is not of the playground that runs: open what it printed\n")
            answer = web.Response(status=303, headers={"Location": "/"})
            answer.set_cookie(self.cookie, self.token, httponly=True, samesite="Strict", path="/")
            return answer
        if not self._is_token(request.cookies.get(self.cookie, "")):
            raise web.HTTPForbidden(text="no session: open the address that the playground printed, with its token\n")
        return await handler(request)

    def _is_token(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self.token.encode())

    def _is_host(self, header: str) -> bool:
        """Whether a Host header names this playground: names that anybody may own do not, other than its own."""
        name, _, port = header.rpartition(":")
        if port != str(self.port):
            return False
        name = name.strip("[]").lower()
        if name in ("localhost", self._host):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or _is_any(self._host)


def _is_any(host: str) -> bool:
    return host in ("0.0.0.0", "::")


async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Add what tells the browser to let nothing in or out; it hides the server's version, too."""
    response.headers.update(HEADERS)
    response.headers["Server"] = "torso"
