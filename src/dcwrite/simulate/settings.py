"""What to simulate: the settings, checked.

Alone here: which values make sense. Invariant: settings that exist can be simulated.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Final

from ..errors import DataError

__all__ = ["SimulationSettings"]


#: smallest image edge for which a cell can still be drawn [px]
_MIN_EDGE_PX: Final = 16


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
