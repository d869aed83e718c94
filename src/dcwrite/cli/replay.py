"""`dcwrite replay`: a recording once more through worker processes and the queue writer."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from ..tools.compare import compare
from ..tools.replay import ReplaySummary
from ..tools.replay import replay as run_replay
from .console import Command, ProgressView, fail, print_table, print_text, seconds, size

__all__ = ["replay"]


_EXAMPLE: Final = """\b
Example:
  dcwrite replay --check measurement.rtdc again.rtdc
"""


@click.command(cls=Command, epilog=_EXAMPLE)
@click.argument("path_in", metavar="IN.rtdc", type=click.Path(path_type=Path))
@click.argument("path_out", metavar="OUT.rtdc", type=click.Path(path_type=Path))
@click.option(
    "--workers", type=click.IntRange(1, 64), default=2, show_default=True, help="Worker processes."
)
@click.option(
    "--seed", type=click.IntRange(min=0), help="Of the order of delivery.  [default: random]"
)
@click.option("--overwrite", is_flag=True, help="Replace an existing OUT.rtdc.")
@click.option("--check", is_flag=True, help="Read both back and compare everything.")
@click.pass_context
def replay(
    ctx: click.Context,
    path_in: Path,
    path_out: Path,
    workers: int,
    seed: int | None,
    overwrite: bool,
    check: bool,
    quiet: bool,
) -> None:
    """Send a recording through worker processes into a new one.

    The workers read the frames of IN.rtdc and deliver them out of order; OUT.rtdc then holds what
    IN.rtdc holds: features, metadata, logs, tables and basins, compressed anew. An inconsistent
    recording is refused. With --check, the exit code is 1 if the two differ.
    """
    with ProgressView(quiet=quiet) as view:
        summary = run_replay(
            path_in, path_out, workers=workers, seed=seed, overwrite=overwrite, progress=view
        )
    if not quiet:
        _print_summary(summary)
    if not check:
        return
    differences = compare(path_in, path_out)
    for difference in differences:
        fail(f"'{path_in}' and '{path_out}' differ: {difference}")
    if differences:
        ctx.exit(1)
    if not quiet:
        print_text("Both hold the same.")


def _print_summary(summary: ReplaySummary) -> None:
    print_text(f"{summary.path_out} is written.")
    print_table(
        ("", ""),
        [
            ("events", f"{summary.n_events:,} in {summary.n_frames:,} frames"),
            ("features", f"{summary.n_features}"),
            ("worker processes", f"{summary.n_workers}"),
            ("raw", size(summary.raw_bytes)),
            (
                "file",
                f"{size(summary.stored_bytes_out)} (before: {size(summary.stored_bytes_in)})",
            ),
            ("wall time", seconds(summary.elapsed_s)),
            (
                "rate",
                _rates(summary),
            ),
        ],
    )


def _rates(summary: ReplaySummary) -> str:
    events, megabytes = summary.n_events, summary.raw_bytes / 1e6
    return f"{events / summary.elapsed_s:,.0f} events/s, {megabytes / summary.elapsed_s:,.1f} MB/s"
