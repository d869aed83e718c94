"""Figures and pages of a plot, drawn with matplotlib.

Alone here: sizes, places and files. Invariant: nothing of pyplot, and of the settings of
the program that calls, is used or changed: the same content gives the same picture everywhere.

Import it late: it loads matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecFromSubplotSpec, SubplotSpec
from matplotlib.layout_engine import ConstrainedLayoutEngine

from .. import __version__
from .panels import INK, PALE, draw_density, draw_gallery, draw_histogram, draw_rate, wrapped
from .plot_content import Content
from .plot_counts import Histogram

__all__ = ["make_figures", "our_style", "save"]

#: Sizes [inch].
_WIDTH: Final = 11.0
_HEIGHTS: Final = {"top": 5.4, "rate": 2.0, "histograms": 1.9}
_PAGES: Final = {"scatter": (9.0, 7.0), "gallery": (10.0, 7.8), "rate": (11.0, 4.5)}
_HISTOGRAMS_PER_ROW: Final = 4
_HISTOGRAMS_PER_PAGE: Final = 12


@contextmanager
def our_style() -> Iterator[None]:
    """Defaults of matplotlib instead of the user's, and sizes for print."""
    ours = {
        "font.size": 9.0,
        "axes.labelcolor": INK,
        "axes.edgecolor": PALE,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 10.0,
        "axes.titleweight": "bold",
        "axes.titlecolor": INK,
        "xtick.color": PALE,
        "ytick.color": PALE,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "text.color": INK,
        "pdf.fonttype": 42,  # text stays text in programs that edit figures
    }
    with style.context(["default", ours]):
        yield


def make_figures(content: Content, *, dpi: float, as_pages: bool) -> list[Figure]:
    """Draw: one figure, or one for each panel.

    Parameters
    ----------
    content
        What to draw.
    dpi
        Pixels per inch.
    as_pages
        Whether each panel has a page of its own; histograms as many as they need.
    """
    if not as_pages:
        return [_one_figure(content, dpi)]
    figures = []
    for panel in content.panels:
        if panel != "histograms":
            figure = _new_figure(content, _PAGES[panel], dpi)
            _draw_panel(figure, figure.add_gridspec(1, 1)[0], panel, content)
            figures.append(figure)
            continue
        for start in range(0, len(content.histograms), _HISTOGRAMS_PER_PAGE):
            part = content.histograms[start : start + _HISTOGRAMS_PER_PAGE]
            n_rows = -(-len(part) // _HISTOGRAMS_PER_ROW)
            figure = _new_figure(content, (_WIDTH, 1.2 + 2.2 * n_rows), dpi)
            _draw_histograms(figure, figure.add_gridspec(1, 1)[0], part, n_rows=n_rows)
            figures.append(figure)
    return figures


def save(
    figures: Sequence[Figure],
    path: Path,
    *,
    kind: str,
    title: str,
    shown: Callable[[int], None],
) -> None:
    """Write a PNG file of one figure, or a PDF file of several.

    Parameters
    ----------
    figures
        What `make_figures` returned.
    path
        The file.
    kind
        "png" or "pdf".
    title
        For the file's metadata.
    shown
        Called with the number of pages that are done.
    """
    software = f"dcwrite {__version__}"
    if kind == "png":
        figures[0].savefig(path, format="png", metadata={"Title": title, "Software": software})
        shown(1)
        return
    from matplotlib.backends.backend_pdf import PdfPages  # noqa: PLC0415 - only for PDF

    # no date: the same recording gives the same file
    about = {"Title": title, "Creator": software, "CreationDate": None}
    with PdfPages(path, metadata=about) as pages:
        for number, figure in enumerate(figures):
            pages.savefig(figure)
            shown(number + 1)


# -- figures --------------------------------------------------------------------------------


def _new_figure(content: Content, size: tuple[float, float], dpi: float) -> Figure:
    layout = ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.09, wspace=0.02, hspace=0.03)
    figure = Figure(figsize=size, dpi=dpi, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    # as many characters as fit into the width, of 13 and of 8 points
    title, footer = wrapped(content.title, int(8 * size[0])), content.footer
    figure.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold")
    figure.supxlabel(
        wrapped(footer, int(14 * size[0])), x=0.012, ha="left", fontsize=8, color=PALE
    )
    return figure


def _one_figure(content: Content, dpi: float) -> Figure:
    top = [panel for panel in ("scatter", "gallery") if panel in content.panels]
    n_rows = -(-max(1, len(content.histograms)) // _HISTOGRAMS_PER_ROW)
    rows = {"top": _HEIGHTS["top"]} if top else {}
    if top == ["gallery"] and content.gallery is not None:
        height, width = content.gallery.picture.shape
        rows["top"] = min(rows["top"], (_WIDTH - 0.4) * height / width + 0.8)
    if "rate" in content.panels:
        rows["rate"] = _HEIGHTS["rate"]
    if "histograms" in content.panels:
        rows["histograms"] = _HEIGHTS["histograms"] * n_rows + 0.25
    width = _WIDTH * (0.62 if len(content.panels) == len(top) == 1 else 1)
    figure = _new_figure(content, (width, 0.8 + sum(rows.values())), dpi)
    grid = figure.add_gridspec(len(rows), 1, height_ratios=list(rows.values()))
    for number, row in enumerate(rows):
        place = grid[number]
        if row == "histograms":
            _draw_histograms(figure, place, content.histograms, n_rows=n_rows)
            continue
        panels = top if row == "top" else [row]
        ratios = [1.12, 1.0][: len(panels)]
        parts = GridSpecFromSubplotSpec(1, len(panels), place, width_ratios=ratios, wspace=0.08)
        for number_in_row, panel in enumerate(panels):
            _draw_panel(figure, parts[number_in_row], panel, content)
    return figure


def _draw_panel(figure: Figure, place: SubplotSpec, panel: str, content: Content) -> None:
    axes = figure.add_subplot(place)
    if panel == "scatter":
        draw_density(axes, content)
    elif panel == "gallery":
        draw_gallery(axes, content)
    else:
        draw_rate(axes, content)


def _draw_histograms(
    figure: Figure, place: SubplotSpec, histograms: Sequence[Histogram], *, n_rows: int
) -> None:
    n_columns = _HISTOGRAMS_PER_ROW if n_rows > 1 else min(_HISTOGRAMS_PER_ROW, len(histograms))
    parts = GridSpecFromSubplotSpec(n_rows, max(1, n_columns), place)
    for number, histogram in enumerate(histograms):
        axes = figure.add_subplot(parts[number // n_columns, number % n_columns])
        draw_histogram(axes, histogram)
        if number % n_columns == 0:
            axes.set_ylabel("Events")
