"""A basin's description: the JSON text that makes one recording refer to another.

Alone here: keys, their order, types and formats, and the dataset name (an md5 sum of the text).
Invariant: what is parsed and serialised unchanged keeps its text and its name; a description
that is accepted can be read by dclab and, for file and internal basins, by dcnum.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ..errors import BasinError

__all__ = ["BASIN_GROUP", "FORMATS", "MAX_MAPPINGS", "Basin", "basin_lines", "parse_basin"]

#: HDF5 group of the data of internal basins.
BASIN_GROUP: Final = "basin_events"
#: Mappings are the features basinmap0 to basinmap9.
MAX_MAPPINGS: Final = 10
#: Formats by type, as dclab 0.73 registers them.
FORMATS: Final = {
    "file": frozenset({"hdf5"}),
    "internal": frozenset({"h5dataset", "h5datasetchop"}),
    "remote": frozenset({"http", "s3", "dcor"}),
}
#: Each is looked for on the disk.
MAX_LOCATIONS: Final = 1000
#: A description longer than this is not one (the longest real ones have some kilobytes).
MAX_TEXT_BYTES: Final = 4 * 1024**2

_MAPPING_NAME = re.compile(r"basinmap[0-9]\Z")


@dataclass(frozen=True, slots=True)
class Basin:
    """One basin, immutable.

    Attributes
    ----------
    name
        Free text; not unique.
    type
        file, internal or remote.
    format
        hdf5; h5dataset or h5datasetchop; http, s3 or dcor.
    locations
        Paths (file, internal) or URLs (remote), tried in this order.
    features
        Features that it provides; None: all that are there.
    mapping
        Name of the feature that holds the index mapping; None: same events.
    description, identifier
        Free text; measurement identifier of what it refers to.
    perishable
        Whether the location is known to stop working one day.
    dclab_form
        Whether the text has dclab's keys (sorted) rather than dcnum's.
    extra
        Keys that are not known here; kept when the basin is copied.
    """

    name: str
    type: str
    format: str
    locations: tuple[str, ...]
    features: tuple[str, ...] | None = None
    mapping: str | None = None
    description: str | None = None
    identifier: str | None = None
    perishable: bool = False
    dclab_form: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def has_dclab_keys(self) -> bool:
        """Whether the text has dclab's keys: in its form, or of a kind that dcnum has not."""
        return self.dclab_form or self.type == "remote" or self.format == "h5datasetchop"

    def to_text(self) -> str:
        """JSON text with the keys that dcnum or dclab would write for this basin."""
        if self.has_dclab_keys:
            data: dict[str, Any] = {
                **self.extra,
                "description": self.description,
                "features": None if self.features is None else sorted(self.features),
                "format": self.format,
                "identifier": self.identifier,
                "mapping": self.mapping or "same",
                "name": self.name,
                "perishable": self.perishable,
                "type": self.type,
                "urls" if self.type == "remote" else "paths": list(self.locations),
            }
            return json.dumps(data, indent=2, sort_keys=True)
        data = {
            "description": self.description,
            "name": self.name,
            "format": self.format,
            "paths": list(self.locations),
            "type": self.type,
        }
        if self.type == "file":
            data["identifier"] = self.identifier
        if self.features:
            data["features"] = list(self.features)
        if self.mapping is not None:
            data["mapping"] = self.mapping
        return json.dumps({**data, **self.extra}, indent=2)

    def with_mapping(self, mapping: str | None) -> Basin:
        """The same basin with another mapping feature."""
        return replace(self, mapping=mapping)


def basin_lines(text: str, *, has_dclab_keys: bool = False) -> tuple[str, list[str]]:
    """Dataset name and lines of a basin's text.

    Parameters
    ----------
    text
        JSON text.
    has_dclab_keys
        Whether dclab would have written it: dclab leaves the line ends out of the sum.

    Returns
    -------
    key
        md5 hex digest of the text.
    lines
        The text split at line ends.
    """
    lines = text.split("\n")
    hashed = "".join(lines) if has_dclab_keys else text
    key = hashlib.md5(hashed.encode("utf-8", "ignore"), usedforsecurity=False).hexdigest()
    return key, lines


def parse_basin(lines: Iterable[bytes | str], where: str = "basin") -> Basin:
    """Read a basin's description in any of the forms that dclab and dcnum write.

    Parameters
    ----------
    lines
        Lines of the JSON text, UTF-8.
    where
        For the message: file and dataset.

    Raises
    ------
    BasinError
        Not JSON, not a description, or keys with values of another type.
    """
    text_parts: list[str] = []
    size = 0
    for line in lines:
        size += len(line)
        if size > MAX_TEXT_BYTES:
            raise BasinError(
                f"{where}: expected at most {MAX_TEXT_BYTES} bytes of text; remove the basin"
            )
        text_parts.append(line.decode("utf-8", "replace") if isinstance(line, bytes) else line)
    text = "\n".join(text_parts)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise BasinError(
            f"{where}: expected JSON, got {text[:60]!r} ({type(exc).__name__}: {exc})"
        ) from exc
    if not isinstance(data, dict):
        raise BasinError(f"{where}: expected a JSON object, got {type(data).__name__}")
    kind = _text(data, "type", where)
    form = _text(data, "format", where)
    locations = _texts(data, "urls" if kind == "remote" else "paths", where)
    if len(locations or ()) > MAX_LOCATIONS:
        raise BasinError(
            f"{where}: expected at most {MAX_LOCATIONS} locations, got {len(locations or ())}"
        )
    if not locations and kind in FORMATS:
        raise BasinError(f"{where}: expected at least one location, got none")
    mapping = data.get("mapping")
    if (
        mapping is not None
        and mapping != "same"
        and not (isinstance(mapping, str) and _MAPPING_NAME.match(mapping))
    ):
        raise BasinError(
            f"{where}: expected mapping 'same' or 'basinmap0' to 'basinmap9', got {mapping!r}"
        )
    features = data.get("features")
    known = {
        "name", "type", "format", "paths", "urls", "features", "mapping",
        "description", "identifier", "perishable",
    }  # fmt: skip
    dclab_form = "perishable" in data or mapping == "same"
    return Basin(
        name=_text(data, "name", where, default=""),
        type=kind,
        format=form,
        locations=tuple(locations or ()),
        features=None if features is None else tuple(_texts(data, "features", where) or ()),
        mapping=None if mapping == "same" else mapping,
        description=_optional_text(data, "description", where),
        identifier=_optional_text(data, "identifier", where),
        perishable=bool(data.get("perishable", False)),
        dclab_form=dclab_form,
        extra={key: value for key, value in data.items() if key not in known},
    )


def _text(data: dict[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = data.get(key, default)
    if not isinstance(value, str):
        raise BasinError(f"{where}: expected a text for '{key}', got {value!r}")
    return value


def _optional_text(data: dict[str, Any], key: str, where: str) -> str | None:
    value = data.get(key)
    if value is not None and not isinstance(value, str):
        raise BasinError(f"{where}: expected a text or null for '{key}', got {value!r}")
    return value


def _texts(data: dict[str, Any], key: str, where: str) -> Sequence[str] | None:
    value = data.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BasinError(f"{where}: expected a list of texts for '{key}', got {value!r}"[:300])
    return value
