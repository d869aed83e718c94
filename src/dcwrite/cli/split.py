"""`dcwrite split`: a recording in parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from ..tools.split import SplitSummary, split_many
from ..tools.split import split as run_split
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
from .inputs import inputs_argument
from .outcomes import print_batch

__all__ = ["split"]

_EXAMPLE: Final = """\b
Example:
  dcwrite split --events 10000 measured.rtdc
  dcwrite split --times 10,20.5 --link --out-dir parts measured.rtdc
"""
#: Parts that are shown.
_SHOWN: Final = 20


def _seconds_of(
    _ctx: click.Context, _param: click.Parameter, value: str | None
) -> tuple[float, ...] | None:
    """Numbers that are separated by commas."""
    try:
        return None if value is None else tuple(float(part) for part in value.split(","))
    except ValueError as exc:
        raise click.BadParameter(f"expected seconds such as 10,20.5, got {value!r}") from exc


@click.command(cls=Command, epilog=_EXAMPLE)
@inputs_argument("files", "IN.rtdc...")
@click.option(
    "--out-dir",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the parts; made if it is not there.  [default: that of IN.rtdc]",
)
@click.option(
    "--events",
    type=click.IntRange(min=1),
    metavar="N",
    help="Events per part.  [default: 10000]",
)
@click.option(
    "--times",
    callback=_seconds_of,
    metavar="S,S,...",
    help="Times in seconds at which a new part begins.",
)
@click.option(
    "--every",
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="Seconds per part.",
)
@click.option("--link", is_flag=True, help="Leave images in IN.rtdc, and refer to them.")
@basin_roots_option
@click.option(
    "--preset",
    "compression",
    type=click.Choice(["archive", "fast", "none"]),
    default="archive",
    show_default=True,
    help="Compression of what cannot be taken over as it is.",
)
@click.option("--overwrite", is_flag=True, help="Replace existing parts.")
@jobs_options
@click.option("--json", "as_json", is_flag=True, help="Print the summary as a JSON object.")
@cluster_options
@click.pass_context
def split(
    ctx: click.Context,
    /,
    files: tuple[Path, ...],
    out_dir: Path | None,
    jobs: int,
    as_json: bool,
    scheduler: str | None,
    cluster: str | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Cut a recording into parts IN_0001.rtdc, IN_0002.rtdc, ...

    Every event is in exactly one part. Metadata, logs and tables are in each; the feature index
    counts from 1 in each, time and frame stay. All parts appear when all are complete, or none.
    When files fail, the others go on, and the exit code is 2.
    """
    if sum(options[name] is not None for name in ("events", "times", "every")) > 1:
        raise click.UsageError("Pass one of --events, --times and --every.")
    on_cluster = scheduler is not None or cluster is not None
    if len(files) == 1 and not on_cluster:
        with ProgressView(quiet=quiet or as_json) as view:
            summary = run_split(files[0], out_dir, progress=view, **options)
        _show(summary, as_json=as_json, quiet=quiet)
        return
    with (
        open_executor(scheduler, cluster) as executor,
        ProgressView(quiet=quiet or as_json) as view,
    ):
        batch = split_many(files, out_dir, jobs=jobs, progress=view, executor=executor, **options)
    if len(files) == 1:
        batch.raise_first()
        _show(batch.outcomes[0].result, as_json=as_json, quiet=quiet)
        return
    if as_json:
        print_json(batch.to_dict())
    print_batch(ctx, batch, "split", quiet=quiet or as_json)


def _show(summary: SplitSummary, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json(summary.to_dict())
    elif not quiet:
        _print_summary(summary)


def _print_summary(summary: SplitSummary) -> None:
    for note in summary.notes:
        click.echo(f"Note: {clean(note)}", err=True)
    number = len(summary.parts)
    print_text(f"{number} part{'s' if number > 1 else ''} of {clean(str(summary.path_in))}:")
    print_table(
        ("part", "events", "from", "size"),
        [
            (
                str(part.path),
                f"{part.n_events:,}",
                f"{part.first_event:,}",
                size(part.size_bytes),
            )
            for part in summary.parts[:_SHOWN]
        ],
        right=("events", "from", "size"),
    )
    if number > _SHOWN:
        print_text(f"  ... and {number - _SHOWN} more")
    print_table(
        ("", ""),
        [
            ("events", f"{summary.n_events:,}"),
            ("referred to", ", ".join(summary.references) or "nothing"),
            ("chunks", f"{summary.n_chunks_moved:,} moved, {summary.n_chunks_recoded:,} decoded"),
            ("files", f"{size(summary.size_bytes_out)} (before: {size(summary.size_bytes_in)})"),
            ("wall time", seconds(summary.elapsed_s)),
        ],
    )
