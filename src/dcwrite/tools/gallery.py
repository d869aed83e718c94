"""A gallery of cells: which ones stand for all, and the parts of the images around them.

Alone here: what is cut out of an image. Invariant: pixels are shown as they are stored, at one
scale; what is cut out lies inside the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..store.recording import Recording

__all__ = ["GAP_PX", "Gallery", "evenly", "grid_shape", "make_gallery", "pick_cells"]

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

#: Most cells that are shown.
MAX_CELLS: Final = 40
#: Pixels between two cut-outs, and around a cell.
GAP_PX: Final = 2
_MARGIN_PX: Final = 8
#: Smallest height of a cut-out [px], and its width per height; cells longer than this many times
#: the median one are cut.
_SMALLEST_PX: Final = 32
_ASPECT: Final = 1.6
_LONGEST: Final = 1.8


@dataclass(frozen=True, slots=True)
class Gallery:
    """Cut-outs in rows and columns, as one picture.

    Attributes
    ----------
    events
        Number of the event in each place, -1: none; shape (rows, columns).
    picture
        Grey values, NaN between and where nothing is; shape (H, W).
    inside
        Whether a pixel is inside of a cell's mask; shape (H, W).
    outlines
        Outlines of cells as points (x, y) in the picture, where they come from contours.
    tile_shape
        Height and width of a cut-out [px].
    limits
        Grey values that become black and white.
    """

    events: Indices
    picture: Floats
    inside: Bools
    outlines: list[Floats]
    tile_shape: tuple[int, int]
    limits: tuple[float, float]


def grid_shape(n_cells: int, aspect: float) -> tuple[int, int]:
    """Rows and columns in which cut-outs are largest.

    Parameters
    ----------
    n_cells
        Cells that there are; at most 40 are shown.
    aspect
        Width per height of the place for them.
    """
    n_shown = max(1, min(n_cells, MAX_CELLS))

    def scale(n_columns: int) -> float:
        return min(aspect / (n_columns * _ASPECT), 1 / -(-n_shown // n_columns))

    n_columns = max(range(1, n_shown + 1), key=scale)
    return -(-n_shown // n_columns), n_columns


def evenly(n_events: int, shape: tuple[int, int]) -> Indices:
    """Events at equal distances, row by row; -1 where there are too few."""
    n_shown = min(n_events, shape[0] * shape[1])
    events = np.full(shape[0] * shape[1], -1, dtype=np.int64)
    if n_shown:
        events[:n_shown] = np.linspace(0, n_events - 1, n_shown).round().astype(np.int64)
    return events.reshape(shape)


def pick_cells(x: Floats, y: Floats, n_rows: int = 8, n_columns: int = 5) -> Indices:
    """Cells that show the range: columns by one feature, in each rows by another.

    Parameters
    ----------
    x, y
        Shape (events,).
    n_rows, n_columns
        Size of the gallery.

    Returns
    -------
    ndarray, shape (rows, columns)
        Indices into `x`; -1 where there are too few.
    """
    picked = np.full((n_rows, n_columns), -1, dtype=np.int64)
    valid = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    by_x = valid[np.argsort(x[valid], kind="stable")]
    for column, group in enumerate(np.array_split(by_x, n_columns)):
        by_y = group[np.argsort(y[group], kind="stable")]
        n_shown = min(n_rows, len(by_y))
        places = np.linspace(0.02, 0.98, n_shown) * max(0, len(by_y) - 1)
        picked[:n_shown, column] = by_y[np.round(places).astype(np.int64)]
    return picked


def make_gallery(recording: Recording, events: Indices, pixel_um: float | None) -> Gallery | None:
    """Cut cells out of their images.

    Parameters
    ----------
    recording
        With the feature "image" or "mask".
    events
        Numbers of events, -1: none; shape (rows, columns).
    pixel_um
        Size of a pixel [µm]; None: not known.

    Returns
    -------
    Gallery or None
        None: there is no event.
    """
    numbers = events[events >= 0]
    if not numbers.size:
        return None
    order = np.argsort(numbers, kind="stable")
    at = np.empty(len(numbers), dtype=np.int64)
    at[order] = np.arange(len(numbers))
    images, masks = (
        _read(recording, feat, numbers[order]) if feat in recording else None
        for feat in ("image", "mask")
    )
    if images is None:
        if masks is None:
            return None
        images = masks.astype(np.float64)
    contours = None
    if masks is None and "contour" in recording:
        contours = [np.asarray(recording["contour"][int(n)], np.float64) for n in numbers[order]]
    boxes = _boxes(recording, numbers[order], masks, contours, pixel_um)
    height, width = _tile_shape(boxes, images.shape[1:])
    n_rows, n_columns = events.shape
    # rows and columns at the end that have no cell are left out
    used = events >= 0
    n_rows, n_columns = int(used.any(axis=1).sum()), int(used.any(axis=0).sum())
    columns = np.flatnonzero(used.any(axis=0))
    shape = (
        n_rows * (height + GAP_PX) - GAP_PX,
        n_columns * (width + GAP_PX) - GAP_PX,
    )
    picture, inside = np.full(shape, np.nan), np.zeros(shape, dtype=bool)
    outlines = []
    shown = events[:n_rows, columns]
    place = {int(number): int(at[index]) for index, number in enumerate(numbers)}
    for (row, column), number in np.ndenumerate(shown):
        if number < 0:
            continue
        index = place[int(number)]
        cut = _cut_out(boxes[index], (height, width), images.shape[1:])
        top, left = row * (height + GAP_PX), column * (width + GAP_PX)
        tile = slice(top, top + height), slice(left, left + width)
        picture[tile] = images[index][cut]
        if masks is not None:
            inside[tile] = masks[index][cut]
        if contours is not None:
            outlines.append(_shifted(contours[index], cut, (top, left), (height, width)))
    return Gallery(shown, picture, inside, outlines, (height, width), _limits(picture))


def _read(recording: Recording, feat: str, numbers: Indices) -> npt.NDArray[Any] | None:
    """Images of some events; None: the feature is none."""
    feature = recording[feat]
    if len(feature.shape) != 3:
        return None
    return np.asarray(feature[numbers])


def _limits(picture: Floats) -> tuple[float, float]:
    values = picture[np.isfinite(picture)]
    if not values.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.quantile(values, [0.002, 0.998]))
    return (low, high) if high > low else (low - 1, low + 1)


def _boxes(
    recording: Recording,
    numbers: Indices,
    masks: Bools | None,
    contours: list[Floats] | None,
    pixel_um: float | None,
) -> Floats:
    """Where the cells are: top, bottom, left, right [px], NaN where not known; shape (n, 4)."""
    boxes = np.full((len(numbers), 4), np.nan)
    for index in range(len(numbers)):
        if masks is not None and masks[index].any():
            for axis in (0, 1):
                places = np.flatnonzero(masks[index].any(axis=1 - axis))
                boxes[index, 2 * axis : 2 * axis + 2] = places[0], places[-1] + 1
        elif contours is not None and len(contours[index]):
            x, y = contours[index].T
            boxes[index] = y.min(), y.max() + 1, x.min(), x.max() + 1
    unknown = np.isnan(boxes[:, 0])
    if pixel_um is not None and unknown.any() and {"pos_x", "pos_y"} <= set(recording.features):
        x, y = (_some(recording, feat, numbers) / pixel_um for feat in ("pos_x", "pos_y"))
        half = 10 / pixel_um  # the size of a cell is not known: some 20 µm
        around = np.stack([y - half, y + half, x - half, x + half], axis=1)
        boxes[unknown] = around[unknown]
    return boxes


def _some(recording: Recording, feat: str, numbers: Indices) -> Floats:
    feature = recording[feat]
    values = np.full(len(numbers), np.nan)
    there = numbers < len(feature)
    values[there] = np.asarray(feature[numbers[there]], dtype=np.float64)
    return values


def _tile_shape(boxes: Floats, image_shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width that most cells fit into; the whole image where no cell is known."""
    known = boxes[np.isfinite(boxes).all(axis=1)]
    if not len(known):
        return min(image_shape[0], 2 * image_shape[1]), min(image_shape[1], 2 * image_shape[0])
    sizes = np.stack([known[:, 1] - known[:, 0], known[:, 3] - known[:, 2]])
    high, wide = (
        min(float(size.max()), _LONGEST * float(np.median(size))) + 2 * _MARGIN_PX
        for size in sizes
    )
    height = max(high, wide / _ASPECT, _SMALLEST_PX)
    width = max(wide, _ASPECT * height)
    return min(round(height), image_shape[0]), min(round(width), image_shape[1])


def _cut_out(
    box: Floats, tile_shape: tuple[int, int], image_shape: tuple[int, ...]
) -> tuple[slice, slice]:
    """Rows and columns of an image around the middle of a cell, or of the image."""
    cut = []
    for axis, length in enumerate(tile_shape):
        size = image_shape[axis]
        low, high = box[2 * axis : 2 * axis + 2]
        middle = size // 2 if np.isnan(low) else round((low + high) / 2)
        start = max(0, min(middle - length // 2, size - length))
        cut.append(slice(start, start + length))
    return cut[0], cut[1]


def _shifted(
    contour: Floats, cut: tuple[slice, slice], corner: tuple[int, int], shape: tuple[int, int]
) -> Floats:
    """A contour in the picture, closed; what is outside of its cut-out is at the edge of it."""
    points = contour[[*range(len(contour)), 0]] if len(contour) else contour
    x = np.clip(points[:, 0] - cut[1].start, -0.5, shape[1] - 0.5) + corner[1]
    y = np.clip(points[:, 1] - cut[0].start, -0.5, shape[0] - 0.5) + corner[0]
    return np.stack([x, y], axis=1)
