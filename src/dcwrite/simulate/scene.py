"""What a camera sees without cells: channel, light, dirt and noise.

Alone here: grey values and noise. Invariant: every pixel of every frame gets fresh noise.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .settings import SimulationSettings

__all__ = [
    "STREAM_BACKGROUND",
    "STREAM_CELLS",
    "STREAM_COUNTS",
    "STREAM_FRAME",
    "STREAM_TILE",
    "Background",
    "Images",
    "camera_noise",
    "generator",
    "make_background",
    "smooth",
    "to_uint8",
]

Floats: TypeAlias = NDArray[np.float64]
Images: TypeAlias = NDArray[np.uint8]


#: streams of random numbers, so that no two uses share their numbers
STREAM_CELLS, STREAM_COUNTS, STREAM_BACKGROUND, STREAM_FRAME, STREAM_TILE = range(5)

#: grey values: channel interior, and the illumination's change over a recording
_LEVEL_CHANNEL: Final = 184.0

_LEVEL_DRIFT: Final = 3.0

#: variance of the camera noise in grey values squared: read noise, and shot noise per level
_READ_VARIANCE: Final = 1.1

_SHOT_VARIANCE_PER_LEVEL: Final = 0.0046

#: standard normal quantiles at the centres of 2**12 equal classes (see `_normal_quantiles`)
_NOISE_BITS: Final = 12


@dataclasses.dataclass(frozen=True)
class Background:
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


def generator(seed: int, stream: int, number: int = 0) -> np.random.Generator:
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


def camera_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return normal noise of unit variance, about three times as fast as the generator's own."""
    classes = rng.integers(1 << 16, size=shape, dtype=np.uint16)
    classes >>= 16 - _NOISE_BITS
    return _NOISE.take(classes)


def to_uint8(grey: NDArray[np.float32]) -> Images:
    """Grey values as the camera gives them; the argument is overwritten."""
    np.clip(grey, 0, 255, out=grey)
    return grey.astype(np.uint8)


def smooth(field: Floats, sigma_px: float) -> Floats:
    """Blur with a periodic Gaussian and scale to zero mean and unit variance."""
    fy = np.fft.fftfreq(field.shape[0])[:, np.newaxis]
    fx = np.fft.rfftfreq(field.shape[1])[np.newaxis]
    kernel = np.exp(-2 * (math.pi * sigma_px) ** 2 * (fy**2 + fx**2))
    blurred = np.fft.irfft2(np.fft.rfft2(field) * kernel, s=field.shape)
    blurred -= blurred.mean()
    return np.asarray(blurred / max(float(blurred.std()), 1e-12), dtype=np.float64)


def make_background(settings: SimulationSettings, number: int) -> Background:
    """Return background `number`: channel and dirt are those of the recording, light drifts."""
    height, width = settings.image_shape
    rng = generator(settings.seed, STREAM_BACKGROUND)
    y, x = np.arange(height)[:, np.newaxis], np.arange(width)[np.newaxis]
    half_px = settings.channel_width_um / settings.pixel_size_um / 2
    # distance from the walls [px], positive inside of the channel, walls slightly rough
    rough = 0.12 * smooth(rng.standard_normal((2, width)), 6.0)
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
    light += 1.0 * smooth(rng.standard_normal((height, width)), 9.0)  # uneven glass
    light += 0.8 * smooth(rng.standard_normal((height, width)), 0.6)  # uneven pixels
    # the lamp drifts slowly in brightness and position
    phase = 0.11 * number + rng.uniform(0, 2 * math.pi)
    light *= 1 + (_LEVEL_DRIFT * math.sin(phase) + 2.0 * math.sin(phase / 3)) / _LEVEL_CHANNEL
    light -= 3.0 * ((x - width * (0.5 + 0.1 * math.sin(phase / 2))) / width) ** 2
    noise_sd = settings.noise * np.sqrt(
        _READ_VARIANCE + _SHOT_VARIANCE_PER_LEVEL * np.clip(light, 0, None)
    )
    light += 0.5
    # the stored image is a median of some dozen frames: a part of the noise remains
    own = generator(settings.seed, STREAM_BACKGROUND, number + 1)
    estimate = light + 0.6 * noise_sd * own.standard_normal((height, width))
    image = to_uint8(estimate.astype(np.float32))
    return Background(
        light=light.astype(np.float32),
        noise_sd=noise_sd.astype(np.float32),
        image=image,
        median=float(np.median(image)),
    )
