"""One run: its settings, its identifier, and the folder that holds its shards.

Alone here: what makes two runs the same, and how files of a run are named. Invariant: a folder
belongs to one run; a file counts for a run only if its name and its content say so.

Only whole-file renames are relied on, never locks: the folder may be on a network file system.
"""

from __future__ import annotations

import errno
import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from .._version import __version__
from ..errors import DataError, DCWriteError, StorageError, UsageError
from ..format.compression import Compression
from ..store.hdf5 import datasets_of, open_for_reading
from ..store.recording import Recording
from ..store.verify import verify
from ..store.whole_file import whole_file

__all__ = [
    "CONTOUR",
    "NOTE",
    "RANGES_PER_WORKER",
    "FeatureKinds",
    "Process",
    "Run",
    "Settings",
    "features_of",
    "open_run",
    "read_note",
    "write_note",
]

#: What computes events: range of frames -> ``(frame_index, events or None)`` for each of them.
Process: TypeAlias = Callable[[range], Iterable[tuple[int, Mapping[str, Any] | None]]]

#: Feature -> shape of one event and dtype; contours: () and "contour".
FeatureKinds: TypeAlias = dict[str, tuple[tuple[int, ...], str]]

#: The file that says to which run a folder belongs.
RUN_FILE: Final = "run.json"
#: Log of a shard or piece that says what it is.
NOTE: Final = "dcwrite-cluster"
#: Name of the feature that is a group, and its kind.
CONTOUR: Final = "contour"
#: Zstandard level of shards that are written once more: a fifth of the time of level 5.
SHARD_LEVEL: Final = 1
#: Default number of frames of a range, whatever the number of workers.
FRAMES_PER_RANGE: Final = (100, 1000)
#: Ranges that each worker gets by default, so that none waits long for the last one.
RANGES_PER_WORKER: Final = 4

#: How often files of a run are looked for, while a worker may still be adding one.
FORGET_ATTEMPTS: Final = 5

_NAMES = re.compile(r"^\.?(frames|events)-\d+-\d+-[0-9a-f]{8}\.rtdc(\.[0-9a-f]+\.tmp(\..*)?)?$")


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides on the content of the shards.

    Attributes
    ----------
    n_frames, frames_per_range
        How the recording is cut.
    frame_info
        Whether "index_unmapped" and "nevents" are added.
    level, fletcher32
        Compression of the recording.
    virtual
        Whether the shards stay, as the data of the result.
    identity
        What is computed: the caller's words, or a fingerprint of the function.
    software
        Who writes.
    """

    n_frames: int
    frames_per_range: int
    frame_info: bool
    level: int | None
    fletcher32: bool
    virtual: bool
    identity: str
    software: str = f"dcwrite {__version__}"

    @property
    def compression(self) -> Compression:
        """How the recording is compressed."""
        return Compression(level=self.level, fletcher32=self.fletcher32)

    @property
    def shard_compression(self) -> Compression:
        """How shards are compressed: lightly, if they are written once more."""
        if self.virtual or self.level is None:
            return self.compression
        return replace(self.compression, level=min(SHARD_LEVEL, self.level))


@dataclass(frozen=True, slots=True)
class Run:
    """A run and its folder.

    Attributes
    ----------
    folder
        Where the shards are; the same path on all workers.
    identifier
        32 hexadecimal digits.
    settings
        What is written.
    """

    folder: Path
    identifier: str
    settings: Settings

    def ranges(self) -> list[range]:
        """Ranges of frames, in order."""
        n_frames, step = self.settings.n_frames, self.settings.frames_per_range
        return [range(start, min(start + step, n_frames)) for start in range(0, n_frames, step)]

    def path(self, kind: str, start: int, stop: int) -> Path:
        """Name of a shard ("frames") or a piece ("events"); the last number belongs to it."""
        name = f"{kind}-{start:010d}-{stop - 1:010d}-{self.identifier[:8]}.rtdc"
        return self.folder / name

    def require_here(self) -> None:
        """Refuse to work where the folder is another one than that of the program.

        Raises
        ------
        StorageError
            The folder does not hold the file that the program has put there.
        """
        found = _read(self.folder)
        if found is None or found.get("run") != self.identifier:
            raise StorageError(
                errno.ENOENT,
                f"expected the folder of the shards on every worker, but '{RUN_FILE}' of run "
                f"{self.identifier[:8]} is not there; pass shards_dir= with a path that leads to "
                f"the same folder on all machines",
                str(self.folder / RUN_FILE),
            )

    def forget_files(self, *, keep_shards: bool = False) -> None:
        """Remove files of this and other runs; the folder, too, when nothing else is in it."""
        if not keep_shards:
            # first: a worker that was thought lost, and is still at it, adds nothing after that
            (self.folder / RUN_FILE).unlink(missing_ok=True)
        for _ in range(FORGET_ATTEMPTS):
            found = [path for path in self.folder.iterdir() if _NAMES.match(path.name)]
            for path in found:
                is_shard = path.suffix == ".rtdc" and path.name.startswith("frames-")
                if not (keep_shards and is_shard):
                    path.unlink(missing_ok=True)
            if keep_shards:
                return
            with suppress(OSError):
                self.folder.rmdir()
                return
            if not found:  # what is there is not ours
                return


def open_run(
    folder: Path,
    settings: Settings,
    *,
    frames_per_range: int | None,
    n_workers: int,
    resume: bool,
) -> Run:
    """Begin a run, or go on with one.

    Parameters
    ----------
    folder
        Made if it is not there.
    settings
        What is to be written; its `frames_per_range` is not looked at.
    frames_per_range
        None: that of the run that is gone on with, else a default.
    n_workers
        For the default.
    resume
        Whether shards that are there are used; else they are removed.

    Raises
    ------
    UsageError
        The folder belongs to a run with other settings.
    StorageError
        The disk refuses.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as exc:
        raise StorageError(exc.errno, exc.strerror, str(folder)) from exc
    found = _read(folder)
    if not resume:
        Run(folder, "", settings).forget_files()
        folder.mkdir(exist_ok=True)
        found = None
    if frames_per_range is None and found is not None:
        frames_per_range = found.get("settings", {}).get("frames_per_range")
    if frames_per_range is None:
        fewest, most = FRAMES_PER_RANGE
        share = -(-settings.n_frames // max(1, RANGES_PER_WORKER * n_workers))
        frames_per_range = min(most, max(fewest, share))
    settings = replace(settings, frames_per_range=frames_per_range)
    if found is not None:
        _refuse_other(folder, found, settings)
        return Run(folder, str(found["run"]), settings)
    run = Run(folder, secrets.token_hex(16), settings)
    content = {"run": run.identifier, "settings": asdict(settings)}
    with whole_file(folder / RUN_FILE, overwrite=True) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return run


def _read(folder: Path) -> dict[str, Any] | None:
    """What the folder says about its run; None: nothing."""
    try:
        content = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StorageError(exc.errno, exc.strerror, str(folder / RUN_FILE)) from exc
    except ValueError:
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("run"), str):
        raise DataError(
            f"'{folder / RUN_FILE}': expected the description of a run, got something else; pass "
            f"another shards_dir, or resume=False to begin anew"
        )
    return content


def _refuse_other(folder: Path, found: Mapping[str, Any], settings: Settings) -> None:
    was = found.get("settings", {})
    differences = [
        f"{key} {was.get(key)!r} there, {value!r} now"
        for key, value in asdict(settings).items()
        if was.get(key) != value
    ]
    if differences:
        raise UsageError(
            f"'{folder}': the shards there are of another run ({'; '.join(differences)}); pass "
            f"the settings of that run to go on with it (identity= vouches for what is "
            f"computed), or resume=False to remove its shards and begin anew"
        )


def write_note(run: Run, **content: Any) -> list[str]:
    """Lines of the log that says what a file is."""
    note = {"run": run.identifier, **asdict(run.settings), **content}
    return json.dumps(note, indent=1).split("\n")


def read_note(path: Path, run: Run, **wanted: Any) -> dict[str, Any] | None:
    """What a file of the run says about itself; None: it is not whole and right, or another one.

    Every chunk is read, and its checksum compared.

    Parameters
    ----------
    path
        The file.
    run
        The run that it has to belong to.
    **wanted
        What else it has to say.
    """
    if not path.exists():
        return None
    try:
        with Recording(path) as recording:
            note = json.loads("\n".join(recording.logs.get(NOTE, [])))
            n_events = len(recording)
    except (DCWriteError, ValueError):
        return None
    if not isinstance(note, dict) or note.get("run") != run.identifier:
        return None
    if any(note.get(key) != value for key, value in (*wanted.items(), ("n_events", n_events))):
        return None
    return note if verify(path, threads=1).exit_code == 0 else None


def features_of(path: Path) -> FeatureKinds:
    """Features of a file, as they are stored."""
    with open_for_reading(path) as h5:
        events = h5["events"]
        found: FeatureKinds = {
            name: (tuple(map(int, dset.shape[1:])), str(dset.dtype))
            for name, dset in datasets_of(events).items()
        }
        if CONTOUR in events:
            found[CONTOUR] = ((), CONTOUR)
    return found
