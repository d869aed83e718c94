"""Metadata: which root attributes "section:key" exist, and of what type their values are.

Alone here: the table of keys. Invariant: a value that passes comes back equal, as the type that
dclab reads (text, integer, float, bool).
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import numpy as np

from ..errors import MetadataError

__all__ = ["SECTIONS", "check_attribute_name", "check_metadata", "check_metadata_value"]

_KEYS: Final[Mapping[str, Mapping[str, str]]] = {
    # type -> comma separated keys, per section; names and types as dclab 0.73 defines them
    "experiment": {
        "text": "date,run identifier,sample,time",
        "integer": "event count,run index",
        "float": "timestamp",
    },
    "fluorescence": {
        "integer": "baseline 1 offset,baseline 2 offset,baseline 3 offset,bit depth,"
        "channel count,channels installed,laser count,lasers installed,sample rate,"
        "samples per event,trace median",
        "text": "channel 1 name,channel 2 name,channel 3 name",
        "float": "laser 1 lambda,laser 1 power,laser 2 lambda,laser 2 power,"
        "laser 3 lambda,laser 3 power,signal max,signal min",
    },
    "fmt_tdms": {"integer": "video frame offset"},
    "imaging": {
        "text": "flash device",
        "float": "flash duration,frame rate,pixel size",
        "integer": "roi position x,roi position y,roi size x,roi size y",
    },
    "online_contour": {
        "bool": "bg empty,no absdiff",
        "integer": "bin area min,bin kernel,bin threshold,image blur",
    },
    "online_filter": {"float": "target duration", "integer": "target event count"},
    "pipeline": {
        "text": "dcnum background,dcnum data,dcnum feature,dcnum gate,dcnum generation,"
        "dcnum hash,dcnum mapping,dcnum segmenter",
        "integer": "dcnum yield",
    },
    "qpi": {
        "float": "wavelength,medium index,pixel size raw,filter size,pixel size proc",
        "text": "software version,bg method,filter name,amp fit offset,amp fit profile,"
        "pha fit offset,pha fit profile,amp border loc,pha border loc,focus metric,"
        "focus minimizer,focus kernel",
        "integer": "padding,amp border px,pha border px,focus padding",
        "bool": "subtract mean,invert phase",
        "bool or float": "scale to filter",
        "two floats": "sideband freq,focus interval",
    },
    "setup": {
        "float": "channel width,flow rate,flow rate sample,flow rate sheath,temperature",
        "text": "chip identifier,chip region,identifier,medium,module composition,"
        "software version",
    },
    "user": {},
}

#: Sections of root attributes, and in each the type of every known key.
SECTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    section: {key: kind for kind, keys in kinds.items() for key in keys.split(",")}
    for section, kinds in _KEYS.items()
}


def check_attribute_name(name: str) -> str | None:
    """What is wrong with the name of a root attribute.

    Returns
    -------
    str or None
        A sentence; None if the name is "section:key" with a known section and key.
    """
    section, colon, key = name.partition(":")
    if not colon or ":" in key:
        return f"attribute '{name}': expected 'section:key' with exactly one colon"
    if section not in SECTIONS:
        return f"attribute '{name}': expected a section of {', '.join(SECTIONS)}, got '{section}'"
    if not key.strip():
        return f"attribute '{name}': expected a key after the colon"
    if section in {"user", "online_filter"} or key in SECTIONS[section]:
        # online_filter also has keys that are made of features ("area_um max")
        return None
    return f"attribute '{name}': not a known key of section '{section}'"


def check_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Check all keys and values before any of them is written.

    Parameters
    ----------
    metadata
        "section:key" to value.

    Returns
    -------
    dict
        The same keys, values in the type that is stored.

    Raises
    ------
    MetadataError
        A key is unknown, or a value is of another type.
    """
    if not isinstance(metadata, Mapping):
        raise MetadataError(
            f"metadata: expected a mapping of 'section:key' to value, got "
            f"{type(metadata).__name__}; nothing was stored"
        )
    checked = {}
    for name, value in metadata.items():
        problem = check_attribute_name(name) if isinstance(name, str) else f"key {name!r}: no text"
        if problem:
            raise MetadataError(f"{problem}; use section 'user' for keys of your own")
        section, _, key = name.partition(":")
        checked[name] = check_metadata_value(name, value, SECTIONS[section].get(key))
    return checked


def check_metadata_value(name: str, value: Any, kind: str | None) -> Any:
    """One value in the type that is stored.

    Parameters
    ----------
    name
        For the message.
    value
        What the caller has; bytes are taken as UTF-8 text.
    kind
        Type as in `SECTIONS`; None: anything that HDF5 can hold.

    Raises
    ------
    MetadataError
        The value is of another type.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        _require_storable_text(name, value)
    is_bool = isinstance(value, bool)
    is_number = isinstance(value, numbers.Real) and not is_bool
    if kind is None:
        return value if isinstance(value, str) else _storable(name, value)
    if kind == "text" and isinstance(value, str):
        return value
    is_small = is_number and (not isinstance(value, int) or -(2**63) <= value < 2**63)
    if kind == "integer" and is_small and math.isfinite(value) and float(value) == int(value):
        return int(value)
    if kind == "float" and is_small:
        return float(value)
    if kind == "bool" and (is_bool or (is_number and value in (0, 1))):
        return bool(value)
    if kind == "bool or float" and (is_bool or is_number):
        return value if is_bool else float(value)
    if kind == "two floats":
        pair = np.asarray(value)
        if pair.shape == (2,) and pair.dtype.kind in "iuf":
            return pair.astype(np.float64)
    raise MetadataError(
        f"'{name}': expected {kind}, got {value!r} ({type(value).__name__}); nothing was stored"
    )


def _require_storable_text(name: str, text: str) -> None:
    """Refuse what HDF5 cannot hold as UTF-8 text of any length."""
    if "\0" in text:
        raise MetadataError(f"'{name}': expected text without NUL characters, got {text!r}")
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise MetadataError(f"'{name}': expected UTF-8 text, got {text!r}") from exc


def _storable(name: str, value: Any) -> Any:
    """A number or an array of numbers or texts, as HDF5 can hold it."""
    with suppress(ValueError):  # nested lists of different lengths
        array = np.asarray(value)
        if array.dtype.kind in "biufcV":
            return value
        if array.dtype.kind == "S":
            return array
        items = array.ravel().tolist()
        if array.dtype.kind == "U" and np.array_equal(array, np.asarray(value, object)):
            for item in items:
                _require_storable_text(name, item)
            return array.tolist()
    raise MetadataError(
        f"'{name}': expected text, a number or an array, got {value!r} ({type(value).__name__}); "
        f"nothing was stored"
    )
