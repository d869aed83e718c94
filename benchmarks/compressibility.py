"""Compare how well simulated and real images compress.

Encodes chunks of the length that a recording has with Zstd level 5, one thread, and prints the
ratio and the speed of `image`, `image_bg` and `mask`. Real recordings are read from
``../shared/data`` beside the repository, where that folder exists; without it only the
simulated ones are shown. "unique" counts each camera frame once.

Run it with ``python benchmarks/compressibility.py``.
"""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401, registers the filters of the real recordings
import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from dcwrite.simulate import SimulatedRecording, SimulationSettings, tile_with_noise

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FEATURES = ("image", "image_bg", "mask")
LEVEL = 5
CHUNK_BYTES = 1 << 20
REPEATS = 7

Images = NDArray[np.uint8]


def measure(images: Images) -> tuple[float, float, int]:
    """Return compression ratio, speed [MB/s] and images per chunk.

    An unfinished last chunk is left out unless it is the only one.
    """
    n_chunk = max(10, min(1000, CHUNK_BYTES // images[0].nbytes))
    n_whole = len(images) // n_chunk * n_chunk or len(images)
    chunks = [
        np.ascontiguousarray(images[start : min(start + n_chunk, n_whole)])
        for start in range(0, n_whole, n_chunk)
    ]
    codec = Zstd(level=LEVEL)
    size_bytes = sum(chunk.nbytes for chunk in chunks)
    encoded_bytes, best_s = 0, float("inf")
    for _ in range(REPEATS):
        start_s = time.perf_counter()
        encoded_bytes = sum(len(codec.encode(chunk)) for chunk in chunks)
        best_s = min(best_s, time.perf_counter() - start_s)
    return size_bytes / encoded_bytes, size_bytes / best_s / 1e6, n_chunk


def real_recordings() -> Iterator[tuple[str, dict[str, Images]]]:
    """Yield name and images of each real recording that has some."""
    for archive in sorted(DATA.glob("*.zip")):
        with zipfile.ZipFile(archive) as unzipped:
            for name in unzipped.namelist():
                if not name.endswith(".rtdc"):
                    continue
                with h5py.File(io.BytesIO(unzipped.read(name))) as h5:
                    images = {
                        feature: h5["events"][feature][:]
                        for feature in FEATURES
                        if feature in h5["events"] and len(h5["events"][feature])
                    }
                    if "image" not in images:
                        continue
                    first = np.unique(h5["events/frame"][:], return_index=True)[1]
                    images["image, unique"] = images["image"][first]
                    yield Path(name).stem, images


def simulated_recording(settings: SimulationSettings) -> dict[str, Images]:
    """Return all images of a simulated recording."""
    recording = SimulatedRecording(settings)
    frames = [
        events
        for index in range(len(recording))
        if (events := recording.frame_events(index)) is not None
    ]
    images = {
        feature: np.concatenate([events[feature] for events in frames]) for feature in FEATURES
    }
    images["mask"] = images["mask"].astype(np.uint8) * 255
    images["image, unique"] = np.stack([events["image"][0] for events in frames])
    return images


def show(name: str, images: dict[str, Images]) -> None:
    """Print one line per feature."""
    for feature in ("image", "image, unique", "image_bg", "mask"):
        if feature in images:
            ratio, speed, n_chunk = measure(images[feature])
            n_images, height, width = images[feature].shape
            print(
                f"{name[:34]:36}{feature:15}{height:>4} x {width:<5}{n_images:>5} of {n_chunk:<4}"
                f"{ratio:9.2f}{speed:9.0f}"
            )


def main() -> None:
    """Print the table."""
    print(f"{'recording':36}{'feature':15}{'shape':12}{'n of chunk':>11}{'ratio':>11}{'MB/s':>9}")
    for name, images in real_recordings():
        show(name, images)
        if "image_bg" in images:
            tiled = tile_with_noise(images["image, unique"], 3 * len(images["image"]))
            show(f"{name}, tiled", {"image, unique": tiled})
    for shape, pixel_size_um in (((80, 320), 0.34), ((80, 400), 0.2645), ((80, 250), 0.34)):
        settings = SimulationSettings(
            image_shape=shape, pixel_size_um=pixel_size_um, frames=1200, seed=1
        )
        show(f"simulated, {pixel_size_um} um/px", simulated_recording(settings))


if __name__ == "__main__":
    main()
