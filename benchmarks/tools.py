"""Rows 15 and following: the tools of the command line, against dclab's.

Row 15: compress. Peers run in this process as dclab's own functions, without the time that their
programs take to start; both outputs are synced to the disk.
"""

from __future__ import annotations

import io
import multiprocessing as mp
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import h5py
from measure import Context, Row, Stopwatch, compare_rows, in_turn, size_bytes, sync
from recordings import Events, nbytes, recording

from dcwrite import HDF5Writer, compress
from dcwrite.tools.compare import compare

__all__ = ["compressions", "events_of_tools", "peak_bytes", "peak_row", "timed", "write_recording"]

#: What dclab needs to know of a recording.
METADATA: Mapping[str, Any] = {
    "experiment:date": "2024-01-02",
    "experiment:event count": 0,
    "experiment:run index": 1,
    "experiment:sample": "simulation",
    "experiment:time": "03:04:05",
    "imaging:pixel size": 0.34,
    "imaging:roi size x": 320,
    "imaging:roi size y": 80,
    "setup:channel width": 20.0,
    "setup:chip region": "channel",
    "setup:flow rate": 0.04,
    "setup:medium": "CellCarrierB",
}
#: Filters of inputs, as arguments of h5py.
FILTERS: Mapping[str, Mapping[str, Any]] = {
    "not compressed": {},
    "gzip": {"compression": "gzip"},
    "Zstandard 1": {"compression": 32015, "compression_opts": (1,), "fletcher32": True},
    "Zstandard 5": {"compression": 32015, "compression_opts": (5,), "fletcher32": True},
}
#: Size of the simulated recording of the memory row.
LARGE_BYTES = 2 * 10**9
MAX_RSS_BYTES = 600 * 2**20


def events_of_tools(context: Context) -> Events:
    """Simulated events with images and scalars."""
    return recording(context.size(3000, 300))


def write_recording(
    path: Path, events: Events, filters: Mapping[str, Any], *, repeats: int = 1
) -> Path:
    """Write an input with h5py, in chunks as dclab and dcnum make them.

    Parameters
    ----------
    path
        The file.
    events
        Feature names to arrays.
    filters
        Arguments for datasets.
    repeats
        How often the events follow each other.
    """
    with h5py.File(path, "w", libver=("v110", "latest")) as h5:
        for feat, given in events.items():
            # masks as all writers store them
            data = given.astype("uint8") * 255 if feat == "mask" else given
            chunks = HDF5Writer.get_best_nd_chunks(data.shape[1:], data.dtype)
            dset = h5.create_dataset(
                f"events/{feat}",
                shape=(len(data) * repeats, *data.shape[1:]),
                maxshape=(None, *data.shape[1:]),
                dtype=data.dtype,
                chunks=chunks,
                **filters,
            )
            for number in range(repeats):
                dset[number * len(data) : (number + 1) * len(data)] = data
            if data.ndim == 1:  # else dclab computes them for its output
                dset.attrs.update({"min": data.min(), "max": data.max(), "mean": data.mean()})
        n_events = repeats * len(next(iter(events.values())))
        h5.attrs.update({**METADATA, "experiment:event count": n_events})
    return path


def timed(run: Callable[[Path], object], path_out: Path) -> float:
    """Seconds until a tool has written its output and the disk has it; what it prints is lost."""
    path_out.unlink(missing_ok=True)
    with Stopwatch() as watch:
        with redirect_stdout(io.StringIO()):
            run(path_out)
        sync(path_out)
    return watch.seconds


def peak_bytes() -> int:
    """Peak memory of this process; getrusage would count that of its parent, too."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")


def compressions(context: Context) -> Iterator[Row]:
    """Row 15: compress recordings of several kinds, then a large one with bounded memory."""
    events = events_of_tools(context)
    with context.scratch() as folder:
        for name, filters in FILTERS.items():
            source = write_recording(folder / "in.rtdc", events, filters)
            if name == "Zstandard 5":
                yield from compressions_of_good(context, source, nbytes(events))
            else:
                yield compression_from(context, name, source, nbytes(events))
    yield from memory_of_compress(context)


def compression_from(context: Context, name: str, source: Path, raw: int) -> Row:
    """Compress a recording at the level of dclab's."""
    from dclab.cli import compress as peer_compress  # noqa: PLC0415 - a peer

    ours, peer = source.with_name("ours.rtdc"), source.with_name("peer.rtdc")
    samples = in_turn(
        {
            "ours": lambda: timed(
                lambda path: compress(source, path, threads=context.threads), ours
            ),
            "peer": lambda: timed(lambda path: peer_compress(source, path), peer),
        },
        context.rounds,
    )
    differences = [line for line in compare(source, ours) if "log 'dcwrite" not in line]
    assert not differences, differences
    return compare_rows(
        "15",
        f"compress, from {name}",
        "MB/s raw",
        dict.fromkeys(samples, raw / 1e6),
        samples,
        at_least=1.8,
        limited_by="Zstandard 5 on all cores",
        note=f"size {size_bytes(ours) / size_bytes(peer):.3f} of the peer's",
    )


def compressions_of_good(context: Context, source: Path, raw: int) -> Iterator[Row]:
    """Compress a recording that is good already; the limit copies it with the system's means."""
    from dclab.cli import compress as peer_compress  # noqa: PLC0415 - a peer

    ours, peer, copy = (source.with_name(f"{name}.rtdc") for name in ("ours", "peer", "copy"))

    def skip() -> float:
        with Stopwatch() as watch:
            assert compress(source, ours, if_good="skip", overwrite=True).action == "skipped"
        return watch.seconds

    samples = in_turn(
        {
            "skip": skip,
            "ours": lambda: timed(lambda path: compress(source, path), ours),
            "peer": lambda: timed(lambda path: peer_compress(source, path), peer),
            "limit": lambda: timed(lambda path: shutil.copyfile(source, path), copy),
        },
        context.rounds,
    )
    assert ours.read_bytes() == source.read_bytes()
    amounts = dict.fromkeys(samples, raw / 1e6)
    skipped = {"ours": samples.pop("skip"), "peer": samples["peer"]}
    yield compare_rows(
        "15", "compress of a good file, skipped", "MB/s raw", amounts, skipped,
        at_least=10, limited_by="opening each dataset",
    )  # fmt: skip
    yield compare_rows(
        "15", "compress of a good file, copied; limit: copyfile", "MB/s raw", amounts, samples,
        limited_by="disk",
    )  # fmt: skip


def peak_row(number: str, what: str, peak: int, speed: float, limited_by: str) -> Row:
    """Peak memory [bytes] of a process that does something, and its speed [bytes/s]."""
    return Row(
        number,
        f"peak memory of a process that {what}",
        "MiB",
        ours=peak / 2**20,
        limit=MAX_RSS_BYTES / 2**20,
        ratio=peak / MAX_RSS_BYTES,
        at_most=1.0,
        limited_by=limited_by,
        note=f"{speed / 1e6:.0f} MB/s; the limit is the target",
    )


def memory_of_compress(context: Context) -> Iterator[Row]:
    """Peak memory of a whole process that compresses a large recording."""
    if not Path("/proc/self/status").exists():
        return
    events = events_of_tools(context)
    with context.scratch() as folder:
        for part in (4, 1):
            repeats = max(1, round(context.size(LARGE_BYTES, 10**8) / part / nbytes(events)))
            source = write_recording(folder / "in.rtdc", events, {}, repeats=repeats)
            with mp.get_context("spawn").Pool(1) as pool:
                peak, seconds = pool.apply(compress_and_tell, (source, folder / "out.rtdc"))
            size = size_bytes(source)
            (folder / "out.rtdc").unlink()
            yield peak_row(
                "15",
                f"compresses {size / 1e9:.1f} GB",
                peak,
                size / seconds,
                "chunks on their way",
            )


def compress_and_tell(source: Path, path_out: Path) -> tuple[int, float]:
    """Compress in this process; its peak memory in bytes, and seconds."""
    with Stopwatch() as watch:
        compress(source, path_out)
    return peak_bytes(), watch.seconds
