"""Token files: parsing, and which files are refused."""

from __future__ import annotations

import contextlib
import hashlib
import os
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torso.errors import ServerError
from torso.serve.server.tokens import Token, read_tokens
from torso.serve.services.callers import ROLES


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
        ("", "must have at least one line `name sha256 role expires`, got none"),
        ("# only a comment\n", "got none"),
        ("\nme abc predict\n", "line 2 must be `name sha256 role expires`, got 3 fields"),
        ("me abc predict never\n", "line 1: sha256 must be 64 hexadecimal digits, got 3 characters"),
        (f"me {digest('x')} root never\n", "line 1: role must be one of predict, admin; got 'root'"),
        (
            f"me {digest('x')} admin tomorrow\n",
            "line 1: expires must be a date such as 2027-01-31, or never, got 'tomorrow'",
        ),
        (f"me {digest('')} admin never\n", "line 1: sha256 must be of a token, got that of nothing"),
        (
            f"me {digest('x')} predict never\nyou {digest('x').upper()} admin never\n",
            "line 2: 'you' has the same token as 'me' above",
        ),
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


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o660, 0o664, 0o666, 0o777, 0o022])
def test_a_token_file_that_others_may_write_is_refused(token_file: Path, tmp_path: Path, mode: int) -> None:
    token_file.chmod(mode)
    (tmp_path / "link").symlink_to(token_file)
    for path in (token_file, tmp_path / "link"):
        message = f"token file {path} must be writable by its owner alone, got mode {mode:04o}; do chmod go-w {path}"
        with pytest.raises(ServerError, match=message):
            read_tokens(path)
    for allowed in (0o600, 0o640, 0o644, 0o444, 0o755):
        token_file.chmod(allowed)
        assert len(read_tokens(token_file)) == 3


fields = st.sampled_from(["me", digest("x"), digest("y"), "predict", "admin", "never", "2027-01-31", "#", "\t", "\n"])


@given(st.binary(max_size=200) | st.lists(fields | st.text(max_size=5), max_size=12).map(" ".join).map(str.encode))
def test_any_token_file_is_understood_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any_tokens"
    path.write_bytes(content)
    with contextlib.suppress(ServerError):
        tokens = read_tokens(path)
        assert all(isinstance(token, Token) and token.role in ROLES for token in tokens)
        assert len({token.sha256 for token in tokens}) == len(tokens) > 0
