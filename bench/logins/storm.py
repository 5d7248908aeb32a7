"""`python -m bench.logins.storm PORT RATE SECONDS`: log-ins at a steady rate; prints a line for each: its milliseconds.

The salted password is derived once (RFC 5802 lets a client keep it), so that a log-in costs this side little more than
its half of the TLS handshake.
"""

import base64
import hashlib
import hmac
import os
import socket
import ssl
import struct
import sys
import time

from bench.macro.wire import WireError, error_text

USER = "storm"
PASSWORD = "storm"
PATIENCE_SECONDS = 30.0
STANDS_BACK = 10
"""Niceness of a storm."""

_SSL_REQUEST = struct.pack("!II", 8, 80877103)


class Scram:
    """The client's half of SCRAM-SHA-256 (RFC 7677), without channel binding."""

    def __init__(self, password: str) -> None:
        self._password = password.encode()
        self._derived: dict[tuple[bytes, int], tuple[bytes, bytes]] = {}

    def _keys(self, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
        """ClientKey and StoredKey."""
        if (salt, iterations) not in self._derived:
            salted = hashlib.pbkdf2_hmac("sha256", self._password, salt, iterations)
            client_key = hmac.digest(salted, b"Client Key", "sha256")
            self._derived[salt, iterations] = client_key, hashlib.sha256(client_key).digest()
        return self._derived[salt, iterations]

    def final(self, bare: bytes, server_first: bytes) -> bytes:
        """client-final for what the server has answered to client-first-bare."""
        said = dict(part.split(b"=", 1) for part in server_first.split(b","))
        client_key, stored_key = self._keys(base64.b64decode(said[b"s"]), int(said[b"i"]))
        without_proof = b"c=biws,r=" + said[b"r"]
        signature = hmac.digest(stored_key, b",".join((bare, server_first, without_proof)), "sha256")
        proof = bytes(one ^ other for one, other in zip(client_key, signature, strict=True))
        return without_proof + b",p=" + base64.b64encode(proof)


class Storm:
    """Log-ins, one after the other."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._scram = Scram(PASSWORD)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE

    def log_in(self) -> None:
        """From the connection to ReadyForQuery, and away. Raises WireError and OSError."""
        with socket.create_connection(("127.0.0.1", self._port), PATIENCE_SECONDS) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.sendall(_SSL_REQUEST)
            if plain.recv(1) != b"S":
                raise WireError("no TLS here")
            with self._context.wrap_socket(plain) as sock:
                self._prove(sock)
                sock.sendall(b"X\0\0\0\4")

    def _prove(self, sock: ssl.SSLSocket) -> None:
        text = f"user\0{USER}\0database\0postgres\0\0".encode()
        sock.sendall(struct.pack("!II", len(text) + 8, 196608) + text)
        buffer = bytearray()
        _message(sock, buffer, 10)
        bare = b"n=,r=" + base64.b64encode(os.urandom(18))
        first = b"n,," + bare
        sock.sendall(_password_message(b"SCRAM-SHA-256\0" + struct.pack("!I", len(first)) + first))
        sock.sendall(_password_message(self._scram.final(bare, _message(sock, buffer, 11))))
        while not buffer.endswith(b"Z\0\0\0\5I"):
            _read(sock, buffer)


def _password_message(body: bytes) -> bytes:
    return b"p" + struct.pack("!I", len(body) + 4) + body


def _read(sock: ssl.SSLSocket, buffer: bytearray) -> None:
    data = sock.recv(65536)
    if not data:
        raise WireError("the connection was closed")
    buffer += data
    if buffer[:1] == b"E":
        raise WireError(error_text(bytes(buffer[5:])))


def _message(sock: ssl.SSLSocket, buffer: bytearray, kind: int) -> bytes:
    """The rest of an authentication message of this kind."""
    while len(buffer) < 5 or len(buffer) < 1 + int.from_bytes(buffer[1:5]):
        _read(sock, buffer)
    end = 1 + int.from_bytes(buffer[1:5])
    body = bytes(buffer[5:end])
    del buffer[:end]
    if int.from_bytes(body[:4]) != kind:
        raise WireError(f"expected a request of kind {kind}, got {body[:4]!r}")
    return body[4:]


def main(port: int, rate: float, seconds: float) -> None:
    """Log in `rate` times a second, or as often as that is possible."""
    os.nice(STANDS_BACK)
    storm = Storm(port)
    began = time.monotonic()
    due = began
    while due < began + seconds:
        wait = due - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        start = time.perf_counter()
        storm.log_in()
        print(f"{(time.perf_counter() - start) * 1000:.3f}", flush=True)
        due = max(due + 1 / rate, time.monotonic() - 0.5)  # what could not be done in time is not made up for later


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
