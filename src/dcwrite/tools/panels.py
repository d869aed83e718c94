"""Panels of a plot, drawn with matplotlib: density, gallery, rate, histogram.

Alone here: how a panel looks. Invariant: numbers are drawn as they come; lengths in the gallery
are pixels of the images.
"""

from __future__ import annotations

import textwrap
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.ticker import (
    EngFormatter,
    Formatter,
    FuncFormatter,
    MaxNLocator,
    ScalarFormatter,
)
from matplotlib.transforms import ScaledTranslation

from .density import blurred, density_at
from .gallery import GAP_PX
from .plot_content import Content
from .plot_counts import DENSITY_BINS, Axis, Density, Histogram, Rate, nice_step

__all__ = [
    "INK",
    "PALE",
    "draw_density",
    "draw_gallery",
    "draw_histogram",
    "draw_rate",
    "wrapped",
]

#: Text; axes.
INK: Final = "#22303c"
PALE: Final = "#66717b"
#: Outlines of masks, and marks of the cells that are shown; bars.
_OUTLINE: Final = "#ff9e1b"
_BAR: Final = "#3b6a9c"
#: Perceptually even, and the same for those who see red and green alike.
_COLORS: Final = "viridis"
#: Length of the scale bar: at least this part of a cut-out.
_SCALE_PART: Final = 0.2


def _say(axes: Axes, message: str) -> None:
    """Words where there is nothing to draw."""
    axes.text(0.5, 0.5, message, transform=axes.transAxes, ha="center", va="center", color=PALE)
    axes.set_xticks([])
    axes.set_yticks([])


def wrapped(text: str, width: int) -> str:
    """Text in lines of so many characters."""
    # "$" would begin a formula
    return "\n".join(textwrap.wrap(text, width) or [""]).replace("$", r"\$")


# -- density --------------------------------------------------------------------------------


def draw_density(axes: Axes, content: Content) -> None:
    """Events in a plane: each as a point, or counted."""
    density = content.density
    assert density is not None
    x, y = density.x, density.y
    axes.set_title(f"{_name(y)} against {_name(x)[:1].lower()}{_name(x)[1:]}")
    axes.set_xlabel(wrapped(x.label, 60))
    axes.set_ylabel(wrapped(y.label, 60))
    if not density.n_shown:
        _say(axes, content.messages.get("scatter", "no events"))
        return
    axes.grid(visible=True, color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    drawn = _draw_points(axes, density) if density.points else _draw_counts(axes, density)
    for set_limits, set_scale, ticks, axis in (
        (axes.set_xlim, axes.set_xscale, axes.xaxis, x),
        (axes.set_ylim, axes.set_yscale, axes.yaxis, y),
    ):
        if axis.log:
            set_scale("log")
        else:
            ticks.set_major_formatter(_formatter(axis.low, axis.high))
        set_limits(axis.low, axis.high)
    _mark_cells(axes, content)
    bar = axes.figure.colorbar(drawn, ax=axes, pad=0.015, aspect=40, ticks=[0, 0.25, 0.5, 0.75, 1])
    bar.set_label("Relative density")
    bar.outline.set_visible(False)


def _draw_points(axes: Axes, density: Density) -> Any:
    assert density.points is not None
    _, x, y = density.points
    at = density_at(density.x.place(x), density.y.place(y))
    order = np.argsort(at, kind="stable")
    return axes.scatter(
        x[order],
        y[order],
        c=at[order],
        s=float(np.clip(9000 / len(np.unique(x + 1j * y)), 3, 22)),
        cmap=_COLORS,
        linewidths=0,
        vmin=0,
        vmax=1,
        rasterized=len(x) > 500,
    )


def _draw_counts(axes: Axes, density: Density) -> Any:
    counts = density.counts
    assert counts is not None
    smooth = blurred(counts, (1.2, 1.2))
    shown = np.ma.masked_where(counts == 0, smooth / smooth.max())
    return axes.pcolormesh(
        density.x.edges(DENSITY_BINS),
        density.y.edges(DENSITY_BINS),
        shown.T,
        cmap=_COLORS,
        norm=PowerNorm(0.5, vmin=0, vmax=1),
        rasterized=True,
    )


def _mark_cells(axes: Axes, content: Content) -> None:
    """Rings around the cells of the gallery."""
    places = content.gallery_places
    if places is None or content.gallery is None:
        return
    axes.scatter(
        *places, s=42, facecolors="none", edgecolors=_OUTLINE, linewidths=1.3,
        label="cells in the gallery",
    )  # fmt: skip
    axes.legend(
        loc="lower left", bbox_to_anchor=(0.68, 1.0), frameon=False, fontsize=8,
        borderaxespad=0.2, handletextpad=0.2,
    )  # fmt: skip


def _formatter(low: float, high: float) -> Formatter:
    """Numbers at ticks as they are, without a factor that stands elsewhere."""
    if 1e-3 <= max(abs(low), abs(high)) < 1e7:
        plain = ScalarFormatter(useOffset=False)
        plain.set_scientific(False)
        return plain
    return FuncFormatter(lambda value, _place: f"{value:.4g}")


def _number(value: float) -> str:
    """A number to three digits, without an exponent where that is short."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def _name(axis: Axis) -> str:
    """A label without its unit."""
    return axis.label.partition(" [")[0]


# -- gallery --------------------------------------------------------------------------------


def draw_gallery(axes: Axes, content: Content) -> None:
    """Cells with the outlines of their masks, and a scale bar."""
    gallery = content.gallery
    axes.set_axis_off()
    axes.set_anchor("N")
    outlined = gallery is not None and bool(gallery.outlines or gallery.inside.any())
    axes.set_title("Cells, with the outlines of their masks" if outlined else "Cells")
    if gallery is None:
        _say(axes, content.messages.get("gallery", "no events"))
        return
    low, high = gallery.limits
    axes.imshow(
        np.ma.masked_invalid(gallery.picture), cmap="gray", vmin=low, vmax=high,
        interpolation="nearest",
    )  # fmt: skip
    height, width = gallery.picture.shape
    if gallery.inside.any():
        # a frame of pixels closes outlines at the edge
        padded = np.pad(gallery.inside, 1)
        rows, columns = (np.arange(-1, size + 1) for size in (height, width))
        axes.contour(columns, rows, padded, levels=[0.5], colors=_OUTLINE, linewidths=0.9)
    for outline in gallery.outlines:
        axes.plot(*outline.T, color=_OUTLINE, linewidth=0.9)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    _label_gallery(axes, content)


def _label_gallery(axes: Axes, content: Content) -> None:
    """Ranges, names and the scale bar, in points from the edges of the picture."""
    gallery = content.gallery
    assert gallery is not None
    _, wide = gallery.tile_shape
    height, width = gallery.picture.shape
    bottom = height - 0.5
    style_of: dict[str, Any] = {
        "textcoords": "offset points", "annotation_clip": False, "fontsize": 8,
    }  # fmt: skip
    line = -9.0  # where the scale bar is
    if content.gallery_axes is not None:
        line = -22.0
        x, y = content.gallery_axes
        for column, (low, high) in enumerate(content.column_ranges[: gallery.events.shape[1]]):
            middle = column * (wide + GAP_PX) + wide / 2
            text = _number(low) if low == high else f"{_number(low)}\u2013{_number(high)}"
            axes.annotate(text, (middle, bottom), (0, -3), ha="center", va="top", **style_of)
        axes.annotate(
            f"{wrapped(x.label, 40)}  →", (width - 0.5, bottom), (0, line), ha="right",
            va="center", **style_of,
        )  # fmt: skip
        axes.annotate(
            f"{wrapped(_name(y), 40)}  →", (-0.5, height / 2), (-4, 0), ha="right", va="center",
            rotation=-90, **style_of,
        )  # fmt: skip
    # the bar is as long as it says: it is drawn in pixels of the picture
    unit_px = 1.0 if content.pixel_um is None else 1 / content.pixel_um
    length = nice_step(_SCALE_PART * wide / unit_px)
    end = length * unit_px - 0.5
    below = axes.transData + ScaledTranslation(0, line / 72, axes.figure.dpi_scale_trans)
    axes.plot(
        [-0.5, end], [bottom] * 2, transform=below, clip_on=False, color=INK,
        linewidth=2.5, solid_capstyle="butt",
    )  # fmt: skip
    axes.annotate(
        f"{length:g} {'px' if content.pixel_um is None else 'µm'}", (end, bottom), (5, line),
        ha="left", va="center", **style_of,
    )  # fmt: skip


# -- rate and histogram ---------------------------------------------------------------------


def draw_rate(axes: Axes, content: Content) -> None:
    """Events per second, and their mean."""
    rate: Rate | None = content.rate
    if rate is None:
        axes.set_title("Rate")
        _say(axes, content.messages.get("rate", "no events"))
        return
    unit = rate.unit if rate.unit == "s" else "frames"
    per = "second" if rate.unit == "s" else "frame"
    axes.set_title(f"Rate in bins of {rate.bin_width:g} {unit}")
    axes.stairs(rate.per_unit, rate.edges, fill=True, color=_BAR, alpha=0.25)
    axes.stairs(rate.per_unit, rate.edges, color=_BAR, linewidth=1.2)
    axes.axhline(rate.mean, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_title(
        f"mean {_number(rate.mean)} per {per}", loc="right", fontsize=8, fontweight="normal"
    )
    axes.set_xlim(rate.edges[0], rate.edges[-1])
    axes.xaxis.set_major_formatter(_formatter(rate.edges[0], rate.edges[-1]))
    axes.set_ylim(0, max(float(rate.per_unit.max()) * 1.08, rate.mean * 1.2))
    axes.set_xlabel("Time [s]" if rate.unit == "s" else "Frame")
    axes.set_ylabel(f"Events per {per}")
    axes.yaxis.set_major_locator(MaxNLocator(4))


def draw_histogram(axes: Axes, histogram: Histogram) -> None:
    """Events along one feature, and their median."""
    axis = histogram.axis
    axes.set_xlabel(wrapped(axis.label, 32))
    if axis.is_empty or not histogram.counts.any():
        _say(axes, histogram.message)
        return
    axes.stairs(histogram.counts, histogram.edges, fill=True, color=_BAR, alpha=0.85)
    if axis.log:
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2))
        axes.xaxis.set_major_formatter(_formatter(histogram.edges[0], histogram.edges[-1]))
    axes.set_xlim(histogram.edges[0], histogram.edges[-1])
    axes.set_ylim(0, 1.08 * float(histogram.counts.max()))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    if histogram.median is not None:
        axes.axvline(histogram.median, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_title(
            f"median {_number(histogram.median)}", loc="right", fontsize=8, fontweight="normal"
        )
