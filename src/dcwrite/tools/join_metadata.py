"""Metadata of recordings that are joined: which differences matter, and what the output says.

Alone here: keys. Invariant: no value of any input is lost: what the joined file does not say is in
its logs "src-#N_cfg".
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np

from .join_inputs import JoinInput

__all__ = [
    "channels_left_out",
    "configuration_lines",
    "folded_lines",
    "joined_identifier",
    "joined_metadata",
    "metadata_differences",
]

#: Keys that say how it was measured: recordings that differ in one of them do not belong together.
_DECISIVE: Final = frozenset(
    {
        "imaging:frame rate", "imaging:pixel size", "imaging:roi size x", "imaging:roi size y",
        "setup:channel width", "setup:chip region", "setup:flow rate", "setup:flow rate sample",
        "setup:flow rate sheath", "setup:identifier", "setup:medium",
    }
)  # fmt: skip
#: Sections of which every key is decisive.
_DECISIVE_SECTIONS: Final = frozenset({"fluorescence", "qpi"})
#: Keys that are computed, or differ in any two measurements.
_OWN: Final = frozenset(
    {
        "experiment:date", "experiment:event count", "experiment:run identifier",
        "experiment:run index", "experiment:time", "experiment:timestamp",
    }
)  # fmt: skip
#: Values of 32-bit origin differ from those of 64-bit origin by less than this.
_RELATIVE: Final = 1e-6
#: Longer lines in logs raise an alert in dclab's check.
_LINE_BYTES: Final = 100
_SHOWN: Final = 60
#: Different values, and names of inputs, that are shown.
_VALUES: Final = 3
_NAMES: Final = 5


def metadata_differences(inputs: Sequence[JoinInput]) -> tuple[list[str], list[str]]:
    """Lines about keys that differ: those that are decisive, and the others."""
    decisive: list[str] = []
    others: list[str] = []
    for key in sorted({key for item in inputs for key in item.metadata} - _OWN):
        groups: list[tuple[Any, list[str]]] = []
        without = [item.name for item in inputs if key not in item.metadata]
        for item in inputs:
            if key not in item.metadata:
                continue
            value = item.metadata[key]
            for known, names in groups:
                if _is_same(known, value):
                    names.append(item.name)
                    break
            else:
                groups.append((value, [item.name]))
        if len(groups) > 1:
            some = [f"{_short(value)} in {_quoted(names)}" for value, names in groups[:_VALUES]]
            if len(groups) > _VALUES:
                some.append(f"and {len(groups) - _VALUES} more values")
            shown = "; ".join(some)
            line = f"'{key}' differs: {shown}"
            (decisive if _is_decisive(key) else others).append(line)
        elif without:
            others.append(f"'{key}' is not in {_quoted(without)}")
    return decisive, others


def _is_decisive(key: str) -> bool:
    return key in _DECISIVE or key.partition(":")[0] in _DECISIVE_SECTIONS


def _is_same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        a, b = np.asarray(a), np.asarray(b)
        return a.shape == b.shape and bool(np.all(a == b))
    numbers = (int, float)
    if isinstance(a, numbers) and isinstance(b, numbers):
        return math.isclose(a, b, rel_tol=_RELATIVE) or (a != a and b != b)  # noqa: PLR0124 - NaN
    return bool(a == b)


def _short(value: Any) -> str:
    text = f"{value:.7g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _quoted(names: Sequence[str]) -> str:
    more = [f"and {len(names) - _NAMES} more"] if len(names) > _NAMES else []
    return ", ".join([*(f"'{name}'" for name in names[:_NAMES]), *more])


def joined_metadata(inputs: Sequence[JoinInput]) -> tuple[dict[str, Any], int]:
    """What the joined file says beside the attributes of its first input.

    Returns
    -------
    metadata
        Event count and measurement identifier.
    earliest
        Number of the input that began first: its date and time are those of the joined file, so
        that date, time and the feature "time" together stay true for every event.
    """
    metadata: dict[str, Any] = {"experiment:event count": sum(item.n_events for item in inputs)}
    identifier = joined_identifier(inputs)
    if identifier is not None:
        metadata["experiment:run identifier"] = identifier
    dated = [number for number, item in enumerate(inputs) if item.start is not None]
    earliest = min(dated, key=lambda number: inputs[number].order, default=0)
    return metadata, earliest


def channels_left_out(inputs: Sequence[JoinInput], features: Collection[str]) -> dict[str, Any]:
    """Attributes of fluorescence channels that the output has not got any more.

    dclab's check wants a channel's name exactly where its feature is.

    Returns
    -------
    dict
        New values; None: the attribute has to go.
    """
    metadata = inputs[0].metadata
    gone = [
        f"fluorescence:channel {number} name"
        for number in (1, 2, 3)
        if f"fl{number}_max" in inputs[0].columns and f"fl{number}_max" not in features
    ]
    changed: dict[str, Any] = {key: None for key in gone if key in metadata}
    count = metadata.get("fluorescence:channel count")
    if changed and isinstance(count, int):
        changed["fluorescence:channel count"] = count - len(changed)
    return changed


def joined_identifier(inputs: Sequence[JoinInput]) -> str | None:
    """Measurement identifier of the joined file; None if the first input has none.

    It begins with that of the first input, for dclab reads a mapped basin only if the identifier
    of the file begins with that of the basin (dclab 0.73, `Basin.verify_basin`); the rest is the
    same for the same inputs in the same order.
    """
    first = inputs[0].identifier
    if first is None:
        return None
    text = "\n".join(f"{item.identifier} {item.n_events}" for item in inputs)
    digest = hashlib.md5(text.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()
    return f"{first}_dcwrite-{digest[:7]}"


def configuration_lines(metadata: Mapping[str, Any]) -> list[str]:
    """Metadata as lines of a log: "[section]", then "key = value"; long lines are continued."""
    sections: dict[str, list[str]] = {}
    for name, value in sorted(metadata.items()):
        section, _, key = name.partition(":")
        plain = value.tolist() if isinstance(value, np.ndarray) else value
        sections.setdefault(section, []).append(f"{key} = {plain}")
    lines: list[str] = []
    for section, entries in sections.items():
        lines += [f"[{section}]", *(part for entry in entries for part in _folded(entry)), ""]
    return lines[:-1]


def folded_lines(value: Any) -> list[str]:
    """A value as JSON in lines that dclab's check accepts; long ones are continued."""
    lines = json.dumps(value, indent=2).split("\n")
    return [part for line in lines for part in _folded(line)]


def _folded(entry: str) -> list[str]:
    """A line as one or more of at most 100 bytes; those that continue it begin with blanks."""
    lines, line = [], ""
    for character in entry.replace("\0", "?").replace("\n", " "):
        if len((line + character).encode("utf-8", "replace")) > _LINE_BYTES:
            lines.append(line)
            line = "    "
        line += character
    return [*lines, line]
