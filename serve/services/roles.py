"""Roles of callers."""

from __future__ import annotations

from contextvars import ContextVar

ROLES = {"predict": 0, "admin": 1}  # by rank: a higher role includes the lower ones

caller_role: ContextVar[str] = ContextVar("caller_role", default="admin")
"""Role of the call that runs now, as authorised; everyone's where a server refuses nobody."""
