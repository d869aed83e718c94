"""Which files a command is meant to work on: names, folders, patterns.

Alone here: how an argument becomes files. Invariant: a name that is no file stays in the list as
it was typed, so that it fails by itself and the others go on.

Shells of Windows hand over `*.rtdc` as it was typed; so does every shell where nothing matches.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import click

from ..store.stream_file import unfinished_of
from ..tools.origins import is_url

__all__ = ["expand_inputs", "input_problem", "inputs_argument", "is_pattern"]

#: Endings of the files that are taken out of a folder.
RECORDINGS: Final = (".rtdc",)


def is_pattern(name: Path) -> bool:
    """Whether a name stands for others: it has wildcards, and is not there itself."""
    return glob.has_magic(str(name)) and not name.exists()


def expand_inputs(
    names: Iterable[Path], suffixes: Sequence[str] = RECORDINGS, *, with_folders: bool = True
) -> list[Path]:
    """Files that names, folders and patterns stand for.

    Parameters
    ----------
    names
        As typed. A file that was named twice is there twice; what a folder or a pattern adds is
        not, if it is there already.
    suffixes
        Endings of the files that are taken out of folders; hidden files and subfolders are not.
    with_folders
        Whether folders stand for the files in them.
    """
    found: list[Path] = []
    for name in names:
        if name.is_dir() and with_folders:
            more = _in_folder(name, suffixes)
        elif is_pattern(name):
            more = [Path(match) for match in sorted(glob.glob(str(name), recursive=True))]  # noqa: PTH207 - `**`, and names that begin with a drive
        else:
            found.append(name)
            continue
        found += [path for path in more if path not in found] if more else [name]
    return found


def _in_folder(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.name.endswith(tuple(suffixes)) and not path.name.startswith(".") and path.is_file()
    )


def input_problem(path: Path, suffixes: Sequence[str] = RECORDINGS) -> str | None:
    """Why a name that was left over by `expand_inputs` is no input, in one line with the remedy.

    Returns
    -------
    str or None
        None: it is a file.
    """
    if path.is_dir():
        wanted = " or ".join(f"*{suffix}" for suffix in suffixes)
        return f"'{path}': a folder without {wanted}; name the files, or another folder"
    if is_pattern(path):
        return f"'{path}': no file matches; check the folder and the pattern"
    if is_url(path):
        return f"'{path}': expected a file, got a URL; download it first"
    unfinished = unfinished_of(path)
    if unfinished is not None and not (path.suffix == ".rtdc" and path.exists()):
        return (
            f"'{path}': expected a complete recording, got one that is being written or was "
            f"interrupted; get a clean one with `dcwrite recover {unfinished[0]}`"
        )
    return None if path.exists() else f"'{path}': no such file; check the name"


def inputs_argument(
    name: str = "files", metavar: str = "FILE...", *, suffixes: Sequence[str] = RECORDINGS
) -> Callable[[Any], Any]:
    """Argument of a click command that takes files, folders and patterns.

    Parameters
    ----------
    name, metavar
        Of the parameter, which is a tuple of paths.
    suffixes
        As for `expand_inputs`.
    """

    def expand(
        _ctx: click.Context, _param: click.Parameter, value: tuple[Path, ...]
    ) -> tuple[Path, ...]:
        return tuple(expand_inputs(value, suffixes))

    return click.argument(
        name,
        metavar=metavar,
        nargs=-1,
        required=True,
        type=click.Path(path_type=Path, readable=False),  # each fails by itself
        callback=expand,
    )
