"""The measurement identifier, by which a basin is known to belong to a recording.

Alone here: the formula. Invariant: the same three attributes give the same identifier as in
dclab and dcnum.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = [
    "as_text",
    "identifier_from_attributes",
    "identifier_of_selection",
    "readers_agree",
]

_RUN: Final = "experiment:run identifier"
_PARTS: Final = ("experiment:time", "experiment:date", "setup:identifier")


def as_text(value: Any) -> str:
    """An attribute's value as text; bytes are UTF-8."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def identifier_from_attributes(attributes: Mapping[str, Any]) -> str | None:
    """Identifier of a measurement from its root attributes.

    Parameters
    ----------
    attributes
        The attributes "section:key" of the file.

    Returns
    -------
    str or None
        "experiment:run identifier" where it is set; else a UUID whose hex digits are the md5 sum
        of time, date and setup identifier; None if one of these is missing or empty.
    """
    run = attributes.get(_RUN)
    if run is not None and (text := as_text(run)):
        return text
    parts = [attributes.get(key) for key in _PARTS]
    texts = ["" if part is None else as_text(part) for part in parts]
    if not all(texts):
        return None
    digest = hashlib.md5("_".join(texts).encode("utf-8"), usedforsecurity=False)
    return str(uuid.UUID(hex=digest.hexdigest()))


def identifier_of_selection(identifier: str | None, rows: npt.NDArray[Any]) -> str | None:
    """Identifier of a recording that holds some of the events of another one.

    dclab reads an unmapped basin only if its identifier equals that of the file, and a mapped one
    only if the file's begins with it (dclab 0.73, `Basin.verify_basin`).

    Parameters
    ----------
    identifier
        Of the recording that has all events; None: it has none.
    rows
        The events, shape (n,).

    Returns
    -------
    str or None
        The same for the same events; None where there is nothing to begin with.
    """
    if identifier is None:
        return None
    data = np.ascontiguousarray(rows, dtype="<i8").tobytes()
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return f"{identifier}_dcwrite-{digest[:7]}"


def readers_agree(attributes: Mapping[str, Any]) -> bool:
    """Whether dclab and dcnum make the same identifier of these attributes.

    Where one is bytes, dcnum does not decode it (dcnum 0.31): "b'...'" becomes part of the sum.
    """
    return not any(isinstance(attributes.get(key), bytes) for key in (_RUN, *_PARTS))
