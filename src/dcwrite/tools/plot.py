"""A plot of a recording: density, gallery of cells, rate, histograms; as PNG or PDF.

Alone here: from a recording to a file. Invariant: the file appears complete or not at all, and the
recording is only read; matplotlib is loaded when something is drawn, not before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from ..errors import MissingLibraryError, UsageError
from ..store.whole_file import refuse_same_file, whole_file
from .origins import open_input
from .plot_content import Content, PlotOptions
from .plot_reading import read_content
from .progress import Clock, Report

__all__ = ["KINDS", "PlotSummary", "default_picture", "plot", "require_matplotlib"]

DEFAULT_DPI: Final = 150
#: Below, text cannot be read; above, a figure takes gigabytes of memory.
DPI_RANGE: Final = (40, 1200)
#: Ending -> kind of picture.
KINDS: Final = {".png": "png", ".pdf": "pdf"}


@dataclass(frozen=True, slots=True)
class PlotSummary:
    """What was drawn.

    Attributes
    ----------
    path, path_out
        The recording and the picture.
    n_events, n_drawn
        Events of the recording, and those that density and histograms are made of.
    panels
        Panels that were drawn.
    x, y
        Features of the density; None: it was not drawn.
    features
        Features with a histogram.
    n_cells
        Cells in the gallery.
    rate_bin, rate_mean, rate_unit
        Width of the bins of the rate, and events per unit ("s" or "frames"); None: no rate.
    n_pages
        Pages of a PDF file; 1 for PNG.
    size_bytes
        Size of the picture.
    notes
        What is missing, or was left out.
    elapsed_s
        Wall time.
    """

    path: Path
    path_out: Path
    n_events: int
    n_drawn: int
    panels: tuple[str, ...]
    x: str | None
    y: str | None
    features: tuple[str, ...]
    n_cells: int
    rate_bin: float | None
    rate_mean: float | None
    rate_unit: str | None
    n_pages: int
    size_bytes: int
    notes: tuple[str, ...]
    elapsed_s: float

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {**asdict(self), "path": str(self.path), "path_out": str(self.path_out)}


def plot(
    path: str | os.PathLike[str],
    path_out: str | os.PathLike[str] | None = None,
    *,
    x: str | None = None,
    y: str | None = None,
    features: str | Sequence[str] | None = None,
    events: int | None = None,
    panels: str | Sequence[str] | None = None,
    log: str | Sequence[str] | None = None,
    rate_bin: float | None = None,
    title: str | None = None,
    dpi: int = DEFAULT_DPI,
    one_page: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    basin_roots: Iterable[str | os.PathLike[str]] = (),
    progress: Report | None = None,
) -> PlotSummary:
    """Draw a recording: density, gallery of cells, rate over time, histograms.

    Parameters
    ----------
    path
        The recording; it is only read, block by block.
    path_out
        A .png file (one figure) or .pdf file (one page for each panel); default: the recording's
        name with the ending .png, beside it.
    x, y
        Scalar features of the density; default: "area_um" and "deform". The gallery is sorted by
        them.
    features
        Scalar features to count: names and patterns ("fl*"), or "all"; a list, or one string with
        commas. Default: up to 8 common ones, the fluorescence maxima among them.
    events
        Make density and histograms of so many random events; default: of all. Up to 20 000 events
        are drawn as points, more as a density.
    panels
        Some of "scatter", "gallery", "rate", "histograms"; default: all that the recording has
        data for.
    log
        Features with a logarithmic axis, given as `features`; "none": none. Default: fluorescence
        maxima that are positive and span more than 1.5 decades.
    rate_bin
        Width of the bins of the rate [s]; default: 1, 2 or 5 times a power of ten that gives up to
        80 bins.
    title
        Default: the sample's name.
    dpi
        Pixels per inch.
    one_page
        Whether a PDF file has all panels on one page.
    overwrite
        Whether to replace an existing file.
    seed
        Of the random events.
    basin_roots
        Folders below which basins may be opened, besides that of the recording.
    progress
        Takes records of progress; the stages are "reading" [events] and "drawing" [pages].

    Raises
    ------
    MissingLibraryError
        matplotlib is not installed.
    FeatureNotFoundError, RecordingError
        What was asked for is not in the recording, or there is nothing to draw.
    UsageError
        An option does not fit, or the output is the recording itself.
    StorageError, DamagedFileError
        The recording cannot be read, the output exists already, or the disk refuses.

    Examples
    --------
    >>> summary = plot(path, path.with_suffix(".pdf"), panels=["histograms"])
    >>> summary.features
    ('deform',)
    """
    start = time.perf_counter()
    path = Path(path)
    target = default_picture(path) if path_out is None else Path(path_out)
    kind = _kind_of(target)
    if not DPI_RANGE[0] <= dpi <= DPI_RANGE[1]:
        raise UsageError(f"dpi: expected {DPI_RANGE[0]} to {DPI_RANGE[1]}, got {dpi}")
    options = PlotOptions(
        x,
        y,
        _words(features),
        events,
        _words(panels),
        _words(log),
        rate_bin,
        seed,
        kind == "pdf" and not one_page,
    )
    refuse_same_file(target, [path])
    picture = require_matplotlib()
    with (
        open_input(path, tuple(basin_roots)) as recording,
        whole_file(target, overwrite=overwrite) as temporary,
    ):
        reading: list[Clock] = []

        def shown(done: int, total: int) -> None:
            if not reading:
                reading.append(Clock("reading", total, "events", progress))
            reading[0].show(done)

        content = read_content(recording, options, title=title, shown=shown)
        with picture.our_style():
            figures = picture.make_figures(content, dpi=dpi, as_pages=options.as_pages)
            drawing = Clock("drawing", len(figures), "pages", progress)
            picture.save(figures, temporary, kind=kind, title=content.title, shown=drawing.show)
    return _summary(path, target, content, len(figures), time.perf_counter() - start)


def default_picture(path: Path, kind: str = "png", folder: Path | None = None) -> Path:
    """Where the picture goes when no place is named: beside the recording, or in a folder."""
    return (folder or path.parent) / f"{path.stem}.{kind}"


def require_matplotlib() -> ModuleType:
    """Load what draws.

    Raises
    ------
    MissingLibraryError
        matplotlib is not installed.
    """
    try:
        from . import picture  # noqa: PLC0415 - it loads matplotlib
    except ImportError as exc:
        raise MissingLibraryError(
            'no picture without matplotlib; install it with: pip install "dcwrite[plot]"'
        ) from exc
    return picture


def _kind_of(path: Path) -> str:
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise UsageError(
            f"'{path}': expected a picture with the ending .png or .pdf, got "
            f"'{path.suffix or path.name}'; name such a file"
        )
    return kind


def _words(names: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    words = names.split(",") if isinstance(names, str) else names
    return tuple(word.strip() for word in words if word.strip())


def _summary(
    path: Path, path_out: Path, content: Content, n_pages: int, elapsed_s: float
) -> PlotSummary:
    density, rate = content.density, content.rate
    gallery = content.gallery
    return PlotSummary(
        path=path,
        path_out=path_out,
        n_events=content.n_events,
        n_drawn=content.n_drawn,
        panels=content.panels,
        x=None if density is None else density.x.feature,
        y=None if density is None else density.y.feature,
        features=tuple(histogram.axis.feature for histogram in content.histograms),
        n_cells=0 if gallery is None else int((gallery.events >= 0).sum()),
        rate_bin=None if rate is None else rate.bin_width,
        rate_mean=None if rate is None else rate.mean,
        rate_unit=None if rate is None else rate.unit,
        n_pages=n_pages,
        size_bytes=path_out.stat().st_size,
        notes=tuple(content.notes),
        elapsed_s=elapsed_s,
    )
