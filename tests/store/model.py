"""What the state machine of the writer draws from: values, texts, mappings, bad calls."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
from hypothesis import strategies as st

import dcwrite

__all__ = [
    "BAD_CALLS",
    "CHUNKS",
    "COUNTS",
    "DTYPES",
    "FEATURES",
    "ITEM_SHAPES",
    "MAPPINGS",
    "NAMES",
    "SEEDS",
    "SPECIAL",
    "TEXTS",
    "converted",
    "json_of",
    "make_rows",
]

ITEM_SHAPES: dict[str, tuple[int, ...]] = {
    "deform": (),
    "frame": (),
    "image": (3, 4),
    "userdef1": (5,),
}
FEATURES = st.sampled_from(sorted(ITEM_SHAPES))
DTYPES = st.sampled_from(["float64", "float32", "uint8", "int16", "uint64", "int64", "bool"])
#: values that not every dtype holds; those above 2**53 are no floats, those above 2**24 no float32
SPECIAL = st.sampled_from([0.5, 0.1, math.nan, math.inf, -1, 300, 2**40 + 1, 2**53 + 1])
COUNTS = st.sampled_from([0, 1, 2, 3, 5, 8, 17])
#: Events in a chunk of each feature; None: the feature is not there at the beginning.
CHUNKS = st.fixed_dictionaries(
    dict.fromkeys(ITEM_SHAPES, st.none() | st.sampled_from([1, 2, 3, 8]))
)
SEEDS = st.integers(0, 50)
NAMES = st.sampled_from(["a", "b", "ä"])
TEXTS = st.lists(
    st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=9),
    max_size=3,
)
MAPPINGS = st.builds(
    np.array,
    st.lists(st.integers(0, 2), min_size=1, max_size=3),
    dtype=st.sampled_from(["int64", "int32", "uint8"]),
)


def make_rows(feat: str, n_events: int, dtype: str, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 100, (n_events, *ITEM_SHAPES[feat]))
    return (values % 2 if dtype == "bool" else values).astype(dtype)


def converted(data: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray | None:
    """The data in another dtype; None if a value changes (Python compares numbers exactly)."""
    with np.errstate(all="ignore"):
        result = data.astype(dtype)
    pairs = zip(data.ravel().tolist(), result.ravel().tolist(), strict=True)
    # as texts, since not-a-number does not equal itself
    same = (a == b or repr(a) == repr(b) == "nan" for a, b in pairs)
    return result if all(same) else None


def json_of(dset: h5py.Dataset) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(b"\n".join(dset[()].tolist()))
    return found


#: Calls that no state of a file makes good.
BAD_CALLS: dict[str, Callable[[dcwrite.HDF5Writer], Any]] = {
    "text": lambda w: w.store_feature_chunk("deform", np.array(["a"])),
    "no axis": lambda w: w.store_feature_chunk("deform", np.float64(1)),
    "ragged": lambda w: w.store_feature_chunk("deform", [[1], [1, 2]]),
    "no name": lambda w: w.store_feature_chunk("", np.zeros(1)),
    "path": lambda w: w.store_feature_chunk("a/b/c", np.zeros(1)),
    "label": lambda w: w.store_feature_chunk("mask", np.full((1, 3, 4), 7)),
    "points": lambda w: w.store_feature_chunk("contour", [np.zeros((2, 2)), np.zeros(3)]),
    "trace": lambda w: w.store_feature_chunk(
        "trace", {"fl1_raw": np.zeros((2, 6)), "fl3_raw": np.zeros((1, 6))}
    ),
    "text trace": lambda w: w.store_feature_chunk(
        "trace", {"fl3_median": np.zeros((2, 6)), "fl1_raw": np.array(["a", "b"])}
    ),
    "nul": lambda w: w.store_log("new", ["fine", "a\x00b"], override=True),
    "number": lambda w: w.store_log("a", ["fine", 3], override=True),  # type: ignore[list-item]
    "columns": lambda w: w.store_table("a", {"x": [1], "y": [1, 2]}, override=True),
    "float mapping": lambda w: w.store_basin("x", ["p"], mapping=np.zeros(2)),
    "negative": lambda w: w.store_basin("x", ["p"], mapping=[-1]),
    "beyond": lambda w: w.store_basin("x", internal_data={"userdef6": [1]}, mapping=[1]),
    "no mapping": lambda w: w.store_basin("x", internal_data={"userdef6": [1]}),
    "no location": lambda w: w.store_basin("x"),
    "text data": lambda w: w.store_basin(
        "x", internal_data={"userdef5": [1], "userdef6": ["a"]}, mapping=[0]
    ),
}
