"""`dcwrite verify`: whether recordings are whole and right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from ..store.verify import Report
from ..store.verify import verify as run_verify
from ..tools.progress import Clock
from .console import (
    Command,
    ProgressView,
    basin_roots_option,
    clean,
    fail,
    files_argument,
    json_option,
    print_json,
    print_table,
    print_text,
    size,
)

__all__ = ["verify"]


_EXAMPLE: Final = """\b
Example:
  dcwrite verify measurement.rtdc
  dcwrite verify --basin-root /data --json *.rtdc
"""


@click.command(cls=Command, epilog=_EXAMPLE)
@files_argument
@json_option
@basin_roots_option
@click.pass_context
def verify(
    ctx: click.Context,
    files: tuple[Path, ...],
    as_json: bool,
    basin_roots: tuple[Path, ...],
    quiet: bool,
) -> None:
    """Check recordings from end to end.

    Every chunk is read and its checksum compared; lengths, basins with their mappings, and names
    of attributes are checked. Nothing is changed. The exit code is 0 if all is right, 1 if
    there are findings, 2 if a file cannot be read; of many files, the worst.
    """
    reports = []
    with ProgressView(quiet=quiet) as view:
        clock = Clock("verifying", sum(map(_file_size, files)), "bytes", view)
        done = 0
        for path in files:
            reports.append(
                run_verify(path, basin_roots=basin_roots, progress=_shown_from(clock, done))
            )
            done += _file_size(path)
        clock.show(done)
    for report in reports:
        if report.unreadable:
            fail(_why_unreadable(report))
    if as_json:
        print_json([report.to_dict() for report in reports])
    else:
        _print_reports(reports, quiet=quiet)
    ctx.exit(max(report.exit_code for report in reports))


def _shown_from(clock: Clock, done: int) -> Callable[[int, int], None]:
    """Progress in one file, after so many bytes of others."""
    return lambda current, _size: clock.show(done + current)


def _file_size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _why_unreadable(report: Report) -> str:
    path = report.path
    if not path.exists() and "recover" not in report.findings[-1].message:
        return f"'{path}': no such file; check the name"
    if path.is_dir():
        return f"'{path}': is a folder; name the files in it"
    message = report.findings[-1].message
    return message if str(path) in message else f"'{path}': {message}"


def _print_reports(reports: list[Report], *, quiet: bool) -> None:
    for report in reports:
        path = clean(str(report.path))
        if report.unreadable:
            print_text(f"{path}: unreadable")
        elif report.findings:
            print_text(f"{path}: {_count(len(report.findings), 'finding')}")
            for finding in report.findings:
                print_text(f"  {clean(str(finding))}")
        elif not quiet:
            print_text(
                f"{path}: right ({_count(report.n_events, 'event')}, "
                f"{_count(report.n_chunks, 'chunk')}, "
                f"{size(report.n_bytes)} read)"
            )
    if len(reports) > 1 and not quiet:
        print_text()
        print_table(
            ("file", "result", "findings", "events", "chunks", "read"),
            [
                (
                    str(report.path),
                    ("right", "findings", "unreadable")[report.exit_code],
                    f"{len(report.findings):,}",
                    f"{report.n_events:,}",
                    f"{report.n_chunks:,}",
                    size(report.n_bytes),
                )
                for report in reports
            ],
            right=("findings", "events", "chunks", "read"),
        )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
