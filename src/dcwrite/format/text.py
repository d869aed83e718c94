"""Text: lines as HDF5 stores them, and what a misspelt word may have been meant to be.

Alone here: encoding and width. Invariant: decoding what was encoded gives the same lines.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import MetadataError

__all__ = ["decode_lines", "did_you_mean", "drawable", "encode_lines", "storable"]


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A question with the known words that are spelt most like a word; None: there are none.

    Capital letters make no difference.
    """
    by_spelling: dict[str, list[str]] = {}
    for name in known:
        by_spelling.setdefault(name.lower(), []).append(name)
    near = difflib.get_close_matches(word.lower(), by_spelling, n=3)
    names = [name for spelling in near for name in by_spelling[spelling]][:3]
    return f"did you mean {' or '.join(names)}?" if names else None


def encode_lines(lines: Iterable[str | bytes] | str | bytes, what: str) -> npt.NDArray[np.bytes_]:
    """Lines as an array of fixed-length bytes.

    Parameters
    ----------
    lines
        One text per line; a single text is split at its line ends.
    what
        For the message.

    Returns
    -------
    ndarray, shape (lines,)
        Width: that of the longest line in bytes, at least 1.

    Raises
    ------
    MetadataError
        An item is no text, or holds a NUL character (HDF5 would cut the line there).
    """
    if isinstance(lines, bytes):
        lines = lines.decode("utf-8", "surrogateescape")
    if not isinstance(lines, Iterable):
        raise MetadataError(f"{what}: expected lines of text, got {type(lines).__name__}")
    items = lines.splitlines() if isinstance(lines, str) else list(lines)
    encoded = []
    for number, item in enumerate(items):
        if not isinstance(item, (str, bytes)):
            raise MetadataError(
                f"{what}, line {number}: expected text, got {type(item).__name__}; "
                f"pass a list of texts"
            )
        try:
            line = item if isinstance(item, bytes) else item.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as exc:
            raise MetadataError(
                f"{what}, line {number}: expected text that UTF-8 can hold, got {item!r}"[:300]
            ) from exc
        if b"\x00" in line:
            raise MetadataError(
                f"{what}, line {number}: expected text without NUL characters, got {item!r}"[:300]
            )
        encoded.append(line)
    width = max([1, *map(len, encoded)])
    return np.array(encoded, dtype=f"S{width}")


def drawable(text: str) -> str:
    """Text with a question mark for each byte that was no UTF-8, which no font has."""
    return text.encode("utf-8", "replace").decode()


def storable(value: Any) -> Any:
    """The value of an attribute as h5py takes it: text that was no UTF-8 as the bytes it was."""
    if isinstance(value, str) and not value.isascii():
        return value if _is_utf8(value) else value.encode("utf-8", "surrogateescape")
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def decode_lines(data: Iterable[Any]) -> list[str]:
    """Lines of a stored text; fixed-length or variable-length."""
    return [
        bytes(item).decode("utf-8", "surrogateescape") if isinstance(item, bytes) else str(item)
        for item in data
    ]
