"""Chunking: from the shape and dtype of one event to the number of events in a chunk.

Alone here: the size bounds. Invariant: a whole event is always inside one chunk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["CHUNK_BYTES", "MAX_EVENTS", "MIN_EVENTS", "best_chunk_shape", "kept_chunk_shape"]

#: Target size of a chunk, half of HDF5's recommended chunk cache; as dcnum and dclab write.
CHUNK_BYTES: Final = 1024**2
#: At least that many events per chunk, so that compression sees several images (dcnum).
MIN_EVENTS: Final = 10
#: At most that many, so that scalars become readable soon (dcnum).
MAX_EVENTS: Final = 1000
#: A copy keeps a chunk shape that is smaller or larger than the best by this factor at most.
KEPT_FACTOR: Final = 4


def best_chunk_shape(
    item_shape: Sequence[int], feat_dtype: npt.DTypeLike = np.float64
) -> tuple[int, ...]:
    """Shape of a chunk of about 1 MiB, with 10 to 1000 whole events.

    Parameters
    ----------
    item_shape
        Shape of one event: () for a scalar feature, (H, W) for an image.
    feat_dtype
        Dtype of the feature.
    """
    event_bytes = math.prod(item_shape) * np.dtype(feat_dtype).itemsize
    n_events = CHUNK_BYTES // event_bytes if event_bytes else MAX_EVENTS
    return (min(MAX_EVENTS, max(MIN_EVENTS, n_events)), *(int(ii) for ii in item_shape))


def kept_chunk_shape(
    chunks: Sequence[int] | None, item_shape: Sequence[int], feat_dtype: npt.DTypeLike
) -> tuple[int, ...]:
    """Shape of a chunk for a copy: that of the source where it makes sense, else the best.

    Parameters
    ----------
    chunks
        Shape of the source's chunks; None: it has none.
    item_shape
        Shape of one event.
    feat_dtype
        Dtype of the feature.
    """
    best = best_chunk_shape(item_shape, feat_dtype)
    if (
        chunks is not None
        and tuple(chunks[1:]) == best[1:]
        and best[0] <= KEPT_FACTOR * chunks[0]
        and chunks[0] <= KEPT_FACTOR * best[0]
    ):
        return tuple(chunks)
    return best
