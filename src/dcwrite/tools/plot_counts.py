"""Numbers behind a plot: limits, densities, histograms, rates.

Alone here: how wide bins and axes are. Invariant: every event is counted or its absence is told
(`n_unusable`, `n_outside`); memory does not grow with the recording.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from .sampling import Columns, Sample, chosen_rows

__all__ = [
    "MAX_POINTS",
    "Axis",
    "Counts",
    "Density",
    "Histogram",
    "Rate",
    "count",
    "find_clock",
    "make_axis",
    "nice_step",
]

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

#: Up to so many events are drawn as points, more as a density; limits come from so many.
MAX_POINTS: Final = 20_000
#: Share of the events at either end that may be outside of the limits.
_TAIL: Final = 0.001
#: Bins of a density along an axis.
DENSITY_BINS: Final = 160
#: Features that take so few values have a bin for each of them.
MAX_LEVELS: Final = 80
#: Fewest and most bins of a rate, unless their width is given.
_RATE_BINS: Final = (4, 80)
MAX_RATE_BINS: Final = 5000


# -- axes -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Axis:
    """What is along an axis.

    Attributes
    ----------
    feature, label
        Name, and its label with the unit.
    low, high
        Limits, of which at most 1 in 1000 values at either end are outside.
    log
        Whether it is logarithmic.
    is_empty
        Whether there is no value to show; the limits then are arbitrary.
    """

    feature: str
    label: str
    low: float
    high: float
    log: bool = False
    is_empty: bool = False

    def place(self, values: Floats) -> Floats:
        """Where values are along the axis, from 0 to 1; NaN where they cannot be shown."""
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.log:
                places = np.log(np.where(values > 0, values, np.nan) / self.low)
                places /= math.log(self.high / self.low)
            else:
                places = (values - self.low) / (self.high - self.low)
        return np.asarray(np.where(np.isfinite(places), places, np.nan), dtype=np.float64)

    def edges(self, n_bins: int) -> Floats:
        """Edges of bins that look equally wide."""
        if self.log:
            return np.geomspace(self.low, self.high, n_bins + 1)
        return np.linspace(self.low, self.high, n_bins + 1)


def make_axis(feature: str, label: str, values: Floats, *, log: bool | None = False) -> Axis:
    """Axis with limits that leave out the outermost thousandths.

    Parameters
    ----------
    feature, label
        Name and label.
    values
        A sample, shape (n,).
    log
        None: logarithmic where all values are positive and span more than 1.5 decades.
    """
    usable = values[np.isfinite(values)]
    if log is None:
        log = bool(usable.size) and bool(usable.min() > 0)
        log = log and float(np.log10(np.divide(*np.quantile(usable, [1 - _TAIL, _TAIL])))) > 1.5
    if log:
        usable = np.log10(usable[usable > 0])
    if not usable.size:
        return Axis(feature, label, 1.0 if log else 0.0, 10.0 if log else 1.0, log, is_empty=True)
    low, high = (float(value) for value in np.quantile(usable, [_TAIL, 1 - _TAIL]))
    margin = 0.06 * (high - low)
    if margin <= 1e-6 * max(abs(low), abs(high)):  # all the same but for rounding
        margin = 0.5 if log else 0.1 * abs(low) or 1.0
    low, high = low - margin, high + margin
    return Axis(feature, label, *((10**low, 10**high) if log else (low, high)), log)


# -- what is counted ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Histogram:
    """Events along one axis.

    Attributes
    ----------
    axis
        The feature.
    edges, counts
        Shapes (bins + 1,) and (bins,).
    median
        Of the finite values of the sample; None: there is none.
    n_unusable, n_outside
        Events without a finite (on a logarithmic axis: positive) value, and beyond the limits.
    """

    axis: Axis
    edges: Floats
    counts: Indices
    median: float | None
    n_unusable: int
    n_outside: int

    @property
    def message(self) -> str:
        """What stands there where there is nothing to draw."""
        if not self.n_unusable:
            return "no events"
        return "no positive values" if self.axis.log else "no finite values"


@dataclass(frozen=True, slots=True)
class Density:
    """Events in a plane.

    Attributes
    ----------
    x, y
        The axes.
    points
        Events and their values along x and y, if there are few enough to draw each.
    counts
        Else: events per bin, shape (bins along x, bins along y).
    n_shown, n_unusable
        Events inside the limits, and those without a value for both axes.
    """

    x: Axis
    y: Axis
    points: tuple[Indices, Floats, Floats] | None
    counts: Floats | None
    n_shown: int
    n_unusable: int


@dataclass(frozen=True, slots=True)
class Rate:
    """Events over time.

    Attributes
    ----------
    edges
        Edges of the bins [unit], shape (bins + 1,).
    per_unit
        Events per unit in each bin, shape (bins,).
    bin_width
        Width of the bins [unit]; the last one may be up to half as wide again, or narrower.
    mean
        Events per unit from the first to the last.
    unit
        "s", or "frames" where no frame rate is known.
    source
        "time", "frame / frame rate", or "frame".
    """

    edges: Floats
    per_unit: Floats
    bin_width: float
    mean: float
    unit: str
    source: str


@dataclass(frozen=True, slots=True)
class Clockwork:
    """How the rate is made: the feature with the time, and what a unit of it is."""

    feature: str
    scale: float
    unit: str
    source: str
    edges: Floats
    bin_width: float


def nice_step(width: float) -> float:
    """The next larger of 1, 2, 5, 10, 20, 50 ..."""
    power = 10.0 ** math.floor(math.log10(width))
    return next(power * step for step in (1, 2, 5, 10) if power * step >= width * (1 - 1e-9))


def find_clock(
    sample: Sample, frame_rate: float | None, rate_bin: float | None
) -> Clockwork | None:
    """Where the time comes from, and the bins; None: there is no time, or no duration."""
    if "time" in sample.spans:
        feature, scale, unit, source = "time", 1.0, "s", "time"
    elif "frame" not in sample.spans:
        return None
    elif frame_rate is not None:
        feature, scale, unit, source = "frame", 1 / frame_rate, "s", "frame / frame rate"
    else:
        feature, scale, unit, source = "frame", 1.0, "frames", "frame"
    start, stop = (value * scale for value in sample.spans[feature])
    duration = stop - start
    if duration <= 1e-9 * max(abs(start), abs(stop)):
        return None
    n_bins = float(np.clip(2 * math.sqrt(sample.n_events), *_RATE_BINS))
    width = nice_step(duration / n_bins) if rate_bin is None else rate_bin
    if unit == "frames":
        width = max(1.0, width)
    n_edges = max(1, math.ceil(duration / width - 1e-9))
    if n_edges > MAX_RATE_BINS:
        raise UsageError(
            f"rate_bin: expected at least {duration / MAX_RATE_BINS:.3g} {unit} (a recording of "
            f"{duration:.4g} {unit} in up to {MAX_RATE_BINS} bins), got {width:g}"
        )
    edges: Floats = start + width * np.arange(n_edges + 1, dtype=np.float64)
    edges[-1] = stop
    if n_edges > 1 and edges[-1] - edges[-2] < 0.5 * width:
        edges = np.delete(edges, -2)
    return Clockwork(feature, scale, unit, source, edges, width)


@dataclass(frozen=True, slots=True)
class Counts:
    """Everything that is counted over all events."""

    density: Density | None
    histograms: list[Histogram]
    rate: Rate | None


def count(
    columns: Columns,
    sample: Sample,
    *,
    plane: tuple[Axis, Axis] | None,
    axes: Sequence[Axis],
    clock: Clockwork | None,
    n_wanted: int,
    seed: int,
    shown: Callable[[int], None] | None = None,
) -> Counts:
    """Count events: one pass over the recording.

    Parameters
    ----------
    columns, sample
        The features, and what `take_sample` returned.
    plane
        Axes of the density.
    axes
        Axes of the histograms.
    clock
        Of the rate, for which all events count.
    n_wanted, seed
        The random subset that density and histograms are made of.
    shown
        As for `Columns.blocks`.
    """
    bins = [_bins(axis, sample) for axis in axes]
    counts = [np.zeros(len(edges) + 1, dtype=np.int64) for edges in bins]
    unusable = [0] * len(axes)
    in_plane, n_off_plane = np.zeros(DENSITY_BINS**2), 0
    n_chosen = min(n_wanted, columns.n_events)
    ticks = np.zeros(0 if clock is None else len(clock.edges) - 1, dtype=np.int64)
    rows_of = dict(chosen_rows(columns.n_events, n_wanted, seed))
    names = [axis.feature for axis in (*(plane or ()), *axes)]
    for start, block in columns.blocks([*names, *([clock.feature] if clock else [])], shown):
        if clock is not None:
            times = block[clock.feature] * clock.scale
            where = np.searchsorted(clock.edges, times[np.isfinite(times)], side="right") - 1
            ticks += np.bincount(np.clip(where, 0, len(ticks) - 1), minlength=len(ticks))
        rows = rows_of[start]
        part = block if rows is None else {name: block[name][rows] for name in names}
        for number, (axis, edges) in enumerate(zip(axes, bins, strict=True)):
            values = part[axis.feature]
            usable = values[np.isfinite(values) & ((values > 0) | (not axis.log))]
            unusable[number] += len(values) - len(usable)
            places = np.searchsorted(edges, usable, side="right")
            places[usable == edges[-1]] = len(edges) - 1
            counts[number] += np.bincount(places, minlength=len(edges) + 1)
        if plane is not None and n_chosen > MAX_POINTS:
            found, n_unusable = _plane_counts(plane, part)
            in_plane += found
            n_off_plane += n_unusable
    return Counts(
        None if plane is None else _density(plane, sample, in_plane, n_off_plane),
        [
            Histogram(
                axis,
                edges,
                found[1:-1],
                _median(sample.values[axis.feature], log=axis.log),
                n_unusable,
                int(found[0] + found[-1]),
            )
            for axis, edges, found, n_unusable in zip(axes, bins, counts, unusable, strict=True)
        ],
        None if clock is None else _rate(clock, ticks),
    )


def _bins(axis: Axis, sample: Sample) -> Floats:
    """Edges by the rule of Freedman and Diaconis, 10 to 80; one bin for each of few levels."""
    values = sample.values[axis.feature]
    inside = values[(values >= axis.low) & (values <= axis.high)]
    if not axis.log and (levels := _levels(inside)) is not None:
        low, high, step = levels
        n_levels = round((high - low) / step) + 1
        spare = max(0, (4 - n_levels) // 2 + 1)  # one bar alone would fill the panel
        numbers: Floats = np.arange(-spare, n_levels + spare + 1, dtype=np.float64)
        return low + step * (numbers - 0.5)
    places = axis.place(inside)
    quartiles = np.quantile(places, [0.25, 0.75]) if places.size else np.array([0.0, 1.0])
    width = 2 * float(quartiles[1] - quartiles[0]) * max(1, len(inside)) ** (-1 / 3)
    most = int(np.clip(2 * math.sqrt(len(inside)), 10, 80))
    return axis.edges(int(np.clip(math.ceil(1 / width), 10, most)) if width > 0.0125 else most)


def _levels(values: Floats) -> tuple[float, float, float] | None:
    """Lowest, highest and distance of values that are few and equally far apart, or None."""
    found = np.unique(values)
    if not 2 <= len(found) <= MAX_LEVELS or 2 * len(found) > len(values):
        return None
    step = float(np.diff(found).min())
    places = (found - found[0]) / step
    if places[-1] >= MAX_LEVELS or not np.allclose(places, np.round(places), atol=0.02):
        return None
    return float(found[0]), float(found[-1]), step


def _plane_counts(plane: tuple[Axis, Axis], part: Mapping[str, Floats]) -> tuple[Floats, int]:
    """Events per bin, and those that have no place."""
    x, y = (axis.place(part[axis.feature]) for axis in plane)
    inside = (x >= 0) & (x < 1) & (y >= 0) & (y < 1)  # false for NaN
    columns, rows = ((place[inside] * DENSITY_BINS).astype(np.int64) for place in (x, y))
    found = np.bincount(columns * DENSITY_BINS + rows, minlength=DENSITY_BINS**2)
    return found.astype(np.float64), int((np.isnan(x) | np.isnan(y)).sum())


def _density(
    plane: tuple[Axis, Axis], sample: Sample, in_plane: Floats, n_off_plane: int
) -> Density:
    x, y = (sample.values[axis.feature] for axis in plane)
    places = [axis.place(values) for axis, values in zip(plane, (x, y), strict=True)]
    usable = np.isfinite(places[0]) & np.isfinite(places[1])
    if in_plane.any() or n_off_plane:
        counts = in_plane.reshape(DENSITY_BINS, DENSITY_BINS)
        return Density(*plane, None, counts, int(counts.sum()), n_off_plane)
    inside = usable.copy()
    for place in places:
        inside[usable] &= (place[usable] >= 0) & (place[usable] <= 1)
    points = (sample.events[inside], x[inside], y[inside])
    return Density(*plane, points, None, int(inside.sum()), int((~usable).sum()))


def _median(values: Floats, *, log: bool) -> float | None:
    usable = values[np.isfinite(values) & ((values > 0) | (not log))]
    return float(np.median(usable)) if usable.size else None


def _rate(clock: Clockwork, ticks: Indices) -> Rate:
    widths = np.diff(clock.edges)
    mean = float(ticks.sum() / (clock.edges[-1] - clock.edges[0]))
    return Rate(clock.edges, ticks / widths, clock.bin_width, mean, clock.unit, clock.source)
