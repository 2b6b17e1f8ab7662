"""Connections to the connector that a job names: mutual TLS under this node's pairing with it, nothing else."""

import ssl
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

from dmcore.appliance.pairing import Pairing
from dmcore.host.errors import FileBroken
from dmcore.node.identity import Identity
from dmcore.wire.calls import Channel, ControlChannel
from dmcore.wire.connection import Connection, Dial, dial
from dmcore.wire.disk_channel import DiskChannel
from dmcore.wire.tls import client_context, connector_name

CONNECT_TIMEOUT_S = 10.0

AnyChannel = TypeVar("AnyChannel", bound=Channel)


@dataclass(frozen=True)
class Link:
    """Opens connections; each belongs to the thread that opened it."""

    pairing: Pairing
    context: ssl.SSLContext
    dial: Dial = dial

    @classmethod
    def of(cls, pairing: Pairing, identity: Identity, dial: Dial = dial) -> "Link":
        """The link to a paired connector.

        Raises:
            FileBroken: the pairing's files are gone or damaged, or are not of this node's key.
        """
        try:
            context = client_context(pairing.certificate_path, identity.key_path, pairing.authority_path)
        except OSError as error:  # an SSLError is one
            problem = f"{error.strerror or error}; pair again with `dmctl appliance pair`"
            raise FileBroken(path=str(pairing.certificate_path.parent), problem=problem) from error
        return cls(pairing, context, dial)

    def control(self) -> ControlChannel:
        """An attempt's control connection, greeted.

        Raises:
            ConnectionFailed: nobody there. TrustError: not that connector. PeerRefused: it does not take this node.
        """
        return self._greeted(ControlChannel)

    def disk(self) -> DiskChannel:
        """A disk connection, greeted. Raises as `control`."""
        return self._greeted(DiskChannel)

    def _greeted(self, kind: type[AnyChannel]) -> AnyChannel:
        address = self.pairing.address
        connection = Connection.connect(address.host, address.port, self.context, CONNECT_TIMEOUT_S, dial=self.dial)
        with ExitStack() as undo:
            undo.callback(connection.close)
            connector_name(connection.ssl_object, self.pairing.connector)
            channel = kind(connection)
            channel.hello()
            undo.pop_all()
        return channel
