"""Row 7: copy_features of a selection, sorted and in any order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from measure import Context, Row, Stopwatch, compare_rows, in_turn, read_events, sync
from recordings import SEED, recording

from dcwrite import HDF5Writer, copy_features

__all__ = ["selections"]


def copy(
    function: Callable[..., None], source: Path, path: Path, mapping: np.ndarray[Any, Any]
) -> float:
    """Copy images; seconds until the output is closed and synced."""
    path.unlink(missing_ok=True)
    with Stopwatch() as watch:
        with h5py.File(source) as h5_src, h5py.File(path, "w") as h5_dst:
            function(h5_src=h5_src, h5_dst=h5_dst, features=["image"], mapping=mapping)
        sync(path)
    return watch.seconds


def selections(context: Context) -> Iterator[Row]:
    """Row 7: a random half of the images."""
    from dcnum.write import copy_features as peer_copy  # noqa: PLC0415 - a peer

    image = recording(context.size(3000, 300))["image"]
    draw = np.random.default_rng(SEED)
    shuffled = draw.permutation(len(image))[: len(image) // 2]
    with context.scratch() as folder:
        source, ours, peer = (folder / name for name in ("in.rtdc", "ours.rtdc", "peer.rtdc"))
        with HDF5Writer(source, mode="w") as writer:
            writer.store_feature_chunk("image", image)
        for order, mapping in (("sorted", np.sort(shuffled)), ("in any order", shuffled)):

            def run_ours(mapping: np.ndarray[Any, Any] = mapping) -> float:
                return copy(copy_features, source, ours, mapping)

            def run_peer(mapping: np.ndarray[Any, Any] = mapping) -> float:
                return copy(peer_copy, source, peer, mapping)

            samples = in_turn({"ours": run_ours, "peer": run_peer}, context.rounds)
            np.testing.assert_array_equal(read_events(ours)["image"], image[mapping])
            peer_is_right = np.array_equal(read_events(peer)["image"], image[mapping])
            yield compare_rows(
                "7",
                f"copy_features, a random half of the images, {order}",
                "events/s",
                dict.fromkeys(samples, len(mapping)),
                samples,
                at_least=2,
                limited_by="codec of `image`",
                note="" if peer_is_right else "the peer's file has another order of events",
            )
