"""Compare how well simulated and real images compress.

Encodes chunks of the length that a recording has with Zstd level 5, one thread, and prints the
ratio and the speed of `image`, `image_bg` and `mask`. Real recordings are read from
``../shared/data`` beside the repository, where that folder exists; without it only the
simulated ones are shown. "unique" counts each camera frame once.

A second table has the ways in which dcwrite may encode a chunk at level 5 (and the lean one of
level 1): size and time as parts of level 5's own.

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
from dcwrite.store.zstd import Way, compress, lean_ways

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FEATURES = ("image", "image_bg", "mask")
LEVEL = 5
CHUNK_BYTES = 1 << 20
REPEATS = 7

Images = NDArray[np.uint8]


def measure(images: Images) -> tuple[float, float, int]:
    """Return compression ratio, speed [MB/s] and images per chunk."""
    chunks = chunks_of(images)
    codec = Zstd(level=LEVEL)
    size_bytes = sum(chunk.nbytes for chunk in chunks)
    encoded_bytes, best_s = 0, float("inf")
    for _ in range(REPEATS):
        start_s = time.perf_counter()
        encoded_bytes = sum(len(codec.encode(chunk)) for chunk in chunks)
        best_s = min(best_s, time.perf_counter() - start_s)
    return size_bytes / encoded_bytes, size_bytes / best_s / 1e6, len(chunks[0])


def chunks_of(images: Images) -> list[Images]:
    """Cut images into whole chunks; an unfinished last one is left out, but for the only one."""
    n_chunk = max(10, min(1000, CHUNK_BYTES // images[0].nbytes))
    n_whole = len(images) // n_chunk * n_chunk or len(images)
    return [
        np.ascontiguousarray(images[start : min(start + n_chunk, n_whole)])
        for start in range(0, n_whole, n_chunk)
    ]


def compare_ways(images: Images) -> list[tuple[Way, float, float]]:
    """Return each way with size and time as parts of level 5's own, which is the last."""
    chunks = [chunk.reshape(-1) for chunk in chunks_of(images)]
    shape, n_bytes = images.shape[1:], chunks[0].nbytes
    *lean, own = lean_ways(LEVEL, shape, images.itemsize, n_bytes)
    ways = [*lean_ways(1, shape, images.itemsize, n_bytes)[:1], *lean, own]
    sizes, best_s = {}, dict.fromkeys(ways, float("inf"))
    for _ in range(REPEATS):
        for way in ways:
            start_s = time.perf_counter()
            sizes[way] = sum(len(compress(chunk, way)) for chunk in chunks)
            best_s[way] = min(best_s[way], time.perf_counter() - start_s)
    return [(way, sizes[way] / sizes[own], best_s[way] / best_s[own]) for way in ways]


def show_ways(name: str, images: Images) -> None:
    """Print one line."""
    found = []
    for way, size, part in compare_ways(images):
        search = way.search
        if search is None:
            text = "level 5"
        elif search.cuts:
            text = "level 1"
        else:
            text = f"blocks of {search.block_bytes}" if search.block_bytes else "4 bytes"
        found.append(f"{text}: {size:.3f}, {part:.2f}")
    print(f"{name[:34]:36}" + "; ".join(found))


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
    unique = {}
    for name, images in real_recordings():
        show(name, images)
        unique[name] = images["image, unique"]
        tiled = tile_with_noise(images["image, unique"], max(128, 3 * len(images["image"])))
        show(f"{name}, tiled", {"image, unique": tiled})
        unique[f"{name}, tiled"] = tiled
    for shape, pixel_size_um in (((80, 320), 0.34), ((80, 400), 0.2645), ((80, 250), 0.34)):
        settings = SimulationSettings(
            image_shape=shape, pixel_size_um=pixel_size_um, frames=1200, seed=1
        )
        images = simulated_recording(settings)
        show(f"simulated, {pixel_size_um} um/px", images)
        unique[f"simulated, {shape[0]} x {shape[1]}"] = images["image, unique"]
    print("\nsize and time as parts of level 5's own; images, unique")
    for name, stack in unique.items():
        show_ways(name, stack)


if __name__ == "__main__":
    main()
