"""The data of the benchmarks: seeded, made once, outside any timer, and kept in memory.

Alone here: which recording is written. Invariant: no image comes back within a chunk: each has
camera noise of its own, so that a compressor finds no repeats that a real recording lacks.
"""

from __future__ import annotations

import functools
import io
import zipfile
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import hdf5plugin  # noqa: F401 - the real recording is compressed
import numpy as np

from dcwrite.simulate import SimulatedRecording, SimulationSettings, tile_with_noise

__all__ = ["IMAGES", "Events", "nbytes", "real_images", "recording", "scalars", "without"]

#: Feature names to arrays, the first axis is the event.
Events: TypeAlias = dict[str, np.ndarray[Any, Any]]

IMAGES = ("image", "image_bg", "mask")
SEED = 20240101
#: A real recording of unique images, beside the repository where it is there at all.
REAL = (
    Path(__file__).resolve().parents[2]
    / "shared"
    / "data"
    / "fmt-hdf5_cytoshot_full-features_2023.zip"
)


@functools.lru_cache(maxsize=2)
def recording(n_events: int) -> Events:
    """Simulate events of 80 x 320 pixels: 48 scalars, image, image_bg, mask.

    Parameters
    ----------
    n_events
        Number of events.
    """
    n_frames = 6 * n_events + 100
    settings = SimulationSettings(
        image_shape=(80, 320), frames=n_frames, events_per_frame=0.3, seed=SEED
    )
    simulated = SimulatedRecording(settings)
    parts, found = [], 0
    for index in np.flatnonzero(simulated.nevents()).tolist():
        events = simulated.frame_events(index)
        assert events is not None
        parts.append(events)
        found += len(events["deform"])
        if found >= n_events:
            break
    return {feat: np.concatenate([part[feat] for part in parts])[:n_events] for feat in parts[0]}


def scalars(n_events: int, n_features: int = 48) -> Events:
    """Scalar features only: 2000 simulated events again and again.

    Chunks have at most 1000 events, so that a compressor does not find the repeats.

    Parameters
    ----------
    n_events, n_features
        Number of events and of features.
    """
    base = without(recording(2000), *IMAGES)
    return {feat: np.resize(base[feat], n_events) for feat in list(base)[:n_features]}


def without(events: Events, *features: str) -> Events:
    """Leave features out."""
    return {feat: data for feat, data in events.items() if feat not in features}


@functools.lru_cache(maxsize=1)
def real_images(n_images: int) -> np.ndarray[Any, Any] | None:
    """Give real images with fresh noise; None where there are none.

    Parameters
    ----------
    n_images
        Number of images.
    """
    if not REAL.is_file():
        return None
    with zipfile.ZipFile(REAL) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".rtdc"))
        with h5py.File(io.BytesIO(archive.read(name))) as h5:
            first = np.unique(h5["events/frame"][:], return_index=True)[1]
            unique = h5["events/image"][:][first]
    return tile_with_noise(unique, n_images, seed=SEED)


def nbytes(events: Events) -> int:
    """Size of all features."""
    return sum(data.nbytes for data in events.values())
