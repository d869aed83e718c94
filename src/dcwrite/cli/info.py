"""`dcwrite info`: what is in recordings, and how it is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import numpy as np

from ..errors import DCWriteError
from ..store.describe import Description, describe
from ..store.recording import BasinStatus
from ..tools.batch import Executor, run_batch
from ..tools.progress import Clock
from .cluster_options import cluster_options, open_executor
from .console import (
    Command,
    ProgressView,
    basin_roots_option,
    clean,
    fail,
    json_option,
    print_json,
    print_table,
    print_text,
    shown_error,
    size,
)
from .inputs import input_problem, inputs_argument

__all__ = ["info"]


_EXAMPLE: Final = """\b
Example:
  dcwrite info measurement.rtdc
  dcwrite info --json *.rtdc | jq '.[].n_events'
"""


@click.command(cls=Command, epilog=_EXAMPLE)
@inputs_argument()
@json_option
@basin_roots_option
@cluster_options
@click.pass_context
def info(
    ctx: click.Context,
    files: tuple[Path, ...],
    as_json: bool,
    basin_roots: tuple[Path, ...],
    scheduler: str | None,
    cluster: str | None,
    quiet: bool,
) -> None:
    """Show what is in recordings, and how it is stored.

    Nothing is decompressed, so it is fast for large recordings too. A FILE may be a folder (the
    recordings in it) or a pattern; several files end with a table. The exit code is 2 if a file
    cannot be read.
    """
    with (
        open_executor(scheduler, cluster) as executor,
        ProgressView(quiet=quiet or len(files) == 1) as view,
    ):
        if executor is None:
            found = _describe_here(files, basin_roots, view)
        else:
            found = _describe_there(files, basin_roots, view, executor)
    failed = [item for item in found if isinstance(item, tuple)]
    for _, message in failed:
        fail(message)
    if as_json:
        print_json(
            [
                {"path": str(item[0]), "error": item[1]}
                if isinstance(item, tuple)
                else item.to_dict()
                for item in found
            ]
        )
    else:
        for item in found:
            if not isinstance(item, tuple):
                _print_description(item)
        if len(found) > 1 and not quiet:
            _print_table(found)
    if failed:
        ctx.exit(2)


def _describe_here(
    files: Sequence[Path], basin_roots: Sequence[Path], view: ProgressView
) -> list[Description | tuple[Path, str]]:
    found: list[Description | tuple[Path, str]] = []
    clock = Clock("reading", len(files), "files", view)
    for number, path in enumerate(files):
        try:
            found.append(describe(path, basin_roots=basin_roots))
        except (DCWriteError, OSError, RuntimeError, ValueError, KeyError) as exc:
            found.append((path, input_problem(path) or shown_error(exc)))
        clock.show(number + 1)
    return found


def _describe_there(
    files: Sequence[Path], basin_roots: Sequence[Path], view: ProgressView, executor: Executor
) -> list[Description | tuple[Path, str]]:
    """The same on the workers of a cluster."""
    task = partial(_describe_one, basin_roots=basin_roots)
    batch = run_batch(task, files, stage="reading", progress=view, executor=executor)
    return [
        replace(outcome.result, path=outcome.path)  # as it was typed
        if outcome.error is None
        else (outcome.path, input_problem(outcome.path) or shown_error(outcome.error))
        for outcome in batch.outcomes
    ]


def _describe_one(
    path: Path, *, basin_roots: Sequence[Path], threads: int | None, progress: Any
) -> Description:
    """What a worker does."""
    del threads, progress
    return describe(path, basin_roots=basin_roots)


def _print_description(about: Description) -> None:
    ratio = f", ratio {about.raw_bytes / about.stored_bytes:.2f}" if about.stored_bytes else ""
    print_text(clean(str(about.path)))
    print_text(
        f"{about.n_events:,} events; file {size(about.size_bytes)}, features "
        f"{size(about.raw_bytes)} raw, {size(about.stored_bytes)} stored{ratio}"
    )
    _section(
        "Features",
        ("name", "shape", "dtype", "chunk", "filters", "stored", "ratio"),
        [
            (
                info.name,
                _shape(info.shape),
                info.dtype,
                _shape(info.chunks) if info.chunks else "-",
                info.filters,
                size(info.stored_bytes),
                f"{info.ratio:.2f}" if info.ratio else "-",
            )
            for info in about.features
        ],
        right=("stored", "ratio"),
    )
    _section("Metadata", ("key", "value"), [(k, _value(v)) for k, v in about.metadata.items()])
    _section(
        "Logs",
        ("name", "lines"),
        [(name, f"{lines:,}") for name, lines in about.logs.items()],
        right=("lines",),
    )
    _section(
        "Tables",
        ("name", "rows", "columns"),
        [(name, f"{rows:,}", f"{columns}") for name, (rows, columns) in about.tables.items()],
        right=("rows", "columns"),
    )
    _section(
        "Basins",
        ("name", "type", "locations", "mapping", "features", "reachable"),
        [_basin_row(status) for status in about.basins],
    )
    print_text()


def _print_table(found: Sequence[Description | tuple[Path, str]]) -> None:
    print_table(
        ("file", "result", "events", "features", "basins", "raw", "file size"),
        [
            (str(item[0]), "unreadable", "", "", "", "", "")
            if isinstance(item, tuple)
            else (
                str(item.path),
                "read",
                f"{item.n_events:,}",
                f"{len(item.features)}",
                _reachable(item.basins),
                size(item.raw_bytes),
                size(item.size_bytes),
            )
            for item in found
        ],
        right=("events", "features", "raw", "file size"),
    )


def _reachable(basins: Sequence[BasinStatus]) -> str:
    n_lost = sum(not status.reachable for status in basins)
    if not basins:
        return ""
    return f"{len(basins)}" if not n_lost else f"{len(basins)}, {n_lost} not reachable"


def _section(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[str] = (),
) -> None:
    if rows:
        print_text(f"\n{title} ({len(rows)})")
        print_table(columns, rows, right=right)


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _value(value: Any) -> str:
    return str(value.tolist()) if isinstance(value, np.ndarray) else str(value)


def _basin_row(status: BasinStatus) -> tuple[str, ...]:
    reachable = "yes" if status.reachable else f"no: {status.reason}"
    basin = status.basin
    if basin is None:
        return status.key, "?", "", "", "", reachable
    return (
        basin.name,
        f"{basin.type}/{basin.format}",
        ", ".join(basin.locations),
        basin.mapping or "same",
        f"{len(status.features)}" if status.reachable else "",
        reachable,
    )
