"""Compress: the same recording with another compression.

Alone here: when a recording needs nothing, and what becomes of it then. Invariant: an output holds
what its input holds, and is whole; an input is never touched.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from ..errors import DamagedFileError, DataError, StorageError
from ..format.compression import Compression
from ..store.encoder import require_count
from ..store.hdf5 import storage_errors
from ..store.recompress import Contents
from ..store.recording import Recording
from ..store.whole_file import refuse_output, refuse_same_file, whole_file
from ..store.writer import HDF5Writer
from .compare import compare
from .job_log import job_lines, log_name, store_job_log
from .origins import open_input, refuse_origins
from .progress import Clock, Report

__all__ = [
    "COMMAND",
    "CompressSummary",
    "IfGood",
    "compress",
    "is_good",
    "job_options",
    "require_if_good",
    "settings_of",
]

#: Name in the job log.
COMMAND: Final = "compress"

#: What becomes of a recording that needs nothing.
IfGood: TypeAlias = Literal["copy", "link", "skip"]
_IF_GOOD: Final = {"copy": "copied", "link": "linked", "skip": "skipped"}


@dataclass(frozen=True, slots=True)
class CompressSummary:
    """What was done with one recording.

    Attributes
    ----------
    path_in, path_out
        The recordings.
    action
        "compressed"; of one that was good already: "copied", "linked", or "skipped" (there is no
        output then).
    n_events
        Number of events.
    n_moved, n_recoded
        Chunks of which the stored bytes were taken over, and chunks that were compressed anew.
    raw_bytes
        Size of the events in memory.
    stored_bytes_in, stored_bytes_out
        Sizes of the files.
    elapsed_s
        Wall time.
    """

    path_in: Path
    path_out: Path
    action: str
    n_events: int
    n_moved: int
    n_recoded: int
    raw_bytes: int
    stored_bytes_in: int
    stored_bytes_out: int
    elapsed_s: float

    @property
    def saved_bytes(self) -> int:
        """Bytes that the output is smaller."""
        return self.stored_bytes_in - self.stored_bytes_out

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            **asdict(self),
            "path_in": str(self.path_in),
            "path_out": str(self.path_out),
            "saved_bytes": self.saved_bytes,
        }


def compress(
    path_in: str | os.PathLike[str],
    path_out: str | os.PathLike[str],
    *,
    compression: Compression | str = "archive",
    force: bool = False,
    if_good: IfGood = "copy",
    check: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Report | None = None,
) -> CompressSummary:
    """Write a recording once more with another compression.

    All that is in the file is carried over: features, internal basins, traces, contours, metadata,
    logs, tables, basins, attributes, and groups that are not known. Chunks that are compressed at
    least as well as wanted are moved as they are. The log "dcwrite-compress" says what was done.

    Parameters
    ----------
    path_in
        The recording.
    path_out
        The new recording; it appears when it is complete.
    compression
        "archive" (Zstandard 5), "fast" (1), "none", or settings.
    force
        Whether to compress anew also what is good already.
    if_good
        What to do where all of the file is compressed at least as well as wanted: "copy" it
        byte by byte, "link" it (a hard link: the same file under another name), or "skip" it.
    check
        Whether to read both back and compare everything before the output appears.
    overwrite
        Whether to replace an existing file.
    threads
        Threads that compress; default: the usable cores.
    progress
        Takes records of progress; the stage is "compressing" [bytes of events].

    Raises
    ------
    UsageError
        Output and input are the same file, or the input refers to the output.
    DataError
        `compression` or `if_good` are not known.
    DamagedFileError
        The input is unfinished or damaged; nothing was written.
    StorageError
        The input cannot be read, the output exists, or the disk refuses.
    """
    require_count("threads", threads)
    path_in, path_out = Path(path_in), Path(path_out)
    wanted = settings_of(compression)
    require_if_good(if_good)
    refuse_same_file(path_out, [path_in])
    refuse_output(path_out, overwrite=overwrite)
    with open_input(path_in) as recording:
        size = _size(path_in)
        refuse_origins(path_out, recording)
        contents = Contents(recording.h5)
        total = contents.raw_bytes
        clock = Clock("compressing", total, "bytes", progress)
        n_moved = n_recoded = 0
        has_lowered = _has_lowered_chunks(recording, wanted)
        if not force and _is_good(recording, contents, wanted):
            action = _IF_GOOD[if_good]
        else:
            action = "compressed"
            lines = job_lines(COMMAND, job_options(wanted, force=force), [path_in])
            with whole_file(
                path_out,
                overwrite=overwrite,
                expected_bytes=size if wanted.level is not None else total,
            ) as temporary:
                with HDF5Writer(
                    temporary, mode="x", compression=wanted, threads=threads
                ) as writer:
                    n_moved, n_recoded = contents.write(
                        writer,
                        path_out,
                        recode=force or has_lowered,
                        on_bytes=clock.show,
                    )
                    store_job_log(writer, COMMAND, lines)
                if check:
                    _require_same(path_in, temporary)
        n_events = len(recording)
    if action != "compressed":
        _transfer(path_in, path_out, action, overwrite=overwrite)
        clock.show(total)
    return CompressSummary(
        path_in=path_in,
        path_out=path_out,
        action=action,
        n_events=n_events,
        n_moved=n_moved,
        n_recoded=n_recoded,
        raw_bytes=total,
        stored_bytes_in=size,
        stored_bytes_out=size if action == "skipped" else _size(path_out),
        elapsed_s=clock.elapsed_s,
    )


def is_good(path: str | os.PathLike[str], compression: Compression) -> bool:
    """Whether a recording needs nothing to be compressed at least as well as wanted.

    Raises
    ------
    StorageError or DamagedFileError
        It cannot be read.
    """
    with open_input(path) as recording:
        return _is_good(recording, Contents(recording.h5), compression)


# -- details --------------------------------------------------------------------------------


def _is_good(recording: Recording, contents: Contents, wanted: Compression) -> bool:
    return not _has_lowered_chunks(recording, wanted) and contents.is_compressed(wanted)


def settings_of(compression: Compression | str) -> Compression:
    """Settings of a preset, or those that were given.

    Raises
    ------
    DataError
        There is no such preset, or it is for live streams.
    """
    if isinstance(compression, str):
        compression = Compression.preset(compression)
    if compression.lowest_level is not None:
        raise DataError(
            "compression: expected one level for all chunks, got settings for live streams "
            f"(levels {compression.lowest_level} to {compression.level}); use 'archive' or 'fast'"
        )
    return compression


def require_if_good(if_good: str) -> None:
    """Refuse what can be done with no recording.

    Raises
    ------
    DataError
        It is not known.
    """
    if if_good not in _IF_GOOD:
        raise DataError(f"if_good: expected one of {', '.join(_IF_GOOD)}, got {if_good!r}")


def job_options(wanted: Compression, *, force: bool) -> dict[str, Any]:
    """What decides about the content of the output."""
    return {
        "level": wanted.level,
        "fletcher32": wanted.fletcher32,
        "exact": wanted.exact,
        "force": force,
    }


def _size(path: Path) -> int:
    with storage_errors(path, "looking at the file"):
        return path.stat().st_size


def _has_lowered_chunks(recording: Recording, wanted: Compression) -> bool:
    """Whether chunks have a lower level than their dataset says: a stream that was in a hurry."""
    if wanted.level is None:
        return False
    logs = recording.logs
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        levels = json.loads("\n".join(logs["dcwrite-stream"]))["chunks by Zstandard level"]
        if min(map(int, levels)) >= wanted.level:
            return False
        done = json.loads("\n".join(logs.get(log_name(COMMAND), ["{}"])))
        level = done.get("options", {}).get("level")
        return level is None or level < wanted.level
    return False


def _transfer(path_in: Path, path_out: Path, action: str, *, overwrite: bool) -> None:
    """What becomes of a recording that is good already."""
    if action == "skipped":
        return
    with whole_file(
        path_out, overwrite=overwrite, expected_bytes=_size(path_in) if action == "copied" else 0
    ) as temporary:
        if action == "linked":
            try:
                os.link(path_in, temporary)
            except OSError as exc:
                raise StorageError(
                    exc.errno or errno.EIO,
                    f"a hard link to '{path_in}' cannot be made ({exc.strerror}); copy it instead "
                    f"(if_good='copy', --if-good copy)",
                    str(path_out),
                ) from exc
            return
        with storage_errors(path_out, f"copying '{path_in}'"):
            _copy_bytes(path_in, temporary)
            shutil.copystat(path_in, temporary)


def _copy_bytes(path_in: Path, path_out: Path) -> None:
    """Copy a file; by the file system itself where it can (it may share the blocks)."""
    copy_range = getattr(os, "copy_file_range", None)
    if copy_range is not None:
        with suppress(OSError), path_in.open("rb") as source, path_out.open("xb") as target:
            left = os.fstat(source.fileno()).st_size
            while left > 0:
                n_bytes = copy_range(source.fileno(), target.fileno(), left)
                if not n_bytes:
                    break
                left -= n_bytes
            if not left:
                return
        path_out.unlink(missing_ok=True)
    shutil.copyfile(path_in, path_out)


def _require_same(path_in: Path, path_out: Path) -> None:
    """Refuse an output that does not hold what the input holds."""
    ours = f"log '{log_name(COMMAND)}"
    differences = [line for line in compare(path_in, path_out) if not line.startswith(ours)]
    if differences:
        raise DamagedFileError(
            f"'{path_in}': what was written differs from it ({'; '.join(differences[:3])}); "
            f"nothing was kept; run `dcwrite verify` on it, then check disk and memory"
        )
