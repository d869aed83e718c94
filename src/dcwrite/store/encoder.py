"""Chunks to bytes: Zstandard and Fletcher-32 on a pool of threads, outside HDF5's lock.

Alone here: which filter pipelines have a fast path, which way of a level is taken, and how many
threads are useful. Invariant: the bytes are what HDF5's own filters accept, and no dataset is
larger than its level makes it by more than `MOST_LARGER`, as far as chunks were compared.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt
from numcodecs.zstd import Zstd

from ..errors import UsageError
from ..format.compression import FLETCHER32_FILTER, ZSTD_FILTER
from .checksum import (
    FLETCHER32_BYTES,
    append_fletcher32,
    with_fletcher32,
    without_fletcher32,
)
from .hdf5 import dataset_filters
from .zstd import LEAN_LEVELS, SMALL_BYTES, Frame, Way, compress, lean_ways, own_way
from .zstd_library import RoomyFrame

__all__ = ["ChunkCodec", "EncoderPool", "require_count", "usable_cpus", "zstd_content_size"]

#: hdf5plugin's default level when a dataset's filter names none.
_PLUGIN_DEFAULT_LEVEL: Final = 3
#: By what part a chunk may be larger than in the smallest way, for the sake of speed.
MOST_LARGER: Final = 0.015
#: The first chunk of a dataset, and then one of that many, is encoded in all ways and compared.
COMPARE_PERIOD: Final = 512
#: Sooner, but not before so many, where chunks become larger or smaller by that part of their
#: size, and of what they hold: then something else has come.
SOON_PERIOD: Final = 8
OTHER_SIZE, OTHER_PART = 0.25, 0.02


def usable_cpus() -> int:
    """Cores that this process may use: affinity and cgroup limits counted."""
    counter: Callable[[], int | None] | None = getattr(os, "process_cpu_count", None)
    if counter is not None:
        count = counter() or 1
    elif hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no cgroup v2 here
    return max(1, count)


class _Choice:
    """The way that does for the chunks of a dataset at one level, as long as they are alike.

    Parameters
    ----------
    way
        It is compressed that way.
    part
        Size of the chunk that was compared, as part of what it holds.

    Attributes
    ----------
    way
        As given.
    is_due
        Whether the next chunk that is encoded alone has to be compared.
    """

    __slots__ = ("_n_chunks", "_part", "is_due", "way")

    def __init__(self, way: Way, part: float) -> None:
        self.way = way
        self.is_due = False
        self._part = part
        self._n_chunks = 0

    def note(self, part: float) -> None:
        """A chunk was compressed that way; any thread may say so."""
        self._n_chunks += 1
        period = COMPARE_PERIOD
        if abs(part - self._part) > max(OTHER_SIZE * self._part, OTHER_PART):
            period = SOON_PERIOD
        if self._n_chunks >= period - 1:
            self.is_due = True


class ChunkCodec:
    """Encodes and decodes whole chunks of one dataset.

    Parameters
    ----------
    level
        Zstandard level; None: not compressed.
    fletcher32
        Whether the checksum is appended.
    exact
        Whether to use the level's own parameters only, and no lean ones.
    """

    def __init__(self, level: int | None, *, fletcher32: bool, exact: bool = False) -> None:
        self.level = level
        self.fletcher32 = fletcher32
        self.exact = exact
        self._zstd = Zstd(level=1)  # decodes all levels
        #: by level, and whether chunks are small; absent: none was compared yet
        self._choices: dict[tuple[int, bool], _Choice] = {}
        self._first = threading.Lock()

    @classmethod
    def for_dataset(cls, dset: h5py.Dataset) -> ChunkCodec | None:
        """Codec of a chunked dataset; None where HDF5 has to filter itself."""
        if dset.chunks is None or dset.dtype.kind not in "biuf" or dset.shape == ():
            return None
        filters = dataset_filters(dset)
        level, fletcher32 = None, False
        if filters and filters[-1][0] == FLETCHER32_FILTER:
            fletcher32 = True
            filters = filters[:-1]
        if filters and filters[0][0] == ZSTD_FILTER:
            values = filters[0][1]
            level = values[0] if values else _PLUGIN_DEFAULT_LEVEL
            filters = filters[1:]
        if filters:
            return None
        return cls(level, fletcher32=fletcher32)

    @classmethod
    def for_filter_kwargs(cls, kwds: Mapping[str, Any]) -> ChunkCodec | None:
        """Codec of datasets that are created with such arguments; None as `for_dataset`."""
        if any(kwds.get(key) for key in ("shuffle", "scaleoffset")):
            return None
        fletcher32 = bool(kwds.get("fletcher32"))
        if kwds.get("compression") is None:
            return cls(None, fletcher32=fletcher32)
        if kwds["compression"] != ZSTD_FILTER:
            return None
        values = kwds.get("compression_opts") or (_PLUGIN_DEFAULT_LEVEL,)
        return cls(int(values[0]), fletcher32=fletcher32)

    def anew(self) -> ChunkCodec:
        """A codec of another dataset with the same filters."""
        return ChunkCodec(self.level, fletcher32=self.fletcher32, exact=self.exact)

    @property
    def is_bare(self) -> bool:
        """Whether the stored bytes are the rows' own memory: neither compressed nor checked."""
        return self.level is None and not self.fletcher32

    @property
    def brings_checksum(self) -> bool:
        """Whether a chunk's own Fletcher-32 says that its bytes are what was written.

        Not where rows are stored as they are: for this sum 0xFFFF is the same as 0x0000, so that
        zeros could stand in place of a mask or of saturated pixels.
        """
        return self.fletcher32 and self.level is not None

    def holds(self, stored: bytes, nbytes: int) -> bool:
        """Whether stored bytes say that they hold so many bytes of rows."""
        if self.level is not None:
            return zstd_content_size(stored) == nbytes
        return len(stored) == nbytes + (FLETCHER32_BYTES if self.fletcher32 else 0)

    def encode(self, chunk: npt.NDArray[Any], level: int | None = None) -> bytes | memoryview:
        """Bytes of one chunk as they stand in the file; the chunk's own memory if `is_bare`.

        Parameters
        ----------
        chunk
            All rows of the chunk, C-contiguous, in the dataset's dtype.
        level
            Another Zstandard level than that of the dataset (every reader opens it).
        """
        if self.level is None:
            return self.finish(chunk.reshape(-1).view(np.uint8))
        return self.finish(self._compress(chunk, self.level if level is None else level))

    def way_together(self, n_bytes: int, level: int | None = None) -> Way | None:
        """How a chunk is compressed beside others, by `compress_together`; it then has to be.

        Parameters
        ----------
        n_bytes
            Size of the chunk.
        level
            As for `encode`.

        Returns
        -------
        Way or None
            None: it is not compressed, takes long, or has to be encoded in all ways and compared.
        """
        if self.level is None:
            return None
        level = self.level if level is None else level
        if n_bytes > SMALL_BYTES and level not in LEAN_LEVELS:
            return None  # it takes long, and each call has compressors of its own, large ones
        own = own_way(level, n_bytes)
        if self._is_own(level):
            return own
        choice = self._choices.get((level, own.is_small))
        return None if choice is None or choice.is_due else choice.way

    def note_together(self, frame: Frame, n_bytes: int, level: int | None = None) -> None:
        """Look at a frame that `compress_together` made.

        Parameters
        ----------
        frame
            The frame.
        n_bytes, level
            As for `way_together`.
        """
        level = self.level if level is None else level
        if level is not None:
            choice = self._choices.get((level, own_way(level, n_bytes).is_small))
            if choice is not None:
                choice.note(len(frame) / n_bytes)

    def _is_own(self, level: int) -> bool:
        """Whether chunks are compressed in the level's own way only."""
        return self.exact or level not in LEAN_LEVELS

    def finish(self, frame: Any) -> memoryview:
        """Bytes of a chunk as they stand in the file, made of its frame, which is given away."""
        if isinstance(frame, RoomyFrame):
            return append_fletcher32(frame.memory) if self.fletcher32 else frame.view
        return with_fletcher32(frame) if self.fletcher32 else memoryview(frame)

    def _compress(self, chunk: npt.NDArray[Any], level: int) -> Frame:
        data = chunk.reshape(-1).view(np.uint8)
        own = own_way(level, chunk.nbytes)
        if self._is_own(level):
            return compress(data, own)
        key = level, own.is_small
        choice = self._choices.get(key)
        if choice is None:
            with self._first:  # who comes meanwhile waits for the answer
                choice = self._choices.get(key)
                if choice is None:
                    return self._compare(chunk, level)
        if choice.is_due:
            choice.is_due = False  # others go on as before
            return self._compare(chunk, level)
        frame = compress(data, choice.way)
        choice.note(len(frame) / chunk.nbytes)
        return frame

    def _compare(self, chunk: npt.NDArray[Any], level: int) -> Frame:
        """Encode in all ways, and go on with the fastest of those that are about the smallest."""
        data = chunk.reshape(-1).view(np.uint8)
        left: list[tuple[Way, Frame]] = []
        for way in lean_ways(level, chunk.shape[1:], chunk.itemsize, chunk.nbytes):
            left.append((way, compress(data, way)))
            most = (1 + MOST_LARGER) * min(len(frame) for _, frame in left)
            left = [(one, frame) for one, frame in left if len(frame) <= most]
        way, frame = left[0]
        self._choices[level, way.is_small] = _Choice(way, len(frame) / chunk.nbytes)
        return frame

    def decode(
        self, stored: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]
    ) -> npt.NDArray[Any]:
        """Rows of one chunk.

        Parameters
        ----------
        stored
            Bytes of the chunk as they stand in the file.
        dtype, shape
            What the chunk has to hold; more is never unpacked.

        Raises
        ------
        RuntimeError or ValueError
            The checksum or the size is wrong.
        """
        data: Any = stored
        if self.fletcher32:
            data = without_fletcher32(data)
        if self.level is None:
            return np.frombuffer(data, dtype=dtype).reshape(shape)
        rows = np.empty(shape, dtype=dtype)
        size = rows.nbytes
        flat = rows.reshape(-1).view(np.uint8)
        if zstd_content_size(data) != size:
            raise ValueError(f"expected {size} bytes in the chunk, got {zstd_content_size(data)}")
        self._zstd.decode(data, out=flat)
        return rows


def zstd_content_size(frame: Any) -> int | None:
    """Number of bytes that a Zstandard frame says it holds (RFC 8878, section 3.1.1.1).

    Returns
    -------
    int or None
        None: no frame, or one that does not say.
    """
    head = bytes(memoryview(frame)[:18])
    if len(head) < 6 or head[:4] != b"\x28\xb5\x2f\xfd":
        return None
    descriptor = head[4]
    single_segment = descriptor >> 5 & 1
    start = 5 + (not single_segment) + (0, 1, 2, 4)[descriptor & 3]
    width = (1 if single_segment else 0, 2, 4, 8)[descriptor >> 6]
    if width == 0 or len(head) < start + width:
        return None
    size = int.from_bytes(head[start : start + width], "little")
    return size + 256 if width == 2 else size


def require_count(what: str, value: int | None) -> None:
    """Refuse what is no number of threads, jobs or the like; None is one that is left open.

    Raises
    ------
    UsageError
        Not an integer, or below 1.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise UsageError(
            f"{what}: expected a whole number from 1, got {value!r}; use 1 for one after another"
        )


class EncoderPool:
    """Threads that encode; one of them means: no threads, in the caller's.

    Parameters
    ----------
    threads
        Number of threads; None: as many as there are usable cores.

    Raises
    ------
    UsageError
        No number of threads.
    """

    def __init__(self, threads: int | None = None) -> None:
        require_count("threads", threads)
        self.threads = usable_cpus() if threads is None else int(threads)
        self._executor: ThreadPoolExecutor | None = None

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Run on a thread of the pool, or at once where there is none."""
        if self.threads > 1:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(
                    self.threads, thread_name_prefix="dcwrite-encode"
                )
            try:
                return self._executor.submit(function, *args)
            except RuntimeError:
                pass  # the interpreter is ending, and starts no more threads
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args))
        except Exception as exc:  # noqa: BLE001 - raised by result()
            future.set_exception(exc)
        return future

    def close(self) -> None:
        """End the threads; what was submitted is finished first."""
        if self._executor is not None:
            self._executor.shutdown(wait=True)
            self._executor = None
