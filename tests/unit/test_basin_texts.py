"""Basin descriptions: what is read and written again unchanged keeps its text and its name."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from dcwrite import BasinError
from dcwrite.format.basin import Basin, basin_lines, parse_basin

DCLAB_BASE = {
    "description": "d", "features": ["area_um", "deform"], "identifier": "x", "mapping": "same",
    "name": "n", "perishable": False,
}  # fmt: skip

#: descriptions with the keys in the order in which they are written
DCLAB: dict[str, dict[str, Any]] = {
    "file": {"type": "file", "format": "hdf5", "paths": ["a", "b"]},
    "file-mapped": {"type": "file", "format": "hdf5", "paths": ["a"], "mapping": "basinmap0"},
    "file-all-features": {"type": "file", "format": "hdf5", "paths": ["a"], "features": None},
    "file-perishable": {"type": "file", "format": "hdf5", "paths": ["a"], "perishable": True},
    "internal": {
        "type": "internal", "format": "h5dataset", "paths": ["basin_events"],
        "mapping": "basinmap9",
    },
    "chop": {"type": "internal", "format": "h5datasetchop", "paths": ["basin_events"]},
    "http": {"type": "remote", "format": "http", "urls": ["https://example.org/µ"]},
    "s3": {"type": "remote", "format": "s3", "urls": ["a"], "mapping": "basinmap1"},
    "dcor": {"type": "remote", "format": "dcor", "urls": ["a"], "identifier": None},
    "extra": {"type": "file", "format": "hdf5", "paths": ["a"], "key": "kept", "zz": [1]},
}  # fmt: skip
DCNUM: dict[str, dict[str, Any]] = {
    "file": {
        "description": None, "name": "n", "format": "hdf5", "paths": ["a"], "type": "file",
        "identifier": None,
    },
    "file-full": {
        "description": "ä", "name": "n", "format": "hdf5", "paths": ["a", "b"], "type": "file",
        "identifier": "x", "features": ["deform", "area_um"], "mapping": "basinmap2",
    },
    "internal": {
        "description": None, "name": "n", "format": "h5dataset", "paths": ["basin_events"],
        "type": "internal", "features": ["image_bg"], "mapping": "basinmap0",
    },
}  # fmt: skip


@pytest.mark.parametrize("data", DCLAB.values(), ids=DCLAB.keys())
def test_dclab_form(data: dict[str, Any]) -> None:
    text = json.dumps({**DCLAB_BASE, **data}, indent=2, sort_keys=True)
    basin = parse_basin(text.encode().split(b"\n"))
    assert basin.to_text() == text
    assert basin.has_dclab_keys
    key, lines = basin_lines(text, has_dclab_keys=True)
    assert key == hashlib.md5(text.replace("\n", "").encode()).hexdigest()
    assert "\n".join(lines) == text


@pytest.mark.parametrize("data", DCNUM.values(), ids=DCNUM.keys())
def test_dcnum_form(data: dict[str, Any]) -> None:
    text = json.dumps(data, indent=2)
    basin = parse_basin(text.split("\n"))
    assert basin.to_text() == text
    assert not basin.has_dclab_keys
    key, lines = basin_lines(text)
    assert key == hashlib.md5(text.encode()).hexdigest()
    assert lines == text.split("\n")


def test_fields() -> None:
    basin = parse_basin([json.dumps({**DCLAB_BASE, **DCLAB["http"]})])
    assert basin == Basin(
        name="n",
        type="remote",
        format="http",
        locations=("https://example.org/µ",),
        features=("area_um", "deform"),
        mapping=None,
        description="d",
        identifier="x",
        dclab_form=True,
    )
    assert basin.with_mapping("basinmap3").mapping == "basinmap3"
    assert basin.mapping is None


def test_a_type_from_the_future_is_no_error() -> None:
    basin = parse_basin(['{"type": "quantum", "format": "qubit"}'])
    assert (basin.type, basin.locations) == ("quantum", ())


@pytest.mark.parametrize(
    "change",
    [
        {"type": None}, {"type": 5}, {"format": None}, {"paths": None}, {"paths": []},
        {"paths": "a"}, {"paths": [5]}, {"features": "a"}, {"features": [5]}, {"mapping": 5},
        {"mapping": "basinmap10"}, {"mapping": "deform"}, {"mapping": "basinmap"}, {"name": 5},
        {"description": 5}, {"identifier": []},
    ],
    ids=str,
)  # fmt: skip
def test_refused(change: dict[str, Any]) -> None:
    data = {**DCLAB_BASE, **DCLAB["file"], **change}
    with pytest.raises(BasinError, match="my basin"):
        parse_basin([json.dumps(data)], "my basin")


@pytest.mark.parametrize(
    "lines", [[b""], [b"{"], [b"[]"], [b"5"], [b"\xff{}"], [b"[" * 100_000]], ids=range(6)
)
def test_what_is_no_description(lines: list[bytes]) -> None:
    with pytest.raises(BasinError, match="expected"):
        parse_basin(lines)


def test_a_text_without_end_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(BasinError, match="at most"):
        parse_basin(b"x" * 1024**2 for _ in range(1000))
