"""The picture of a recording: columns of cells, and deformation against area.

Alone here: matplotlib, which is loaded only when something is drawn. Invariant: what is drawn is
what the file holds: images, masks and features are read from it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from ..store.recording import Recording
from ..store.whole_file import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["MatplotlibMissingError", "draw", "pick_cells"]

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

N_COLUMNS: Final = 5
N_ROWS: Final = 7
#: Height and width of the cut-outs around cells [px].
CUT_PX: Final = (40, 68)
#: Length of the scale bar [um].
SCALE_UM: Final = 10.0
#: Height of the titles in the figure.
TITLE_Y: Final = 0.94
#: Outlines of masks, and marks of the cells that are shown; text and axes.
_OUTLINE: Final = "#ffb000"
_INK: Final = "#22303c"
_DENSITY_BINS: Final = 160


class MatplotlibMissingError(ImportError):
    """matplotlib is not installed."""


def draw(
    path: str | os.PathLike[str], picture: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Draw a recording into a PNG file.

    Parameters
    ----------
    path
        A recording with the features image, mask, area_um and deform.
    picture
        The picture; it appears when it is complete.
    overwrite
        Whether to replace an existing file.

    Raises
    ------
    MatplotlibMissingError
        matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - loaded late
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as exc:
        raise MatplotlibMissingError(
            'no picture without matplotlib; install it with: pip install "dcwrite[plot]"'
        ) from exc
    with Recording(path) as recording:
        figure = Figure(figsize=(13, 6.6), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)
        _fill(figure, recording)
    with whole_file(picture, overwrite=overwrite) as temporary:
        figure.savefig(temporary, format="png")


def _fill(figure: Figure, recording: Recording) -> None:
    area = np.asarray(recording["area_um"][:], dtype=np.float64)
    deform = np.asarray(recording["deform"][:], dtype=np.float64)
    pixel_um = float(recording.metadata.get("imaging:pixel size", 0.34))
    picked = pick_cells(area, deform)
    parts: Any = figure.subfigures(1, 2, width_ratios=[1.08, 1])
    left, right = parts
    _draw_cells(left, recording, picked, area, pixel_um)
    axes = right.subplots()
    right.subplots_adjust(left=0.13, right=0.99, bottom=0.12, top=0.91)
    right.text(0.13, TITLE_Y, "Deformation against area", color=_INK, fontsize=12, weight="bold")
    _draw_scatter(axes, area, deform, picked.ravel())
    figure.text(
        0.012,
        0.012,
        f"{Path(recording.path).name}: {len(recording):,} events",
        color="0.45",
        fontsize=8,
    )


def pick_cells(area: Floats, deform: Floats) -> Indices:
    """Cells that show the range: columns by area, in each rows by deformation.

    Parameters
    ----------
    area, deform
        Shape (events,).

    Returns
    -------
    ndarray, shape (rows, columns)
        Events; -1 where there are too few.
    """
    picked = np.full((N_ROWS, N_COLUMNS), -1, dtype=np.int64)
    valid = np.flatnonzero(np.isfinite(area) & np.isfinite(deform))
    by_area = valid[np.argsort(area[valid], kind="stable")]
    for column, group in enumerate(np.array_split(by_area, N_COLUMNS)):
        by_deform = group[np.argsort(deform[group], kind="stable")]
        n_shown = min(N_ROWS, len(by_deform))
        places = np.linspace(0.02, 0.98, n_shown) * max(0, len(by_deform) - 1)
        picked[:n_shown, column] = by_deform[np.round(places).astype(np.int64)]
    return picked


def _draw_cells(
    figure: Any, recording: Recording, picked: Indices, area: Floats, pixel_um: float
) -> None:
    axes = figure.subplots(N_ROWS, N_COLUMNS, squeeze=False)
    figure.subplots_adjust(
        left=0.06, right=0.985, bottom=0.06, top=0.845, wspace=0.05, hspace=0.05
    )
    figure.text(
        0.06,
        TITLE_Y,
        "Cells as stored, with the outlines of their masks",
        color=_INK,
        fontsize=12,
        weight="bold",
    )
    images, masks = recording["image"], recording["mask"]
    for (row, column), event in np.ndenumerate(picked):
        ax = axes[row, column]
        ax.set_axis_off()
        if event < 0:
            continue
        image, mask = images[int(event)], masks[int(event)]
        cut = _cut_out(mask)
        ax.imshow(image[cut], cmap="gray", vmin=90, vmax=230, interpolation="nearest")
        if mask[cut].any() and not mask[cut].all():
            ax.contour(mask[cut], levels=[0.5], colors=_OUTLINE, linewidths=1.0)
    for column in range(N_COLUMNS):
        shown = area[picked[:, column][picked[:, column] >= 0]]
        if len(shown):
            axes[0, column].set_title(
                f"{shown.min():.0f} to {shown.max():.0f} µm²", fontsize=9, color=_INK
            )
    figure.text(0.522, 0.89, "area  →", ha="center", color=_INK, fontsize=10)
    figure.text(0.022, 0.45, "deformation  →", rotation=-90, va="center", color=_INK, fontsize=10)
    _draw_scale(axes[-1, 0], pixel_um)


def _cut_out(mask: npt.NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns of an image around the middle of a cell."""
    cut = []
    for axis, length in enumerate(CUT_PX):
        size = mask.shape[axis]
        places = np.flatnonzero(mask.any(axis=1 - axis))
        middle = (int(places[0]) + int(places[-1]) + 1) // 2 if len(places) else size // 2
        start = max(0, min(middle - length // 2, size - length))
        cut.append(slice(start, start + length))
    return cut[0], cut[1]


def _draw_scale(ax: Axes, pixel_um: float) -> None:
    length = SCALE_UM / pixel_um
    x, y = 4.0, CUT_PX[0] - 5.0
    ax.plot([x, x + length], [y, y], color="white", linewidth=2.5, solid_capstyle="butt")
    ax.text(
        x + length / 2,
        y - 2,
        f"{SCALE_UM:.0f} µm",
        color="white",
        fontsize=7,
        ha="center",
        va="bottom",
    )


def _draw_scatter(ax: Axes, area: Floats, deform: Floats, picked: Indices) -> None:
    valid = np.isfinite(area) & np.isfinite(deform)
    x, y = area[valid], deform[valid]
    ax.set_xlabel("area [µm²]", color=_INK, fontsize=11)
    ax.set_ylabel("deformation", color=_INK, fontsize=11)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.grid(visible=True, color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
    if not len(x):
        ax.text(0.5, 0.5, "no events", transform=ax.transAxes, ha="center", color="0.5")
        return
    density = density_at(x, y)
    order = np.argsort(density)
    n_places = len(np.unique(x + 1j * y))
    points = ax.scatter(
        x[order],
        y[order],
        c=density[order],
        s=float(np.clip(9000 / n_places, 3, 18)),
        cmap="viridis",
        linewidths=0,
        vmin=0,
        vmax=1,
    )
    shown = picked[picked >= 0]
    ax.scatter(
        area[shown],
        deform[shown],
        s=48,
        facecolors="none",
        edgecolors=_OUTLINE,
        linewidths=1.4,
        label="cells on the left",
    )
    ax.legend(loc="upper left", frameon=False, fontsize=9, labelcolor=_INK)
    ax.set_xlim(*_limits(x))
    ax.set_ylim(*_limits(y))
    bar = ax.figure.colorbar(points, ax=ax, pad=0.02, aspect=40, ticks=[0, 0.5, 1])
    bar.set_label("relative density", color=_INK)
    bar.outline.set_visible(False)


def _limits(values: Floats) -> tuple[float, float]:
    """Axis limits that leave out the outermost thousandths."""
    low, high = np.quantile(values, [0.001, 0.999])
    margin = 0.06 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def density_at(x: Floats, y: Floats) -> Floats:
    """Density of points around each of them, relative to the densest place.

    Parameters
    ----------
    x, y
        Shape (points,), finite.

    Returns
    -------
    ndarray, shape (points,)
        From 0 to 1.
    """
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=_DENSITY_BINS)
    # wider for fewer points, by Scott's rule for two dimensions
    width = 0.5 * len(x) ** (-1 / 6)
    for axis, (values, edges) in enumerate(((x, x_edges), (y, y_edges))):
        sigma_bins = max(1.0, width * float(values.std()) / float(edges[1] - edges[0]))
        reach = int(4 * sigma_bins) + 1
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_bins) ** 2)
        counts = np.apply_along_axis(_blurred, axis, counts, kernel)
    places = [
        np.clip(np.searchsorted(edges, values, side="right") - 1, 0, _DENSITY_BINS - 1)
        for values, edges in ((x, x_edges), (y, y_edges))
    ]
    density = counts[places[0], places[1]]
    return np.asarray(density / density.max(), dtype=np.float64)


def _blurred(line: Floats, kernel: Floats) -> Floats:
    reach = len(kernel) // 2
    return np.convolve(line, kernel)[reach:-reach]
