"""`dcwrite copy`: some features and some events of recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from ..tools.batch import Executor, run_batch
from ..tools.copy_many import copy_many, copy_to
from ..tools.subset import BASIN_MODES, CopySummary, copy_recording
from .cluster_options import cluster_options, open_executor
from .console import (
    Command,
    ProgressView,
    basin_roots_option,
    clean,
    jobs_options,
    print_json,
    print_table,
    print_text,
    seconds,
    size,
)
from .inputs import expand_inputs
from .outcomes import print_batch

__all__ = ["copy"]

_EXAMPLE: Final = """\b
Example:
  dcwrite copy --where "deform < 0.1 & area_um > 50" measured.rtdc small.rtdc
  dcwrite copy --features scalar measured.rtdc condensed.rtdc
  dcwrite copy --events 0:1000 --exclude image_bg measured.rtdc first.rtdc
  dcwrite copy --basins drain condensed.rtdc complete.rtdc
  dcwrite copy --features scalar --out-dir condensed --jobs 2 *.rtdc

\b
Conditions have < <= > >= == !=, & | ~ (or: and, or, not), + - * / % **,
parentheses, and abs ceil exp floor isfinite isinf isnan log log10 log2
max min round sqrt. No parentheses are needed around comparisons.
"""


@click.command(cls=Command, epilog=_EXAMPLE)
@click.argument(
    "inputs", metavar="IN.rtdc...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--out-dir",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the outputs of all inputs, which keep their names; made if it is not there. "
    "Without it: IN.rtdc OUT.rtdc.",
)
@click.option(
    "--features",
    metavar="LIST",
    help="Names and patterns (fl*), separated by commas; all, scalar, none.  [default: all]",
)
@click.option("--exclude", metavar="LIST", help="Names and patterns that are left out.")
@click.option(
    "--events",
    metavar="SLICES",
    help="Events by number, from 0: 0:1000, ::10, -100:, 5,7,20:30.",
)
@click.option("--where", metavar="CONDITION", help="Events that meet a condition.")
@click.option(
    "--index",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Events whose numbers, from 0, are in a file (text, CSV with a column 'event', .npy), in "
    "its order.",
)
@click.option(
    "--basins",
    type=click.Choice(BASIN_MODES),
    default="keep",
    show_default=True,
    help="keep: refer to the same data, and to IN.rtdc for what is left out; drain: copy the data "
    "of basins; drop: refer to nothing.",
)
@basin_roots_option
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
@jobs_options
@click.option("--json", "as_json", is_flag=True, help="Print the summary as a JSON object.")
@cluster_options
@click.pass_context
def copy(
    ctx: click.Context,
    /,
    inputs: tuple[Path, ...],
    out_dir: Path | None,
    jobs: int,
    threads: int | None,
    as_json: bool,
    scheduler: str | None,
    cluster: str | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Copy some features and some events of recordings.

    Of --index, --events and --where each takes events away; the order is that of --index, else
    that of --events, else that of IN.rtdc. Metadata, logs and tables are copied whole. Images
    that are left out stay reachable through OUT.rtdc as long as IN.rtdc is there (--basins keep).
    Two names without --out-dir are IN.rtdc OUT.rtdc. The exit code is 1 if something could not
    be copied as one might expect, 2 if a file failed.
    """
    options["exclude"] = options["exclude"] or ()
    if out_dir is None and len(inputs) != 2:
        raise click.UsageError(
            f"pass IN.rtdc OUT.rtdc, or --out-dir DIR for several inputs, got {len(inputs)} names"
        )
    batch = summary = None
    with open_executor(scheduler, cluster) as executor, ProgressView(quiet=quiet) as view:
        if out_dir is None:
            summary = _copy_one(inputs, options, threads, view, executor)
        else:
            batch = copy_many(
                expand_inputs(inputs),
                out_dir,
                jobs=jobs,
                threads=threads,
                progress=view,
                executor=executor,
                **options,
            )
    summaries = [] if batch is None else [outcome.result for outcome in batch.outcomes]
    notes = [
        f"{clean(str(copied.path_in))}: {clean(note)}"
        for copied in summaries
        if copied is not None
        for note in copied.notes
    ]
    if summary is not None:
        notes = [clean(note) for note in summary.notes]
        if as_json:
            print_json(summary.to_dict())
        elif not quiet:
            _print_summary(summary)
    for note in notes:
        click.echo(f"Note: {note}", err=True)
    if batch is not None:
        if as_json:
            print_json(batch.to_dict())
        print_batch(ctx, batch, "copied", quiet=quiet or as_json)
    if notes:
        ctx.exit(1)


def _copy_one(
    paths: Sequence[Path],
    options: dict[str, Any],
    threads: int | None,
    view: ProgressView,
    executor: Executor | None,
) -> CopySummary:
    path_in, path_out = paths
    if executor is None:
        return copy_recording(path_in, path_out, **options, threads=threads, progress=view)
    task = partial(copy_to, path_out=path_out, options=options)
    batch = run_batch(task, [path_in], stage="copying", progress=view, executor=executor)
    batch.raise_first()
    summary: CopySummary = batch.outcomes[0].result
    return replace(summary, path_in=path_in, path_out=path_out)  # as they were typed


def _print_summary(summary: CopySummary) -> None:
    names = ", ".join(summary.features)
    print_text(f"{clean(str(summary.path_out))} is written.")
    rate = summary.n_events / summary.elapsed_s if summary.elapsed_s else 0.0
    print_table(
        ("", ""),
        [
            ("events", f"{summary.n_events:,} of {summary.n_events_in:,}"),
            ("features", f"{len(summary.features)}" + (f" ({names})" if len(names) < 60 else "")),
            ("basins", ", ".join(summary.basins) or "none"),
            (
                "chunks",
                f"{summary.n_chunks_moved:,} moved, {summary.n_chunks_recoded:,} compressed anew",
            ),
            (
                "file",
                f"{size(summary.size_bytes_out)} (the recording: {size(summary.size_bytes_in)})",
            ),
            ("wall time", f"{seconds(summary.elapsed_s)}, {rate:,.0f} events/s"),
        ],
    )
