"""``torso playground``: a page in the browser to draw for a classifier, play with agents, and train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torso.cli.arguments.options import POSITIONAL, Sections
from torso.playground.config import PlaygroundConfig

if TYPE_CHECKING:
    from torso.envs.vector.world import World


@dataclass(frozen=True, kw_only=True)
class PlaygroundOptions(PlaygroundConfig):
    """Serve a page until Ctrl-C: draw for a classifier and see every layer of its network; watch agents play, and play.

    A network learns points of the plane, and agents are trained; what Train makes is written below the folder of --runs
    alone. Nothing leaves this machine. The address that is printed holds the session's token; whoever has it may use
    the page.
    """

    sections: ClassVar[Sections] = {
        "training": ("runs",),
        "a served model": ("address", "token_file", "tls", "tls_ca", "tls_cert", "tls_key"),
        "the page": ("host", "port", "allow_plaintext", "open"),
    }
    """Headings of the help, and the options below each."""

    models: tuple[str, ...] = field(default=(), metadata=POSITIONAL)
    """Model or run directories: image classifiers to draw for, policies to play. A model's name is its directory's
    name; NAME=DIR chooses another. Without classifiers: the one of handwritten digits that comes with torso; without
    policies: CartPole's and Forager's."""
    open: bool = False
    """Open the page in the browser."""


def run(options: PlaygroundOptions) -> int:
    """Serve the page until a signal."""
    from torso.playground.run import serve_playground

    def show(url: str) -> None:
        print(f"torso playground: {url}", flush=True)
        if options.open:
            import webbrowser

            webbrowser.open(url)

    def choose(provenance: Mapping[str, Any], is_served: bool) -> World:
        from torso.cli.worlds import choose_world  # gymnasium, behind the page

        return choose_world(None, None, provenance, is_served=is_served)

    serve_playground(options, show, choose)
    return 0
