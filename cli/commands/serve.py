"""``torso serve``: serve models over gRPC."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import ClassVar

from torso.cli.arguments.options import POSITIONAL, Sections
from torso.errors import TorsoError
from torso.serve.config import ServeConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ServeOptions(ServeConfig):
    """Serve models over gRPC until Ctrl-C or SIGTERM; then finish requests in flight, and end with exit code 0."""

    sections: ClassVar[Sections] = {
        "model repository": (
            *("repository", "version_policy", "model_control", "load_models", "poll_s"),
            *("load_s", "skip_broken"),
        ),
        "inference": (
            *("backend", "threads", "cache_dir", "max_batch_rows", "max_forward_mib", "max_delay_us", "max_queue_rows"),
        ),
        "limits": (
            *("max_message_mib", "max_in_flight_mib", "receive_s", "max_request_pixels", "max_metadata_kib"),
            *("max_calls", "max_concurrent_streams", "max_connections", "max_connection_age_s", "keepalive_s"),
            *("max_episodes", "max_episodes_mib", "stream_idle_s"),
        ),
        "shutdown": ("drain_s", "finish_s"),
        "security": (
            *("token_file", "tls_cert", "tls_key", "tls_client_ca"),
            *("allow_plaintext", "allow_anonymous"),
        ),
        "logs, metrics and traces": (
            *("log_format", "log_requests", "ops_host", "ops_port", "ops_port_file", "otlp_endpoint"),
        ),
    }
    """Headings of the help, and the options below each."""

    models: tuple[str, ...] = field(default=(), metadata=POSITIONAL)
    """Model or run directories. A model's name is its directory's name; NAME=DIR chooses another."""


def run(options: ServeOptions) -> int:
    """Serve until a signal; configure logging for the whole process, in the format of the options."""
    from torso.serve.observability.logs import log_as

    with log_as(options.log_format):
        from torso.serve import serve  # imports gRPC, whose own log follows the format

        try:
            serve(options)
        except Exception as error:
            if options.log_format != "json":
                raise
            expected = isinstance(error, (TorsoError, OSError))
            logger.critical("error: %s", error, exc_info=None if expected else error)
            return 2 if expected else 1  # as `torso.cli.entry` exits, which prints errors as text
    return 0
