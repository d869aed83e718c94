"""Rows 1, 2, 3 and 8: HDF5Writer.store_feature_chunk, from arrays in memory to a closed file."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from measure import (
    Context,
    Row,
    Stopwatch,
    compare_rows,
    in_turn,
    read_events,
    size_bytes,
    sync,
)
from recordings import Events, nbytes, real_images, recording, scalars, without

from dcwrite import Compression, HDF5Writer
from dcwrite.format.chunking import best_chunk_shape
from dcwrite.store.encoder import ChunkCodec
from dcwrite.store.zstd import SMALL_BYTES, Way, compress_together

__all__ = ["batches_of_500", "many_scalars", "small_batches", "uncompressed"]

#: Our file may be larger than the peer's by that factor.
MOST_SIZE = 1.01
#: Small chunks that the codec alone encodes at a time.
CODEC_BUNDLE = 32


def peer_writer() -> Any:
    """Import the peer's class late: the benchmarks start without it."""
    from dcnum.write import HDF5Writer as PeerWriter  # noqa: PLC0415 - a peer, not a dependency

    return PeerWriter


def store(writer_class: Any, path: Path, events: Events, batch: int, **options: Any) -> float:
    """Write a file in batches; seconds until it is closed and synced."""
    path.unlink(missing_ok=True)
    n_events = len(next(iter(events.values())))
    with Stopwatch() as watch:
        with writer_class(path, mode="w", **options) as writer:
            for start in range(0, n_events, batch):
                for feat, data in events.items():
                    writer.store_feature_chunk(feat, data[start : start + batch])
        sync(path)
    return watch.seconds


def store_visible(path: Path, events: Events, batch: int) -> float:
    """Write a file whose caller looks at it all the time."""
    path.unlink(missing_ok=True)
    n_events = len(next(iter(events.values())))
    with Stopwatch() as watch:
        with HDF5Writer(path, mode="w") as writer:
            events_group = writer.events
            for start in range(0, n_events, batch):
                for feat, data in events.items():
                    writer.store_feature_chunk(feat, data[start : start + batch])
            assert len(events_group["deform"]) == n_events
        sync(path)
    return watch.seconds


def chunks_of(events: Events) -> list[tuple[str, np.ndarray[Any, Any]]]:
    """Cut all features into whole chunks, as they are stored: names and rows."""
    chunks = []
    for feat, data in events.items():
        stored = data.view(np.uint8) * np.uint8(255) if feat == "mask" else data
        size = best_chunk_shape(stored.shape[1:], stored.dtype)[0]
        for start in range(0, len(stored), size):
            chunk = np.zeros((size, *stored.shape[1:]), stored.dtype)
            chunk[: len(stored) - start] = stored[start : start + size]
            chunks.append((feat, chunk))
    return chunks


def codec_alone(
    chunks: list[tuple[str, np.ndarray[Any, Any]]], threads: int, *, exact: bool = False
) -> Callable[[], float]:
    """Encode prepared chunks, and do nothing with the result: no writer can be faster.

    Parameters
    ----------
    chunks
        As `chunks_of` gives them.
    threads
        Threads that encode.
    exact
        Whether to use level 5's own parameters.
    """
    small = [chunk for chunk in chunks if chunk[1].nbytes <= SMALL_BYTES]
    # small chunks together, as the writer does: one by one they take three times as long
    tasks = [[chunk] for chunk in chunks if chunk[1].nbytes > SMALL_BYTES]
    tasks += [small[start : start + CODEC_BUNDLE] for start in range(0, len(small), CODEC_BUNDLE)]

    def run() -> float:
        codecs = {feat: ChunkCodec(5, fletcher32=True, exact=exact) for feat, _ in chunks}

        def encode(task: list[tuple[str, np.ndarray[Any, Any]]]) -> None:
            by_way: dict[Way, list[tuple[ChunkCodec, np.ndarray[Any, Any]]]] = {}
            for feat, chunk in task:
                way = codecs[feat].way_together(chunk.nbytes) if len(task) > 1 else None
                if way is None:
                    codecs[feat].encode(chunk)
                else:
                    by_way.setdefault(way, []).append((codecs[feat], chunk))
            for way, found in by_way.items():
                pieces = [chunk.reshape(-1).view(np.uint8) for _, chunk in found]
                for (codec, _), frame in zip(found, compress_together(pieces, way), strict=True):
                    codec.finish(frame)

        with Stopwatch() as watch, ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(encode, tasks):
                pass
        return watch.seconds

    return run


def check_equal(ours: Path, peer: Path, n_events: int | None = None) -> str:
    """Compare two files feature by feature; a note on their sizes.

    Parameters
    ----------
    ours, peer
        The files.
    n_events
        Number of events of the peer's, if it has fewer; then sizes are not compared.
    """
    ours_events, peer_events = read_events(ours, n_events), read_events(peer)
    if ours_events.keys() != peer_events.keys():
        raise AssertionError(f"other features: {ours_events.keys() ^ peer_events.keys()}")
    for feat, data in ours_events.items():
        np.testing.assert_array_equal(data, peer_events[feat], err_msg=feat)
    if n_events is not None:
        return ""
    ratio = size_bytes(ours) / size_bytes(peer)
    return f"size {ratio:.3f}" + ("" if ratio <= MOST_SIZE else f" (more than {MOST_SIZE})")


def compare(
    context: Context,
    number: str,
    title: str,
    events: Events,
    batch: int,
    *,
    peer_events: int | None = None,
    at_least: float | None = None,
    limited_by: str = "",
    visible: bool = False,
    exact: bool = False,
) -> tuple[Row, dict[str, list[float]]]:
    """Compare both writers, and the codec alone."""
    n_events = len(next(iter(events.values())))
    n_peer = n_events if peer_events is None else min(n_events, peer_events)
    fewer = {feat: data[:n_peer] for feat, data in events.items()}
    with context.scratch() as folder:
        ours, peer = folder / "ours.rtdc", folder / "peer.rtdc"
        writer_class = peer_writer()

        def run_ours() -> float:
            if visible:
                return store_visible(ours, events, batch)
            settings = Compression(exact=exact)
            return store(
                HDF5Writer, ours, events, batch, threads=context.threads, compression=settings
            )

        samples = in_turn(
            {
                "ours": run_ours,
                "peer": lambda: store(writer_class, peer, fewer, batch),
                "limit": codec_alone(chunks_of(events), context.threads, exact=exact),
            },
            context.rounds,
        )
        if n_peer != n_events:  # compare files of the same events
            store(HDF5Writer, ours, fewer, batch)
        note = check_equal(ours, peer)
    row = compare_rows(
        number,
        title,
        "events/s",
        {"ours": n_events, "peer": n_peer, "limit": n_events},
        samples,
        at_least=at_least,
        limited_by=limited_by,
        note=note,
    )
    return row, samples


def batches_of_500(context: Context) -> Iterator[Row]:
    """Row 1: images, masks and 48 scalars in batches of 500."""
    # some seconds of a recording: what is made once, 50 datasets, is a small part of it
    events = without(recording(context.size(10_000, 300)), "image_bg")
    title = "store, 48 scalars + image + mask, batches of 500"
    row, samples = compare(
        context, "1", title, events, 500, at_least=1.9, limited_by="codec of `image`"
    )
    row.note += f"; {row.ours * nbytes(events) / len(events['deform']) / 1e6:.0f} MB/s"
    yield row
    yield _part_of_codec("the same as part of the codec alone", context, samples)
    # the target's codec is level 5 itself, as the peer has it
    row, samples = compare(
        context, "1", f"{title}, level 5's own parameters (`exact`)", events, 500,
        limited_by="codec of `image`", exact=True,
    )  # fmt: skip
    yield row
    title = "the same (`exact`) as part of the codec alone"
    yield _part_of_codec(title, context, samples, at_least=0.92)
    images = real_images(context.size(2000, 100))
    if images is not None:
        row, _ = compare(
            context,
            "1",
            "store, real images (80 x 400) with fresh noise, batches of 500",
            {"image": images},
            500,
            at_least=1.9,
            limited_by="codec of `image`",
        )
        yield row


def _part_of_codec(
    title: str, context: Context, samples: dict[str, list[float]], at_least: float | None = None
) -> Row:
    shares = [limit / ours for ours, limit in zip(samples["ours"], samples["limit"], strict=True)]
    return Row(
        "1",
        f"{title} on {context.threads} threads",
        "",
        ours=statistics.median(shares),
        ratio=statistics.median(shares),
        at_least=at_least,
        limited_by="one thread for HDF5",
        samples={"ratio": shares},
    )


def small_batches(context: Context) -> Iterator[Row]:
    """Row 2: the same in small batches, and event by event."""
    events = without(recording(context.size(3000, 300)), "image_bg")
    title = "store, 48 scalars + image + mask, batches of"
    n_peer = context.size(1300, 130)
    row, _ = compare(
        context, "2", f"{title} 13", events, 13, peer_events=n_peer, at_least=4,
        limited_by="codec of `image`",
    )  # fmt: skip
    yield row
    n_peer = context.size(100, 10)
    row, _ = compare(
        context, "2", f"{title} 1", events, 1, peer_events=n_peer, at_least=25,
        limited_by="codec, and 50 calls per event",
    )  # fmt: skip
    yield row
    n_events = context.size(1300, 130)
    looked_at = {feat: data[:n_events] for feat, data in events.items()}
    row, _ = compare(
        context, "2", f"{title} 13, rows visible in `h5` after each call", looked_at, 13,
        limited_by="HDF5 calls", visible=True,
    )  # fmt: skip
    yield row


def many_scalars(context: Context) -> Iterator[Row]:
    """Row 3: scalars only."""
    n_events = context.size(100_000, 5000)
    row, _ = compare(
        context,
        "3",
        f"store, 48 scalars x {n_events:,} events, batches of 500",
        scalars(n_events),
        500,
        peer_events=context.size(20_000, 1000),
        at_least=10,
        limited_by="codec of scalars",
    )
    yield row


def plain_chunked(path: Path, events: Events, *, checksum: bool) -> float:
    """Write whole chunks with h5py alone."""
    path.unlink(missing_ok=True)
    with Stopwatch() as watch:
        with h5py.File(path, "w", libver=("v110", "latest"), rdcc_nbytes=0) as h5:
            for feat, data in events.items():
                chunks = best_chunk_shape(data.shape[1:], data.dtype)
                dset = h5.create_dataset(
                    f"events/{feat}",
                    shape=(0, *data.shape[1:]),
                    maxshape=(None, *data.shape[1:]),
                    dtype=data.dtype,
                    chunks=chunks,
                    fletcher32=checksum,
                )
                for start in range(0, len(data), chunks[0]):
                    part = data[start : start + chunks[0]]
                    dset.resize(start + len(part), axis=0)
                    dset[start : start + len(part)] = part
        sync(path)
    return watch.seconds


def plain_contiguous(path: Path, events: Events) -> float:
    """Write contiguous datasets of a known length with h5py alone."""
    path.unlink(missing_ok=True)
    with Stopwatch() as watch:
        with h5py.File(path, "w", libver=("v110", "latest")) as h5:
            for feat, data in events.items():
                dset = h5.create_dataset(f"events/{feat}", shape=data.shape, dtype=data.dtype)
                step = best_chunk_shape(data.shape[1:], data.dtype)[0]
                for start in range(0, len(data), step):
                    dset[start : start + step] = data[start : start + step]
        sync(path)
    return watch.seconds


def uncompressed(context: Context) -> Iterator[Row]:
    """Row 8: what one thread costs without compression; files in memory, or the disk decides."""
    n_events = context.size(10_000, 600)
    image = recording(context.size(3000, 300))["image"]
    repeats = -(-n_events // len(image))
    events = {"image": np.concatenate([image] * repeats)[:n_events]}
    amount = nbytes(events) / 1e6
    for checksum in (True, False):
        options = {"compression": Compression(level=None, fletcher32=checksum), "threads": 1}
        with context.scratch(in_memory=True) as folder:
            ours, peer, limit = (folder / name for name in ("ours.h5", "peer.h5", "limit.h5"))

            def run_ours(path: Path = ours, kwds: Any = options) -> float:
                return store(HDF5Writer, path, events, 500, **kwds)

            def run_peer(path: Path = peer, checksum: bool = checksum) -> float:
                return plain_chunked(path, events, checksum=checksum)

            def run_limit(path: Path = limit) -> float:
                return plain_contiguous(path, events)

            ways = {"ours": run_ours, "peer": run_peer, "limit": run_limit}
            samples = in_turn(ways, context.rounds)
            note = check_equal(ours, peer)
        yield compare_rows(
            "8",
            f"images, not compressed, {'' if checksum else 'no '}checksum, 1 thread; peer: h5py, "
            f"whole chunks; limit: h5py, contiguous",
            "MB/s",
            dict.fromkeys(samples, amount),
            samples,
            at_least=0.8,
            limited_by="copying to the file" if not checksum else "Fletcher-32",
            note=note,
        )
