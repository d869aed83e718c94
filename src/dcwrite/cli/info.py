"""`dcwrite info`: what is in recordings, and how it is stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
import numpy as np

from ..errors import DCWriteError
from ..store.describe import Description, describe
from ..store.recording import BasinStatus
from ..tools.progress import Clock
from .console import (
    Command,
    ProgressView,
    basin_roots_option,
    clean,
    error_text,
    fail,
    files_argument,
    json_option,
    print_json,
    print_table,
    print_text,
    size,
)

__all__ = ["info"]


_EXAMPLE: Final = """\b
Example:
  dcwrite info measurement.rtdc
  dcwrite info --json *.rtdc | jq '.[].n_events'
"""


@click.command(cls=Command, epilog=_EXAMPLE)
@files_argument
@json_option
@basin_roots_option
@click.pass_context
def info(
    ctx: click.Context,
    files: tuple[Path, ...],
    as_json: bool,
    basin_roots: tuple[Path, ...],
    quiet: bool,
) -> None:
    """Show what is in recordings, and how it is stored.

    Nothing is decompressed, so it is fast for large recordings too. The exit code is 2 if a file
    cannot be read.
    """
    found: list[Description | tuple[Path, str]] = []
    with ProgressView(quiet=quiet or len(files) == 1) as view:
        clock = Clock("reading", len(files), "files", view)
        for number, path in enumerate(files):
            try:
                found.append(describe(path, basin_roots=basin_roots))
            except (DCWriteError, OSError, RuntimeError, ValueError, KeyError) as exc:
                found.append((path, error_text(exc)))
            clock.show(number + 1)
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
    if failed:
        ctx.exit(2)


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
