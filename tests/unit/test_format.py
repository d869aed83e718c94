"""Chunks, compression, texts, metadata, identifiers: the small tables of the format."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcwrite import Compression, DataError, MetadataError, set_default_filter_kwargs
from dcwrite.format.chunking import best_chunk_shape
from dcwrite.format.identifier import identifier_from_attributes
from dcwrite.format.metadata import (
    SECTIONS,
    check_attribute_name,
    check_metadata,
    check_metadata_value,
)
from dcwrite.format.text import decode_lines, encode_lines


@pytest.mark.parametrize(
    ("item_shape", "dtype", "shape"),
    [
        ((), float, (1000,)),
        ((), "u1", (1000,)),
        ((80, 320), "u1", (40, 80, 320)),
        ((80, 320), "?", (40, 80, 320)),
        ((500, 500), "u1", (10, 500, 500)),
        ((1024, 1024), "u2", (10, 1024, 1024)),
        ((177,), "i2", (1000, 177)),
        ((0, 5), "u1", (1000, 0, 5)),
    ],
)
def test_chunks(item_shape: tuple[int, ...], dtype: Any, shape: tuple[int, ...]) -> None:
    assert best_chunk_shape(item_shape, dtype) == shape


@given(st.lists(st.integers(1, 2000), max_size=3), st.sampled_from(["u1", "f4", "f8"]))
def test_chunk_bounds(item_shape: list[int], dtype: str) -> None:
    n_events, *item = best_chunk_shape(item_shape, dtype)
    assert item == item_shape
    assert 10 <= n_events <= 1000
    nbytes = n_events * int(np.prod(item_shape)) * np.dtype(dtype).itemsize
    assert nbytes <= 1024**2 or n_events == 10


def test_presets() -> None:
    assert Compression.preset("archive") == Compression(level=5)
    assert Compression.preset("live").lowest_level == 1
    assert Compression.preset("none").filter_kwargs()["compression"] is None
    assert Compression(level=3).filter_kwargs() == {
        "compression": 32015,
        "compression_opts": (3,),
        "fletcher32": True,
    }
    for name in Compression.PRESETS:
        assert Compression.preset(name).fletcher32


@pytest.mark.parametrize(
    "arguments",
    [{"level": 0}, {"level": 23}, {"level": "5"}, {"level": 1.5}, {"lowest_level": 6},
     {"level": None, "lowest_level": 1}],
    ids=str,
)  # fmt: skip
def test_levels_that_are_none(arguments: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="compression"):
        Compression(**arguments)


@pytest.mark.parametrize(
    ("ds_kwds", "compression", "expected"),
    [
        (None, True, (32015, (5,), True)),
        ({}, False, (None, None, True)),
        ({"compression": "gzip"}, True, ("gzip", None, True)),
        ({"compression": None, "fletcher32": False}, True, (None, None, False)),
        ({"compression_opts": (2,)}, True, (32015, (2,), True)),
    ],
)
def test_fault18_filter_kwargs(ds_kwds: Any, compression: bool, expected: Any) -> None:
    before = None if ds_kwds is None else dict(ds_kwds)
    kwds = set_default_filter_kwargs(ds_kwds, compression=compression)
    assert (kwds["compression"], kwds["compression_opts"], kwds["fletcher32"]) == expected
    assert ds_kwds == before
    assert kwds is not ds_kwds


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_fault17_texts_come_back(lines: list[str]) -> None:
    stored = encode_lines(lines, "log")
    assert stored.shape == (len(lines),)
    assert stored.dtype.kind == "S"
    assert decode_lines(stored.tolist()) == lines


def test_texts_of_any_bytes_come_back() -> None:
    for data in (b"\xff\xfe", b"a\xff"):
        stored = encode_lines(data, "log")
        assert decode_lines(stored.tolist()) == [data.decode("utf-8", "surrogateescape")]
        assert encode_lines(decode_lines(stored.tolist()), "log").tolist() == stored.tolist()
    assert decode_lines(["text", np.str_("text")]) == ["text", "text"]


@pytest.mark.parametrize("lines", [5, None, [5], ["a\0"], ["\ud800"], [["a"]]], ids=repr)
def test_fault17_what_is_no_text(lines: Any) -> None:
    with pytest.raises(MetadataError, match="my log"):
        encode_lines(lines, "my log")


METADATA: list[tuple[str, Any, Any]] = [
    ("experiment:sample", b"text", "text"),
    ("experiment:run index", 3.0, 3),
    ("experiment:run index", np.uint8(3), 3),
    ("setup:channel width", 20, 20.0),
    ("setup:channel width", np.float32(0.5), 0.5),
    ("online_contour:bg empty", 1, True),
    ("online_contour:bg empty", np.True_, True),
    ("qpi:scale to filter", 2, 2.0),
    ("qpi:scale to filter", False, False),
    ("user:mine", [1, 2], [1, 2]),
    ("online_filter:area_um max", 5.5, 5.5),
]


@pytest.mark.parametrize(("name", "value", "expected"), METADATA)
def test_metadata_taken(name: str, value: Any, expected: Any) -> None:
    checked = check_metadata({name: value})[name]
    assert checked == expected
    assert type(checked) is type(expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("experiment:sample", 5), ("experiment:run index", 3.5), ("experiment:run index", True),
        ("experiment:run index", "3"), ("experiment:run index", float("nan")),
        ("experiment:run index", float("inf")), ("setup:channel width", "20"),
        ("setup:channel width", True), ("online_contour:bg empty", 2), ("qpi:sideband freq", 1.0),
        ("qpi:sideband freq", [1, 2, 3]), ("user:mine", None), ("user:mine", {}),
        ("user:", 1), ("setup:nonsense", 1), ("nonsense:a", 1), ("a:b:c", 1), ("plain", 1), (5, 1),
    ],
)  # fmt: skip
def test_metadata_refused(name: Any, value: Any) -> None:
    with pytest.raises(MetadataError, match=str(name)):
        check_metadata({name: value})


def test_every_known_key_has_a_kind() -> None:
    samples = {
        "text": "a", "integer": 1, "float": 1.5, "bool": True, "bool or float": 1.5,
        "two floats": [1.0, 2.0],
    }  # fmt: skip
    for section, keys in SECTIONS.items():
        for key, kind in keys.items():
            assert check_attribute_name(f"{section}:{key}") is None
            check_metadata_value(f"{section}:{key}", samples[kind], kind)


IDENTIFIERS: list[tuple[dict[str, Any], str | None]] = [
    ({"experiment:run identifier": "run"}, "run"),
    ({"experiment:run identifier": b"run"}, "run"),
    ({}, None),
    ({"experiment:time": "a", "experiment:date": "b"}, None),
    ({"experiment:time": "a", "experiment:date": "b", "setup:identifier": ""}, None),
]


@pytest.mark.parametrize(("attributes", "expected"), IDENTIFIERS)
def test_identifier(attributes: dict[str, Any], expected: str | None) -> None:
    assert identifier_from_attributes(attributes) == expected


def test_identifier_of_time_date_and_setup() -> None:
    attributes = {
        "experiment:time": "1",
        "experiment:date": b"2",
        "setup:identifier": np.str_("x"),
    }
    digest = hashlib.md5(b"1_2_x").hexdigest()
    assert identifier_from_attributes(attributes) == str(uuid.UUID(hex=digest))
