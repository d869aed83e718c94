"""Write deformability-cytometry recordings (.rtdc): sorted, compressed, checksummed.

``import dcwrite as write`` takes the place of ``from dcnum import write``: the same names, with
the same parameters. What goes further is keyword-only or has a name of its own.
"""

from ._version import __version__
from .errors import (
    AbortedError,
    BasinError,
    ClosedError,
    ClusterError,
    CreatingFileWithoutBasinWarning,
    DamagedFileError,
    DataError,
    DCWriteError,
    EventError,
    FeatureNotFoundError,
    IgnoringBasinTypeWarning,
    MetadataError,
    MismatchError,
    MissingLibraryError,
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
from .store.moving import MoveCounts
from .store.recording import BasinStatus, Feature, Recording
from .store.recover import RecoveryReport, recover
from .store.verify import Finding, Report, verify
from .store.writer import HDF5Writer
from .stream.channel import EventQueue
from .stream.chunk_writer import ChunkWriter
from .stream.queue_writer import QueueWriterProcess, QueueWriterThread
from .stream.stash import EventStash
from .tools.batch import Batch, Outcome
from .tools.compress import CompressSummary, compress
from .tools.compress_many import compress_many
from .tools.copy_many import copy_many
from .tools.join import JoinedInput, JoinSummary, join, virtual_recording
from .tools.link import LinkSummary, link
from .tools.plot import PlotSummary, plot
from .tools.plot_many import plot_many
from .tools.split import SplitPart, SplitSummary, split, split_many
from .tools.subset import CopySummary, copy_recording

__all__ = [  # noqa: RUF022 - grouped as users meet them
    "__version__",
    # writing a file
    "HDF5Writer",
    "MoveCounts",
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
    # tools
    "compress",
    "compress_many",
    "CompressSummary",
    "Batch",
    "Outcome",
    "copy_recording",
    "copy_many",
    "CopySummary",
    "join",
    "JoinSummary",
    "JoinedInput",
    "split",
    "split_many",
    "SplitSummary",
    "SplitPart",
    "virtual_recording",
    "link",
    "LinkSummary",
    "plot",
    "plot_many",
    "PlotSummary",
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
    "MismatchError",
    "UsageError",
    "ClosedError",
    "AbortedError",
    "StorageError",
    "StallError",
    "WriterDiedError",
    "ClusterError",
    "DamagedFileError",
    "MissingLibraryError",
    "CreatingFileWithoutBasinWarning",
    "IgnoringBasinTypeWarning",
]
