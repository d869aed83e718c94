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

from .recording import SimulatedRecording, scrambled_frames, tile_with_noise
from .settings import SimulationSettings

__all__ = [
    "SimulatedRecording",
    "SimulationSettings",
    "scrambled_frames",
    "tile_with_noise",
]
