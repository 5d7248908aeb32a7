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
    apply_inherited(sock, options)
    is_unix = sock.family == socket.AF_UNIX
    set_buffers(sock, options.unix_buffer_size if is_unix else options.buffer_size)


def apply_inherited(sock: socket.socket, options: SocketOptions) -> None:
    """Set those options that, on Linux, an accepted connection has from its listener: to be set there, once, instead of six
    system calls for each connection. Nothing for unix sockets, which have none of them."""
    if sock.family == socket.AF_UNIX:
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


def set_buffers(sock: socket.socket, size: int) -> None:
    """Set the sizes of both buffers, in bytes; 0 leaves them to the kernel. Never to be set on a listener, whose connections
    would have them too: it could not be told again to leave them to the kernel."""
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
