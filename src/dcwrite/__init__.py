"""Write deformability-cytometry recordings (.rtdc): sorted, compressed, checksummed.

``import dcwrite as write`` takes the place of ``from dcnum import write``: the same names, with
the same parameters. What goes further is keyword-only or has a name of its own.
"""

from ._version import __version__
from .errors import (
    AbortedError,
    BasinError,
    ClosedError,
    CreatingFileWithoutBasinWarning,
    DamagedFileError,
    DataError,
    DCWriteError,
    EventError,
    FeatureNotFoundError,
    IgnoringBasinTypeWarning,
    MetadataError,
    RecordingError,
    StallError,
    StorageError,
    UnsupportedFeatureError,
    UsageError,
    WriterDiedError,
)
from .format.compression import Compression, set_default_filter_kwargs
from .store.basins import copy_basins, create_with_basins, get_measurement_identifier
from .store.copying import copy_features, copy_metadata
from .store.describe import Description, FeatureInfo, describe
from .store.live import LiveRecording
from .store.recording import BasinStatus, Feature, Recording
from .store.recover import RecoveryReport, recover
from .store.verify import Finding, Report, verify
from .store.writer import HDF5Writer
from .stream.channel import EventQueue
from .stream.chunk_writer import ChunkWriter
from .stream.queue_writer import QueueWriterProcess, QueueWriterThread
from .stream.stash import EventStash

__all__ = [  # noqa: RUF022 - grouped as users meet them
    "__version__",
    # writing a file
    "HDF5Writer",
    "Compression",
    "set_default_filter_kwargs",
    # writing a stream
    "EventStash",
    "ChunkWriter",
    "EventQueue",
    "QueueWriterThread",
    "QueueWriterProcess",
    # from file to file
    "copy_features",
    "copy_metadata",
    "copy_basins",
    "create_with_basins",
    "get_measurement_identifier",
    # reading and checking
    "Recording",
    "LiveRecording",
    "Feature",
    "BasinStatus",
    "describe",
    "Description",
    "FeatureInfo",
    "verify",
    "Report",
    "Finding",
    "recover",
    "RecoveryReport",
    # what goes wrong
    "DCWriteError",
    "DataError",
    "EventError",
    "FeatureNotFoundError",
    "UnsupportedFeatureError",
    "MetadataError",
    "BasinError",
    "RecordingError",
    "UsageError",
    "ClosedError",
    "AbortedError",
    "StorageError",
    "StallError",
    "WriterDiedError",
    "DamagedFileError",
    "CreatingFileWithoutBasinWarning",
    "IgnoringBasinTypeWarning",
]
