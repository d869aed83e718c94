"""Stored chunks to rows for more filters than are written: gzip and shuffle besides Zstandard.

Alone here: which pipelines can be undone outside HDF5's lock. Invariant: what comes out has the
size that the chunk must have, or an error is raised; more than that is never unpacked.

Source: HDF5 File Format Specification 3.0, section IV.A.2.l (filter pipeline); the filter numbers
are H5Z_FILTER_DEFLATE and H5Z_FILTER_SHUFFLE of H5Zpublic.h.
"""

from __future__ import annotations

import zlib
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt
from numcodecs.zstd import Zstd

from ..format.compression import FLETCHER32_FILTER, ZSTD_FILTER
from .checksum import without_fletcher32
from .encoder import zstd_content_size
from .hdf5 import dataset_filters

__all__ = ["ChunkDecoder", "is_plain"]

AnyArray = npt.NDArray[Any]

GZIP_FILTER: Final = 1
SHUFFLE_FILTER: Final = 2
_KNOWN: Final = frozenset({GZIP_FILTER, SHUFFLE_FILTER, FLETCHER32_FILTER, ZSTD_FILTER})


def is_plain(dset: h5py.Dataset) -> bool:
    """Whether the bytes in the file are the bytes of the numpy dtype: numbers without padding."""
    if dset.dtype.kind not in "biuf":
        return False
    return bool(h5py.h5t.py_create(dset.dtype, logical=True) == dset.id.get_type())


class ChunkDecoder:
    """Decodes whole chunks of one dataset on any thread.

    Parameters
    ----------
    filters
        Numbers of the filters, in the order in which they were applied.
    dtype, shape
        What a chunk holds.
    """

    def __init__(
        self, filters: tuple[int, ...], dtype: np.dtype[Any], shape: tuple[int, ...]
    ) -> None:
        self.filters = filters
        self.dtype = dtype
        self.shape = shape
        self.nbytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
        self._zstd = Zstd()

    @classmethod
    def for_dataset(cls, dset: h5py.Dataset) -> ChunkDecoder | None:
        """Decoder of a dataset of whole events per chunk; None: HDF5 has to read it."""
        chunks = dset.chunks
        if chunks is None or chunks[1:] != dset.shape[1:] or not is_plain(dset):
            return None
        filters = tuple(number for number, _values in dataset_filters(dset))
        if not set(filters) <= _KNOWN or len(set(filters)) != len(filters):
            return None
        if SHUFFLE_FILTER in filters[1:]:
            return None  # it works on numbers, so it is the first of all where it makes sense
        return cls(filters, dset.dtype, chunks)

    def decode(self, stored: bytes, filter_mask: int = 0) -> AnyArray:
        """Rows of one chunk.

        Parameters
        ----------
        stored
            Bytes of the chunk as they stand in the file.
        filter_mask
            A set bit: the filter of that number in the pipeline was left out for this chunk.

        Returns
        -------
        ndarray, shape (chunk events, ...)

        Raises
        ------
        RuntimeError or ValueError
            The bytes are damaged, or hold more or less than a chunk.
        """
        data: Any = stored
        for place in reversed(range(len(self.filters))):
            if filter_mask >> place & 1:
                continue
            number = self.filters[place]
            if number == FLETCHER32_FILTER:
                data = without_fletcher32(data)
            elif number == ZSTD_FILTER:
                data = self._unpack_zstd(data)
            elif number == GZIP_FILTER:
                data = self._unpack_gzip(data)
            else:
                data = self._unshuffle(data)
        flat = np.frombuffer(data, dtype=np.uint8)
        self._require_size(flat.nbytes)
        return flat.view(self.dtype).reshape(self.shape)

    def _require_size(self, got: int | None) -> None:
        if got != self.nbytes:
            raise ValueError(f"expected {self.nbytes} bytes in the chunk, got {got}")

    def _unpack_zstd(self, data: Any) -> Any:
        self._require_size(zstd_content_size(data))
        out = np.empty(self.nbytes, dtype=np.uint8)
        self._zstd.decode(data, out=out)
        return out

    def _unpack_gzip(self, data: Any) -> Any:
        unpacker = zlib.decompressobj()
        try:
            out = unpacker.decompress(data, self.nbytes + 1)
        except zlib.error as exc:
            raise ValueError(f"the gzip stream is damaged ({exc})") from exc
        if not unpacker.eof:  # cut off, without its own checksum at the end, or too long
            raise ValueError(f"the gzip stream does not end after {self.nbytes} bytes")
        return out

    def _unshuffle(self, data: Any) -> Any:
        flat = np.frombuffer(data, dtype=np.uint8)
        self._require_size(flat.nbytes)
        width = self.dtype.itemsize
        return np.ascontiguousarray(flat.reshape(width, -1).T).reshape(-1)
