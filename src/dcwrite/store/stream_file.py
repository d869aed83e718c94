"""StreamFile: the file of a stream, from its first event to its name.

Alone here: names of unfinished files, commits, and the end: a whole file gets its name, one that
the disk refused stays beside its journal. Invariant: a name that ends in .rtdc is always that of
a whole file; what was there under that name stays until then.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .._version import __version__
from ..errors import DCWriteError, StorageError, UsageError
from .append import GrowingDataset
from .hdf5 import storage_errors
from .journal import (
    CONTOURS,
    CRC32,
    FLETCHER32,
    Commit,
    Durability,
    FeatureRecord,
    Journal,
    Tail,
    sync_file,
)
from .space import require_space
from .undo import refuse_leftover_undo
from .whole_file import rename_without_replacing, sync_folder
from .writer import HDF5Writer

__all__ = ["StreamFile", "journal_path", "part_path", "unfinished_of"]


def part_path(path_out: Path) -> Path:
    """Name of the unfinished file: NAME.rtdc.part."""
    return path_out.with_name(path_out.name + ".part")


def journal_path(path_out: Path) -> Path:
    """Name of its journal: NAME.rtdc.journal."""
    return path_out.with_name(path_out.name + ".journal")


def unfinished_of(path: Path) -> tuple[Path, Path] | None:
    """Unfinished file and journal that belong to a name; None where there are none.

    Parameters
    ----------
    path
        NAME.rtdc, NAME.rtdc.part or NAME.rtdc.journal.
    """
    name = path.name.removesuffix(".part").removesuffix(".journal")
    if not name:
        return None  # a folder
    target = path.with_name(name)
    part, journal = part_path(target), journal_path(target)
    return (part, journal) if journal.exists() and part.exists() else None


class StreamFile:
    """An HDF5Writer whose batches are committed to a journal.

    Parameters
    ----------
    obj
        Path of the recording, or an open file, which stays open and has no journal.
    mode
        "w" replaces an existing recording when the new one is complete; "x" refuses it; "a"
        appends to it: to a copy, which replaces it in the end.
    durability
        "process": commits survive a kill of the process; "power": and a power cut; "none".
    sync_interval_s
        With "power": the shortest time between two syncs.
    in_place
        Whether to write under the final name from the start, without journal: a kill then leaves
        a file that only its writer's chunks can be rescued from.
    live
        Whether other programs may read the file with HDF5's SWMR mode while it is written.
    writer_options
        For `HDF5Writer`.

    Attributes
    ----------
    writer : HDF5Writer
        The open writer.
    path_out : Path
        The recording's name.
    """

    def __init__(
        self,
        obj: h5py.File | Path | str,
        mode: str,
        *,
        durability: Durability = "process",
        sync_interval_s: float = 0.0,
        in_place: bool = False,
        live: bool = False,
        writer_options: Mapping[str, Any],
    ) -> None:
        self._journal: Journal | None = None
        self._numbers: dict[GrowingDataset, int] = {}
        self._chunks: list[tuple[int, int, int, int, int]] = []
        self._journaled: dict[int, int] = {}
        self._events = self._frames = 0
        self._live = live
        self._in_swmr = False
        #: events of commits that are written, and of those that would survive now
        self.written_events = self.durable_events = 0
        self._may_replace = True
        self._renames = False
        if isinstance(obj, h5py.File):
            self.path_out = Path(os.fsdecode(obj.filename))
            self.writer = HDF5Writer(obj, stream=True, **writer_options)
            return
        self.path_out = Path(obj)
        if mode not in {"a", "w", "x", "w-"}:
            raise UsageError(f"'{obj}': expected mode 'a', 'w' or 'x' for a stream, got {mode!r}")
        exists = self.path_out.exists()
        if exists and mode in {"x", "w-"}:
            raise StorageError(17, "the recording exists already; use another name", str(obj))
        if in_place:
            self.writer = HDF5Writer(self.path_out, mode, stream=True, **writer_options)
            return
        self._renames = True
        if self.path_out.is_symlink() and not exists and mode != "w":
            raise StorageError(
                17, "the name is that of a link that leads nowhere; use another name", str(obj)
            )
        # what appears under the name in the meantime is somebody else's
        self._may_replace = exists or mode == "w"
        part = part_path(self.path_out)
        if exists:
            refuse_leftover_undo(self.path_out)
        self._refuse_leftovers(part)
        made = []
        try:
            if exists and mode == "a":
                require_space(part, self.path_out.stat().st_size)
                with storage_errors(part, "copying the recording that is appended to"):
                    part.touch(exist_ok=False)  # of two that append at once, one is refused
                    made.append(part)
                    shutil.copyfile(self.path_out, part)
                self.writer = HDF5Writer(part, "r+", stream=True, **writer_options)
            else:
                self.writer = HDF5Writer(part, "x", stream=True, **writer_options)
                made.append(part)
            if durability != "none":
                head = {
                    "writer": f"dcwrite {__version__}",
                    "target": self.path_out.name,
                    "appends": exists and mode == "a",
                    "dedup_background": bool(writer_options.get("dedup_background")),
                    "ds_kwds": _json_kwds(self.writer.ds_kwds),
                }
                self._journal = Journal(
                    journal_path(self.path_out),
                    part,
                    head,
                    durability=durability,
                    sync_interval_s=sync_interval_s,
                )
                self.writer.watch_chunks(self._note_chunk, runs_ahead=not live)
        except BaseException:
            with suppress(AttributeError, DCWriteError):
                self.writer.close()
            for path in made:
                path.unlink(missing_ok=True)
            raise

    def _refuse_leftovers(self, part: Path) -> None:
        """An unfinished recording of the same name is somebody's data.

        A journal beside a recording that has its name, and no unfinished file, is not: its writer
        was killed after the renaming.
        """
        journal = journal_path(self.path_out)
        if not part.exists():
            if self.path_out.exists():
                journal.unlink(missing_ok=True)
            if not journal.exists():
                journal.with_name(journal.name + ".new").unlink(missing_ok=True)
        for path in (part, journal_path(self.path_out)):
            if path.exists():
                raise StorageError(
                    17,
                    f"an unfinished recording of this name is there; rescue it with `dcwrite "
                    f"recover {part.name}`, or delete '{part.name}' and "
                    f"'{journal_path(self.path_out).name}'",
                    str(path),
                )

    def store(self, feat: str, data: Any) -> None:
        """Store events of one feature."""
        self.writer.store_feature_chunk(feat, data)

    def commit(
        self, n_events: int | None, n_frames: int, done: Callable[[int, int], None] | None
    ) -> None:
        """Declare all that was stored a batch.

        Parameters
        ----------
        n_events, n_frames
            In the batch; None: as many as every feature has.
        done
            Called with both when the batch is handed to HDF5 and, if there is a journal, to it.
        """
        # rows that HDF5 filters itself, and contours, are in no chunk that the journal could name:
        # to write all of them anew each time would be slower than to let the journal grow
        replace = (
            self._journal is not None
            and self._journal.wants_replacement
            and all(dataset.codec is not None for _, dataset in self.writer.datasets())
            and not self.writer.has_contours
        )
        lengths, tails = self._take_tails(everything=replace)
        if n_events is None:
            whole = min(self.writer.lengths().values(), default=0)
            before = [
                dataset.start_events
                for path, dataset in self.writer.datasets()
                if path.startswith("events/")
            ]
            n_events = max(0, whole - max(before, default=0) - self._events)
        self._events += n_events
        self._frames += n_frames
        events, frames = self._events, self._frames

        def write_record() -> None:
            chunks, self._chunks = self._chunks, []
            journal = self._journal
            self.written_events = events
            if journal is not None and journal.commit(
                Commit(events, frames, lengths, chunks, tails), replace=replace
            ):
                self.durable_events = events
            if self._live:
                self._show_readers()
            if done is not None:
                done(n_events, n_frames)

        self.writer.when_written(write_record)

    def _show_readers(self) -> None:
        """Start SWMR when all features are there; from then on let readers see each commit."""
        if self._in_swmr:
            self.writer.flush_swmr()
        elif any(self.writer.lengths().values()):
            self.writer.start_swmr()
            self._in_swmr = True

    def end_live(self) -> None:
        """No more readers: attributes and logs can be written again."""
        if self._live:
            self.writer.write_waiting()  # a commit on its way may be the one that lets readers in
            self._live = False
        if self._in_swmr:
            self._in_swmr = False
            self.writer.end_swmr()

    def _take_tails(self, *, everything: bool) -> tuple[dict[int, int], list[Tail]]:
        """Lengths, and the rows that no whole chunk and no earlier commit has."""
        journal = self._journal
        if journal is None:
            return dict(enumerate(self.writer.lengths().values())), []
        lengths, tails = {}, []
        for path, dataset in self.writer.datasets():
            number = self._numbers.get(dataset)
            if number is None:
                number = self._announce(journal, path, dataset)
            lengths[number] = dataset.n_events
            start = dataset.first_unfinished
            if not everything:
                start = max(start, self._journaled[number])
            rows = dataset.tail_rows(start)
            if len(rows):
                tails.append(Tail(number, start, rows))
            self._journaled[number] = dataset.n_events
        contours = self.writer.take_contours()
        if contours is not None:
            start, items = contours
            lengths[CONTOURS] = start + len(items)
            if items:
                tails.append(Tail(CONTOURS, start, items))
        return lengths, tails

    def _announce(self, journal: Journal, path: str, dataset: GrowingDataset) -> int:
        number = len(self._numbers)
        self._numbers[dataset] = number
        self._journaled[number] = dataset.start_events
        journal.add_feature(
            FeatureRecord(
                number,
                path,
                dataset.dtype.str,
                dataset.item_shape,
                dataset.chunk_events,
                dataset.start_events,
                FLETCHER32 if dataset.brings_checksum else CRC32,
            )
        )
        return number

    def _note_chunk(
        self, dataset: GrowingDataset, start: int, offset: int, size: int, checksum: int
    ) -> None:
        number = self._numbers.get(dataset)
        if number is None and self._journal is not None:
            path = next(path for path, known in self.writer.datasets() if known is dataset)
            number = self._announce(self._journal, path, dataset)
        self._chunks.append((number or 0, start, offset, size, checksum))

    def idle(self) -> None:
        """Nothing more is waiting: let all commits become durable."""
        self.writer.write_waiting()
        if self._journal is not None:
            self._journal.sync()
            self.durable_events = self.written_events

    def finish(self) -> None:
        """Write the rest, close, and give the recording its name.

        Raises
        ------
        StorageError
            The disk refused; the unfinished file and its journal stay.
        """
        part = self.writer.path
        try:
            self.end_live()
            self.writer.close()
            if self.writer.h5_owned:
                with storage_errors(part, "completing the recording"):
                    with part.open("rb+") as file:
                        sync_file(file.fileno(), data_only=False)
                    if self._may_replace and self._renames:
                        part.replace(self.path_out)
                    elif self._renames:
                        rename_without_replacing(part, self.path_out)
                    sync_folder(self.path_out.parent)
        except BaseException:
            self.leave()
            raise
        if self._journal is not None:
            self._journal.close(remove=True)
            self._journal = None
        self.durable_events = self.written_events = self._events

    def leave(self) -> None:
        """Let go of an unfinished file after an error of the disk; it stays for `recover`."""
        with suppress(DCWriteError):
            self.writer.abandon()
        if self._journal is not None:
            with suppress(DCWriteError, OSError):
                self._journal.sync()
            with suppress(OSError):
                self._journal.close(remove=False)
            self._journal = None

    def explain(self, exc: StorageError) -> StorageError:
        """The same error with what is safe, and what to do."""
        part = self.writer.path
        if not self._renames or not journal_path(self.path_out).exists():
            return exc
        error = StorageError(
            exc.errno,
            f"{exc.strerror}; {self.durable_events} events are durable in '{part.name}': rescue "
            f"them with `dcwrite recover {part.name}`, to another disk if this one is full",
            str(exc.filename or part),
        )
        error.durable_events = self.durable_events
        return error


def _json_kwds(kwds: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for datasets as JSON; what cannot be is left to the default."""
    plain = (str, int, float, bool, type(None))
    found: dict[str, Any] = {}
    for key, value in kwds.items():
        if isinstance(value, (tuple, list, np.ndarray)):
            found[key] = [int(item) for item in value]
        elif isinstance(value, plain):
            found[key] = value
    return found
