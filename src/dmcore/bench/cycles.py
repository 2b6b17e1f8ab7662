"""Whole cycles between two real processes, on a disk of real file content, beside their CPU work alone."""

import shutil
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.serialization import Encoding

from dmcore.bench.bounds import Bounds
from dmcore.bench.libraries import Bytes
from dmcore.bench.replay import Replay
from dmcore.bench.workload import Workload
from dmcore.connector.ca import open_authority, server_certificate
from dmcore.host.clock import utc_now
from dmcore.lab.layout import SITE_SOURCE, Lab, make_lab
from dmcore.lab.processes import pair_appliance, run_job, running_connector
from dmcore.node.identity import load_identity
from dmcore.sources.tracking import start_tracking
from dmcore.sources.writer import TrackedWriter
from dmcore.wire.tls import pairing_client_context, pairing_server_context

MACHINE, DISK = "bench", "disk0.img"
TLS_CHUNK_BYTES = 256 << 10
CHANGED_BYTES = 1 << 20
"""The delta's changes: pieces of this size, spread over the disk."""


@dataclass(frozen=True)
class CycleRun:
    """One cycle as the appliance reported it."""

    report: dict[str, Any]

    @property
    def disk(self) -> dict[str, Any]:
        """Its one disk."""
        found: dict[str, Any] = self.report["disks"][0]
        return found

    @property
    def transfer_s(self) -> float:
        """Read, seal, send, verify, log, sync: up to the last ACK."""
        return float(self.report["seconds"]["transfer"])

    @property
    def commit_s(self) -> float:
        """Redo and the snapshot."""
        return float(self.report["seconds"]["commit"])


@dataclass(frozen=True)
class CpuSeconds:
    """What a gigabyte of raw content costs each phase on one core, by the libraries' calls alone, in this run."""

    transfer: float
    """Zero test, digest, compression, GCM; TLS out and in; GCM again to verify."""
    apply: float
    """GCM, decompression, digest."""

    @classmethod
    def of(cls, workload: Workload, scratch: Path) -> "CpuSeconds":
        """Measure."""
        gigabytes = workload.raw_bytes / 1e9
        bounds = Bounds(workload)
        sealed = sum(len(batch.sealed) for batch in workload.batches)
        transfer = Replay(bounds.seal()).seconds() + Replay(bounds.verify()).seconds() + tls_seconds(sealed, scratch)
        return cls(transfer / gigabytes, Replay(bounds.open()).seconds() / gigabytes)


@contextmanager
def bench_lab(root: Path, content: Bytes, copies: int) -> Iterator[tuple[Lab, Path]]:
    """A running lab with one disk of so many copies of the content, each under another XOR, and as compressible."""
    lab = make_lab(root)
    folder = lab.source / MACHINE
    folder.mkdir()
    disk = folder / DISK
    with disk.open("wb") as file:
        for copy in range(copies):
            # Zero blocks stay zeros: they are part of what is measured.
            file.write(np.where(content == 0, content, content ^ np.uint8(copy)).tobytes())
    start_tracking(disk)
    with running_connector(lab):
        pair_appliance(lab)
        yield lab, disk
    shutil.rmtree(root)


def one_cycle(lab: Lab) -> CycleRun:
    """Run a cycle in an appliance process of its own."""
    _, job = lab.new_job([MACHINE], datetime.now(UTC))
    return CycleRun(run_job(lab, job))


def change(disk: Path, content: Bytes, share: float) -> int:
    """Write content over a share of the disk, in pieces spread evenly. Returns the bytes written."""
    size = disk.stat().st_size
    pieces = int(size * share) // CHANGED_BYTES
    with TrackedWriter(disk) as writer:
        for piece in range(pieces):
            at = (piece * CHANGED_BYTES * 7) % (len(content) - CHANGED_BYTES)
            fresh = content[at : at + CHANGED_BYTES] ^ np.uint8(0x55)
            writer.write(piece * (size // pieces) // 4096 * 4096, fresh.tobytes())
    return pieces * CHANGED_BYTES


def tls_seconds(count: int, scratch: Path) -> float:
    """Encrypting and decrypting so many bytes by TLS 1.3 in memory: both ends of a connection, without a network."""
    client, server, to_server = tls_pair(scratch)
    buffer, data = bytearray(TLS_CHUNK_BYTES), np.random.default_rng(1).bytes(TLS_CHUNK_BYTES)
    began, left = time.perf_counter(), count
    while left > 0:
        client.write(data)
        left -= len(data)
        while to_server.pending:
            server.read(len(buffer), buffer)
    return time.perf_counter() - began


def tls_pair(scratch: Path) -> tuple[ssl.SSLObject, ssl.SSLObject, ssl.MemoryBIO]:
    """Two ends that have shaken hands, over memory, and what lies between the client and the server."""
    identity = load_identity(scratch)
    authority = open_authority(scratch, SITE_SOURCE, utc_now)
    certificate = server_certificate(authority, scratch, identity, SITE_SOURCE, ["127.0.0.1"])
    pem = authority.certificate.public_bytes(Encoding.PEM).decode()
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = pairing_client_context(pem).wrap_bio(to_client, to_server)
    server = pairing_server_context(certificate, identity.key_path).wrap_bio(to_server, to_client, server_side=True)
    for end in (client, server, client, server):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client, server, to_server
