"""HTTP client: one request over a new connection."""

from __future__ import annotations

from http.client import HTTPConnection


def get(port: int, path: str, method: str = "GET", host: str = "127.0.0.1") -> tuple[int, str, dict[str, str]]:
    """Send one request; return the status, the text and the headers."""
    connection = HTTPConnection(host, port, timeout=30)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode(), dict(response.getheaders())
    finally:
        connection.close()
