"""Simulated deformability-cytometry recordings for demos, tests and benchmarks.

Alone here: what a made-up recording looks like (cells, channel, background, camera noise,
metadata) and in which order made-up workers deliver its frames.

Invariant: a frame depends on the settings and its index only. The order of the calls, the
process and the ``with_...`` flags change nothing in the features that are returned.

The noise decides how well images compress. Every pixel of every frame gets fresh noise, never
a tile that comes back, so that a compressor finds no repeats between frames that a real
recording would not have. docs/decisions/0003-simulated-images.md compares the compressibility
with that of real recordings; benchmarks/compressibility.py measures it.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import DataError

__all__ = [
    "SimulatedRecording",
    "SimulationSettings",
    "scrambled_frames",
    "tile_with_noise",
]

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]
Images: TypeAlias = NDArray[np.uint8]

#: streams of random numbers, so that no two uses share their numbers
_STREAM_CELLS, _STREAM_COUNTS, _STREAM_BACKGROUND, _STREAM_FRAME, _STREAM_TILE = range(5)

#: number of distinct cells; each event shows one of them, upright or upside down
_N_CELLS: Final = 384

#: backgrounds kept in memory; workers are rarely more than one background apart
_N_BACKGROUNDS_KEPT: Final = 4

#: smallest image edge for which a cell can still be drawn [px]
_MIN_EDGE_PX: Final = 16

#: width of the halo that is drawn around a cell [px]
_MARGIN_PX: Final = 6

#: grey values: channel interior, and the illumination's change over a recording
_LEVEL_CHANNEL: Final = 184.0
_LEVEL_DRIFT: Final = 3.0

#: variance of the camera noise in grey values squared: read noise, and shot noise per level
_READ_VARIANCE: Final = 1.1
_SHOT_VARIANCE_PER_LEVEL: Final = 0.0046

#: standard normal quantiles at the centres of 2**12 equal classes (see `_normal_quantiles`)
_NOISE_BITS: Final = 12

#: texture feature -> (kind, centre, spread); kind "log": lognormal, "lin": normal.
#: Centre and spread are of the order found in real recordings of cells.
_TEXTURE: Final[dict[str, tuple[str, float, float]]] = {
    "tex_asm_avg": ("log", 0.004, 0.7),
    "tex_asm_ptp": ("log", 0.002, 0.7),
    "tex_con_avg": ("log", 250.0, 0.6),
    "tex_con_ptp": ("log", 300.0, 0.6),
    "tex_cor_avg": ("lin", 0.45, 0.12),
    "tex_cor_ptp": ("log", 0.5, 0.35),
    "tex_den_avg": ("log", 4.2, 0.12),
    "tex_den_ptp": ("log", 1.2, 0.35),
    "tex_ent_avg": ("log", 8.8, 0.12),
    "tex_ent_ptp": ("log", 0.5, 0.35),
    "tex_f12_avg": ("lin", -0.5, 0.06),
    "tex_f12_ptp": ("log", 0.1, 0.4),
    "tex_f13_avg": ("lin", 0.985, 0.003),
    "tex_f13_ptp": ("log", 0.005, 0.6),
    "tex_idm_avg": ("log", 0.15, 0.25),
    "tex_idm_ptp": ("log", 0.15, 0.3),
    "tex_sen_avg": ("log", 6.2, 0.12),
    "tex_sen_ptp": ("log", 0.25, 0.4),
    "tex_sva_avg": ("log", 1000.0, 0.6),
    "tex_sva_ptp": ("log", 250.0, 0.5),
    "tex_var_avg": ("log", 320.0, 0.6),
    "tex_var_ptp": ("log", 12.0, 0.6),
}
_TEXTURE_IS_LOG: Final = np.array([[kind == "log"] for kind, _, _ in _TEXTURE.values()])
_TEXTURE_CENTRE: Final = np.array([[centre] for _, centre, _ in _TEXTURE.values()])
_TEXTURE_SPREAD: Final = np.array([[spread] for _, _, spread in _TEXTURE.values()])


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimulationSettings:
    """What to simulate.

    Parameters
    ----------
    image_shape
        Height and width of the images [px], each at least 16. Cells are drawn smaller than
        `area_um_range` says when they would not fit.
    frames
        Number of camera frames, with and without events.
    events_per_frame
        Mean number of events per frame (Poisson). As many as fit beside each other are kept.
    frame_rate_hz
        Camera frames per second.
    pixel_size_um
        Edge of a pixel in the sample [um].
    channel_width_um
        Distance of the channel walls [um].
    area_um_range
        Smallest and largest area of a cell [um^2].
    noise
        Factor on the standard deviation of the camera noise; 1 compresses like a real
        recording, 0 is a camera without noise.
    background_period_frames
        Number of consecutive frames that share one background image.
    seed
        Not negative; equal settings give equal recordings.
    with_image, with_image_bg, with_mask
        Whether events have these features. They do not change the scalar features.

    Raises
    ------
    DataError
        If a value is out of its range.
    """

    image_shape: tuple[int, int] = (80, 320)
    frames: int = 1000
    events_per_frame: float = 0.3
    frame_rate_hz: float = 3000.0
    pixel_size_um: float = 0.34
    channel_width_um: float = 20.0
    area_um_range: tuple[float, float] = (20.0, 150.0)
    noise: float = 1.0
    background_period_frames: int = 600
    seed: int = 42
    with_image: bool = True
    with_image_bg: bool = True
    with_mask: bool = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        low, high = self.area_um_range
        conditions: dict[str, tuple[bool, str]] = {
            "image_shape": (
                len(self.image_shape) == 2 and min(self.image_shape) >= _MIN_EDGE_PX,
                f"(height, width), each at least {_MIN_EDGE_PX}",
            ),
            "frames": (self.frames >= 0, "at least 0"),
            "events_per_frame": (0 <= self.events_per_frame < math.inf, "at least 0"),
            "frame_rate_hz": (0 < self.frame_rate_hz < math.inf, "above 0"),
            "pixel_size_um": (0 < self.pixel_size_um < math.inf, "above 0"),
            "channel_width_um": (0 < self.channel_width_um < math.inf, "above 0"),
            "area_um_range": (0 < low < high < math.inf, "(low, high) with 0 < low < high"),
            "noise": (0 <= self.noise < math.inf, "at least 0"),
            "background_period_frames": (self.background_period_frames >= 1, "at least 1"),
            "seed": (0 <= self.seed < 2**64, "at least 0 and below 2**64"),
        }
        for name, (fits, expected) in conditions.items():
            if not fits:
                msg = f"{name} must be {expected}, got {getattr(self, name)!r}"
                raise DataError(msg)


@dataclasses.dataclass(frozen=True)
class _Cell:
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


@dataclasses.dataclass(frozen=True)
class _Background:
    """A background: light that falls on the camera, and what was estimated from frames.

    Parameters
    ----------
    light
        Noise-free grey values plus 0.5 (for rounding by truncation), shape (H, W), float32.
    noise_sd
        Standard deviation of the camera noise, shape (H, W), float32.
    image
        The background image as stored, shape (H, W), uint8.
    median
        Median of `image`.
    """

    light: NDArray[np.float32]
    noise_sd: NDArray[np.float32]
    image: Images
    median: float


class SimulatedRecording:
    """A recording that is made up frame by frame, in any order.

    Parameters
    ----------
    settings
        What to simulate.

    Notes
    -----
    Pickles as its settings: a process that receives it builds the same recording again.
    Calls from several threads are safe.
    """

    def __init__(self, settings: SimulationSettings | None = None) -> None:
        self.settings = SimulationSettings() if settings is None else settings
        self._cells = _make_cells(self.settings)
        width_px = max(cell.mask.shape[1] for cell in self._cells)
        self._most_events = max(1, self.settings.image_shape[1] // width_px)
        counts = _generator(self.settings.seed, _STREAM_COUNTS).poisson(
            self.settings.events_per_frame, self.settings.frames
        )
        self._nevents = np.minimum(counts, self._most_events).astype(np.int32)
        self._nevents.setflags(write=False)
        self._backgrounds: dict[int, _Background] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[SimulatedRecording], tuple[SimulationSettings]]:
        """Pickle as the settings."""
        return type(self), (self.settings,)

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.settings.frames

    def nevents(self) -> NDArray[np.int32]:
        """Return the number of events of each frame, shape (frames,), without drawing any."""
        nevents: NDArray[np.int32] = self._nevents.copy()
        return nevents

    def frame_events(self, frame_index: int) -> dict[str, NDArray[Any]] | None:
        """Return the events of one frame.

        Parameters
        ----------
        frame_index
            From 0 to ``frames - 1``.

        Returns
        -------
        events
            Feature -> array whose first axis is the number n of events: 48 scalars of shape
            (n,) (float64; frame uint64), `image` and `image_bg` uint8 and `mask` bool of shape
            (n, H, W). None for a frame without events.

        Raises
        ------
        DataError
            If there is no such frame.
        """
        if not 0 <= frame_index < self.settings.frames:
            msg = (
                f"frame_index must be at least 0 and below {self.settings.frames}, "
                f"got {frame_index}"
            )
            raise DataError(msg)
        n_events = int(self._nevents[frame_index])
        if n_events == 0:
            return None
        rng = _generator(self.settings.seed, _STREAM_FRAME, frame_index)
        background = self._background(frame_index // self.settings.background_period_frames)
        cells = [self._cells[k] for k in rng.integers(len(self._cells), size=n_events)]
        placed = self._place(cells, rng)
        image = self._expose(background, placed, rng)
        events = self._scalars(frame_index, background, placed, image, rng)
        if self.settings.with_image:
            events["image"] = np.repeat(image[np.newaxis], n_events, axis=0)
        if self.settings.with_image_bg:
            events["image_bg"] = np.repeat(background.image[np.newaxis], n_events, axis=0)
        if self.settings.with_mask:
            mask = np.zeros((n_events, *self.settings.image_shape), dtype=bool)
            for event_mask, (cell, (y, x)) in zip(mask, placed, strict=True):
                height, width = cell.mask.shape
                event_mask[y : y + height, x : x + width] = cell.mask
            events["mask"] = mask
        return events

    def metadata(self) -> dict[str, str | int | float]:
        """Return the recording's attributes, "section:key" -> value.

        Complete but for "experiment:event count", which the writer knows.
        """
        height, width = self.settings.image_shape
        return {
            "experiment:date": "2024-01-01",
            "experiment:run index": 1,
            "experiment:sample": "simulated cells",
            "experiment:time": "12:00:00",
            "imaging:flash device": "LED (simulated)",
            "imaging:flash duration": 2.0,
            "imaging:frame rate": float(self.settings.frame_rate_hz),
            "imaging:pixel size": float(self.settings.pixel_size_um),
            "imaging:roi position x": 500,
            "imaging:roi position y": 480,
            "imaging:roi size x": width,
            "imaging:roi size y": height,
            "setup:channel width": float(self.settings.channel_width_um),
            "setup:chip region": "channel",
            "setup:flow rate": 0.0625,
            "setup:flow rate sample": 0.015625,
            "setup:flow rate sheath": 0.046875,
            "setup:identifier": f"simulation-{self.settings.seed}",
            "setup:medium": "CellCarrierB",
            "setup:module composition": "simulation",
            "setup:software version": "dcwrite simulation",
            "setup:temperature": 23.0,
        }

    def logs(self) -> dict[str, list[str]]:
        """Return the recording's logs, name -> lines of at most 100 characters."""
        lines = ["This recording is simulated."]
        lines += [
            f"{field.name} = {getattr(self.settings, field.name)!r}"
            for field in dataclasses.fields(self.settings)
        ]
        return {"simulation": lines}

    def _background(self, number: int) -> _Background:
        with self._lock:
            background = self._backgrounds.get(number)
            if background is None:
                background = _make_background(self.settings, number)
                while len(self._backgrounds) >= _N_BACKGROUNDS_KEPT:
                    self._backgrounds.pop(next(iter(self._backgrounds)))
                self._backgrounds[number] = background
            return background

    def _place(
        self, cells: list[_Cell], rng: np.random.Generator
    ) -> list[tuple[_Cell, tuple[int, int]]]:
        """Return each cell with its patch's corner (y, x) [px]; patches never overlap."""
        height, width = self.settings.image_shape
        free = width - sum(cell.mask.shape[1] for cell in cells)
        gaps = np.sort(rng.integers(0, free + 1, size=len(cells)))
        wander_px = 1.2 / self.settings.pixel_size_um
        placed, x = [], 0
        for gap, offset, cell in zip(gaps, rng.standard_normal(len(cells)), cells, strict=True):
            cell_height, cell_width = cell.mask.shape
            y = round((height - cell_height) / 2 + offset * wander_px)
            placed.append((cell, (min(max(y, 0), height - cell_height), x + int(gap))))
            x += cell_width
        return placed

    def _expose(
        self,
        background: _Background,
        placed: list[tuple[_Cell, tuple[int, int]]],
        rng: np.random.Generator,
    ) -> Images:
        """Return the camera's image of the cells before the background, shape (H, W)."""
        grey = _camera_noise(rng, background.light.shape)
        grey *= background.noise_sd
        grey += background.light
        grey += np.float32(0.5 * self.settings.noise * rng.standard_normal())  # light flickers
        for cell, (y, x) in placed:
            height, width = cell.mask.shape
            grey[y : y + height, x : x + width] += cell.delta
        return _to_uint8(grey)

    def _scalars(
        self,
        frame_index: int,
        background: _Background,
        placed: list[tuple[_Cell, tuple[int, int]]],
        image: Images,
        rng: np.random.Generator,
    ) -> dict[str, NDArray[Any]]:
        n_events, px = len(placed), self.settings.pixel_size_um
        time_s = frame_index / self.settings.frame_rate_hz
        events: dict[str, NDArray[Any]] = {
            name: np.array([cell.shape_features[name] for cell, _ in placed])
            for name in placed[0][0].shape_features
        }
        events["pos_x"] = np.array([(x + cell.centre[0]) * px for cell, (_, x) in placed])
        events["pos_y"] = np.array([(y + cell.centre[1]) * px for cell, (y, _) in placed])
        brightness = np.array(
            [_brightness(image, background.image, cell, corner) for cell, corner in placed]
        )
        for name, column in zip(_BRIGHTNESS, brightness.T, strict=True):
            events[name] = column.copy()
        events["bg_med"] = np.full(n_events, background.median)
        events["frame"] = np.full(n_events, frame_index, dtype=np.uint64)
        events["time"] = np.full(n_events, time_s)
        events["temp"] = np.full(n_events, 23.0 + 0.2 * math.sin(time_s / 60.0))
        # a common part, since a cell's textures go together
        normal = 0.6 * rng.standard_normal(n_events) + 0.8 * rng.standard_normal(
            (len(_TEXTURE), n_events)
        )
        normal *= _TEXTURE_SPREAD
        texture = np.where(
            _TEXTURE_IS_LOG, _TEXTURE_CENTRE * np.exp(normal), _TEXTURE_CENTRE + normal
        )
        for name, row in zip(_TEXTURE, texture, strict=True):
            events[name] = row.copy()
        return events


def scrambled_frames(n_frames: int, n_workers: int, seed: int = 0) -> list[list[int]]:
    """Deal frames to workers the way a segmentation pool does, out of order.

    Each frame is first delayed by a random 0 to 64 frames; the frames in that order are then cut
    into batches of 1 to 32, each of which goes to a random worker.

    Parameters
    ----------
    n_frames
        Number of frames to deal.
    n_workers
        Number of workers, at least 1.
    seed
        Equal arguments give equal lists.

    Returns
    -------
    frames
        One list of frame indices per worker; together each index from 0 to ``n_frames - 1``
        exactly once.

    Raises
    ------
    DataError
        If `n_frames` is negative or `n_workers` below 1.
    """
    if n_frames < 0 or n_workers < 1:
        msg = (
            "n_frames must be at least 0 and n_workers at least 1, "
            f"got n_frames={n_frames} and n_workers={n_workers}"
        )
        raise DataError(msg)
    rng = np.random.default_rng([seed, n_frames, n_workers])
    # a frame's rank is its index plus a delay of up to 64 frames
    order = np.argsort(np.arange(n_frames) + rng.uniform(0, 64, n_frames), kind="stable")
    workers: list[list[int]] = [[] for _ in range(n_workers)]
    start = 0
    while start < n_frames:
        stop = start + int(rng.integers(1, 33))
        workers[int(rng.integers(n_workers))].extend(order[start:stop].tolist())
        start = stop
    return workers


def tile_with_noise(images: Images, n: int, seed: int = 0, *, noise_sd: float = 1.0) -> Images:
    """Make many images out of a few, each with fresh camera noise.

    Parameters
    ----------
    images
        Images to repeat in order, shape (k, H, W) with k at least 1, uint8.
    n
        Number of images to return.
    seed
        Equal arguments give equal images.
    noise_sd
        Standard deviation of the noise that is added [grey values].

    Returns
    -------
    tiled
        Shape (n, H, W), uint8.

    Raises
    ------
    DataError
        If the images have another shape or dtype, or if there are none.
    """
    if images.ndim != 3 or len(images) == 0 or images.dtype != np.uint8:
        msg = (
            "images must have the shape (k, height, width) with k >= 1 and dtype uint8, "
            f"got shape {images.shape} and dtype {images.dtype}"
        )
        raise DataError(msg)
    tiled = np.empty((n, *images.shape[1:]), dtype=np.uint8)
    for index in range(n):
        grey = _camera_noise(_generator(seed, _STREAM_TILE, index), images.shape[1:])
        grey *= np.float32(noise_sd)
        grey += images[index % len(images)]
        grey += np.float32(0.5)
        tiled[index] = _to_uint8(grey)
    return tiled


def _generator(seed: int, stream: int, number: int = 0) -> np.random.Generator:
    """Return the generator of one frame (or one background) without computing those before."""
    return np.random.Generator(
        np.random.Philox(
            key=np.array([seed, stream], dtype=np.uint64),
            counter=np.array([0, 0, number, 0], dtype=np.uint64),
        )
    )


def _normal_quantiles(n: int) -> NDArray[np.float32]:
    """Return the means of the normal distribution over n equal classes, unit variance."""
    edges = np.linspace(-6.0, 6.0, 200_001)
    cumulative = np.cumsum(np.exp(-0.5 * edges**2))
    centres = (np.arange(n) + 0.5) / n * cumulative[-1]
    quantiles = np.interp(centres, cumulative, edges)
    quantiles /= quantiles.std()
    return np.asarray(quantiles, dtype=np.float32)


_NOISE: Final = _normal_quantiles(1 << _NOISE_BITS)


def _camera_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return normal noise of unit variance, about three times as fast as the generator's own."""
    classes = rng.integers(1 << 16, size=shape, dtype=np.uint16)
    classes >>= 16 - _NOISE_BITS
    return _NOISE.take(classes)


def _to_uint8(grey: NDArray[np.float32]) -> Images:
    np.clip(grey, 0, 255, out=grey)
    return grey.astype(np.uint8)


def _smooth(field: Floats, sigma_px: float) -> Floats:
    """Blur with a periodic Gaussian and scale to zero mean and unit variance."""
    fy = np.fft.fftfreq(field.shape[0])[:, np.newaxis]
    fx = np.fft.rfftfreq(field.shape[1])[np.newaxis]
    kernel = np.exp(-2 * (math.pi * sigma_px) ** 2 * (fy**2 + fx**2))
    blurred = np.fft.irfft2(np.fft.rfft2(field) * kernel, s=field.shape)
    blurred -= blurred.mean()
    return np.asarray(blurred / max(float(blurred.std()), 1e-12), dtype=np.float64)


def _make_background(settings: SimulationSettings, number: int) -> _Background:
    """Return background `number`: channel and dirt are those of the recording, light drifts."""
    height, width = settings.image_shape
    rng = _generator(settings.seed, _STREAM_BACKGROUND)
    y, x = np.arange(height)[:, np.newaxis], np.arange(width)[np.newaxis]
    half_px = settings.channel_width_um / settings.pixel_size_um / 2
    # distance from the walls [px], positive inside of the channel, walls slightly rough
    rough = 0.12 * _smooth(rng.standard_normal((2, width)), 6.0)
    top = y - ((height - 1) / 2 - half_px) + rough[:1]
    bottom = ((height - 1) / 2 + half_px) - y + rough[1:]
    light = np.full((height, width), _LEVEL_CHANNEL)
    for wall, depth, reach in ((top, 78.0, 3.0), (bottom, 52.0, 2.2)):
        light -= depth * np.exp(-0.5 * ((wall + 2.5) / reach) ** 2)
        light += 17.0 * np.exp(-0.5 * ((wall - 6.0) / 4.0) ** 2)
        light -= 0.35 * depth * np.exp(-0.5 * ((wall + 9.0) / 1.6) ** 2)
        light -= 16.0 / (1 + np.exp(np.clip(wall + 4.0, -30, 30)))
    for _ in range(int(rng.integers(3, 7))):  # dirt that sticks to the chip
        cy, cx, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0.7, 1.8)
        distance = np.hypot(y - cy, x - cx) / radius
        light += rng.uniform(-30, 15) * (1 - 0.5 * distance**2) * np.exp(-0.5 * distance**2)
    light += 1.0 * _smooth(rng.standard_normal((height, width)), 9.0)  # uneven glass
    light += 0.8 * _smooth(rng.standard_normal((height, width)), 0.6)  # uneven pixels
    # the lamp drifts slowly in brightness and position
    phase = 0.11 * number + rng.uniform(0, 2 * math.pi)
    light *= 1 + (_LEVEL_DRIFT * math.sin(phase) + 2.0 * math.sin(phase / 3)) / _LEVEL_CHANNEL
    light -= 3.0 * ((x - width * (0.5 + 0.1 * math.sin(phase / 2))) / width) ** 2
    noise_sd = settings.noise * np.sqrt(
        _READ_VARIANCE + _SHOT_VARIANCE_PER_LEVEL * np.clip(light, 0, None)
    )
    light += 0.5
    # the stored image is a median of some dozen frames: a part of the noise remains
    own = _generator(settings.seed, _STREAM_BACKGROUND, number + 1)
    estimate = light + 0.6 * noise_sd * own.standard_normal((height, width))
    image = _to_uint8(estimate.astype(np.float32))
    return _Background(
        light=light.astype(np.float32),
        noise_sd=noise_sd.astype(np.float32),
        image=image,
        median=float(np.median(image)),
    )


def _make_cells(settings: SimulationSettings) -> list[_Cell]:
    """Return `_N_CELLS` cells, each followed by its upside-down twin."""
    rng = _generator(settings.seed, _STREAM_CELLS)
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
) -> _Cell:
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
    texture = 0.7 * _smooth(rng.standard_normal((height, width)), 1.1)
    texture += 0.5 * _smooth(rng.standard_normal((height, width)), 2.6)
    delta += inside * (-9.0 * rng.uniform(0.5, 1.5) + 8.5 * focus * texture)
    for _ in range(int(rng.poisson(2.0))):
        r, direction = 0.6 * radius_px * math.sqrt(rng.uniform()), rng.uniform(0, 2 * math.pi)
        distance = np.hypot(x - r * math.cos(direction), y - r * math.sin(direction))
        delta -= (
            inside * rng.uniform(15, 45) * np.exp(-0.5 * (distance / rng.uniform(0.9, 1.8)) ** 2)
        )
    # fade out towards the patch's border, which would show as a frame otherwise
    delta *= np.clip((depth + margin + 1) / 2, 0, 1)
    return _Cell(
        delta=delta.astype(np.float32),
        mask=mask,
        flat=np.flatnonzero(mask),
        shape_features=shape_features,
        centre=centre,
    )


def _upside_down(cell: _Cell) -> _Cell:
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


_BRIGHTNESS: Final = (
    "bright_avg",
    "bright_sd",
    "bright_bc_avg",
    "bright_bc_sd",
    "bright_perc_10",
    "bright_perc_90",
)


def _brightness(
    image: Images, background: Images, cell: _Cell, corner: tuple[int, int]
) -> tuple[float, ...]:
    """Return the features named in `_BRIGHTNESS` of one cell."""
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
