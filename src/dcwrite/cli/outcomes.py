"""The end of commands with many inputs: a table of what became of each, and the exit code.

Alone here: how outcomes look. Invariant: each input has one line; errors go to stderr.
"""

from __future__ import annotations

import click

from ..tools.batch import Batch, Outcome
from .console import fail, print_table, print_text, seconds, shown_error, size
from .inputs import input_problem

__all__ = ["print_batch", "print_errors", "saved"]


def print_batch(ctx: click.Context, batch: Batch, verb: str, *, quiet: bool) -> None:
    """Print the errors, the table and the sum; ends the command with 2 if an input failed.

    Parameters
    ----------
    ctx
        Of the command.
    batch
        The outcomes.
    verb
        What was done: "compressed".
    quiet
        Whether only errors are shown.
    """
    print_errors(batch)
    if not quiet:
        print_table(
            ("file", "state", "before", "after", "saved", "time"),
            [_cells(outcome, verb) for outcome in batch.outcomes],
            right=("before", "after", "saved", "time"),
        )
        print_text(_sum(batch, verb))
    if batch.exit_code:
        ctx.exit(batch.exit_code)


def print_errors(batch: Batch) -> None:
    """Print the error of each input that failed."""
    for outcome in batch.outcomes:
        if outcome.error is not None:
            text = shown_error(outcome.error)
            text = text if outcome.path.name in text else f"'{outcome.path}': {text}"
            fail(input_problem(outcome.path) or text)


def saved(before: int | None, after: int | None) -> str:
    """Part of the bytes that are not needed any more."""
    if not before or after is None:
        return ""
    return f"{100 * (before - after) / before:.1f} %"


def _cells(outcome: Outcome, verb: str) -> tuple[str, ...]:
    state = {"done": verb, "skipped": outcome.reason, "failed": "failed"}[outcome.state]
    before, after = outcome.bytes_before, outcome.bytes_after
    return (
        str(outcome.path),
        state,
        "" if before is None else size(before),
        "" if after is None else size(after),
        saved(before, after) if outcome.state == "done" else "",
        seconds(outcome.elapsed_s),
    )


def _sum(batch: Batch, verb: str) -> str:
    done = [outcome for outcome in batch.outcomes if outcome.state == "done"]
    before = sum(outcome.bytes_before or 0 for outcome in done)
    after = sum(outcome.bytes_after or 0 for outcome in done)
    counts = [f"{len(done)} {verb}"]
    counts += [
        f"{n_inputs} {state}"
        for state, n_inputs in (
            ("skipped", batch.count("skipped")),
            ("failed", batch.count("failed")),
        )
        if n_inputs
    ]
    text = f"{', '.join(counts)} in {seconds(batch.elapsed_s)}."
    if done and before:
        text += f" {size(before)} became {size(after)} ({saved(before, after)} saved)."
    return text
