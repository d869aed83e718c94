"""What the sentry's process does: walk through the structure of a file, and say that it came back.

Run by its path, not imported: it needs h5py alone, and so starts fast. Alone here: what is looked
at. Invariant: a file on which HDF5 does not come back ends this process, also when nobody is there
any more who would.

Each request is a line of JSON: path, seconds after which one call counts as lost. The answer is
one byte, and one byte comes before the first request.
"""

import contextlib
import errno
import faulthandler
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import h5py

#: Contours are one dataset each; the first ones stand for all.
MAX_CONTOURS = 200
#: Seconds between two notes that the walk goes on.
ALIVE_S = 1.0
#: What file systems say that have no locks.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
#: What a damaged structure leads to; whoever opens the file afterwards says so.
ERRORS = (
    ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip


class Walk:
    """A walk through one file."""

    def __init__(self, limit_s: float, silence: Any) -> None:
        self._limit_s, self._silence = limit_s, silence
        self._noted = 0.0
        self._n_left = 0

    def go(self, path: str) -> None:
        """Look at all objects, their attributes, and the indices of their chunks."""
        self._alive()
        with self._open(path) as h5:
            seen: set[tuple[int, int]] = set()
            groups: list[h5py.Group] = [h5]
            while groups:
                group = groups.pop()
                for item in self._members(group):
                    info = h5py.h5o.get_info(item.id)
                    if (info.fileno, info.addr) in seen:
                        continue
                    seen.add((info.fileno, info.addr))
                    with contextlib.suppress(*ERRORS):
                        self._look_at(item)
                    if isinstance(item, h5py.Group):
                        groups.append(item)

    @staticmethod
    def _open(path: str) -> Any:
        try:
            return h5py.File(path, "r")
        except OSError as exc:
            if exc.errno not in NO_LOCKS:
                raise
        return h5py.File(path, "r", locking=False)

    def _members(self, group: h5py.Group) -> Iterator[Any]:
        self._attributes(group)
        n_left = MAX_CONTOURS if group.name == "/events/contour" else None
        with contextlib.suppress(*ERRORS):
            for name in group:
                self._alive()
                if n_left is not None:
                    n_left -= 1
                    if n_left < 0:
                        return
                with contextlib.suppress(*ERRORS):
                    if not isinstance(group.get(name, getlink=True), h5py.ExternalLink):
                        yield group[name]

    def _look_at(self, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            self._attributes(item)
            if item.chunks is not None:
                self._n_left = math.prod(
                    -(-size // chunk) for size, chunk in zip(item.shape, item.chunks, strict=True)
                )
                item.id.chunk_iter(self._pass)

    def _pass(self, _chunk: object) -> bool | None:
        """Go on to the next chunk; an index that runs in circles has more than there can be."""
        self._alive()
        self._n_left -= 1
        return True if self._n_left < 0 else None

    def _attributes(self, item: Any) -> None:
        with contextlib.suppress(*ERRORS):
            for number in range(h5py.h5a.get_num_attrs(item.id)):
                self._alive()
                with contextlib.suppress(*ERRORS):
                    attribute = h5py.h5a.open(item.id, index=number)
                    if attribute.dtype.kind == "O":  # its value is elsewhere in the file
                        item.attrs[attribute.name]

    def _alive(self) -> None:
        now = time.monotonic()
        if now > self._noted + ALIVE_S:
            self._noted = now
            # a thread of C, which needs nothing of the interpreter
            faulthandler.dump_traceback_later(self._limit_s, exit=True, file=self._silence)


def main() -> None:
    """Answer until nobody asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for who started this
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    answers.write(b"+")
    with open(os.devnull, "w") as silence:  # noqa: PTH123 - as fast as possible
        for line in sys.stdin.buffer:
            path, limit_s = json.loads(line)
            with contextlib.suppress(*ERRORS):
                Walk(limit_s, silence).go(path)
            faulthandler.cancel_dump_traceback_later()
            answers.write(b"!")


if __name__ == "__main__":
    main()
