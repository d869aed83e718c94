"""What a plot shows: the wishes of a user, and the numbers in the panels.

Alone here: which panels there are. Invariant: what has no number has a message.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..format.text import did_you_mean
from .gallery import Gallery
from .plot_counts import Axis, Density, Histogram, Rate

__all__ = ["PANELS", "Content", "PlotOptions"]

Floats = npt.NDArray[np.float64]

#: Panels in the order in which they are drawn.
PANELS: Final = ("scatter", "gallery", "rate", "histograms")


@dataclass(frozen=True, slots=True)
class PlotOptions:
    """What to show; the fields are the options of `plot`, `as_pages` whether panels have pages."""

    x: str | None = None
    y: str | None = None
    features: tuple[str, ...] | None = None
    events: int | None = None
    panels: tuple[str, ...] | None = None
    log: tuple[str, ...] | None = None
    rate_bin: float | None = None
    seed: int = 0
    as_pages: bool = False

    def __post_init__(self) -> None:
        for panel in self.panels or ():
            if panel not in PANELS:
                hint = did_you_mean(panel, PANELS)
                raise UsageError(
                    f"panels: expected some of {', '.join(PANELS)}, got '{panel}'"
                    + (f"; {hint}" if hint else "")
                )
        if self.panels is not None and not self.panels:
            raise UsageError(f"panels: expected some of {', '.join(PANELS)}, got none")
        if self.events is not None and self.events < 1:
            raise UsageError(f"events: expected at least 1, got {self.events}")
        if self.rate_bin is not None and not (0 < self.rate_bin < math.inf):
            raise UsageError(f"rate_bin: expected a positive number, got {self.rate_bin}")


@dataclass(slots=True)
class Content:
    """Everything that is drawn.

    Attributes
    ----------
    title, footer
        Above and below.
    n_events
        Events of the recording.
    n_drawn
        Events that density and histograms are made of.
    pixel_um
        Size of a pixel; None: not known.
    panels
        Those to draw, in this order.
    density, gallery, rate, histograms
        Their content; None: there is nothing to show, and `messages` says why.
    gallery_axes
        Features by which the columns and rows of the gallery are sorted; None: they are not.
    column_ranges
        Smallest and largest value of the first of these in each column.
    gallery_places
        Values of both of the cells that are shown.
    messages
        Panel -> what stands there instead.
    notes
        What a user should know.
    """

    title: str
    footer: str
    n_events: int
    n_drawn: int = 0
    pixel_um: float | None = None
    panels: tuple[str, ...] = ()
    density: Density | None = None
    gallery: Gallery | None = None
    gallery_axes: tuple[Axis, Axis] | None = None
    column_ranges: list[tuple[float, float]] = field(default_factory=list)
    gallery_places: tuple[Floats, Floats] | None = None
    rate: Rate | None = None
    histograms: list[Histogram] = field(default_factory=list)
    messages: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
