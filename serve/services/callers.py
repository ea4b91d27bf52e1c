"""Callers: whose call it is, what they may do, and what of the server's room they hold."""

from __future__ import annotations

from contextvars import ContextVar

ROLES = {"predict": 0, "admin": 1}  # by rank: a higher role includes the lower ones


class Caller:
    """Caller as the server knows it: a token, else an address, else, on this machine, a connection.

    key: what tells callers apart. limited: whether limits by caller hold, as they do for all but this machine's own
    callers without a token. role: of `ROLES`; None for a stranger, who may ask for the health of the server as a whole
    alone. token: what it was authorised by.
    """

    __slots__ = ("calls", "held_bytes", "key", "limited", "role", "token", "usual_bytes")

    def __init__(
        self,
        key: str,
        role: str | None,
        *,
        limited: bool = False,
        token: object | None = None,
    ) -> None:
        self.key = key
        self.role = role
        self.limited = limited
        self.token = token
        self.calls = 0  # that go on
        self.held_bytes = 0  # of its messages that are being received or answered
        self.usual_bytes = 0  # of its messages, lately


NOBODY = Caller("", "admin")

current_caller: ContextVar[Caller] = ContextVar("current_caller", default=NOBODY)
"""Caller of the call that runs now; `NOBODY`, who may do everything, where no gate asked."""
