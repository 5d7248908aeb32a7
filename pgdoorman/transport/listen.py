"""Opening the doors: TCP listeners and the unix socket."""

import errno
import os
import socket
import stat
from dataclasses import dataclass

from pgdoorman.errors import PgDoormanError


class CannotListen(PgDoormanError):
    """No listener could be opened where one was asked for."""


class CannotListenLocally(CannotListen):
    """The unix socket could not be made."""


@dataclass(slots=True)
class Door:
    """One listening socket and how it is to be shut."""

    listener: socket.socket
    name: str
    path: str = ""
    inode: int = 0

    def close(self) -> None:
        """Close; remove the socket file if it is still ours (a successor may have put its own in its place)."""
        self.listener.close()
        if self.path:
            try:
                if os.stat(self.path).st_ino == self.inode:
                    os.unlink(self.path)
            except OSError:
                pass


def open_tcp(host: str, port: int, backlog: int, *, reuse_port: bool = True) -> list[Door]:
    """Listen on every address of `host` (`*` or empty: all of IPv4 and IPv6). Port 0 takes a free one, the same for all.

    Raises CannotListen if none of the addresses can be bound.
    """
    wildcard = host in ("", "*")
    try:
        found = socket.getaddrinfo(
            None if wildcard else host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )  # fmt: skip
    except OSError as error:
        raise CannotListen(f"cannot listen on {host!r}: {error.strerror or error}") from error
    doors: list[Door] = []
    problem: OSError | None = None
    for family, _, _, _, (name, number, *scope) in dict.fromkeys(found):
        try:
            listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        except OSError as error:  # a kernel without IPv6
            problem = error
            continue
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((name, doors[0].listener.getsockname()[1] if doors and not port else number, *scope))
            listener.listen(backlog)
        except OSError as error:
            listener.close()
            problem = error
            continue
        doors.append(Door(listener, _name(listener)))
    if not doors:
        reason = problem.strerror if problem is not None else "the name has no address"
        raise CannotListen(f"cannot listen on {host or '*'}:{port}: {reason}")
    return doors


def open_unix(directory: str, port: int, backlog: int, mode: int) -> Door:
    """Listen on `<directory>/.s.PGSQL.<port>` with permission bits `mode`. A stale file is removed, a live one refused.

    Raises CannotListenLocally.
    """
    path = os.path.join(directory, f".s.PGSQL.{port}")
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    # Created under a tight umask, then opened up: nobody can connect in between who may not afterwards.
    previous = os.umask(0o177)
    try:
        listener.bind(path)
    except OSError as error:
        listener.close()
        raise CannotListenLocally(f"cannot create unix socket {path}: {error.strerror or error}") from error
    finally:
        os.umask(previous)
    try:
        door = Door(listener, f"unix:{path}", path, os.stat(path).st_ino)
        os.chmod(path, mode)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise CannotListenLocally(f"cannot open unix socket {path}: {error.strerror}") from error
    return door


def operators_path(process_id: int) -> str:
    """The abstract address at which a process answers its operator."""
    return f"\0pgdoorman.{process_id}"


def open_operators_door(process_id: int) -> Door:
    """Listen on `operators_path`: no file, no permissions, gone with the process. Whoever accepts must ask the kernel who
    is at the other end. Raises CannotListenLocally."""
    return open_abstract(operators_path(process_id), "the local console")


def open_abstract(path: str, name: str) -> Door:
    """Listen on an abstract address, which begins with a zero byte. Raises CannotListenLocally."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(path)
        listener.listen(16)
    except OSError as error:
        listener.close()
        raise CannotListenLocally(f"cannot listen for {name}: {error.strerror}") from error
    return Door(listener, name)


def adopt(listener: socket.socket, *, owned: bool = False) -> Door:
    """A door that somebody else has opened for us. Its file, if it has one, is the business of whoever made it, unless
    it is `owned`, which is to say left to us."""
    if listener.family != socket.AF_UNIX:
        return Door(listener, _name(listener))
    address = listener.getsockname()
    path = address.decode(errors="replace") if isinstance(address, bytes) else str(address)
    door = Door(listener, "unix:" + path.replace("\0", "@"))
    if owned and path.startswith("/"):
        try:
            door.path, door.inode = path, os.stat(path).st_ino
        except OSError:
            door.path = ""  # somebody has removed it: nothing to do for us
    return door


def _remove_stale(path: str) -> None:
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.settimeout(1.0)
        probe.connect(path)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno == errno.ECONNREFUSED and _is_socket(path):  # which is also the answer of a file that is none
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
            return
        raise CannotListenLocally(f"cannot use unix socket {path}: {error.strerror or error}") from error
    finally:
        probe.close()
    raise CannotListenLocally(f"unix socket {path} is in use by another program")


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except FileNotFoundError:
        return True  # gone in the meantime


def _name(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
