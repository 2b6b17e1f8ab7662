"""One pass of each stage over a workload, by the product's own code: one native call a batch."""

import os

from dmcore.bench.libraries import Bytes
from dmcore.bench.workload import DEK, DIGEST_KEY, Workload, batch_buffer
from dmcore.native.digests import Scanner
from dmcore.native.patching import BlockIO
from dmcore.seal.stream import StreamReader, StreamWriter


class Stages:
    """Each method is one pass. Buffers are made once and used again, as the data path does."""

    def __init__(self, workload: Workload) -> None:
        self._load = workload
        self._out = batch_buffer(workload.block_bytes).data

    def scan(self) -> None:
        """Zero test and digest of every block."""
        load = self._load
        scanner = Scanner(DIGEST_KEY, block_bytes=load.block_bytes, disk_bytes=load.raw_bytes)
        for batch in load.batches:
            scanner.scan(batch.blocks, batch.raw.data)

    def seal(self) -> None:
        """Zero test, digest, compression and encryption in one call a batch."""
        load = self._load
        writer = StreamWriter(load.header, DEK, DIGEST_KEY, load.codec)
        writer.open(self._out)
        for batch in load.batches:
            writer.seal(batch.blocks, batch.raw.data, self._out)
        writer.end("the pass is over")

    def verify(self) -> None:
        """Authenticate every batch, as before it is logged."""
        reader = self._reader()
        reader.verify(self._load.open_frame.data)
        for batch in self._load.batches:
            reader.verify(batch.sealed.data)
        reader.end()

    def open(self) -> None:
        """Decrypt, decompress and check every batch, as at redo."""
        reader = self._reader()
        reader.open(self._load.open_frame.data, self._out)
        for batch in self._load.batches:
            reader.open(batch.sealed.data, self._out)
        reader.end()

    def apply(self, fd: int) -> None:
        """Open every batch and patch it into a file."""
        reader, device = self._reader(), BlockIO()
        reader.open(self._load.open_frame.data, self._out)
        for batch in self._load.batches:
            rows = reader.open(batch.sealed.data, self._out).rows
            device.patch(fd, rows, self._out)
        reader.end()

    def _reader(self) -> StreamReader:
        return StreamReader(self._load.header, DEK, DIGEST_KEY)


def memory_file(content: Bytes) -> int:
    """A file in memory that holds the content: writing to it costs what the kernel costs, and no device."""
    fd = os.memfd_create("dmcore-bench", os.MFD_CLOEXEC)
    os.ftruncate(fd, len(content))
    os.pwrite(fd, content.data, 0)
    return fd
