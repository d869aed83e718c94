"""Cells: drawn, and measured as the field does.

Alone here: shapes, and the features that follow from contour and pixels. Invariant: features agree
with the mask and the image that they belong to.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .scene import STREAM_CELLS, Images, generator, smooth
from .settings import SimulationSettings

__all__ = [
    "BRIGHTNESS",
    "Cell",
    "make_cells",
    "measure_brightness",
]

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]


#: number of distinct cells; each event shows one of them, upright or upside down
_N_CELLS: Final = 384

#: width of the halo that is drawn around a cell [px]
_MARGIN_PX: Final = 6


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell that is ready to be added to a frame.

    Parameters
    ----------
    delta
        What the cell adds to the background's grey values, shape (h, w), float32.
    mask
        Pixels of the cell, shape (h, w).
    flat
        Indices of the mask's pixels in the flattened patch.
    shape_features
        Features that do not depend on the position, in um where they have a unit.
    centre
        Centroid (x, y) in the patch [px].
    """

    delta: NDArray[np.float32]
    mask: Bools
    flat: NDArray[np.intp]
    shape_features: dict[str, float]
    centre: tuple[float, float]


def make_cells(settings: SimulationSettings) -> list[Cell]:
    """Return `_N_CELLS` cells, each followed by its upside-down twin."""
    rng = generator(settings.seed, STREAM_CELLS)
    low, high = settings.area_um_range
    # area and elongation are correlated: large cells feel more shear
    normal = rng.standard_normal((2, _N_CELLS))
    area_um = np.clip(56.0 * np.exp(0.4 * normal[0]), low * 1.08, high * 0.95)
    stretch = np.abs(0.62 + 0.36 * (0.6 * normal[0] + 0.8 * normal[1]))
    radius_px = np.sqrt(area_um / math.pi) / settings.pixel_size_um
    # a cell is at most 2.3 radii high and 4 radii long
    height, width = settings.image_shape
    border_px = 2 * _margin_px(settings.image_shape) + 3
    room_px = min((height - border_px) / 2.3, (width - border_px) / 4.0)
    radius_px *= min(1.0, room_px / float(radius_px.max()))
    cells = []
    for radius, elongation in zip(radius_px, stretch, strict=True):
        cell = _draw_cell(float(max(radius, 1.2)), float(elongation), settings, rng)
        cells += [cell, _upside_down(cell)]
    return cells


def _draw_cell(
    radius_px: float, elongation: float, settings: SimulationSettings, rng: np.random.Generator
) -> Cell:
    """Draw a cell: a bullet with its tip to the left, of the area of a circle of `radius_px`."""
    # two halves of superellipses: a pointed tail, a blunt front
    tail = 1.0 + elongation * rng.uniform(0.9, 1.6)
    front = 1.0 + 0.25 * elongation
    powers = (2.0 - 0.35 * min(elongation, 1.0) * rng.uniform(0.3, 1.0), 2.0 + 1.6 * elongation)
    angle = np.linspace(-math.pi, math.pi, 256, endpoint=False)
    outline = np.where(
        np.cos(angle) < 0,
        (np.abs(np.cos(angle) / tail) ** powers[0] + np.abs(np.sin(angle)) ** powers[0])
        ** (-1 / powers[0]),
        (np.abs(np.cos(angle) / front) ** powers[1] + np.abs(np.sin(angle)) ** powers[1])
        ** (-1 / powers[1]),
    )
    for order in range(2, 6):
        outline *= 1 + 0.012 / order * rng.standard_normal() * np.cos(
            order * angle + rng.uniform(0, 2 * math.pi)
        )
    outline *= radius_px / math.sqrt(float(np.mean(outline**2)))
    # the patch, with the outline's middle at a random place between pixels
    tilt = 0.05 * float(rng.standard_normal())
    x_outline = outline * np.cos(angle + tilt)
    y_outline = outline * np.sin(angle + tilt)
    margin = _margin_px(settings.image_shape)
    left = -float(x_outline.min()) + margin + float(rng.uniform(0, 1))
    up = -float(y_outline.min()) + margin + float(rng.uniform(0, 1))
    width = math.ceil(left + float(x_outline.max())) + margin
    height = math.ceil(up + float(y_outline.max())) + margin
    y, x = np.mgrid[:height, :width].astype(np.float64)
    y, x = y - up, x - left
    theta = (np.arctan2(y, x) - tilt + math.pi) % (2 * math.pi) - math.pi
    edge = np.interp(theta, angle, outline, period=2 * math.pi)
    depth = edge - np.hypot(x, y)  # [px], positive inside, close to the distance at the rim

    mask = _rows_closed(depth > -0.5)
    shape_features, centre = _shape_features(mask, _contour(mask), settings.pixel_size_um)
    # what the microscope makes of it: dark rim, bright halo, faint second ring, granules
    focus = float(rng.uniform(0.75, 1.25))
    inside = 1 / (1 + np.exp(-2.5 * depth))
    delta = -34.0 * focus * np.exp(-0.5 * ((depth - 1.0) / 1.15) ** 2)
    delta += 23.0 * focus * np.exp(-0.5 * ((depth + 2.1) / 1.15) ** 2)
    delta -= 4.0 * focus * np.exp(-0.5 * ((depth + 5.0) / 1.2) ** 2)
    delta += 7.0 * focus * np.exp(-0.5 * ((depth - 4.0) / 1.6) ** 2)
    texture = 0.7 * smooth(rng.standard_normal((height, width)), 1.1)
    texture += 0.5 * smooth(rng.standard_normal((height, width)), 2.6)
    delta += inside * (-9.0 * rng.uniform(0.5, 1.5) + 8.5 * focus * texture)
    for _ in range(int(rng.poisson(2.0))):
        r, direction = 0.6 * radius_px * math.sqrt(rng.uniform()), rng.uniform(0, 2 * math.pi)
        distance = np.hypot(x - r * math.cos(direction), y - r * math.sin(direction))
        delta -= (
            inside * rng.uniform(15, 45) * np.exp(-0.5 * (distance / rng.uniform(0.9, 1.8)) ** 2)
        )
    # fade out towards the patch's border, which would show as a frame otherwise
    delta *= np.clip((depth + margin + 1) / 2, 0, 1)
    return Cell(
        delta=delta.astype(np.float32),
        mask=mask,
        flat=np.flatnonzero(mask),
        shape_features=shape_features,
        centre=centre,
    )


def _upside_down(cell: Cell) -> Cell:
    """Return the mirror image; none of the shape features tells up from down."""
    mask = cell.mask[::-1].copy()
    return dataclasses.replace(
        cell,
        delta=cell.delta[::-1].copy(),
        mask=mask,
        flat=np.flatnonzero(mask),
        centre=(cell.centre[0], len(mask) - 1 - cell.centre[1]),
    )


def _margin_px(image_shape: tuple[int, int]) -> int:
    """Return the width of the halo around a cell; small images leave less room for it."""
    return min(_MARGIN_PX, min(image_shape) // 5)


def _rows_closed(mask: Bools) -> Bools:
    """Fill each row between its first and its last pixel."""
    forward = np.logical_or.accumulate(mask, axis=1)
    backward = np.logical_or.accumulate(mask[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(forward & backward)


def _contour(mask: Bools) -> Floats:
    """Return the closed path along the outermost pixels, shape (k, 2) as (x, y) [px].

    Holds for masks whose rows have no gaps. Neighbours on the path are neighbours in the image.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    first = mask.argmax(axis=1)[rows]
    last = mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)[rows]
    down = _chain(first.tolist(), rows.tolist(), outwards=-1)
    up = _chain(last.tolist(), rows.tolist(), outwards=1)[::-1]
    return np.array([*down, *up], dtype=np.float64)


def _chain(xs: list[int], ys: list[int], *, outwards: int) -> list[tuple[int, int]]:
    """Walk from row to row along one side of a shape, horizontally where it is a step."""
    chain = [(xs[0], ys[0])]
    for x0, x1, y0, y1 in zip(xs, xs[1:], ys, ys[1:], strict=False):
        step = (x1 > x0) - (x1 < x0)
        if abs(x1 - x0) > 1:
            # widening: one diagonal, then along the new row; narrowing: the other way round
            corner = (x0 + step, y1) if step == outwards else (x1 - step, y0)
            chain.append(corner)
        chain.append((x1, y1))
    return chain


def _convex_hull(points: Floats) -> Floats:
    """Return the corners of the convex hull of points of shape (k, 2), in order."""
    ordered = sorted({(float(x), float(y)) for x, y in points})
    if len(ordered) <= 2:  # a point or a line is its own hull
        return np.array(ordered)
    hull: list[tuple[float, float]] = []
    for sequence in (ordered, ordered[::-1]):
        half: list[tuple[float, float]] = []
        for point in sequence:
            while len(half) > 1 and _turn(half[-2], half[-1], point) <= 0:
                half.pop()
            half.append(point)
        hull += half[:-1]
    return np.array(hull)


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    """Return twice the area of a triangle, positive for a left turn."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _moments(polygon: Floats) -> tuple[float, float, float, float, float, float]:
    """Return area, centroid x and y, and central second moments xx, yy, xy (Green's theorem)."""
    origin = polygon.mean(axis=0)
    x0, y0 = (polygon - origin).T
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    cross = x0 * y1 - x1 * y0
    area = float(cross.sum()) / 2
    sign = math.copysign(1.0, area)
    area = max(abs(area), 1e-6)
    cross *= sign
    cx = float(((x0 + x1) * cross).sum()) / 6 / area
    cy = float(((y0 + y1) * cross).sum()) / 6 / area
    xx = float(((x0**2 + x0 * x1 + x1**2) * cross).sum()) / 12 - area * cx**2
    yy = float(((y0**2 + y0 * y1 + y1**2) * cross).sum()) / 12 - area * cy**2
    xy = float(((x0 * y1 + 2 * x0 * y0 + 2 * x1 * y1 + x1 * y0) * cross).sum()) / 24
    xy -= area * cx * cy
    return area, cx + float(origin[0]), cy + float(origin[1]), max(xx, 1e-9), max(yy, 1e-9), xy


def _deformation(polygon: Floats, area: float) -> float:
    """Return one minus the circularity."""
    perimeter = float(np.hypot(*(np.roll(polygon, -1, axis=0) - polygon).T).sum())
    return 1 - 2 * math.sqrt(math.pi * area) / perimeter


def _shape_features(
    mask: Bools, contour: Floats, px: float
) -> tuple[dict[str, float], tuple[float, float]]:
    """Return the features of a cell's shape, and its centroid (x, y) in the patch [px]."""
    hull = _convex_hull(contour)
    area, cx, cy, xx, yy, xy = _moments(contour)
    area_cvx, _, _, xx_cvx, yy_cvx, _ = _moments(hull)
    columns = mask.sum(axis=0)
    size_x, size_y = int(np.count_nonzero(columns)), int(mask.any(axis=1).sum())
    mean, root = (xx + yy) / 2, math.hypot((xx - yy) / 2, xy)
    features = {
        "area_msd": area,
        "area_ratio": area_cvx / area,
        "area_um": area_cvx * px**2,
        "area_um_raw": area * px**2,
        "aspect": size_x / size_y,
        "deform": _deformation(hull, area_cvx),
        "deform_raw": _deformation(contour, area),
        "inert_ratio_cvx": math.sqrt(xx_cvx / yy_cvx),
        "inert_ratio_prnc": math.sqrt((mean + root) / max(mean - root, 1e-9)),
        "inert_ratio_raw": math.sqrt(xx / yy),
        "size_x": size_x * px,
        "size_y": size_y * px,
        "tilt": abs(0.5 * math.atan2(2 * xy, xx - yy)),
        # a body of revolution around the channel's axis
        "volume": float((math.pi / 4 * columns.astype(np.float64) ** 2).sum()) * px**3,
    }
    return features, (cx, cy)


BRIGHTNESS: Final = (
    "bright_avg",
    "bright_sd",
    "bright_bc_avg",
    "bright_bc_sd",
    "bright_perc_10",
    "bright_perc_90",
)


def measure_brightness(
    image: Images, background: Images, cell: Cell, corner: tuple[int, int]
) -> tuple[float, ...]:
    """Return the features named in `BRIGHTNESS` of one cell."""
    height, width = cell.mask.shape
    patch = np.s_[corner[0] : corner[0] + height, corner[1] : corner[1] + width]
    inside = image[patch].ravel().take(cell.flat).astype(np.float64)
    corrected = inside - background[patch].ravel().take(cell.flat)
    ordered = np.sort(corrected)
    return (
        float(inside.mean()),
        float(inside.std()),
        float(corrected.mean()),
        float(corrected.std()),
        _percentile(ordered, 0.1),
        _percentile(ordered, 0.9),
    )


def _percentile(ordered: Floats, fraction: float) -> float:
    """Return a percentile of sorted values, linear between them."""
    place = fraction * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (place - low) * (ordered[high] - ordered[low]))
