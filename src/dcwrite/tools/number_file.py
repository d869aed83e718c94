"""Files with the numbers of events: texts, tables, NumPy arrays.

Alone here: how such files are read. Invariant: what is wrong with one is said with its line, in
words of this program.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import DamagedFileError, DataError, StorageError

__all__ = ["numbers_from_file", "place_of"]

Rows = npt.NDArray[np.int64]

#: A file of numbers that is longer than this is none.
MAX_FILE_BYTES: Final = 1024**3


def numbers_from_file(path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """Numbers of events from a file.

    Parameters
    ----------
    path
        NAME.npy: an array of integers, or of one bool per event. Any other file is a text: one
        number per line, or separated by blanks; a table with a line of names (columns separated
        by comma, semicolon or tab) has them in the column "event". What follows a `#` is left
        out.

    Returns
    -------
    ndarray, shape (n,)
        Integers (counted from 0) or bool.

    Raises
    ------
    StorageError
        The file cannot be read.
    DataError
        It has something else in it.
    """
    path = Path(path)
    try:
        if not path.is_file():
            # never open devices or pipes: some block for ever
            path.stat()
            raise DataError(
                f"'{path}': expected a file with the numbers of events, got a "
                f"{'folder' if path.is_dir() else 'device or pipe'}; name a file"
            )
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(
                f"'{path}': expected at most 1 GiB of numbers, got {path.stat().st_size} bytes; "
                f"check the name"
            )
        numbers = _from_npy(path) if path.suffix == ".npy" else _from_text(path)
    except OSError as exc:
        if isinstance(exc, (StorageError, DamagedFileError)):
            raise
        raise StorageError(exc.errno or 0, exc.strerror or str(exc), str(path)) from exc
    if not numbers.size:
        raise DataError(
            f"'{path}': expected the number of at least one event, got none; check how the file "
            f"was written"
        )
    return numbers


def place_of(index: Any, position: int) -> str:
    """Where a number of a file or an array stands: its line in a text, else its position.

    Parameters
    ----------
    index
        The path of a file that was read before, or the numbers themselves.
    position
        Of the number, from 0.
    """
    if isinstance(index, (str, os.PathLike)) and Path(index).suffix != ".npy":
        count = 0
        for number, _, cells in _lines(Path(index)):
            count += len(cells)
            if count > position:
                return f", line {number}"
    return f", position {position}"


def _from_npy(path: Path) -> npt.NDArray[Any]:
    """Numbers of a NumPy file; what it claims to hold is looked at before it is read."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read(file)
            n_bytes = path.stat().st_size - file.tell()
    except (EOFError, ValueError) as exc:
        raise _wrong_npy(path, "something else, or the first part of one") from exc
    if len(shape) != 1:
        raise _wrong_npy(path, f"one of shape {shape}")
    if dtype.hasobject or dtype.kind not in "biuf":
        raise _wrong_npy(path, "one of Python objects" if dtype.hasobject else f"one of {dtype}")
    if shape[0] * dtype.itemsize != n_bytes:
        raise _wrong_npy(path, f"{n_bytes} bytes of {shape[0] * dtype.itemsize}")
    numbers: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    return numbers if dtype.kind != "f" else _whole(numbers, path)


def _wrong_npy(path: Path, got: str) -> DataError:
    return DataError(
        f"'{path}': expected an array of integers, or of one bool per event, with one axis, got "
        f"{got}; write it with `numpy.save('{path.name}', numbers)`"
    )


def _whole(numbers: npt.NDArray[Any], path: Path) -> Rows:
    """Floats that are integers; many programs write numbers no other way."""
    good = np.isfinite(numbers) & (numbers == np.floor(numbers)) & (np.abs(numbers) < 2**53)
    bad = np.flatnonzero(~good)
    if len(bad):
        raise DataError(
            f"'{path}'{place_of(path, int(bad[0]))}: expected the number of an event, a whole "
            f"number from 0, got {numbers[bad[0]].item()!r}; leave it out, or write them anew"
        )
    return numbers.astype(np.int64)


def _from_text(path: Path) -> Rows:
    values: list[float] = []
    for number, line, cells in _lines(path):
        try:
            values += map(float, cells)
        except ValueError:
            raise DataError(
                f"'{path}', line {number}: expected the number of an event, got '{line[:60]}'; "
                f"leave the line out, or put a # before it"
            ) from None
    return _whole(np.asarray(values, dtype=np.float64), path)


def _lines(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Number of each line with numbers in it, the line, and its cells that are meant.

    Raises
    ------
    DataError
        It is no text, or has a line of names without "event".
    """
    column: int | None = None
    separator: str | None = None
    is_first = True
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, raw in enumerate(file, 1):
                line = raw.partition("#")[0].strip()
                if not line:
                    continue
                if is_first:
                    is_first = False
                    header = _header(line, f"'{path}', line {number}")
                    if header is not None:
                        separator, column = header
                        continue
                if column is None:
                    yield number, line, line.replace(",", " ").replace(";", " ").split()
                else:
                    yield number, line, (line.split(separator)[column : column + 1] or [""])
    except UnicodeDecodeError as exc:
        raise DataError(
            f"'{path}': expected a text with the number of an event in each line, or NAME.npy, "
            f"got something else; check the name"
        ) from exc


def _header(line: str, where: str) -> tuple[str, int] | None:
    """Separator and number of the column, if the line has names in it."""
    try:
        list(map(float, re.split(r"[,;\s]+", line.strip(",; "))))
    except ValueError:
        separator = next((mark for mark in ",;\t" if mark in line), ",")
        names = [name.strip().strip("\"'") for name in line.split(separator)]
        if "event" not in names and any(map(_is_number, re.split(r"[,;\s]+", line))):
            return None  # numbers, and something else
        if "event" not in names:
            raise DataError(
                f"{where}: expected the number of an event, or the names of columns with 'event' "
                f"among them, got '{line[:60]}'; name the column with the numbers 'event', or "
                f"leave the line out"
            ) from None
        return separator, names.index("event")
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
