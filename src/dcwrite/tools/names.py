"""Which features: by name, by pattern, by group.

Alone here: what a word stands for. Invariant: a word that stands for nothing is an error that
names what is near.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Final

from ..errors import DataError, FeatureNotFoundError
from ..format.features import is_basinmap
from ..format.text import did_you_mean
from ..store.recording import Feature, Recording

__all__ = ["choose_features", "choose_linked_features"]

#: Names of groups of features.
_GROUPS: Final = ("all", "scalar", "none")


def choose_features(
    recording: Recording,
    features: str | Sequence[str] | None,
    exclude: str | Sequence[str] = (),
    *,
    drains: bool = False,
) -> tuple[str, ...]:
    """Names of features of a recording.

    Parameters
    ----------
    recording
        The recording.
    features
        Names and patterns ("fl*"), of own features and of those of basins; the groups "all",
        "scalar", "none". None: "all".
    exclude
        Names and patterns that are taken away.
    drains
        Whether the groups include the features of basins.

    Returns
    -------
    tuple of str
        Sorted; mappings of basins are never among them.

    Raises
    ------
    FeatureNotFoundError
        A name or a pattern stands for nothing.
    DataError
        Empty names.
    """
    known = recording.features
    group = known if drains else [n for n in recording.own_features if not is_basinmap(n)]
    chosen: set[str] = set()
    for word in ["all"] if features is None else _words(features, "features"):
        if word == "all":
            chosen.update(group)
        elif word == "scalar":
            chosen.update(name for name in group if _is_scalar(recording, name))
        elif word != "none":
            chosen.update(_matching([recording], word, _GROUPS))
    for word in _words(exclude, "exclude"):
        chosen.difference_update(_matching([recording], word))
    return tuple(sorted(chosen))


def choose_linked_features(
    recordings: Sequence[Recording], features: str | Sequence[str]
) -> list[list[str]]:
    """Names of features for each recording; a word has to stand for something in one of them."""
    chosen: set[str] = set()
    for word in _words(features, "features"):
        if word == "scalar":
            chosen.update(
                name for recording in recordings for name in recording
                if _is_scalar(recording, name)
            )  # fmt: skip
        elif word == "all":
            chosen.update(name for recording in recordings for name in recording)
        else:
            chosen.update(_matching(recordings, word, ("all", "scalar")))
    return [sorted(chosen.intersection(recording.features)) for recording in recordings]


def _words(value: str | Sequence[str], what: str) -> list[str]:
    words = value.split(",") if isinstance(value, str) else list(value)
    if not all(isinstance(word, str) and word.strip() for word in words):
        raise DataError(
            f"{what}: expected names such as 'deform,area_um,image', patterns such as 'fl*', or "
            f"{', '.join(_GROUPS)}, got {value!r}"[:400]
        )
    return [word.strip() for word in words]


def _is_scalar(recording: Recording, name: str) -> bool:
    item = recording[name]
    return isinstance(item, Feature) and len(item.shape) == 1


def _matching(recordings: Sequence[Recording], word: str, groups: Sequence[str] = ()) -> list[str]:
    """Features that a name or a pattern stands for; there is at least one."""
    known = sorted({name for recording in recordings for name in recording.features})
    found = [name for name in known if fnmatch.fnmatchcase(name, word)]
    if found:
        return found
    if is_basinmap(word):
        raise DataError(
            f"feature '{word}': expected a feature, got the mapping of a basin, which is kept "
            f"with its basin; leave it out"
        )
    hint = did_you_mean(word.partition("/")[0], [*known, *groups])
    hint = hint or f"there are {', '.join(known) or 'none'}"
    reasons = [str(status.reason) for r in recordings for status in r.basins if status.reason]
    more = f"; some basins cannot be read: {'; '.join(reasons)}" if reasons else ""
    where = ", ".join(f"'{recording.path}'" for recording in recordings[:3])
    raise FeatureNotFoundError(f"{where}: expected a feature, got '{word}'; {hint}{more}")
