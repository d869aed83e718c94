"""From a recording to the content of a plot: what there is, what was asked for, what is missing.

Alone here: the defaults, and what is said where something is missing. Invariant: what was asked
for by name is shown or is an error; what was not asked for is shown where the recording has it,
and a note says why it is not.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from ..errors import DCWriteError, FeatureNotFoundError, RecordingError
from ..format.labels import feature_label
from ..format.text import did_you_mean, drawable
from ..store.recording import Recording
from .gallery import evenly, grid_shape, make_gallery, pick_cells
from .plot_content import PANELS, Content, PlotOptions
from .plot_counts import MAX_POINTS, Axis, Counts, Density, count, find_clock, make_axis
from .sampling import Columns, Sample, take_sample

__all__ = ["read_content"]

_X: Final = "area_um"
_Y: Final = "deform"
#: Histograms by default: the first so many of these, channels of fluorescence in any case.
_N_HISTOGRAMS: Final = 8
_PREFERRED: Final = (
    "area_um", "deform", "bright_avg", "bright_sd", "area_ratio", "emodulus", "volume",
    "inert_ratio_cvx", "inert_ratio_prnc", "aspect", "tilt", "size_x", "size_y", "pos_y", "temp",
)  # fmt: skip
#: Width per height of the place for the gallery: (pages, beside the scatter plot) -> number.
_ASPECTS: Final = {
    (False, False): 2.1, (False, True): 1.0, (True, False): 1.55, (True, True): 1.55
}  # fmt: skip
_FLUORESCENCE: Final = ("fl1_max", "fl2_max", "fl3_max")


def read_content(
    recording: Recording,
    options: PlotOptions,
    *,
    title: str | None = None,
    shown: Callable[[int, int], None] | None = None,
) -> Content:
    """Read and count what is to be drawn.

    Parameters
    ----------
    recording
        The recording.
    options
        What to show.
    title
        Instead of the sample's name.
    shown
        Called with (events read so far, events to read).

    Raises
    ------
    FeatureNotFoundError
        A feature that was asked for is not there.
    RecordingError
        There is nothing to draw for a panel that was asked for, or for any.
    """
    reader = _Reader(recording, options)
    content = Content(_title(recording, title), "", len(recording))
    content.pixel_um = _positive(recording, "imaging:pixel size")
    content.panels = reader.panels(content.notes)
    columns = reader.columns(content)
    done = 0

    def show(n_events: int) -> None:
        nonlocal done
        done += n_events
        if shown is not None:  # everything is read twice
            shown(done // 2, columns.n_events)

    show(0)
    n_chosen = columns.n_events if options.events is None else options.events
    content.n_drawn = min(n_chosen, columns.n_events)
    sample = take_sample(columns, min(n_chosen, MAX_POINTS), options.seed, show)
    _count(recording, reader, content, columns, sample, n_chosen, show)
    if "gallery" in content.panels:
        _add_gallery(reader, content, sample)
    content.footer = _footer(recording, content)
    return content


class _Reader:
    """Which features there are, and which of them are wanted."""

    def __init__(self, recording: Recording, options: PlotOptions) -> None:
        self.recording = recording
        self.options = options
        self._names = recording.features
        self._scalars: dict[str, Any] = {}
        self._derive()
        self.plane = (options.x or _X, options.y or _Y)
        for feat in (options.x, options.y):
            if feat is not None:
                self.require(feat)
        self.chosen = self._matching(options.features)
        self.log = self._matching(options.log)

    def scalar(self, feat: str) -> Any:
        """A scalar feature, or None."""
        if feat not in self._names or feat in {"contour", "trace"}:
            return None
        if feat not in self._scalars:
            feature = self.recording[feat]
            is_scalar = len(feature.shape) == 1 and feature.dtype.kind in "biuf"
            self._scalars[feat] = feature if is_scalar else None
        return self._scalars[feat]

    def _derive(self) -> None:
        """Area and deformation, which older recordings have in another form only."""
        pixel_um = _positive(self.recording, "imaging:pixel size")
        for feat, source, scale, offset in (
            ("area_um", "area_cvx", None if pixel_um is None else pixel_um**2, 0.0),
            ("deform", "circ", -1.0, 1.0),
        ):
            given = self.scalar(source)
            if feat not in self._names and given is not None and scale is not None:
                self._scalars[feat] = _Scaled(given, scale, offset)
                self._names.append(feat)

    def scalars(self) -> list[str]:
        """Names of all scalar features."""
        return [name for name in self._names if self.scalar(name) is not None]

    def require(self, feat: str) -> None:
        """Refuse a feature that was asked for and is not there, or is no scalar one."""
        if self.scalar(feat) is None:
            there = self.scalars()
            hint = None if feat in self._names else did_you_mean(feat, there)
            hint = hint or f"there are {', '.join(there) or 'none'}"
            raise FeatureNotFoundError(
                f"'{self.recording.path}': expected a scalar feature, got '{feat}'; {hint}"
                f"{_unreachable(self.recording)}"
            )

    def _matching(self, words: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """Scalar features that names and patterns stand for; each stands for one at least."""
        if words is None:
            return None
        found: list[str] = []
        for word in words:
            if word == "none":
                continue
            known = self.scalars()
            pattern = "*" if word in {"all", "scalar"} else word
            names = fnmatch.filter(known, pattern)
            if not names:
                self.require(word)
            found += names
        return tuple(dict.fromkeys(found))

    def panels(self, notes: list[str]) -> tuple[str, ...]:
        """Panels that there is something for."""
        missing = {}
        wanting = [feat for feat in self.plane if self.scalar(feat) is None]
        if wanting:
            missing["scatter"] = f"no feature {' and no feature '.join(map(repr, wanting))}"
        if self.image_length() is None:
            missing["gallery"] = "neither of the features 'image' and 'mask'"
        if self.scalar("time") is None and self.scalar("frame") is None:
            missing["rate"] = "neither of the features 'time' and 'frame'"
        if not self.histograms():
            missing["histograms"] = "no scalar feature to count"
        hint = _unreachable(self.recording)
        for panel in self.options.panels or ():
            if panel in missing:
                raise RecordingError(
                    f"'{self.recording.path}': panel '{panel}': there is {missing[panel]}{hint}; "
                    f"leave it out of the panels"
                )
        if len(missing) == len(PANELS):
            raise RecordingError(
                f"'{self.recording.path}': nothing to draw: there are neither images, masks nor "
                f"scalar features{hint}; name a recording with events"
            )
        if self.options.panels is None:
            notes += [f"no {panel}: there is {why}{hint}" for panel, why in missing.items()]
        wanted = self.options.panels or PANELS
        return tuple(panel for panel in PANELS if panel in wanted and panel not in missing)

    def image_length(self) -> int | None:
        """Number of events that have an image (or a mask); None: there is no such feature."""
        lengths = [
            len(self.recording[feat])
            for feat in ("image", "mask", "contour")
            if feat in self._names and (feat == "contour" or len(self.recording[feat].shape) == 3)
        ]
        there = {"image", "mask"} & set(self._names)
        return min(lengths) if there and lengths else None

    def histograms(self) -> list[str]:
        """Features to count."""
        if self.chosen is not None:
            return list(self.chosen)
        colours = [feat for feat in _FLUORESCENCE if self.scalar(feat) is not None]
        others = [feat for feat in _PREFERRED if self.scalar(feat) is not None]
        if "bright_avg" not in others:  # of a background that was not subtracted
            corrected = [
                f for f in ("bright_bc_avg", "bright_bc_sd") if self.scalar(f) is not None
            ]
            others[2:2] = corrected
        if not others:
            spare = {*colours, "frame", "time", "index"}
            others = [name for name in self.scalars() if name not in spare]
        return others[: _N_HISTOGRAMS - len(colours)] + colours

    def columns(self, content: Content) -> Columns:
        """Features that have to be read."""
        wanted: list[str] = []
        if {"scatter", "gallery"} & set(content.panels):
            wanted += [feat for feat in self.plane if self.scalar(feat) is not None]
        if "histograms" in content.panels:
            wanted += self.histograms()
        if "rate" in content.panels:
            wanted += [feat for feat in ("time", "frame") if self.scalar(feat) is not None]
        features = {feat: self.scalar(feat) for feat in dict.fromkeys(wanted)}
        lengths = {len(feature) for feature in features.values()}
        if len(lengths) > 1:
            content.notes.append(
                f"features differ in length ({min(lengths):,} to {max(lengths):,} events): the "
                f"first {min(lengths):,} events are drawn; `dcwrite verify` names the features"
            )
        return Columns(features, min(lengths, default=0))

    def axis(self, feat: str, sample: Sample) -> Axis:
        """Axis of a feature."""
        log: bool | None = None if feat.startswith("fl") and feat.endswith("_max") else False
        if self.log is not None:
            log = feat in self.log
        label = feature_label(feat, self.recording.metadata)
        return make_axis(feat, label, sample.values[feat], log=log)


class _Scaled:
    """A scalar feature, times a number, plus another."""

    def __init__(self, source: Any, scale: float, offset: float) -> None:
        self._source, self._scale, self._offset = source, scale, offset
        self.shape, self.dtype = source.shape, np.dtype(np.float64)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, key: Any) -> Any:
        return np.asarray(self._source[key], dtype=np.float64) * self._scale + self._offset


def _count(
    recording: Recording,
    reader: _Reader,
    content: Content,
    columns: Columns,
    sample: Sample,
    n_chosen: int,
    shown: Callable[[int], None],
) -> None:
    """Density, histograms and rate."""
    plane = None
    if "scatter" in content.panels:
        x, y = (reader.axis(feat, sample) for feat in reader.plane)
        plane = x, y
    axes = []
    if "histograms" in content.panels:
        axes = [reader.axis(feat, sample) for feat in reader.histograms()]
    clock = None
    if "rate" in content.panels:
        frame_rate = _positive(recording, "imaging:frame rate")
        clock = find_clock(sample, frame_rate, reader.options.rate_bin)
    counts: Counts = count(
        columns,
        sample,
        plane=plane,
        axes=axes,
        clock=clock,
        n_wanted=n_chosen,
        seed=reader.options.seed,
        shown=shown,
    )
    content.density, content.rate = counts.density, counts.rate
    content.histograms = counts.histograms
    nothing = "no events" if not columns.n_events else "no finite values"
    if counts.density is not None and not counts.density.n_shown:
        content.messages["scatter"] = nothing
    if "rate" in content.panels and clock is None:
        spans = [sample.spans[feat] for feat in ("time", "frame") if feat in sample.spans]
        content.messages["rate"] = "all events at the same time: no rate" if spans else nothing


def _add_gallery(reader: _Reader, content: Content, sample: Sample) -> None:
    """Pick cells, and cut them out."""
    n_images = reader.image_length() or 0
    aspect = _ASPECTS[reader.options.as_pages, "scatter" in content.panels]
    events = evenly(n_images, grid_shape(n_images, aspect))
    x, y = (sample.values.get(feat) for feat in reader.plane)
    if x is not None and y is not None:
        there = sample.events < n_images
        n_valid = int((np.isfinite(x[there]) & np.isfinite(y[there])).sum())
        picked = pick_cells(x[there], y[there], *grid_shape(n_valid, aspect))
        if (picked >= 0).any():
            numbers = sample.events[there]
            events = np.where(picked >= 0, numbers[picked], -1)
            axes = [reader.axis(feat, sample) for feat in reader.plane]
            content.gallery_axes = axes[0], axes[1]
            values = x[there]
            shown = picked[picked >= 0]
            content.gallery_places = values[shown], y[there][shown]
            for column in picked.T:
                here = values[column[column >= 0]]
                if here.size:
                    content.column_ranges.append((float(here.min()), float(here.max())))
    content.gallery = make_gallery(reader.recording, events, content.pixel_um)
    if content.gallery is None:
        content.messages["gallery"] = "no events"
    elif content.pixel_um is None:
        content.notes.append(
            "no metadata 'imaging:pixel size': the scale bar of the gallery is in pixels"
        )


def _positive(recording: Recording, key: str) -> float | None:
    """A positive number of the metadata, or None."""
    value = recording.metadata.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 < value < math.inf else None


def _unreachable(recording: Recording) -> str:
    """Why features of basins are missing, as a continuation of a sentence."""
    try:
        reasons = [status.reason for status in recording.basins if status.reason]
    except DCWriteError:
        return ""
    return f"; some basins cannot be read: {'; '.join(reasons)}" if reasons else ""


def _title(recording: Recording, title: str | None) -> str:
    if title is not None:
        return title
    sample = recording.metadata.get("experiment:sample")
    named = isinstance(sample, str) and sample.strip()
    return drawable(str(sample).strip() if named else recording.path.stem)


def _footer(recording: Recording, content: Content) -> str:
    parts = [drawable(recording.path.name), _events(content.n_events)]
    if content.n_drawn < content.n_events and content.n_drawn:
        parts.append(f"{content.n_drawn:,} of them in density and histograms")
    density: Density | None = content.density
    if density is not None and density.n_shown:
        outside = content.n_drawn - density.n_shown - density.n_unusable
        left_out: Sequence[str] = [
            f"{number:,} {what}"
            for number, what in ((outside, "beyond the axes"), (density.n_unusable, "no numbers"))
            if number
        ]
        if left_out:
            parts.append(f"not in the density: {', '.join(left_out)}")
    return "  ·  ".join(parts)


def _events(number: int) -> str:
    return f"{number:,} event{'' if number == 1 else 's'}"
