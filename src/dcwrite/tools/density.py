"""Densities of points in a plane.

Alone here: how far a point reaches. Invariant: the densest place has density 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .plot_counts import DENSITY_BINS

__all__ = ["blurred", "density_at"]

Floats = npt.NDArray[np.float64]


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
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=DENSITY_BINS)
    # wider for fewer points, by Scott's rule for two dimensions
    width = 0.5 * len(x) ** (-1 / 6)
    sigmas = [
        max(1.0, width * float(values.std()) / float(edges[1] - edges[0]))
        for values, edges in ((x, x_edges), (y, y_edges))
    ]
    counts = blurred(counts, sigmas)
    places = [
        np.clip(np.searchsorted(edges, values, side="right") - 1, 0, DENSITY_BINS - 1)
        for values, edges in ((x, x_edges), (y, y_edges))
    ]
    density = counts[places[0], places[1]]
    return np.asarray(density / density.max(), dtype=np.float64)


def blurred(counts: Floats, sigmas: Sequence[float]) -> Floats:
    """A plane blurred by Gaussians of so many bins."""
    for axis, sigma in enumerate(sigmas):
        reach = int(4 * sigma) + 1
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        counts = np.apply_along_axis(_blurred_line, axis, counts, kernel / kernel.sum())
    return counts


def _blurred_line(line: Floats, kernel: Floats) -> Floats:
    reach = len(kernel) // 2
    return np.convolve(line, kernel)[reach : len(line) + reach]
