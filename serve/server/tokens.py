"""Token files: names, hashes, roles and last days of the tokens that callers may send.

A token file has one token a line, four fields separated by white space; ``#`` starts a comment::

    # name     sha256 of the token                                                role     expires
    grafana    9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08   predict  2027-01-31
    operator   60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752   admin    never

``printf %s "$TOKEN" | sha256sum`` gives the second field; tokens should be long and random, for the hash has no salt.
``expires`` is the token's last day (UTC), or ``never``. Callers send ``authorization: Bearer TOKEN`` as metadata.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from torso.errors import ServerError
from torso.serve.server.file_modes import require_owner_writes
from torso.serve.services.callers import ROLES

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, kw_only=True)
class Token:
    """One line of a token file."""

    name: str
    sha256: str
    role: str
    expires: date | None  # the last day, UTC, on which it is valid

    def expired(self, today: date) -> bool:
        """Check whether the token's last day is over."""
        return self.expires is not None and today > self.expires


def read_tokens(path: Path) -> tuple[Token, ...]:
    """Read a token file; ServerError, naming the line, where it cannot be parsed or has no token.

    So it is where others than its owner may write it.
    """
    try:
        require_owner_writes("token file", path)
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ServerError(f"token file {path} cannot be read: {error}") from error
    tokens: dict[str, Token] = {}
    for number, line in enumerate(lines, start=1):
        fields = line.partition("#")[0].split()
        if fields:
            where = f"token file {path}, line {number}"
            token = _parse_token(fields, where)
            if token.sha256 in tokens:
                raise ServerError(f"{where}: {token.name!r} has the same token as {tokens[token.sha256].name!r} above")
            tokens[token.sha256] = token
    if not tokens:
        raise ServerError(f"token file {path} must have at least one line `name sha256 role expires`, got none")
    return tuple(tokens.values())


def _parse_token(fields: list[str], where: str) -> Token:
    if len(fields) != 4:
        raise ServerError(f"{where} must be `name sha256 role expires`, got {len(fields)} fields")
    name, sha256, role, expires = fields
    if not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise ServerError(f"{where}: sha256 must be 64 hexadecimal digits, got {len(sha256)} characters")
    if sha256.lower() == EMPTY_SHA256:
        raise ServerError(
            f"{where}: sha256 must be of a token, got that of nothing; was the token's variable unset when it was made?"
        )
    if role not in ROLES:
        raise ServerError(f"{where}: role must be one of {', '.join(ROLES)}; got {role!r}")
    try:
        last_day = None if expires == "never" else date.fromisoformat(expires)
    except ValueError as error:
        raise ServerError(f"{where}: expires must be a date such as 2027-01-31, or never, got {expires!r}") from error
    return Token(name=name, sha256=sha256.lower(), role=role, expires=last_day)
