"""Row 16: join and split, against dclab's, and their memory.

Peers run in this process as dclab's own functions; all outputs are synced to the disk.
"""

from __future__ import annotations

import multiprocessing as mp
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
from measure import Context, Row, Stopwatch, compare_rows, in_turn, size_bytes, sync
from recordings import Events, nbytes, recording
from tools import (
    FILTERS,
    LARGE_BYTES,
    events_of_tools,
    peak_bytes,
    peak_row,
    timed,
    write_recording,
)

from dcwrite import join, split

__all__ = ["joins_and_splits"]


def joins_and_splits(context: Context) -> Iterator[Row]:
    """Row 16: join two recordings, and split the result again; chunks fit and do not fit."""
    from dclab.cli import join as peer_join  # noqa: PLC0415 - a peer
    from dclab.cli import split as peer_split  # noqa: PLC0415 - a peer

    n_events = context.size(8000, 400)
    rounds = min(3, context.rounds)
    events = recording(n_events)
    with context.scratch() as folder:
        ours, peer = folder / "ours.rtdc", folder / "peer.rtdc"
        for n_first, fits in ((n_events, True), (n_events - 17, False)):
            first = {name: data[:n_first] for name, data in events.items()}
            inputs = [
                _measured(folder / "a.rtdc", first, "03:00:00"),
                _measured(folder / "b.rtdc", events, "04:00:00"),
            ]

            def run_ours(inputs: list[Path] = inputs) -> float:
                return timed(lambda path: join(inputs, path, threads=context.threads), ours)

            def run_peer(inputs: list[Path] = inputs) -> float:
                return timed(lambda path: peer_join(path_out=path, paths_in=inputs), peer)

            samples = in_turn({"ours": run_ours, "peer": run_peer}, rounds)
            _require_same_features(ours, peer)
            how = "chunks fit" if fits else "chunks do not fit"
            yield compare_rows(
                "16", f"join of two recordings, {how}", "events/s",
                dict.fromkeys(samples, n_first + n_events), samples,
                at_least=10 if fits else 1.5,
                limited_by="disk" if fits else "codec of `image`",
            )  # fmt: skip
        n_events = context.size(20_000, 1000)  # so that parts are as large as dclab's own
        source = _measured(folder / "a.rtdc", recording(n_events), "03:00:00")
        for size, fits in ((n_events // 2, True), (n_events // 2 + 17, False)):
            yield _split_row(context, source, size, peer_split, fits=fits)
    yield from _memory(context)


def _split_row(
    context: Context, source: Path, size: int, peer_split: Callable[..., object], *, fits: bool
) -> Row:
    folders = {name: source.parent / name for name in ("ours", "peer")}

    def run(name: str) -> float:
        shutil.rmtree(folders[name], ignore_errors=True)
        folders[name].mkdir()
        with Stopwatch() as watch:
            if name == "ours":
                split(source, folders[name], events=size, threads=context.threads)
            else:
                peer_split(path_in=source, path_out=folders[name], split_events=size)
            for path in folders[name].iterdir():
                sync(path)
        return watch.seconds

    samples = in_turn(
        {name: lambda name=name: run(name) for name in folders}, min(3, context.rounds)
    )
    for path in folders["ours"].iterdir():
        _require_same_features(path, folders["peer"] / path.name)
    with h5py.File(source) as h5:
        n_events = len(h5["events/deform"])
    how = "chunks fit" if fits else "chunks do not fit"
    return compare_rows(
        "16", f"split in two, {how}", "events/s", dict.fromkeys(samples, n_events), samples,
        at_least=10 if fits else 1.5,
        limited_by="disk" if fits else "codec of `image`",
    )  # fmt: skip


def _measured(path: Path, events: Events, time: str) -> Path:
    """A compressed recording of some time of day."""
    return _dated(write_recording(path, events, FILTERS["Zstandard 5"]), time)


def _dated(path: Path, time: str) -> Path:
    with h5py.File(path, "a") as h5:
        h5.attrs.update({"experiment:time": time, "imaging:frame rate": 2000.0})
        h5.attrs["setup:identifier"] = "a machine"
    return path


def _require_same_features(ours: Path, peer: Path) -> None:
    """What both have of the events; masks as truth values, for dclab makes 0/1 of 0/255."""
    with h5py.File(ours) as one, h5py.File(peer) as other:
        for name, dset in one["events"].items():
            got, expected = dset[:], other["events"][name][:]
            if name == "mask":
                got, expected = got != 0, expected != 0
            np.testing.assert_array_equal(got, expected, err_msg=name)


def _memory(context: Context) -> Iterator[Row]:
    """Peak memory of a whole process that joins two large recordings, and splits the result."""
    if not Path("/proc/self/status").exists():
        return
    events = events_of_tools(context)
    with context.scratch() as folder:
        for part in (4, 1):
            repeats = max(1, round(context.size(LARGE_BYTES, 10**8) / part / 2 / nbytes(events)))
            inputs = []
            for name, time in (("a", "03:00:00"), ("b", "04:00:00")):
                path = write_recording(folder / f"{name}.rtdc", events, {}, repeats=repeats)
                inputs.append(_dated(path, time))
            size = sum(map(size_bytes, inputs))
            with mp.get_context("spawn").Pool(1) as pool:
                peak, seconds = pool.apply(_join_and_split, (inputs, folder))
            yield peak_row(
                "16", f"joins and splits {size / 1e9:.1f} GB", peak, 2 * size / seconds,
                "chunks on their way",
            )  # fmt: skip


def _join_and_split(inputs: list[Path], folder: Path) -> tuple[int, float]:
    """Do both in this process; its peak memory in bytes, and seconds."""
    with Stopwatch() as watch:
        joined = join(inputs, folder / "joined.rtdc").path_out
        for path in inputs:
            path.unlink()
        for part in split(joined, events=10_000).parts:
            part.path.unlink()
        joined.unlink()
    return peak_bytes(), watch.seconds
