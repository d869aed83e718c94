"""HDF5 as this house uses it: opening, errors, low-level reads of a dataset's make-up.

Alone here: how files are opened (version bounds, chunk cache), how HDF5's errors become ours, and
the registration of the filter plugins. Invariant: an error of the disk leaves here as
`StorageError` with its errno, a file that is no HDF5 file as `DamagedFileError`.
"""

from __future__ import annotations

import errno as errno_codes
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import h5py
import hdf5plugin  # noqa: F401 - registers the Zstandard filter with HDF5

from ..errors import ClosedError, DamagedFileError, DCWriteError, StorageError, UsageError
from .sentry import require_passable

__all__ = [
    "CHUNK_CACHE",
    "HDF5_VERSION",
    "LIBVER",
    "File",
    "chunks_of",
    "content_errors",
    "dataset_filters",
    "datasets_of",
    "descriptor_of",
    "divert",
    "errno_of",
    "identity",
    "is_unlocked",
    "open_for_reading",
    "open_for_writing",
    "own_item",
    "read_whole",
    "refuse_far_data",
    "refuse_unsafe_sources",
    "require_open",
    "storage_errors",
]

#: An open file, for rooms that do not know h5py.
File = h5py.File
#: Version of the HDF5 library.
HDF5_VERSION: Final = str(h5py.version.hdf5_version)

#: Lower bound 1.10: the chunk index for growing datasets and SWMR; not "latest", with which HDF5
#: 2.0 may use structures that programs with HDF5 1.14 cannot read (docs/decisions).
LIBVER: Final = ("v110", "latest")
#: A chunk cache that holds the unfinished chunk of every feature.
CHUNK_CACHE: Final = {"rdcc_nbytes": 10 * 1024**2, "rdcc_nslots": 1009, "rdcc_w0": 1.0}

#: Texts, tables and mappings of more than this are not read.
MAX_WHOLE_BYTES: Final = 1024**3

_ERRNO = re.compile(r"errno = (\d+)")

#: What a file system says that has no file locks, as network shares without a lock service.
_NO_LOCKS: Final = (errno_codes.ENOLCK, errno_codes.ENOSYS, errno_codes.EOPNOTSUPP)
#: Folders where files were opened without locks.
_unlocked: set[str] = set()


def errno_of(exc: BaseException) -> int | None:
    """The errno, also where HDF5 only prints it into its message."""
    if isinstance(exc, OSError) and exc.errno:
        return exc.errno
    found = _ERRNO.search(str(exc))
    return int(found.group(1)) if found else None


def require_open(h5: object, *, writable: bool = False) -> None:
    """Refuse what is no open file, before HDF5 says so in its own words.

    Raises
    ------
    UsageError
        Not an `h5py.File`, or one that is open for reading where it has to be written.
    ClosedError
        The file was closed.
    """
    if not isinstance(h5, h5py.File):
        raise UsageError(
            f"expected an open h5py.File, got {h5!r} ({type(h5).__name__}); open it with h5py"
        )
    if not h5.id.valid:
        raise ClosedError("expected an open file, got a closed one; open it again")
    if writable and h5.mode == "r":
        raise UsageError(
            f"'{h5.filename}': expected a file that is open for writing, got mode 'r'"
        )


@contextmanager
def storage_errors(path: str | os.PathLike[str], doing: str) -> Iterator[None]:
    """Turn errors of HDF5 and of the disk into ours.

    Parameters
    ----------
    path
        File that is worked on.
    doing
        What is being done, for the message.
    """
    try:
        yield
    except DCWriteError:
        raise
    except (OSError, RuntimeError) as exc:
        code = errno_of(exc)
        reason = os.strerror(code) if code else str(exc)
        raise StorageError(
            code or errno_codes.EIO, f"{doing} failed: {reason}", os.fspath(path)
        ) from exc


@contextmanager
def content_errors(path: str | os.PathLike[str], doing: str) -> Iterator[None]:
    """Turn whatever a file of strange content leads to into ours.

    Parameters
    ----------
    path
        File that is read.
    doing
        What is being done, for the message.

    Raises
    ------
    DamagedFileError
        The content is not what a recording has.
    """
    try:
        yield
    except DCWriteError:
        raise
    except (
        ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError,
        TypeError, ValueError,
    ) as exc:  # fmt: skip
        raise DamagedFileError(
            f"'{path}': {doing} failed, the file is damaged or no recording "
            f"({type(exc).__name__}: {str(exc)[:200]})"
        ) from exc


def own_item(group: h5py.Group, name: str) -> h5py.Dataset | h5py.Group | None:
    """What a name in a group refers to, if it is in the same file; external links: None."""
    try:
        link = group.get(name, getlink=True)
        if link is None or isinstance(link, h5py.ExternalLink):
            return None
        item = group[name]
    except (KeyError, OSError, RuntimeError, ValueError):
        return None
    return item if isinstance(item, (h5py.Dataset, h5py.Group)) else None


def refuse_far_data(dset: h5py.Dataset) -> None:
    """Refuse a dataset whose data are not in the file: HDF5 would open whatever it names.

    Raises
    ------
    DamagedFileError
        The data are in other files, or are put together from other datasets.
    """
    if dset.is_virtual or dset.external:
        raise DamagedFileError(
            f"'{dset.file.filename}': expected the data of '{dset.name}' in the file, got a "
            f"reference elsewhere, which is not followed"
        )


def refuse_unsafe_sources(dset: h5py.Dataset) -> None:
    """Refuse data elsewhere that HDF5 might never come back from, or has no business with.

    Raises
    ------
    DamagedFileError
        They are not in regular files in or below the file's folder, or lead through further
        virtual datasets, possibly in a circle.
    """
    names = [name for name, _offset, _size in dset.external or ()]
    if dset.is_virtual:
        for source in dset.virtual_sources():
            if source.file_name != ".":
                names.append(source.file_name)
                continue
            inner = dset.file.get(source.dset_name)
            if isinstance(inner, h5py.Dataset) and not inner.is_virtual:
                continue
            raise DamagedFileError(
                f"'{dset.file.filename}': '{dset.name}' is put together from "
                f"'{source.dset_name}', which holds no data itself; it is not read"
            )
    folder = Path(os.fsdecode(dset.file.filename)).resolve().parent
    for name in map(os.fsdecode, names):
        path = (folder / name).resolve()
        if not path.is_file() or not path.is_relative_to(folder):
            raise DamagedFileError(
                f"'{dset.file.filename}': '{dset.name}' refers to '{name}': expected a regular "
                f"file in the same folder or below it, which is not read otherwise"
            )


def read_whole(dset: h5py.Dataset) -> Any:
    """All of a dataset that belongs into memory: a text, a table, a mapping.

    Raises
    ------
    DamagedFileError
        It is larger than 1 GiB, not in the file, or cannot be read.
    """
    where = f"'{dset.file.filename}': '{dset.name}'"
    refuse_far_data(dset)
    size = (dset.size or 0) * max(1, dset.dtype.itemsize)
    if size > MAX_WHOLE_BYTES:
        raise DamagedFileError(f"{where}: expected at most 1 GiB, got {size} bytes")
    try:
        return dset[()]
    except (MemoryError, OSError, RuntimeError, TypeError, ValueError) as exc:
        raise DamagedFileError(f"{where}: cannot be read ({exc})") from exc


def _open(path: Path, mode: str, **kwds: Any) -> h5py.File:
    """Open a file; where the file system has no locks, without HDF5's, which is said once."""
    try:
        return h5py.File(path, mode=mode, libver=LIBVER, **kwds)
    except (OSError, RuntimeError) as exc:
        if mode == "r" and "file locking" in str(exc):
            return _open_like_others(path, exc, **kwds)
        code = errno_of(exc)
        if code not in _NO_LOCKS:
            raise
    # a new file was made before its lock was refused, so it is ours
    h5 = h5py.File(
        path, mode="w" if mode in {"x", "w-"} else mode, libver=LIBVER, locking=False, **kwds
    )
    folder = os.fspath(path.absolute().parent)
    if folder not in _unlocked:
        _unlocked.add(folder)
        logging.getLogger("dcwrite.store").warning(
            "'%s': the file system has no file locks (%s); files are opened without them, as with "
            "HDF5_USE_FILE_LOCKING=FALSE: see to it that one program at a time writes a file",
            folder,
            os.strerror(code),
        )
    return h5


def _open_like_others(path: Path, error: Exception, **kwds: Any) -> h5py.File:
    """Open a file that this process holds open with other settings for locks, as dclab does."""
    for locking in (False, True, "best-effort"):
        with suppress(OSError, RuntimeError):
            return h5py.File(path, mode="r", libver=LIBVER, locking=locking, **kwds)
    raise error


def is_unlocked(path: str | os.PathLike[str]) -> bool:
    """Whether files in a file's folder had to be opened without HDF5's locks."""
    return os.fspath(Path(path).absolute().parent) in _unlocked


def open_for_writing(path: str | os.PathLike[str], mode: str) -> h5py.File:
    """Open or create a file.

    Parameters
    ----------
    path
        The file.
    mode
        a: open or create; r+: open; x or w-: create; w: create, an existing file is unlinked
        first (and not truncated: another process may hold it open).

    Raises
    ------
    StorageError
        The disk refuses, or another process holds the file.
    DamagedFileError
        The file exists and is no HDF5 file.
    """
    path = Path(path)
    if mode == "w":
        with storage_errors(path, "replacing the file"):
            path.unlink(missing_ok=True)
        mode = "x"
    elif mode not in {"a", "r+", "x", "w-"}:
        raise UsageError(
            f"'{path}': expected mode 'a', 'r+', 'x', 'w-' or 'w' for writing, got {mode!r}"
        )
    if mode in {"a", "r+"}:
        require_hdf5(path, allow_empty=True)
    with storage_errors(path, f"opening the file in mode '{mode}'"):
        try:
            return _open(path, mode, **CHUNK_CACHE)
        except OSError as exc:
            if "already open for write" not in str(exc):
                raise
            raise StorageError(
                errno_codes.EIO,
                f"opening the file in mode '{mode}' failed: HDF5 has noted in it that somebody "
                f"writes it; if nobody does, its last writer was killed: get a whole recording "
                f"with `dcwrite recover {path.name}`",
                os.fspath(path),
            ) from exc


def open_for_reading(path: str | os.PathLike[str]) -> h5py.File:
    """Open a file read-only.

    Raises
    ------
    StorageError
        It is not there, or cannot be read.
    DamagedFileError
        It is no HDF5 file, or HDF5 cannot make sense of it: it refuses it, or hung or crashed on
        it in the sentry's process.
    """
    path = Path(path)
    if not path.exists():
        raise StorageError(
            errno_codes.ENOENT,
            f"{os.strerror(errno_codes.ENOENT)}; check the name",
            os.fspath(path),
        )
    if not path.is_file():
        # never open devices, pipes or folders: some block for ever
        raise StorageError(
            errno_codes.EINVAL,
            f"expected a regular file, got a {'folder' if path.is_dir() else 'device or pipe'}; "
            f"name a recording",
            os.fspath(path),
        )
    require_hdf5(path)
    require_passable(path)
    try:
        return _open(path, "r")
    except (OSError, RuntimeError, KeyError) as exc:
        code = errno_of(exc)
        if code:
            raise StorageError(code, f"opening failed: {os.strerror(code)}", str(path)) from exc
        raise DamagedFileError(
            f"'{path}': HDF5 cannot open the file ({exc}), for it was not closed by its writer, "
            f"or is damaged; rescue what is whole with `dcwrite recover {path} OUT.rtdc`"
        ) from exc


def require_hdf5(path: Path, *, allow_empty: bool = False) -> None:
    """Refuse a file that HDF5 would not even recognise.

    Raises
    ------
    DamagedFileError
        It is empty, or holds something else; the message says what to do.
    """
    with storage_errors(path, "opening the file"):
        size = path.stat().st_size if path.is_file() else 0
        if not size:
            if allow_empty or not path.is_file():
                return
            raise DamagedFileError(
                f"'{path}': expected a recording, got an empty file; check whether it was copied "
                f"whole"
            )
        if not h5py.is_hdf5(path):
            raise DamagedFileError(
                f"'{path}': expected an HDF5 file, got {size} bytes without an HDF5 signature "
                f"(the file was not touched); check the name"
            )


def descriptor_of(h5: h5py.File) -> tuple[int, os.stat_result] | None:
    """The number under which the system knows an open file, and what is behind it now.

    Returns
    -------
    tuple or None
        None with another file driver than the default, or on Windows.
    """
    if os.name == "nt":
        return None
    with suppress(OSError, RuntimeError, ValueError, TypeError, AttributeError):
        number = int(h5.id.get_vfd_handle())
        return number, os.fstat(number)
    return None


def divert(descriptor: tuple[int, os.stat_result] | None) -> None:
    """Send what HDF5 still has to write into nothing, so that closing the file cannot fail.

    After a failed write HDF5 1.14 and 2.0 fail to close the file, try again when the interpreter
    ends, and crash it.

    Parameters
    ----------
    descriptor
        From `descriptor_of`, asked for before the file is closed: HDF5 crashes when it is asked
        after a close that failed. A number that means another file by now is left alone.
    """
    if descriptor is None:
        return
    number, was = descriptor
    with suppress(OSError):
        if not os.path.samestat(os.fstat(number), was):
            return
        # a limit for the size of files holds for memory files, too
        memfd_create = None if _size_is_limited() else getattr(os, "memfd_create", None)
        sink = memfd_create("dcwrite") if memfd_create else os.open(os.devnull, os.O_RDWR)
        try:
            os.dup2(sink, number)
        finally:
            os.close(sink)


def _size_is_limited() -> bool:
    """Whether files of this process may not grow beyond some size."""
    if os.name == "nt":
        return False
    import resource  # noqa: PLC0415 - not there on Windows

    return resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY


def identity(group: h5py.Group, name: str) -> tuple[int, int] | None:
    """What a name in a group refers to: file number and object address; None: nothing."""
    try:
        info = h5py.h5o.get_info(group.id, name.encode())
    except (KeyError, RuntimeError):  # h5py 3.16 with HDF5 2.0 raises the latter
        return None
    return info.fileno, info.addr


def dataset_filters(dset: h5py.Dataset) -> list[tuple[int, tuple[int, ...]]]:
    """Filter numbers and parameters, in the order in which they are applied."""
    plist = dset.id.get_create_plist()
    filters = []
    for number in range(plist.get_nfilters()):
        code, _flags, values, _name = plist.get_filter(number)
        filters.append((code, tuple(values)))
    return filters


def chunks_of(dset: h5py.Dataset) -> list[Any]:
    """What HDF5 knows of each stored chunk: chunk_offset, filter_mask, byte_offset, size.

    In one pass: to ask for each by its number takes a time that grows with the square (20 000
    chunks: minutes instead of 0.2 s).
    """
    found: list[Any] = []
    dset.id.chunk_iter(found.append)
    return found


def datasets_of(group: h5py.Group) -> dict[str, h5py.Dataset]:
    """All features of a group of events that are datasets, "trace/..." included, contours not."""
    found: dict[str, Any] = {}
    for name in group:
        item = own_item(group, name)
        if isinstance(item, h5py.Dataset):
            found[name] = item
        elif isinstance(item, h5py.Group) and name == "trace":
            for sub in item:
                if isinstance(dset := own_item(item, sub), h5py.Dataset):
                    found[f"{name}/{sub}"] = dset
    return found
