"""A run's writes, recorded, and the states in which a kill or a power cut could leave the disk.

Alone here: the model of a disk. Each 4 KB page that was written after the last sync of its file
survives a power cut or not, each on its own; the file's length may or may not have been kept;
of the changes of names since the folder's last sync some first ones survive. Invariant: what was
synced survives always.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Disk", "Operation", "read_log"]

PAGE_BYTES = 4096
_HEADER = struct.Struct("<IIQQQII")
WRITE, TRUNCATE, SYNC, CREATE, RENAME, LINK, UNLINK, MARK = range(8)


@dataclass(frozen=True, slots=True)
class Operation:
    """One recorded call; the names are those of shim.c."""

    kind: int
    flags: int
    inode: int
    offset: int
    data: bytes
    name: str
    other: str


def read_log(path: Path) -> Iterator[Operation]:
    """Operations in the order in which they were made."""
    data = path.read_bytes()
    at = 0
    while at + _HEADER.size <= len(data):
        kind, flags, inode, offset, size, n_name, n_other = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        name = data[at : at + n_name].decode()
        other = data[at + n_name : at + n_name + n_other].decode()
        at += n_name + n_other
        body = data[at : at + size] if kind == WRITE else b""
        at += len(body)
        yield Operation(kind, flags, inode, offset, body, name, other)


@dataclass(slots=True)
class _File:
    """What is safe, and what came after the last sync."""

    safe: bytearray = field(default_factory=bytearray)
    later: list[Operation] = field(default_factory=list)

    def now(self) -> bytearray:
        data = bytearray(self.safe)
        for operation in self.later:
            _apply(data, operation)
        return data

    def after_power_cut(self, rng: random.Random) -> bytearray:
        data = bytearray(self.safe)
        chance = rng.choice([0.1, 0.5, 0.9])
        for operation in self.later:
            if operation.kind == TRUNCATE:
                if rng.random() < chance:
                    _apply(data, operation)
                continue
            end = operation.offset + len(operation.data)
            first = operation.offset
            while first < end:  # page by page
                last = min(end, (first // PAGE_BYTES + 1) * PAGE_BYTES)
                if rng.random() < chance:
                    part = operation.data[first - operation.offset : last - operation.offset]
                    _put(data, first, part)
                first = last
        length = len(self.now())
        if length > len(data) and rng.random() < 0.5:  # the length was kept, the data were not
            data.extend(bytes(length - len(data)))
        return data


def _put(data: bytearray, offset: int, part: bytes) -> None:
    if len(data) < offset:
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(part)] = part


def _apply(data: bytearray, operation: Operation) -> None:
    if operation.kind == WRITE:
        _put(data, operation.offset, operation.data)
    elif operation.offset <= len(data):
        del data[operation.offset :]
    else:
        data.extend(bytes(operation.offset - len(data)))


class Disk:
    """The disk while a recorded run goes on.

    Parameters
    ----------
    start
        Files that were there and safe before: name to content.
    inodes
        Their inode numbers: name to number.
    """

    def __init__(self, start: dict[str, bytes], inodes: dict[str, int]) -> None:
        self._files = {inodes[name]: _File(bytearray(data)) for name, data in start.items()}
        self._names = dict(inodes)
        self._safe_names = dict(inodes)
        self._later_names: list[Operation] = []
        #: the number that the run had told last
        self.mark = 0

    def step(self, operation: Operation) -> None:
        """Do one recorded operation."""
        kind = operation.kind
        if kind == MARK:
            self.mark = operation.offset
        elif kind in {CREATE, RENAME, LINK, UNLINK}:
            if kind == CREATE:
                self._files[operation.inode] = _File()
            _rename(self._names, operation)
            self._later_names.append(operation)
        elif kind == SYNC and operation.flags:
            self._safe_names = dict(self._names)
            self._later_names.clear()
        elif kind == SYNC:
            file = self._files.setdefault(operation.inode, _File())
            file.safe, file.later = file.now(), []
        else:
            self._files.setdefault(operation.inode, _File()).later.append(operation)

    def after_kill(self) -> dict[str, bytes]:
        """Files after a kill of the process now."""
        return {name: bytes(self._files[inode].now()) for name, inode in self._names.items()}

    def after_power_cut(self, rng: random.Random) -> dict[str, bytes]:
        """Files after a power cut now."""
        names = dict(self._safe_names)
        for operation in self._later_names[: rng.randint(0, len(self._later_names))]:
            _rename(names, operation)
        return {
            name: bytes(self._files[inode].after_power_cut(rng)) for name, inode in names.items()
        }


def _rename(names: dict[str, int], operation: Operation) -> None:
    if operation.kind == CREATE:
        names[operation.name] = operation.inode
    elif operation.kind == UNLINK:
        names.pop(operation.name, None)
    elif operation.name in names:
        inode = names[operation.name] if operation.kind == LINK else names.pop(operation.name)
        names[operation.other] = inode
