"""`dcwrite join`: recordings one behind the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from ..errors import MismatchError
from ..tools.join import JoinSummary
from ..tools.join import join as run_join
from .console import (
    Command,
    ProgressView,
    basin_roots_option,
    clean,
    fail,
    print_json,
    print_table,
    print_text,
    seconds,
    shown_error,
    size,
)
from .inputs import inputs_argument

__all__ = ["join"]

_EXAMPLE: Final = """\b
Example:
  dcwrite join M001.rtdc M002.rtdc -o all.rtdc
  dcwrite join --virtual parts/*.rtdc -o all.rtdc
"""


@click.command(cls=Command, epilog=_EXAMPLE)
@inputs_argument("inputs", "IN.rtdc...")
@click.option(
    "-o",
    "--output",
    "path_out",
    metavar="OUT.rtdc",
    required=True,
    type=click.Path(path_type=Path),
    help="The joined recording.",
)
@click.option(
    "--sort",
    type=click.Choice(["time", "given"]),
    default="time",
    show_default=True,
    help="time: by date, time and run index; given: as given.",
)
@click.option(
    "--offsets",
    type=click.Choice(["start", "continue", "none"]),
    default="start",
    show_default=True,
    help="Added to time and frame. start: what lies between the starts of the measurements; "
    "continue: each goes on where the one before ended; none: nothing.",
)
@click.option(
    "--features",
    type=click.Choice(["all", "common"]),
    default="all",
    show_default=True,
    help="all: refuse inputs with different features; common: leave out what not all have alike.",
)
@click.option(
    "--virtual",
    is_flag=True,
    help="Leave images and traces in the inputs, and refer to them.",
)
@click.option(
    "--allow-differences",
    is_flag=True,
    help="Join also what was measured in different ways, or has the same identifier.",
)
@click.option(
    "--drop-basins",
    is_flag=True,
    help="Leave out basins that only some inputs have, and that cannot be read here.",
)
@basin_roots_option
@click.option(
    "--preset",
    "compression",
    type=click.Choice(["archive", "fast", "none"]),
    default="archive",
    show_default=True,
    help="Compression of what cannot be taken over as it is.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing OUT.rtdc.")
@click.option(
    "--threads", type=click.IntRange(min=1), help="Threads.  [default: the usable cores]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as a JSON object.")
@click.pass_context
def join(
    ctx: click.Context,
    /,
    inputs: tuple[Path, ...],
    path_out: Path,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Put recordings one behind the other.

    Everything that is in the way is listed before anything is written. Metadata are those of the
    first input; logs and tables of input N are named src-#N_NAME. With --virtual, images are
    found through OUT.rtdc as long as the inputs stay where they are. The exit code is 1 if
    something was left out.
    """
    try:
        with ProgressView(quiet=quiet or as_json) as view:
            summary = run_join(inputs, path_out, progress=view, **options)
    except MismatchError as exc:
        shown_error(exc)  # with --debug: where it comes from
        for problem in exc.problems:
            fail(problem)
        ctx.exit(2)
    if as_json:
        print_json(summary.to_dict())
    else:
        for note in [*summary.omitted, *summary.notes] if not quiet else summary.omitted:
            click.echo(f"Note: {clean(note)}", err=True)
        if not quiet:
            _print_summary(summary)
    if summary.omitted:
        ctx.exit(1)


def _print_summary(summary: JoinSummary) -> None:
    print_text(f"{clean(str(summary.path_out))} is written.")
    if summary.path_virtual is not None:
        print_text(f"{clean(str(summary.path_virtual))} belongs to it; keep it and the inputs.")
    print_table(
        ("input", "events", "from", "time", "frame"),
        [
            (
                str(item.path),
                f"{item.n_events:,}",
                f"{item.first_event:,}",
                f"+{item.time_s:,.3f} s",
                f"+{item.frame:,}",
            )
            for item in summary.inputs
        ],
        right=("events", "from", "time", "frame"),
    )
    print_table(
        ("", ""),
        [
            ("events", f"{summary.n_events:,}"),
            ("features", _features(summary)),
            ("chunks", f"{summary.n_chunks_moved:,} moved, {summary.n_chunks_recoded:,} decoded"),
            ("file", f"{size(summary.size_bytes_out)} (inputs: {size(summary.size_bytes_in)})"),
            ("wall time", seconds(summary.elapsed_s)),
        ],
    )


def _features(summary: JoinSummary) -> str:
    text = f"{len(summary.features)} stored"
    if summary.references:
        text += f", {len(summary.references)} referred to: {', '.join(summary.references)}"
    return text
