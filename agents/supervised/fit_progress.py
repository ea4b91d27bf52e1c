"""Progress display of a fit on stderr."""

from __future__ import annotations

from torso.agents.runs.progress import ProgressDisplay
from torso.agents.supervised.fitting import EpochDone, FitEvent


class FitProgress(ProgressDisplay):
    """Progress of a fit: training loss, validation score, time left without early stopping."""

    def __init__(self, max_epochs: int, preface: str = "", *, shows_end: bool = False) -> None:
        super().__init__("epoch", max_epochs, preface, shows_end=shows_end)
        self._figures = ""

    def on_event(self, event: FitEvent) -> None:
        """Update the display with an event."""
        if isinstance(event, EpochDone):
            self._figures = f"loss {event.loss:.4f}"
            if event.validation is not None:
                self._figures += f"  validation {event.validation.text()}"
            self.show(event.epoch, self._figures, is_line=True)
        else:
            self.show(event.epoch - 1 + event.batch / event.num_batches, self._figures, is_line=False)
