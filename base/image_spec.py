"""Description of the images that a data set holds or a model takes: size, channels, polarity, centring, value range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torso.checks import assign, choice, positive, whole
from torso.errors import SpecError

Layout = Literal["hw", "chw", "hwc", "tchw", "thwc"]  # the axes of an image: height, width, channels; t: of a stack
Polarity = Literal["light-on-dark", "dark-on-light", "none"]
Centring = Literal["none", "box", "mass"]
ATARI_STACK = (4, 84, 84)  # frames, height, width (Mnih et al. 2015)


def is_atari_stack(shape: tuple[int, ...], dtype: str) -> bool:
    """Whether an input is Atari's observation as Mnih et al. 2015 preprocess it: four frames, uint8 [4, 84, 84]."""
    return shape == ATARI_STACK and dtype == "uint8"


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """Image preprocessing: the size and form to which an image file is brought before it is an input.

    A flat input holds the pixels row by row, a pixel's channels together.
    """

    channels: int
    """1 (gray) or 3 (red, green, blue)."""
    height: int
    """In pixels."""
    width: int
    """In pixels."""
    polarity: Polarity = "light-on-dark"
    """Polarity of the training images: light strokes on a dark background or the reverse.

    A file of the other polarity is inverted, and a blank one refused; with ``none`` (photographs) it is taken as it is.
    """
    centring: Centring = "none"
    """``none`` scales the whole image, ``box`` crops to the strokes and fills the frame with them.

    ``mass`` fits the strokes into 20/28 of the frame and moves their centre of mass to its middle (how MNIST was made,
    LeCun et al. 1998). ``box`` and ``mass`` map the paper's gray to the background's value, and the strongest ink to
    the other end. Images whose strokes lie so already are not centred.
    """
    max_value: float = 255.0
    """The input's value for the lightest pixel."""

    def __post_init__(self) -> None:
        assign(
            self,
            channels=whole("channels", self.channels),
            height=whole("height", self.height),
            width=whole("width", self.width),
            max_value=positive("max_value", self.max_value),
        )
        if self.channels not in (1, 3):
            raise SpecError(f"channels must be 1 (gray) or 3 (red, green, blue), got {self.channels}")
        choice("polarity", self.polarity, ("light-on-dark", "dark-on-light", "none"))
        choice("centring", self.centring, ("none", "box", "mass"))
        if self.polarity == "none" and self.centring != "none":
            raise SpecError(
                f"centring must be 'none' where polarity is 'none', got {self.centring!r}, which looks for strokes; "
                "choose the polarity of the strokes, or centring='none'"
            )
