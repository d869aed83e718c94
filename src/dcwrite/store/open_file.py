"""OpenFile: an HDF5 file that is written to, and what becomes of it when the disk refuses.

Alone here: whether the file can still be used, and how it is let go of. Invariant: after an error
of the disk nothing more is written, and closing neither hides that error nor crashes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import h5py

from ..errors import ClosedError, DamagedFileError, RecordingError, UsageError
from .hdf5 import descriptor_of, divert, open_for_writing, require_open, storage_errors
from .undo import Undo, refuse_leftover_undo

__all__ = ["CACHED_BYTES", "OpenFile", "text_filters"]

#: Bytes at the end of a file that is written that stay in the system's cache.
CACHED_BYTES: Final = 128 * 1024**2


def text_filters(ds_kwds: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for datasets of texts and tables: the filters, not what is for events."""
    filters = ("compression", "compression_opts", "shuffle", "fletcher32")
    return {"chunks": True, **{key: ds_kwds[key] for key in filters if key in ds_kwds}}


class OpenFile:
    """An open HDF5 file with a group "events".

    Parameters
    ----------
    obj
        Path, or an open file, which stays open.
    mode
        How to open a path.

    Attributes
    ----------
    h5 : h5py.File
        The file.
    events : h5py.Group
        The group "events".
    owned : bool
        Whether it was opened, and so is closed, here.
    failed : bool
        Whether the disk refused, so that nothing more can be written.
    closed : bool
        Whether it was let go of.
    """

    def __init__(self, obj: h5py.File | Path | str, mode: str) -> None:
        self.owned = not isinstance(obj, h5py.File)
        if isinstance(obj, h5py.File):
            require_open(obj, writable=True)
        elif not isinstance(obj, (str, os.PathLike)):
            raise UsageError(
                f"expected a path or an open h5py.File, got {obj!r} ({type(obj).__name__})"
            )
        else:
            refuse_leftover_undo(Path(obj))
        self.h5: h5py.File = obj if isinstance(obj, h5py.File) else open_for_writing(obj, mode)
        self.path = Path(os.fsdecode(self.h5.filename))
        #: what the file had before, as long as it is written
        self._undo: Undo | None = None
        self.closed = False
        self.failed = False
        self._descriptor = descriptor_of(self.h5)
        #: bytes of the file that the disk was told to begin with
        self._n_begun = 0 if self._descriptor is None else self._descriptor[1].st_size
        #: bytes that left the system's cache, apart from those that were there before
        self._n_dropped = self._n_begun
        #: whether what HDF5 still has to write goes nowhere
        self._gave_up = False
        try:
            self._undo = Undo.keep(self.h5, self.path)
            self.events = self._require_events()
        except BaseException:
            if self.owned:
                descriptor = descriptor_of(self.h5)
                try:
                    self.h5.close()
                except (OSError, RuntimeError):
                    divert(descriptor)  # the first error is the one to tell
                    self.failed = True
            self._end_undo(is_whole=not self.failed)
            raise

    def _require_events(self) -> h5py.Group:
        if isinstance(self.h5.get("events"), h5py.Dataset):
            raise RecordingError(
                f"'{self.path}': expected 'events' to be a group, got a dataset; this is no "
                f"recording, and nothing was changed"
            )
        with storage_errors(self.path, "creating the group 'events'"):
            return self.h5.require_group("events")

    def require_open(self, *, look: bool = True) -> None:
        """Refuse to go on with a file that is closed, or that the disk refused.

        Parameters
        ----------
        look
            Whether somebody else may have closed it.
        """
        if self.closed or (look and not self.h5.id.valid):
            raise ClosedError(f"'{self.path}': the writer is closed; open a new one")
        if self.failed:
            raise UsageError(
                f"'{self.path}': an earlier write failed, and nothing can be added after it; "
                f"close the writer, and keep what was written before"
            )

    def guard(self, work: Callable[[], None]) -> None:
        """Do some writing; an error of the disk is the end of this file."""
        try:
            work()
        except DamagedFileError:
            raise  # of another file, whose rows were to be written
        except OSError:
            self.failed = True
            raise

    def flush(self, doing: str = "flushing the file") -> None:
        """Hand HDF5's buffers to the operating system."""
        if not self.h5.id.valid:  # a foreign file may have been closed by its owner
            return
        try:
            with storage_errors(self.path, doing):
                self.h5.flush()
        except OSError:
            self.give_up()
            raise

    def begin_writeback(self) -> None:
        """Let the disk begin with what was written since the last call; it is not waited for.

        Else all of it waits for the sync at the end, or for a memory full of it. What is further
        behind than `CACHED_BYTES`, and on the disk, leaves the system's cache, which would fill
        all memory (or all that a container or a job may have) else: its pages take what comes
        next. May be called by any thread, as long as the file is not closed.
        """
        if self._descriptor is None or not hasattr(os, "posix_fadvise"):
            return
        with suppress(OSError):
            number = self._descriptor[0]
            start, self._n_begun = self._n_begun, os.fstat(number).st_size
            if start < self._n_begun:
                # Linux begins to write what is not on the disk yet; it keeps that in its cache
                length = self._n_begun - start
                os.posix_fadvise(number, start, length, os.POSIX_FADV_DONTNEED)
            # what is on the disk by now is dropped
            first, stop = self._n_dropped, start - CACHED_BYTES
            if first < stop:
                self._n_dropped = stop
                os.posix_fadvise(number, first, stop - first, os.POSIX_FADV_DONTNEED)

    def flush_dataset(self, dset: h5py.Dataset) -> None:
        """Write a dataset's buffers now, where an error is seen, and not when it is dropped.

        Raises
        ------
        StorageError
            The disk refused.
        """
        try:
            with storage_errors(self.path, f"writing '{dset.name}'"):
                dset.flush()
        except OSError:
            self.give_up()
            raise

    def give_up(self) -> None:
        """What HDF5 has in its buffers cannot be written: from now on it goes nowhere.

        Else it is tried again by whatever handle is dropped next, where errors are lost, and at
        the interpreter's end, which crashes.
        """
        self.failed = True
        if self.owned:
            self._gave_up = True
            divert(descriptor_of(self.h5))

    def abandon(self) -> None:
        """Let go of the file without another write; it cannot be opened afterwards."""
        self.failed = self._gave_up = True
        divert(descriptor_of(self.h5))
        self.release(lambda: None)

    def release(self, drop_handles: Callable[[], None]) -> None:
        """Let go of the file; an owned one is closed.

        Parameters
        ----------
        drop_handles
            Called last: handles of datasets that are dropped before write what they have.
        """
        self.closed = True
        is_whole = False
        try:
            try:
                if not self._gave_up:
                    self.flush("closing the file")
            finally:
                try:
                    self._close_owned()
                finally:
                    drop_handles()
            is_whole = not self.failed
        finally:
            self._end_undo(is_whole=is_whole)

    def _end_undo(self, *, is_whole: bool) -> None:
        undo, self._undo = self._undo, None
        if undo is not None:
            undo.release(is_whole=is_whole)

    def _close_owned(self, doing: str = "closing the file") -> None:
        if self._gave_up:
            with suppress(OSError, RuntimeError):
                self.h5.close()
        elif self.owned:
            descriptor = descriptor_of(self.h5)  # HDF5 crashes when asked after a failed close
            try:
                with storage_errors(self.path, doing):
                    self.h5.close()
            except OSError:
                divert(descriptor)
                raise

    def start_swmr(self) -> None:
        """Let other programs read while it is written (HDF5's SWMR mode).

        All datasets have to exist; none, and no attribute, can be created until `reopen`.
        """
        with storage_errors(self.path, "starting SWMR"):
            self.h5.flush()
            self.h5.swmr_mode = True

    def reopen(self) -> None:
        """Close the file and open it again, which ends SWMR."""
        try:
            self._close_owned("ending SWMR")
        except OSError:
            self.failed = self.closed = True  # HDF5 crashes when it is asked anything of it now
            raise
        self.h5 = open_for_writing(self.path, "r+")
        self._descriptor = descriptor_of(self.h5)
        self.events = self._require_events()
