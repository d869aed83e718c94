"""Features: their names, kinds, dtypes, and how values become what is stored.

Alone here: which features are groups, what an image dataset is branded with, when a value may
change its dtype (only when no value changes). Invariant: no function here changes its input, and
what comes out holds the same values as what came in (a mask: the same truth values).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..errors import DataError, EventError

__all__ = [
    "FRAME_INFO_FEATURES",
    "GROUP_FEATURES",
    "IMAGE_ATTRIBUTES",
    "as_item_arrays",
    "as_mapping",
    "cast_lossless",
    "check_feature_name",
    "flatten_group_features",
    "is_basinmap",
    "is_contour",
    "mask_to_stored",
    "require_item_shape",
    "to_stored",
]

AnyArray = npt.NDArray[Any]

#: Features that are HDF5 groups, not datasets (section 1 of the .rtdc facts in the docs).
GROUP_FEATURES: Final = frozenset({"contour", "trace"})

#: Features that the queue writers add beside those of the events.
FRAME_INFO_FEATURES: Final = ("index_unmapped", "nevents")

#: HDF5 Image and Palette specification 1.2: attributes of a dataset of images, as fixed-length
#: bytes, so that HDFView shows them.
IMAGE_ATTRIBUTES: Final[Mapping[str, bytes]] = {
    "CLASS": b"IMAGE",
    "IMAGE_VERSION": b"1.2",
    "IMAGE_SUBCLASS": b"IMAGE_GRAYSCALE",
}

#: Integers up to this magnitude are exact in a float of that many bytes (mantissa + 1 bit).
_EXACT_INTEGERS: Final = {2: 2**11, 4: 2**24, 8: 2**53}

_NAME = re.compile(r"(trace/)?[^/\x00]+\Z")


def is_basinmap(feat: str) -> bool:
    """Whether the feature is a basin mapping (basinmap0, basinmap1, ...)."""
    return feat.startswith("basinmap")


def is_contour(feat: str) -> bool:
    """Whether the feature is the ragged one: one dataset per event."""
    return feat == "contour"


def check_feature_name(feat: str) -> None:
    """Refuse names that HDF5 would take for something else.

    Raises
    ------
    EventError
        The name is not a non-empty string, or has a second level that is not that of a trace.
    """
    parts = feat.split("/") if isinstance(feat, str) else []
    if not isinstance(feat, str) or not _NAME.match(feat) or any(p in {".", ".."} for p in parts):
        raise EventError(
            f"feature name: expected a non-empty string such as 'deform' or 'trace/fl1_raw', "
            f"got {feat!r}; rename the feature"
        )


def flatten_group_features(events: Mapping[str, Any]) -> dict[str, Any]:
    """Give every dataset a key of its own: {"trace": {"fl1_raw": a}} to {"trace/fl1_raw": a}.

    Parameters
    ----------
    events
        Feature names to arrays; the value of "trace" is a mapping of trace names to arrays of
        shape (n, samples).

    Raises
    ------
    EventError
        "trace" without a mapping, or another feature with one.
    """
    flat: dict[str, Any] = {}
    for feat, value in events.items():
        if isinstance(value, Mapping) != (feat == "trace"):
            expected = "a mapping of trace names to arrays" if feat == "trace" else "an array"
            raise EventError(f"feature '{feat}': expected {expected}, got {type(value).__name__}")
        if isinstance(value, Mapping):
            flat.update({f"{feat}/{name}": array for name, array in value.items()})
        else:
            flat[feat] = value
    return flat


def as_item_arrays(feat: str, data: Iterable[Any]) -> list[AnyArray]:
    """Take ragged data (contours) as a list of one array per event.

    Raises
    ------
    EventError
        Not a list, or an item is not a numeric array of shape (points, 2).
    """
    try:
        items = [np.asarray(item) for item in data]
    except (TypeError, ValueError) as exc:
        raise EventError(
            f"feature '{feat}': expected a list of one array of shape (points, 2) per event, got "
            f"{type(data).__name__} ({exc})"
        ) from exc
    for number, item in enumerate(items):
        if item.ndim != 2 or item.shape[1] != 2 or item.dtype.kind not in "iuf":
            raise EventError(
                f"feature '{feat}', event {number} of {len(items)}: expected a numeric array of "
                f"shape (points, 2), got shape {item.shape} and dtype {item.dtype}; "
                f"pass a list of one array per event"
            )
    return items


def mask_to_stored(data: AnyArray, feat: str = "mask") -> npt.NDArray[np.uint8]:
    """Masks as they are stored: uint8, 0 outside and 255 inside.

    Parameters
    ----------
    data
        Shape (n, H, W); bool, or integers that are 0/1 or 0/255.

    Raises
    ------
    EventError
        Other values; a labelled image, for instance.
    """
    if data.dtype == np.bool_:
        return data.view(np.uint8) * np.uint8(255)
    if data.dtype.kind not in "iu":
        raise EventError(
            f"feature '{feat}': expected bool, or integers 0/1 or 0/255, got dtype {data.dtype}; "
            f"pass `mask > 0`"
        )
    if data.size == 0:
        return data.astype(np.uint8)
    low, high = data.min(), data.max()
    if low >= 0 and high <= 1:
        return data.astype(np.uint8) * np.uint8(255)
    if low >= 0 and high == 255:
        stored = data.astype(np.uint8, copy=False)
        # 255 wraps to 0 and 0 becomes 1: one pass tells whether anything else is there
        if (stored + np.uint8(1)).max() <= 1:
            return stored
    raise EventError(
        f"feature '{feat}': expected only 0/1 or only 0/255, got values from {low} to {high}; "
        f"pass `mask > 0` for a labelled image"
    )


def cast_lossless(data: AnyArray, dtype: np.dtype[Any], feat: str, where: str = "") -> AnyArray:
    """Convert to a dtype if, and only if, no value changes.

    Parameters
    ----------
    data
        Any shape.
    dtype
        The dtype that the feature has.
    feat, where
        For the message.

    Raises
    ------
    EventError
        At least one value would change; the message names the first.
    """
    source = data.dtype
    if source == dtype:
        return data
    if source.kind not in "biuf" or dtype.kind not in "biuf":
        raise EventError(
            f"feature '{feat}'{where}: expected dtype {dtype}, got {source}; "
            f"convert the data before passing them"
        )
    with np.errstate(all="ignore"):
        converted = data.astype(dtype)
        if source.kind == "b":
            kept: Any = np.bool_(True)  # every number can be 0 and 1
        elif source.kind in "iu" and dtype.kind in "biu":
            bounds = _integer_bounds(dtype)
            kept = (data >= bounds[0]) & (data <= bounds[1]) if data.size else np.bool_(True)
        elif source.kind in "iu":
            limit = _EXACT_INTEGERS.get(dtype.itemsize, 2**53)
            wide = data.astype(np.int64 if source.kind == "i" else np.uint64)
            kept = wide <= limit
            if source.kind == "i":
                kept &= wide >= -limit
        elif dtype.kind in "biu":
            bounds = _integer_bounds(dtype)
            # the upper bound of 64-bit integers is no float: compare below, not at it
            kept = np.isfinite(data) & (data == np.floor(data))
            kept &= (data >= bounds[0]) & (data < float(bounds[1]) + 1)
        else:
            kept = (converted.astype(source) == data) | np.isnan(data)
    if not np.all(kept):
        flat = int(np.argmin(np.ravel(kept)))
        position = tuple(int(ii) for ii in np.unravel_index(flat, data.shape))
        raise EventError(
            f"feature '{feat}'{where}: expected values that dtype {dtype} can hold (the dtype of "
            f"the first events), got {data.ravel()[flat]!r} of dtype {source} at {position}; "
            f"pass the first events with a dtype that holds all values"
        )
    return converted


def _integer_bounds(dtype: np.dtype[Any]) -> tuple[int, int]:
    if dtype.kind == "b":
        return 0, 1
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def to_stored(feat: str, data: Any) -> AnyArray:
    """Events of one feature as the array that is stored.

    Parameters
    ----------
    feat
        Feature name.
    data
        Array-like whose first axis is the event.

    Raises
    ------
    EventError
        Not numeric, a single value without an event axis, or masked values, which have no place
        in the file.
    """
    if isinstance(data, np.ma.MaskedArray) and np.ma.is_masked(data):
        n_masked = int(np.ma.getmaskarray(data).sum())
        raise EventError(
            f"feature '{feat}': expected an array without masked values, got {n_masked} of "
            f"{data.size} masked; pass `data.filled(np.nan)`"
        )
    try:
        array = np.asarray(data)
    except ValueError as exc:  # ragged nested lists
        raise EventError(
            f"feature '{feat}': expected an array whose first axis is the event, got items of "
            f"different shapes; pass equal shapes (only 'contour' may differ)"
        ) from exc
    is_numeric = array.dtype.kind in "biuf"
    if array.ndim == 0 or not is_numeric:
        remedy = "pass `np.atleast_1d(values)`" if is_numeric else "pass real numbers"
        raise EventError(
            f"feature '{feat}': expected a numeric array whose first axis is the event, got "
            f"shape {array.shape} and dtype {array.dtype}; {remedy}"
        )
    if feat == "mask":
        return mask_to_stored(array, feat)
    return array


def require_item_shape(
    feat: str, got: tuple[int, ...], expected: tuple[int, ...], where: str = ""
) -> None:
    """Compare the shape of one event; nothing is ever broadcast.

    Raises
    ------
    EventError
        The shapes differ.
    """
    if got != expected:
        raise EventError(
            f"feature '{feat}'{where}: expected events of shape {expected} (as the first ones), "
            f"got {got}; store other shapes under another feature name"
        )


def as_mapping(
    mapping: Any, n_source: int | None = None, what: str = "mapping"
) -> npt.NDArray[Any]:
    """Check an index mapping: one-dimensional integers inside the source's range.

    Parameters
    ----------
    mapping
        Array-like of shape (n,).
    n_source
        Number of events that it may point at; None: only the lower bound is checked.

    Raises
    ------
    DataError
        Dtype, dimension or range do not fit.
    """
    array = np.asarray(mapping)
    if array.size == 0 and array.ndim == 1:
        return array.astype(np.int64) if array.dtype.kind not in "iu" else array
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(
            f"{what}: expected a one-dimensional integer array, got shape {array.shape} and "
            f"dtype {array.dtype}; pass indices (`np.flatnonzero(selection)` for a selection)"
        )
    low, high = int(array.min()), int(array.max())
    if low < 0 or (n_source is not None and high >= n_source):
        bound = "" if n_source is None else f" and below {n_source}, the number of source events"
        bad = int(np.argmin(array)) if low < 0 else int(np.argmax(array))
        raise DataError(
            f"{what}: expected indices from 0{bound}, got {int(array[bad])} at position {bad}; "
            f"remove it (negative indices do not count from the end here)"
        )
    return array
