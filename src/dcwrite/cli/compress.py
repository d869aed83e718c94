"""`dcwrite compress`: the same recordings with another compression."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from ..format.compression import Compression
from ..tools.batch import run_batch
from ..tools.compress import CompressSummary, IfGood
from ..tools.compress import compress as run_compress
from ..tools.compress_many import compress_many
from .cluster_options import cluster_options, open_executor
from .console import (
    Command,
    ProgressView,
    jobs_options,
    print_json,
    print_table,
    print_text,
    seconds,
    size,
)
from .inputs import inputs_argument
from .outcomes import print_batch, saved

__all__ = ["compress"]

_EXAMPLE: Final = """\b
Example:
  dcwrite compress measurement.rtdc -o small.rtdc
  dcwrite compress --out-dir archive --jobs 2 measurements/
"""


@click.command(cls=Command, epilog=_EXAMPLE)
@inputs_argument("files", "IN.rtdc...")
@click.option(
    "-o", "--output", metavar="OUT.rtdc", type=click.Path(path_type=Path), help="Of one input."
)
@click.option(
    "--out-dir",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the outputs, which keep their names; made if it is not there.",
)
@click.option(
    "--preset",
    type=click.Choice(["archive", "fast", "none"]),
    help="archive: Zstandard 5; fast: 1; none: checksums only.  [default: archive]",
)
@click.option("--level", type=click.IntRange(1, 22), help="Zstandard level instead of a preset.")
@click.option("--force", is_flag=True, help="Compress anew also what is good already.")
@click.option(
    "--if-good",
    type=click.Choice(["copy", "link", "skip"]),
    default="copy",
    show_default=True,
    help="What to do with a file that needs nothing: copy it as it is, make a hard link to it, "
    "or write no output.",
)
@click.option("--check", is_flag=True, help="Read both back and compare everything.")
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
@jobs_options
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="With --out-dir: leave outputs alone that the same command has made before.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the outcomes as a JSON object.")
@cluster_options
@click.pass_context
def compress(
    ctx: click.Context,
    files: tuple[Path, ...],
    output: Path | None,
    out_dir: Path | None,
    preset: str | None,
    level: int | None,
    force: bool,
    if_good: IfGood,
    check: bool,
    overwrite: bool,
    jobs: int,
    threads: int | None,
    resume: bool,
    as_json: bool,
    scheduler: str | None,
    cluster: str | None,
    quiet: bool,
) -> None:
    """Write recordings once more with another compression.

    Everything in them is carried over. Chunks that are compressed at least as well as wanted are
    moved as they are; a file of which that is true from end to end is copied. Inputs are never
    changed, and an output appears when it is complete. When files fail, the others go on, and the
    exit code is 2.
    """
    if (output is None) == (out_dir is None):
        raise click.UsageError("pass --output OUT.rtdc (for one input) or --out-dir DIR")
    if output is not None and len(files) > 1:
        raise click.UsageError(f"--output is for one input, got {len(files)}; pass --out-dir DIR")
    if preset is not None and level is not None:
        raise click.UsageError("pass --preset or --level, not both")
    compression = Compression.preset(preset or "archive") if level is None else Compression(level)
    options: dict[str, Any] = {
        "compression": compression,
        "force": force,
        "if_good": if_good,
        "check": check,
        "overwrite": overwrite,
    }
    with (
        open_executor(scheduler, cluster) as executor,
        ProgressView(quiet=quiet or as_json) as view,
    ):
        if output is not None:
            task = partial(run_compress, path_out=output, **options)
            batch = run_batch(task, files, threads=threads, progress=view, executor=executor)
        else:
            batch = compress_many(
                files,
                out_dir or Path(),
                **options,
                resume=resume,
                jobs=jobs,
                threads=threads,
                progress=view,
                executor=executor,
            )
    if out_dir is not None:
        if as_json:
            print_json(batch.to_dict())
        print_batch(ctx, batch, "compressed", quiet=quiet or as_json)
        return
    batch.raise_first()
    summary = batch.outcomes[0].result
    if as_json:
        print_json(summary.to_dict())
    elif not quiet:
        _print_summary(summary)


def _print_summary(summary: CompressSummary) -> None:
    if summary.action == "skipped":
        print_text(f"{summary.path_in} is compressed as wanted already; nothing was written.")
        return
    if summary.action != "compressed":
        print_text(
            f"{summary.path_in} is compressed as wanted already; {summary.path_out} is "
            f"{'a copy of it' if summary.action == 'copied' else 'a hard link to it'}."
        )
        return
    print_text(f"{summary.path_out} is written.")
    before, after = summary.stored_bytes_in, summary.stored_bytes_out
    print_table(
        ("", ""),
        [
            ("events", f"{summary.n_events:,}"),
            ("raw", size(summary.raw_bytes)),
            ("file", f"{size(after)} (before: {size(before)}; {saved(before, after)} saved)"),
            ("chunks", f"{summary.n_recoded:,} compressed, {summary.n_moved:,} moved"),
            ("wall time", seconds(summary.elapsed_s)),
        ],
    )
