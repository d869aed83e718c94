"""A made-up recording, frame by frame, and the order in which made-up workers deliver it.

Alone here: where cells are, and their texture features. Invariant: a frame depends on the
settings and its index only.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .cells import BRIGHTNESS, Cell, make_cells, measure_brightness
from .scene import (
    STREAM_COUNTS,
    STREAM_FRAME,
    STREAM_TILE,
    Background,
    Images,
    camera_noise,
    generator,
    make_background,
    to_uint8,
)
from .settings import SimulationSettings

__all__ = ["SimulatedRecording", "scrambled_frames", "tile_with_noise"]


#: backgrounds kept in memory; workers are rarely more than one background apart
_N_BACKGROUNDS_KEPT: Final = 4

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
        self._cells = make_cells(self.settings)
        width_px = max(cell.mask.shape[1] for cell in self._cells)
        self._most_events = max(1, self.settings.image_shape[1] // width_px)
        counts = generator(self.settings.seed, STREAM_COUNTS).poisson(
            self.settings.events_per_frame, self.settings.frames
        )
        self._nevents = np.minimum(counts, self._most_events).astype(np.int32)
        self._nevents.setflags(write=False)
        self._backgrounds: dict[int, Background] = {}
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
        rng = generator(self.settings.seed, STREAM_FRAME, frame_index)
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

    def _background(self, number: int) -> Background:
        with self._lock:
            background = self._backgrounds.get(number)
            if background is None:
                background = make_background(self.settings, number)
                while len(self._backgrounds) >= _N_BACKGROUNDS_KEPT:
                    self._backgrounds.pop(next(iter(self._backgrounds)))
                self._backgrounds[number] = background
            return background

    def _place(
        self, cells: list[Cell], rng: np.random.Generator
    ) -> list[tuple[Cell, tuple[int, int]]]:
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
        background: Background,
        placed: list[tuple[Cell, tuple[int, int]]],
        rng: np.random.Generator,
    ) -> Images:
        """Return the camera's image of the cells before the background, shape (H, W)."""
        grey = camera_noise(rng, background.light.shape)
        grey *= background.noise_sd
        grey += background.light
        grey += np.float32(0.5 * self.settings.noise * rng.standard_normal())  # light flickers
        for cell, (y, x) in placed:
            height, width = cell.mask.shape
            grey[y : y + height, x : x + width] += cell.delta
        return to_uint8(grey)

    def _scalars(
        self,
        frame_index: int,
        background: Background,
        placed: list[tuple[Cell, tuple[int, int]]],
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
            [measure_brightness(image, background.image, cell, corner) for cell, corner in placed]
        )
        for name, column in zip(BRIGHTNESS, brightness.T, strict=True):
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
        grey = camera_noise(generator(seed, STREAM_TILE, index), images.shape[1:])
        grey *= np.float32(noise_sd)
        grey += images[index % len(images)]
        grey += np.float32(0.5)
        tiled[index] = to_uint8(grey)
    return tiled
