"""Values keep their value or are refused, for all pairs of dtypes, as Python's numbers compare."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest

from dcwrite.errors import EventError
from dcwrite.format.features import cast_lossless

DTYPES = [
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "float32", "float64"),
]
VALUES = [
    *(0, 1, 2, -1, -128, 127, 128, 255, 256, 300, 65535, 65536, 2**24 + 1, 2**31, 2**32 - 1),
    *(2**53 - 1, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 2**64 - 1),
    *(0.5, 1e300, -0.0, math.nan, math.inf, -math.inf),
]


def convert(values: object, dtype: str) -> np.ndarray | None:
    """As numpy converts, whatever becomes of the value; None if it refuses."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return np.asarray(values).astype(dtype)
        except OverflowError:
            return None


@pytest.mark.parametrize("source", DTYPES)
def test_all_pairs(source: str) -> None:
    for target, value in itertools.product(DTYPES, VALUES):
        data = convert([value], source)
        if data is None:
            continue
        expected = convert(data, target)
        assert expected is not None
        before, after = data.tolist()[0], expected.tolist()[0]
        is_same = before == after or (math.isnan(before) and math.isnan(after))
        try:
            result = cast_lossless(data, np.dtype(target), "deform")
        except EventError:
            # above this, only some integers are floats: none is taken
            if is_same:
                assert data.dtype.kind in "iu", (target, value)
                assert abs(before) > 2 ** (np.finfo(target).nmant + 1), (target, value)
        else:
            assert is_same, (target, value)
            assert result.dtype == target
            assert np.array_equal(result, expected, equal_nan=data.dtype.kind == "f")
