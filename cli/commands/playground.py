"""``torso playground``: draw for a classifier in the browser, watch its network, and train agents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torso.cli.arguments.options import POSITIONAL, Sections
from torso.playground.config import PlaygroundConfig


@dataclass(frozen=True, kw_only=True)
class PlaygroundOptions(PlaygroundConfig):
    """Serve a page to draw on until Ctrl-C: a classifier's guesses while the pen moves, and every layer of its network.

    Short training runs begin in the page, too; what they make is written below the folder of --runs alone. Nothing
    leaves this machine. The address that is printed holds the session's token; whoever has it may draw and train.
    """

    sections: ClassVar[Sections] = {
        "training": ("runs",),
        "a served model": ("address", "token_file", "tls", "tls_ca", "tls_cert", "tls_key"),
        "the page": ("host", "port", "allow_plaintext", "open"),
    }
    """Headings of the help, and the options below each."""

    models: tuple[str, ...] = field(default=(), metadata=POSITIONAL)
    """Model or run directories of image classifiers. A model's name is its directory's name; NAME=DIR chooses another.
    None: the classifier of handwritten digits that comes with torso."""
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

    serve_playground(options, show)
    return 0
