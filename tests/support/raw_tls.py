"""TLS whose records pass through the test's hands, on either side: they can be cut, damaged, left out or made up."""

import contextlib
import socket
import ssl

PLAIN_ALERT = b"\x15\x03\x03\0\2\2\x28"
"""handshake_failure, fatal, in clear."""


def trusting_context() -> ssl.SSLContext:
    """A client's that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class RawTls:
    """One side of a connection. Has the methods of a socket that a fake server's `Peer` uses."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server: bool = False) -> None:
        self.sock = sock
        self._came, self._goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._came, self._goes, server_side=server)

    def flight(self) -> bytes:
        """What TLS has to say next in the handshake; nothing of it is sent. Empty when the other side has to speak."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._goes.read()

    def hear(self) -> None:
        """Take what the other side has sent. Raises ConnectionResetError at its end."""
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionResetError("closed")
        self._came.write(data)

    def shake(self) -> None:
        """The whole handshake, as it should be."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self.sock.sendall(self._goes.read())
                self.hear()
            else:
                self.sock.sendall(self._goes.read())
                return

    def seal(self, data: bytes) -> bytes:
        """Records with this in them; nothing is sent."""
        self._tls.write(data)
        return self._goes.read()

    def farewell(self) -> bytes:
        """The record that says close_notify."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        return self._goes.read()

    def sendall(self, data: bytes) -> None:
        self.sock.sendall(self.seal(data))

    def recv(self, size: int) -> bytes:
        """What comes next, b"" at the end. Raises OSError."""
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                data = self.sock.recv(65536)
                if not data:
                    return b""
                self._came.write(data)
            except ssl.SSLZeroReturnError:
                return b""
