"""Every error and warning that dcwrite raises, by whose fault it is.

Alone here: the hierarchy. Invariant: all errors derive from `DCWriteError` and also from the
built-in class that callers of other libraries would catch (`ValueError`, `RuntimeError`,
`OSError`), and every error survives pickling, because writer processes send theirs home.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "AbortedError",
    "BasinError",
    "ClosedError",
    "ClusterError",
    "CreatingFileWithoutBasinWarning",
    "DCWriteError",
    "DamagedFileError",
    "DataError",
    "EventError",
    "FeatureNotFoundError",
    "IgnoringBasinTypeWarning",
    "MetadataError",
    "MismatchError",
    "RecordingError",
    "StallError",
    "StorageError",
    "UnsupportedFeatureError",
    "UsageError",
    "WriterDiedError",
]


class DCWriteError(Exception):
    """Base of all errors of dcwrite."""


class DataError(DCWriteError, ValueError):
    """The caller's data do not fit; nothing of them was written."""


class EventError(DataError):
    """Events of a frame do not fit (index, count, features, shapes, values)."""


class MetadataError(DataError):
    """A metadata key or value, a log or a table does not fit."""


class BasinError(DataError):
    """A basin's description, mapping or data do not fit."""


class RecordingError(DataError):
    """A recording that was given as input is refused, for instance an inconsistent one."""


class MismatchError(RecordingError):
    """Several recordings that were given as inputs do not fit together.

    Parameters
    ----------
    message
        What was to be done with them.
    problems
        One line for each mismatch, with its remedy.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message, tuple(problems))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join([str(self.args[0]), *(f"- {problem}" for problem in self.problems)])


class FeatureNotFoundError(DataError, KeyError):
    """A feature is not there."""

    def __str__(self) -> str:
        return str(self.args[0])


class UnsupportedFeatureError(DataError, NotImplementedError):
    """A feature is of a kind that cannot be handled."""


class UsageError(DCWriteError, RuntimeError):
    """The caller's order of calls does not fit."""


class ClosedError(UsageError):
    """The object was closed before this call."""


class MissingLibraryError(DCWriteError, ImportError):
    """An optional library that this needs is not installed."""


class AbortedError(UsageError):
    """The stream was aborted from outside."""


class StorageError(DCWriteError, OSError):
    """The disk refused; `errno` and `filename` are those of the original error.

    Attributes
    ----------
    durable_events
        Events of a stream that can be recovered; None where there is no stream.
    """

    durable_events: int | None = None


class StallError(DCWriteError, RuntimeError):
    """Frames that were announced never came.

    Parameters
    ----------
    message
        What happened.
    missing_frames
        Indices of the frames that were waited for.
    """

    def __init__(self, message: str, missing_frames: Sequence[int] = ()) -> None:
        super().__init__(message, tuple(missing_frames))
        self.missing_frames = list(missing_frames)

    def __str__(self) -> str:
        return str(self.args[0])


class WriterDiedError(DCWriteError, RuntimeError):
    """A writer thread or process ended without saying why.

    Parameters
    ----------
    message
        What happened.
    exitcode
        Exit code of the process (negative: the signal that killed it), None for threads.
    """

    def __init__(self, message: str, exitcode: int | None = None) -> None:
        super().__init__(message, exitcode)
        self.exitcode = exitcode

    def __str__(self) -> str:
        return str(self.args[0])


class ClusterError(DCWriteError, RuntimeError):
    """Work that was spread over a cluster is not complete.

    Parameters
    ----------
    message
        What is missing, and what to do.
    failed_ranges
        Ranges, (start, stop), that could not be written; empty if it is not about ranges.
    """

    def __init__(self, message: str, failed_ranges: Sequence[tuple[int, int]] = ()) -> None:
        super().__init__(message, tuple(failed_ranges))
        self.failed_ranges = [range(start, stop) for start, stop in failed_ranges]

    def __str__(self) -> str:
        return str(self.args[0])


class DamagedFileError(DCWriteError, OSError):
    """A file is damaged, or is not what it claims to be."""


class CreatingFileWithoutBasinWarning(UserWarning):
    """A file that should refer to basins is created without any."""


class IgnoringBasinTypeWarning(UserWarning):
    """A basin is left out because its type is not known."""
