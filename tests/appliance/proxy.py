"""A TCP relay between appliance and connector that can be told to lose connections."""

import contextlib
import selectors
import socket
import threading
from collections import deque
from types import TracebackType
from typing import Self

from dmcore.host.address import Address

PIECE_BYTES = 64 << 10


class Proxy:
    """Relays every connection, until its limit of bytes from the client, or until `cut`."""

    def __init__(self, target: Address) -> None:
        self.target = target
        self.accepted = 0
        self.refusing = False
        """Close every new connection at once."""
        self._limits: deque[int | None] = deque()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._accepting = threading.Thread(target=self._accept_all, name="proxy")
        self._accepting.start()

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", int(self._listener.getsockname()[1]))

    def limit(self, *client_bytes: int | None) -> None:
        """The next connections, in turn, are lost after so many bytes from the client; None: never."""
        self._limits.extend(client_bytes)

    def cut(self) -> None:
        """Lose every connection now."""
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # ends accept
        self._accepting.join()
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept_all(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._take(client)

    def _take(self, client: socket.socket) -> None:
        self.accepted += 1
        limit = self._limits.popleft() if self._limits else None
        try:
            if self.refusing:
                raise ConnectionRefusedError
            server = socket.create_connection((self.target.host, self.target.port), 10)
        except OSError:
            client.close()
            return
        with self._lock:
            self._open |= {client, server}
        thread = threading.Thread(target=self._relay, args=(client, server, limit), name="proxy-relay")
        self._threads.append(thread)
        thread.start()

    def _relay(self, client: socket.socket, server: socket.socket, limit: int | None) -> None:
        with client, server, selectors.DefaultSelector() as selector, contextlib.suppress(OSError):
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while limit is None or limit > 0:
                for key, _ in selector.select():
                    assert isinstance(key.fileobj, socket.socket)
                    piece = key.fileobj.recv(PIECE_BYTES)
                    if not piece:
                        raise ConnectionResetError
                    if limit is not None and key.fileobj is client:
                        piece = piece[:limit]
                        limit -= len(piece)
                    key.data.sendall(piece)
        with self._lock:
            self._open -= {client, server}
