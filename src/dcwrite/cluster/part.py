"""One file of a run, a shard or a piece, as a worker makes it.

Alone here: when such a file counts. Invariant: under its name there is a whole file of this run,
every chunk of which was read again after it was written.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import DamagedFileError, UsageError
from ..format.compression import Compression
from ..store.hdf5 import is_unlocked
from ..store.verify import verify
from ..store.whole_file import whole_file
from ..store.writer import HDF5Writer
from .run import NOTE, FeatureKinds, Run, features_of, read_note, write_note

__all__ = ["Part", "make_part"]


@dataclass(frozen=True, slots=True)
class Part:
    """A shard or a piece that is whole.

    Attributes
    ----------
    path
        The file.
    start, stop
        Its range of frames; of events, for a piece.
    n_events
        Events in it.
    features
        Shape of one event and dtype of each feature.
    size_bytes
        Size of the file.
    is_old
        Whether it was there already.
    seconds
        How long it took.
    host
        Where it was made.
    has_locks
        Whether files could be opened with HDF5's locks there.
    """

    path: Path
    start: int
    stop: int
    n_events: int
    features: FeatureKinds
    size_bytes: int
    is_old: bool
    seconds: float
    host: str
    has_locks: bool


def make_part(
    run: Run,
    kind: str,
    start: int,
    stop: int,
    fill: Callable[[HDF5Writer], int],
    *,
    compression: Compression,
) -> Part:
    """Make a file of a run, or find it.

    Parameters
    ----------
    run
        The run.
    kind
        "frames" or "events".
    start, stop
        Its range.
    fill
        Stores the events; returns how many.
    compression
        How.

    Raises
    ------
    UsageError
        This worker has another version of dcwrite than the program that asks.
    StorageError
        The folder of the run is not here, or the disk refuses.
    DamagedFileError
        What was read back is not right.
    """
    began = time.perf_counter()
    _require_same_software(run)
    run.require_here()
    path = run.path(kind, start, stop)
    wanted = {"kind": kind, "start": start, "stop": stop}
    note = read_note(path, run, **wanted)
    is_old = note is not None
    if note is None:
        path.unlink(missing_ok=True)  # what is there is not whole, or not of this run
        try:
            note = _write(path, run, wanted, fill, compression)
        except OSError as exc:
            # a worker that was thought lost may have been faster
            note = read_note(path, run, **wanted) if exc.errno == errno.EEXIST else None
            if note is None:
                raise
    return Part(
        path=path,
        start=start,
        stop=stop,
        n_events=int(note["n_events"]),
        features=features_of(path),
        size_bytes=path.stat().st_size,
        is_old=is_old,
        seconds=time.perf_counter() - began,
        host=socket.gethostname(),
        has_locks=not is_unlocked(path),
    )


def _write(
    path: Path,
    run: Run,
    wanted: dict[str, Any],
    fill: Callable[[HDF5Writer], int],
    compression: Compression,
) -> dict[str, Any]:
    with whole_file(path) as temporary:
        writer = HDF5Writer(
            temporary,
            mode="x",
            compression=compression,
            threads=1,  # a task has one thread of its worker
            event_count=True,
            stream=True,
        )
        with writer:
            n_events = fill(writer)
            content = {**wanted, "n_events": n_events}
            writer.store_log(NOTE, write_note(run, **content))
            if not n_events:
                writer.store_metadata({"experiment:event count": 0})
        report = verify(temporary, threads=1)
        if report.exit_code or report.n_events != n_events:
            findings = "; ".join(map(str, report.findings[:3]))
            raise DamagedFileError(
                f"'{path}': expected {n_events} events, what was read back has {report.n_events} "
                f"({findings or 'no findings'}); the file was not kept"
            )
        run.require_here()  # the run may be over, if this worker was thought lost
    return content


def _require_same_software(run: Run) -> None:
    here = f"dcwrite {__version__}"
    if run.settings.software != here:
        raise UsageError(
            f"worker on '{socket.gethostname()}': expected {run.settings.software} as in the "
            f"program that asks, got {here}; install the same version on all machines"
        )
