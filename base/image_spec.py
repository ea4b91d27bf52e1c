"""Description of the images that a data set holds or a model takes: size, channels, polarity, centring, value range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torso.checks import assign, choice, positive, whole
from torso.errors import SpecError

Layout = Literal["hw", "chw", "hwc"]  # the axes of an image: height, width, channels
Polarity = Literal["light-on-dark", "dark-on-light", "none"]
Centring = Literal["none", "box", "mass"]


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """How an image file becomes an input: what the network was trained to look at.

    ``polarity`` is the writing the network knows, light strokes on a dark ground or the reverse; a file of the other
    polarity is inverted; with ``none`` (photographs) it is taken as it is. ``centring``: ``none`` scales the whole
    picture, ``box`` crops to the strokes first and fills the frame with them, ``mass`` fits them into 20/28 of the
    frame and moves their centre of mass to its middle (how MNIST was made, LeCun et al. 1998); both make the paper's
    gray the ground's. ``max_value`` is the input's value for the lightest pixel. A flat input holds the pixels row
    by row, a pixel's channels together.
    """

    channels: int
    height: int
    width: int
    polarity: Polarity = "light-on-dark"
    centring: Centring = "none"
    max_value: float = 255.0

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
            raise SpecError(f"centring {self.centring!r} looks for strokes, which polarity 'none' says there are not")
