"""Row 17: copy, some events of a recording, against dclab's export; and its memory."""

from __future__ import annotations

import multiprocessing as mp
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from measure import Context, Row, Stopwatch, compare_rows, in_turn, size_bytes
from recordings import nbytes
from tools import (
    FILTERS,
    LARGE_BYTES,
    events_of_tools,
    peak_bytes,
    peak_row,
    timed,
    write_recording,
)

from dcwrite import copy_recording

__all__ = ["selections_by_condition"]

#: What is copied: everything, or what an analysis of shapes and images needs.
FEATURES: dict[str, list[str] | None] = {
    "all features": None,
    "deform, area_um and image": ["area_um", "deform", "image"],
}


def export(source: Path, path: Path, names: list[str] | None, limit: float) -> None:
    """Export the events below a limit, as a user of dclab does it."""
    import dclab  # noqa: PLC0415 - a peer

    with warnings.catch_warnings(), dclab.new_dataset(source) as ds:
        warnings.simplefilter("ignore")
        ds.filter.manual[:] = ds["deform"][:] < limit
        ds.apply_filter()
        ds.export.hdf5(path, features=names or ds.features_innate, filtered=True)


def selections_by_condition(context: Context) -> Iterator[Row]:
    """Row 17: half of the events, then the memory for a large recording."""
    events = events_of_tools(context)
    limit = float(np.median(events["deform"]))
    met = events["deform"] < limit
    with context.scratch() as folder:
        source = write_recording(folder / "in.rtdc", events, FILTERS["Zstandard 5"])
        for title, names in FEATURES.items():
            yield _compare(context, source, title, names, limit)
            with h5py.File(folder / "ours.rtdc") as ours, h5py.File(folder / "peer.rtdc") as peer:
                for name in names or ("deform", "area_um", "image", "mask"):
                    expected = events[name][met]
                    copied = ours["events"][name][:]
                    if name == "mask":
                        expected, copied = expected != 0, copied != 0
                    np.testing.assert_array_equal(copied, expected)
                    np.testing.assert_array_equal(
                        peer["events"][name][:] != 0, ours["events"][name][:] != 0
                    )
    yield from _memory(context)


def _compare(
    context: Context, source: Path, title: str, names: list[str] | None, limit: float
) -> Row:
    ours, peer = source.with_name("ours.rtdc"), source.with_name("peer.rtdc")

    def copy(path: Path) -> None:
        copy_recording(
            source,
            path,
            features=names,
            where=f"deform < {limit!r}",
            basins="drop",
            threads=context.threads,
        )

    samples = in_turn(
        {
            "ours": lambda: timed(copy, ours),
            "peer": lambda: timed(lambda path: export(source, path, names, limit), peer),
        },
        context.rounds,
    )
    with h5py.File(ours) as h5:
        n_events = int(h5.attrs["experiment:event count"])
    return compare_rows(
        "17",
        f"copy --where, half of the events, {title}",
        "events/s",
        dict.fromkeys(samples, n_events),
        samples,
        at_least=3,
        limited_by="Zstandard 5 on all cores",
        note=f"size {size_bytes(ours) / size_bytes(peer):.3f} of the peer's",
    )


def _memory(context: Context) -> Iterator[Row]:
    """Peak memory of a whole process that copies half of a large recording."""
    if not Path("/proc/self/status").exists():
        return
    events = events_of_tools(context)
    limit = float(np.median(events["deform"]))
    with context.scratch() as folder:
        repeats = max(1, round(context.size(LARGE_BYTES, 10**8) / nbytes(events)))
        source = write_recording(folder / "in.rtdc", events, {}, repeats=repeats)
        for order, selection in (
            ("sorted", {"where": f"deform < {limit!r}"}),
            ("backwards", {"events": "::-2"}),
        ):
            with mp.get_context("spawn").Pool(1) as pool:
                peak, seconds = pool.apply(
                    _copy_and_tell, (source, folder / f"{order}.rtdc", selection)
                )
            size = size_bytes(source)
            what = f"copies half of {size / 1e9:.1f} GB, {order}"
            yield peak_row("17", what, peak, size / seconds, "decoded rows on their way")


def _copy_and_tell(source: Path, path_out: Path, selection: dict[str, Any]) -> tuple[int, float]:
    """Copy in this process; its peak memory in bytes, and seconds."""
    with Stopwatch() as watch:
        copy_recording(source, path_out, **selection)
    return peak_bytes(), watch.seconds
