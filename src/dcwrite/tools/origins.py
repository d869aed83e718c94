"""Files that lead to each other by their basins: where they are, and what may not be written.

Alone here: the walk along file basins, and how a basin's locations are written. Invariant: nothing
is opened that `Recording` would not open; no output is one of the files it refers to.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import BasinError, DamagedFileError, StorageError, UsageError
from ..store.recording import Recording
from ..store.stream_file import unfinished_of
from ..store.whole_file import refuse_same_file

__all__ = [
    "is_same_file",
    "is_url",
    "locations_of",
    "open_input",
    "refuse_cycles",
    "refuse_origins",
    "walk_basins",
]


def open_input(
    path: str | os.PathLike[str], basin_roots: tuple[str | os.PathLike[str], ...] = ()
) -> Recording:
    """Open a recording that a tool reads.

    Parameters
    ----------
    path
        The recording.
    basin_roots
        Folders below which file basins may be opened, besides the recording's own.

    Raises
    ------
    StorageError
        It is not there, or cannot be read.
    DamagedFileError
        It is unfinished or damaged; the message names the command that helps.
    """
    path = Path(path)
    unfinished = unfinished_of(path)
    if unfinished is not None and not (path.suffix == ".rtdc" and path.exists()):
        raise DamagedFileError(
            f"'{path}': expected a complete recording, got one that is being written or was "
            f"interrupted; get a clean one with `dcwrite recover {unfinished[0]}`"
        )
    if is_url(path):
        raise StorageError(
            errno.ENOENT,
            "expected a file, got a URL; download it first (a basin on a server is written with "
            "`HDF5Writer.store_basin(urls=...)`)",
            os.fspath(path),
        )
    try:
        return Recording(path, basin_roots=basin_roots)
    except DamagedFileError as exc:
        if "; check" in str(exc) or "dcwrite recover" in str(exc):  # it says what to do
            raise
        raise DamagedFileError(
            f"{exc}; rescue what is whole with `dcwrite recover {path} OUT.rtdc`"
        ) from exc


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a name is that of something on a server; a `Path` has only one slash of "//"."""
    text = os.fspath(path)
    return (
        re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/{1,2}[^/]", text) is not None
        and not Path(text.partition(":")[0] + ":").exists()
    )


def walk_basins(
    recording: Recording, _chain: tuple[Recording, ...] = ()
) -> Iterator[tuple[tuple[Recording, ...], str, Path]]:
    """All files that a recording's basins name, and those of the files that can be opened.

    Yields
    ------
    chain, name, path
        The recordings that lead to the basin, its owner last; its name; a resolved location of
        it, which need not exist.
    """
    chain = (*_chain, recording)
    for status in recording.basins:
        basin = status.basin
        if basin is None or basin.type != "file":
            continue
        for location in basin.locations:
            if "://" not in location and not location.startswith(("\\\\", "//")):
                yield chain, basin.name, (recording.path.resolve().parent / location).resolve()
        if status.recording is not None:
            yield from walk_basins(status.recording, chain)


def refuse_origins(path_out: Path, recording: Recording) -> None:
    """Refuse an output that is the input, or a file that the input's basins lead to.

    Parameters
    ----------
    path_out
        The output.
    recording
        The input, open.

    Raises
    ------
    UsageError
        Writing the output would destroy data that the input refers to.
    """
    refuse_same_file(path_out, [recording.path])
    for chain, name, path in walk_basins(recording):
        if is_same_file(path_out, path):
            raise UsageError(
                f"'{path_out}': expected an output that no input refers to, got a file that basin "
                f"'{name}' of '{chain[-1].path}' leads to; choose another name (nothing was "
                f"changed)"
            )


def refuse_cycles(recording: Recording) -> None:
    """Refuse a recording whose basins lead back to a file that led to them.

    Raises
    ------
    BasinError
        There is such a circle.
    """
    for chain, name, path in walk_basins(recording):
        for origin in chain:
            if is_same_file(origin.path, path):
                way = " > ".join(f"'{item.path}'" for item in chain)
                raise BasinError(
                    f"'{recording.path}': expected basins that lead on, got a circle: {way} > "
                    f"'{path}' (basin '{name}'); remove that basin (nothing was written)"
                )


def is_same_file(path: Path, other: Path) -> bool:
    """Whether two names are the same file, also through links; neither has to exist."""
    try:
        refuse_same_file(path, [other])
    except UsageError:
        return True
    return False


def locations_of(path: Path, folder: Path, *, relative_only: bool = False) -> list[str]:
    """How a basin in a file of a folder names another file: absolute, then relative.

    The absolute path comes first: dclab looks for a relative one in the working directory, and
    for its last part beside the file that refers to it, before it looks where it leads (dclab
    0.73, `RTDCBase.basins_retrieve`). A file of the same name would be taken for the basin.

    Parameters
    ----------
    path
        The file that the basin is.
    folder
        Folder of the file that refers to it.
    relative_only
        Whether the absolute path is left out.

    Raises
    ------
    UsageError
        There is no relative path (on another drive), and no other is wanted.
    """
    path, folder = path.resolve(), folder.resolve()
    try:
        relative = Path(os.path.relpath(path, folder)).as_posix()
    except ValueError as exc:  # on another drive of Windows
        if relative_only:
            raise UsageError(
                f"'{path}': expected a file that can be named from '{folder}', got one on another "
                f"drive; leave the absolute path in, or move the file"
            ) from exc
        return [str(path)]
    return [relative] if relative_only else [str(path), relative]
