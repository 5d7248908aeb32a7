"""Options that every TCP or unix socket of ours gets, on both sides."""

import socket
from collections.abc import Callable
from dataclasses import dataclass

DONT_WAIT = socket.MSG_DONTWAIT


@dataclass(frozen=True, slots=True)
class SocketOptions:
    """TCP and buffer options. Seconds for the keepalive times and the user timeout, bytes for buffers; 0 leaves the
    kernel's own value (for `user_timeout`: no limit)."""

    keepalive_idle: int = 5
    keepalive_interval: int = 5
    keepalive_count: int = 5
    no_delay: bool = True
    user_timeout: int = 60
    buffer_size: int = 0
    unix_buffer_size: int = 1 << 20


def apply_options(sock: socket.socket, options: SocketOptions) -> None:
    """Set the options on a connected socket. A kernel that does not know one is not an error."""
    if sock.family == socket.AF_UNIX:
        _set_buffers(sock, options.unix_buffer_size)
        return
    pairs = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, int(options.no_delay)),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, options.keepalive_idle),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, options.keepalive_interval),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, options.keepalive_count),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, options.user_timeout * 1000),
    ]
    for level, name, value in pairs:
        if value or name in (socket.TCP_NODELAY, socket.TCP_USER_TIMEOUT):
            try:
                sock.setsockopt(level, name, value)
            except OSError:
                continue
    _set_buffers(sock, options.buffer_size)


def _set_buffers(sock: socket.socket, size: int) -> None:
    if size:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        except OSError:
            pass


def send_kept(send: Callable[[bytearray, int], int], out: bytearray) -> bool:
    """Send as much of `out` as is taken now, and remove it there. True if nothing is left: also of a connection that is lost,
    which the next read of it tells."""
    while out:
        try:
            sent = send(out, DONT_WAIT)
        except BlockingIOError:
            return False
        except OSError:
            out.clear()
            break
        del out[:sent]
    return True


def close_quietly(sock: socket.socket) -> None:
    """Close, whatever state the socket is in."""
    try:
        sock.close()
    except OSError:
        pass
