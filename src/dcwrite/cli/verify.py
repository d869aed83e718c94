"""`dcwrite verify`: whether recordings are whole and right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from ..store.verify import Finding, Report
from ..store.verify import verify as run_verify
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

__all__ = ["verify"]


_EXAMPLE: Final = """\b
Example:
  dcwrite verify measurement.rtdc
  dcwrite verify --basin-root /data --json *.rtdc
  dcwrite verify folder
"""
#: Of a folder, what was not finished is a finding, too.
_SUFFIXES: Final = (".rtdc", ".rtdc.part")


@click.command(cls=Command, epilog=_EXAMPLE)
@inputs_argument(suffixes=_SUFFIXES)
@json_option
@basin_roots_option
@cluster_options
@click.pass_context
def verify(
    ctx: click.Context,
    files: tuple[Path, ...],
    as_json: bool,
    basin_roots: tuple[Path, ...],
    scheduler: str | None,
    cluster: str | None,
    quiet: bool,
) -> None:
    """Check recordings from end to end.

    Every chunk is read and its checksum compared; lengths, basins with their mappings, and names
    of attributes are checked. Nothing is changed. A FILE may be a folder (the recordings in it)
    or a pattern. The exit code is 0 if all is right, 1 if there are findings, 2 if a file cannot
    be read; of many files, the highest.
    """
    with open_executor(scheduler, cluster) as executor, ProgressView(quiet=quiet) as view:
        if executor is None:
            reports = _verify_here(files, basin_roots, view)
        else:
            reports = _verify_there(files, basin_roots, view, executor)
    for report in reports:
        if report.unreadable:
            fail(_why_unreadable(report))
    if as_json:
        print_json([report.to_dict() for report in reports])
    else:
        _print_reports(reports, quiet=quiet)
    ctx.exit(max(report.exit_code for report in reports))


def _verify_here(
    files: Sequence[Path], basin_roots: Sequence[Path], view: ProgressView
) -> list[Report]:
    clock = Clock("verifying", sum(map(_file_size, files)), "bytes", view)
    reports, done = [], 0
    for path in files:
        reports.append(
            run_verify(
                path,
                basin_roots=basin_roots,
                progress=_shown_from(clock, done),
                contained=True,  # HDF5 itself can crash or hang on a damaged file
            )
        )
        done += _file_size(path)
    clock.show(done)
    return reports


def _verify_there(
    files: Sequence[Path], basin_roots: Sequence[Path], view: ProgressView, executor: Executor
) -> list[Report]:
    """The same on the workers of a cluster."""
    task = partial(_verify_one, basin_roots=basin_roots)
    batch = run_batch(task, files, stage="verifying", progress=view, executor=executor)
    reports = []
    for outcome in batch.outcomes:
        if outcome.error is not None:
            finding = Finding("/", shown_error(outcome.error))
            reports.append(Report(outcome.path, [finding], unreadable=True))
        else:
            reports.append(replace(outcome.result, path=outcome.path))  # as it was typed
    return reports


def _verify_one(
    path: Path, *, basin_roots: Sequence[Path], threads: int | None, progress: Any
) -> Report:
    """What a worker does, which shows no progress of its own."""
    del progress
    return run_verify(path, basin_roots=basin_roots, threads=threads)


def _shown_from(clock: Clock, done: int) -> Callable[[int, int], None]:
    """Progress in one file, after so many bytes of others."""
    return lambda current, _size: clock.show(done + current)


def _file_size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _why_unreadable(report: Report) -> str:
    message = report.findings[-1].message
    if "recover" not in message and (problem := input_problem(report.path, _SUFFIXES)):
        return problem
    return message if str(report.path) in message else f"'{report.path}': {message}"


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
        for note in report.notes if not quiet else ():
            print_text(f"  note: {clean(str(note))}")
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
