"""TLS sockets: a socket's methods with a socket's meaning, and nothing left behind unseen."""

import random
import select
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from OpenSSL import SSL

from pgdoorman.config.settings import TlsFiles, TlsVersion
from pgdoorman.errors import ConfigError
from pgdoorman.transport import libssl, tls, tls_socket
from pgdoorman.transport.certificates import read_material
from pgdoorman.transport.sockets import DONT_WAIT
from pgdoorman.transport.tls import TlsContext
from pgdoorman.transport.tls_socket import RECORD, AheadTlsSocket, FastTlsSocket, TlsFailed, TlsSocket
from tests.support.certificates import DH_512, DH_2048, Authority, Pair, self_signed

PATIENCE = 10.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def server_files(authority: Authority, folder: Path) -> TlsFiles:
    certificate, key = authority.issue("localhost", ["localhost"]).write(folder, "server")
    return TlsFiles(certificate=certificate, private_key=key)


@pytest.fixture(params=[AheadTlsSocket, FastTlsSocket, TlsSocket], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[TlsSocket]:
    """All kinds of socket: OpenSSL may be hidden, pyOpenSSL's private names may move, and then another kind has to do."""
    kind: type[TlsSocket] = request.param
    if kind is AheadTlsSocket:
        if libssl.reading_ahead() is None:
            pytest.skip("cryptography hides OpenSSL's functions here")
    else:
        monkeypatch.setattr(tls, "tls_socket", kind)
    return kind


def test_the_shortcuts_are_there() -> None:
    """They use private names of pyOpenSSL's: a new version without them would be slower, and nobody would notice."""
    assert tls_socket._scratch is not None
    assert tls_socket._read is not None


def shake(server: TlsContext, client: TlsContext, name: str = "localhost") -> tuple[TlsSocket, TlsSocket]:
    """A connection of the two. Raises what the server finds, else what the client finds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        plain = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    one, other = server.wrap(accepted), client.wrap(plain, name)
    errors: list[TlsFailed] = []

    def work() -> None:
        try:
            other.wait_handshake(monotonic() + PATIENCE)
        except TlsFailed as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        one.wait_handshake(monotonic() + PATIENCE)
    except TlsFailed:
        one.close()
        thread.join()
        other.close()
        raise
    thread.join()
    if errors:
        one.close()
        other.close()
        raise errors[0]
    return one, other


@pytest.fixture
def pair(server_files: TlsFiles, way: type[TlsSocket]) -> Iterator[tuple[TlsSocket, TlsSocket]]:
    server = TlsContext(read_material(server_files), server=True, verify=False)
    client = TlsContext(read_material(TlsFiles()), server=False, verify=False)
    one, other = shake(server, client)
    assert type(one) is way
    yield one, other
    one.close()
    other.close()


def ready(sock: TlsSocket, patience: float = 5.0) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(patience * 1000))


def receive_as_a_worker_does(sock: TlsSocket, total: int, size: int) -> bytes:
    """Reads only when the poller says so, once each time."""
    data = b""
    while len(data) < total:
        assert ready(sock), f"{total - len(data)} bytes were left behind unseen"
        try:
            piece = sock.recv(size, DONT_WAIT)
        except BlockingIOError:
            continue  # half a record
        assert piece
        data += piece
    return data


def send_both(sock: TlsSocket, first: bytes, second: bytes) -> None:
    sock.sendall(first)
    sock.sendall(second)


@pytest.mark.parametrize("size", [RECORD, 2 * RECORD, 4 * RECORD])
def test_nothing_is_left_behind(pair: tuple[TlsSocket, TlsSocket], size: int) -> None:
    """Whatever the sizes of records and reads: when the poller is silent, there is nothing inside."""
    one, other = pair
    chance = random.Random(size)
    lengths = [1, 8191, 8192, 8193, RECORD - 1, RECORD, RECORD + 1, 3 * RECORD, 100_000]
    for length in [*lengths, *(chance.randrange(1, 70_000) for _ in range(30))]:
        data = chance.randbytes(length)
        cut = chance.randrange(length + 1)
        writer = threading.Thread(target=send_both, args=(one, data[:cut], data[cut:]))
        writer.start()
        assert receive_as_a_worker_does(other, length, size) == data
        writer.join()
        with pytest.raises(BlockingIOError):
            other.recv(size, DONT_WAIT)


@pytest.mark.parametrize("size", [RECORD, 4 * RECORD])
def test_many_small_records_are_one_read(pair: tuple[TlsSocket, TlsSocket], way: type[TlsSocket], size: int) -> None:
    """As they come from a client that pipelines: whatever was read with the first is handed over with it."""
    one, other = pair
    said = [bytes([number]) * (number + 1) for number in range(100)]
    for piece in said:
        one.sendall(piece)
    if way is not AheadTlsSocket:
        assert receive_as_a_worker_does(other, 5050, size) == b"".join(said)
        return
    assert ready(other)
    data = other.recv(size, DONT_WAIT)
    while len(data) < 5050 and ready(other):  # loopback may still be delivering
        data += other.recv(size, DONT_WAIT)
    assert data == b"".join(said)
    assert not ready(other, 0)


def test_who_sends_without_end_is_read_in_turns(pair: tuple[TlsSocket, TlsSocket]) -> None:
    """One read takes its size and a little more, however much comes meanwhile."""
    one, other = pair
    done = threading.Event()

    def pour() -> None:
        try:
            while not done.is_set():
                one.sendall(bytes(1000))
        except OSError:
            pass

    writer = threading.Thread(target=pour)
    writer.start()
    try:
        total = 0
        while total < 3_000_000:
            assert ready(other)
            try:
                data = other.recv(RECORD, DONT_WAIT)
            except BlockingIOError:
                continue
            assert data.count(0) == len(data) <= 3 * RECORD
            total += len(data)
    finally:
        done.set()
        other.close()
        writer.join()


def test_records_that_are_not_asked_for_whole(pair: tuple[TlsSocket, TlsSocket]) -> None:
    one, other = pair
    other.settimeout(PATIENCE)
    one.sendall(b"0123456789")
    assert [other.recv(4), other.recv(4), other.recv(4)] == [b"0123", b"4567", b"89"]


def send_what_is_taken(sock: TlsSocket, out: bytearray) -> None:
    """Until the kernel takes no more, or all is gone."""
    try:
        while out:
            del out[: sock.send(out, DONT_WAIT)]
    except BlockingIOError:
        pass


def send_forever(sock: TlsSocket, flags: int = 0) -> None:
    while True:
        sock.send(bytes(RECORD), flags)


def handshake_of(one: TlsSocket, other: TlsSocket) -> None:
    """Until `one` has made it, or cannot."""
    while one.advance_handshake():
        other.advance_handshake()


def test_what_is_not_taken_now_goes_out_later(pair: tuple[TlsSocket, TlsSocket]) -> None:
    """A send that stops in the middle of a record is taken up with more behind it, from another buffer."""
    one, other = pair
    chance = random.Random(1)
    wanted = b""
    out = bytearray()
    refused = 0
    while refused < 5:
        data = chance.randbytes(chance.randrange(1, 60_000))
        wanted += data
        if out:
            out += data
        else:
            try:
                sent = one.send(data, DONT_WAIT)
            except BlockingIOError:
                sent = 0
            out += memoryview(data)[sent:]
        if out:
            refused += 1
            send_what_is_taken(one, out)
    got = b""
    while len(got) < len(wanted):
        if ready(other, 0.01):
            try:
                got += other.recv(65536, DONT_WAIT)
            except BlockingIOError:
                pass
        send_what_is_taken(one, out)
    assert got == wanted


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_can_be_sent(pair: tuple[TlsSocket, TlsSocket], kind: Any) -> None:
    one, other = pair
    assert one.send(kind(b"hello"), DONT_WAIT) == 5
    assert one.send(kind(b""), DONT_WAIT) == 0
    assert one.send(kind(bytes(40_000))) == 40_000
    assert receive_as_a_worker_does(other, 40_005, 65536) == b"hello" + bytes(40_000)


def test_the_end(pair: tuple[TlsSocket, TlsSocket]) -> None:
    one, other = pair
    one.close()
    assert ready(other)
    assert other.recv(RECORD, DONT_WAIT) == b""
    assert other.recv(RECORD, DONT_WAIT) == b""


def test_the_end_without_a_farewell(pair: tuple[TlsSocket, TlsSocket]) -> None:
    one, other = pair
    one._plain.close()
    assert ready(other)
    assert other.recv(RECORD, DONT_WAIT) == b""


def test_an_end_that_came_with_the_data(pair: tuple[TlsSocket, TlsSocket]) -> None:
    """It is read from the kernel together with the last full record; the poller must report something all the same,
    though the other side keeps its socket open."""
    one, other = pair
    one.sendall(bytes(2 * RECORD))
    one._connection.shutdown()
    assert len(receive_as_a_worker_does(other, 2 * RECORD, 4 * RECORD)) == 2 * RECORD
    assert ready(other)
    assert other.recv(RECORD, DONT_WAIT) == b""


def drain(sock: TlsSocket) -> None:
    """Have TLS's own messages (tickets) out of the way, so that what makes it readable is something else."""
    while ready(sock, 0.05):
        with pytest.raises(BlockingIOError):
            sock.recv(RECORD, DONT_WAIT)


def test_garbage_is_an_error(pair: tuple[TlsSocket, TlsSocket]) -> None:
    one, other = pair
    drain(other)
    one._plain.send(b"\x17\x03\x03\0\x20" + bytes(32))
    assert ready(other)
    with pytest.raises(OSError, match="broken"):
        other.recv(RECORD, DONT_WAIT)
    assert other.recv(RECORD, DONT_WAIT) == b""


def test_sending_to_nobody(pair: tuple[TlsSocket, TlsSocket]) -> None:
    one, other = pair
    other._plain.close()
    with pytest.raises(OSError, match=r"lost|closed|broken") as failure:
        send_forever(one, DONT_WAIT)
    assert not isinstance(failure.value, BlockingIOError)


def test_waiting_has_an_end(pair: tuple[TlsSocket, TlsSocket]) -> None:
    one, other = pair
    one.settimeout(0.05)
    assert one.gettimeout() == 0.05
    with pytest.raises(TimeoutError):
        one.recv(RECORD)
    with pytest.raises(TimeoutError):
        send_forever(one)
    other.settimeout(None)


class Stuck:
    """A connection that has to answer a key update before it reads on, and whose peer does not read."""

    def recv(self, size: int) -> bytes:
        raise SSL.WantWriteError


def test_a_peer_that_does_not_read_what_tls_says(pair: tuple[TlsSocket, TlsSocket]) -> None:
    """It keeps the poller busy by what it sends: for some seconds, not for good."""
    one, _ = pair
    sock = TlsSocket(Stuck(), one._plain)  # type: ignore[arg-type]

    def tries(times: int, apart: float) -> None:
        for _ in range(times):
            with pytest.raises(BlockingIOError):
                sock.recv(RECORD, DONT_WAIT)
            passes(apart)

    def passes(seconds: float) -> None:
        sock._stuck_since -= seconds
        sock._stuck_at -= seconds

    for _ in range(2):
        tries(9, 0.5)
        passes(60.0)  # it has read meanwhile: patience begins anew
    tries(1, 6.0)
    with pytest.raises(ConnectionResetError, match="does not read"):
        sock.recv(RECORD, DONT_WAIT)


def test_it_changes_hands(pair: tuple[TlsSocket, TlsSocket]) -> None:
    """From thread to thread between two calls; each has a buffer of its own."""
    one, other = pair
    failures: list[BaseException] = []

    def turn(number: int) -> None:
        try:
            data = bytes([number]) * 20_000
            one.sendall(data)
            assert receive_as_a_worker_does(other, len(data), 32768) == data
        except BaseException as error:  # noqa: BLE001 - reported below
            failures.append(error)

    for number in range(30):
        thread = threading.Thread(target=turn, args=(number,))
        thread.start()
        thread.join()
    assert not failures


def test_many_at_once(server_files: TlsFiles) -> None:
    """One context, many threads: no connection sees another one's bytes or accidents."""
    server = TlsContext(read_material(server_files), server=True, verify=False)
    client = TlsContext(read_material(TlsFiles()), server=False, verify=False)
    begin = threading.Barrier(8)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        begin.wait()
        try:
            for _ in range(8):
                one, other = shake(server, client)
                data = chance.randbytes(5000)
                one.sendall(data)
                assert receive_as_a_worker_does(other, len(data), RECORD) == data
                if chance.random() < 0.5:
                    one._plain.send(bytes(100))  # an error of this connection and of no other
                    assert ready(other)
                    with pytest.raises(OSError, match="broken"):
                        other.recv(RECORD, DONT_WAIT)
                one.close()
                other.close()
        except BaseException as error:  # noqa: BLE001 - reported below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# Handshakes.


def test_what_is_known_afterwards(pair: tuple[TlsSocket, TlsSocket]) -> None:
    one, other = pair
    assert one.description == other.description
    assert one.description.startswith("TLSv1.3/TLS_")
    assert one.protocol == b"postgresql"
    assert one.server_name == "localhost"
    assert one.exported_binding() == other.exported_binding()
    assert len(one.exported_binding()) == 32
    assert one.peer_certificate() is None
    assert other.peer_certificate() is not None


@pytest.mark.parametrize(
    ("changes", "description"),
    [
        ({"maximum": TlsVersion.TLS_1_2, "ciphers": "ECDHE-ECDSA-AES128-GCM-SHA256"}, "TLSv1.2/ECDHE-ECDSA-AES128-GCM"),
        ({"minimum": TlsVersion.TLS_1_3, "cipher_suites": "TLS_CHACHA20_POLY1305_SHA256"}, "TLSv1.3/TLS_CHACHA20"),
    ],
)
def test_what_is_negotiated(server_files: TlsFiles, changes: dict[str, Any], description: str) -> None:
    server = TlsContext(read_material(replace(server_files, **changes)), server=True, verify=False)
    one, other = shake(server, TlsContext(read_material(TlsFiles()), server=False, verify=False))
    assert one.description.startswith(description)
    assert bool(one.exported_binding()) == description.startswith("TLSv1.3")
    one.close()
    other.close()


def test_versions_that_do_not_meet(server_files: TlsFiles) -> None:
    new = TlsContext(
        read_material(replace(server_files, minimum=TlsVersion.TLS_1_3)), server=True, verify=False
    )  # fmt: skip
    old = TlsContext(read_material(TlsFiles(maximum=TlsVersion.TLS_1_2)), server=False, verify=False)
    with pytest.raises(TlsFailed, match="protocol"):
        shake(new, old)


@pytest.mark.parametrize("changes", [{"ciphers": "NONSENSE"}, {"cipher_suites": "NONSENSE"}])
def test_ciphers_that_do_not_exist(server_files: TlsFiles, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="does not take 'NONSENSE'") as refused:
        TlsContext(read_material(replace(server_files, **changes)), server=True, verify=False)
    assert refused.value.key == "tls_" + next(iter(changes))


def test_groups(server_files: TlsFiles) -> None:
    if libssl._library() is None:
        pytest.skip("this cryptography hides OpenSSL's functions")
    server = TlsContext(read_material(replace(server_files, groups="X25519:P-384")), server=True, verify=False)
    for wanted, met in (("P-384", True), ("prime256v1:secp384r1", True), ("X25519", True), ("prime256v1", False)):
        client = TlsContext(read_material(TlsFiles(groups=wanted)), server=False, verify=False)
        if met:
            for sock in shake(server, client):
                sock.close()
        else:
            with pytest.raises(TlsFailed):
                shake(server, client)
    with pytest.raises(ConfigError, match="does not take 'P-384:NONSENSE'") as refused:
        TlsContext(read_material(replace(server_files, groups="P-384:NONSENSE")), server=False, verify=False)
    assert refused.value.key == "server_tls_groups"


def test_groups_where_openssl_is_hidden(server_files: TlsFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libssl, "_library", lambda: None)
    TlsContext(read_material(server_files), server=True, verify=False)
    with pytest.raises(ConfigError, match="cannot be set here") as refused:
        TlsContext(read_material(replace(server_files, groups="X25519")), server=True, verify=False)
    assert refused.value.key == "tls_groups"


def test_no_tickets(server_files: TlsFiles) -> None:
    """The server's last words of a handshake are sent when it is over for both: then nothing more may lie there."""
    if libssl._library() is None:
        pytest.skip("this cryptography hides OpenSSL's functions")
    plain = TlsContext(read_material(TlsFiles()), server=False, verify=False)
    one, other = shake(TlsContext(read_material(server_files), server=True, verify=False), plain)
    assert one.description.startswith("TLSv1.3")
    assert not ready(other, 0.2), "a ticket"
    one.close()
    other.close()


def test_diffie_hellman(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("localhost", ["localhost"], use_rsa=True).write(tmp_path, "rsa")
    parameters = tmp_path / "dh.pem"
    parameters.write_text(DH_2048)
    cipher = "DHE-RSA-AES128-GCM-SHA256"
    files = TlsFiles(certificate=certificate, private_key=key, maximum=TlsVersion.TLS_1_2, ciphers=cipher)
    client = TlsContext(read_material(TlsFiles()), server=False, verify=False)
    if SSL.OPENSSL_VERSION_NUMBER < 0x40000000:  # later ones have parameters of their own
        with pytest.raises(TlsFailed):
            shake(TlsContext(read_material(files), server=True, verify=False), client)
    given = replace(files, dh_params=parameters)
    one, other = shake(TlsContext(read_material(given), server=True, verify=False), client)
    assert one.description == f"TLSv1.2/{cipher}"
    one.close()
    other.close()
    for text, complaint in (("nothing", "holds no parameters"), (DH_2048[:300], "holds no parameters")):
        parameters.write_text(text)
        with pytest.raises(ConfigError, match=complaint) as refused:
            read_material(given)
        assert refused.value.key == "tls_dh_params"


def test_short_diffie_hellman_parameters(tmp_path: Path) -> None:
    (tmp_path / "dh.pem").write_text(DH_512)
    with pytest.raises(ConfigError, match="no Diffie-Hellman parameters of 2048 bits"):
        read_material(TlsFiles(dh_params=tmp_path / "dh.pem"))


def client_for(authority: Authority, folder: Path, **others: Any) -> TlsContext:
    files = TlsFiles(ca_cert=authority.write(folder, "trusted"), **others)
    return TlsContext(read_material(files), server=False, verify=True)


def test_a_server_is_verified(authority: Authority, server_files: TlsFiles, folder: Path) -> None:
    server = TlsContext(read_material(server_files), server=True, verify=False)
    one, other = shake(server, client_for(authority, folder))
    one.close()
    other.close()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("of another", "it is signed by itself|its issuer is not known"),
        ("self-signed", "it is signed by itself and not trusted"),
        ("expired", "it has expired"),
        ("not yet valid", "it is not yet valid"),
        ("revoked", "it has been revoked"),
        ("of a client", "it is not for this purpose"),
    ],
)
def test_servers_that_are_not_trusted(authority: Authority, tmp_path: Path, kind: str, reason: str) -> None:
    day = timedelta(days=1)
    kinds: dict[str, Callable[[], Pair]] = {
        "of another": lambda: Authority("Another").issue(),
        "self-signed": self_signed,
        "expired": lambda: authority.issue(begins=-3 * day, ends=-day),
        "not yet valid": lambda: authority.issue(begins=day, ends=3 * day),
        "revoked": authority.issue,
        "of a client": lambda: authority.issue(for_clients=True),
    }
    made = kinds[kind]()
    certificate, key = made.write(tmp_path, "server")
    revoked = tmp_path / "crl.pem"
    revoked.write_bytes(authority.revoke(*([made] if kind == "revoked" else [])))
    server = TlsContext(
        read_material(TlsFiles(certificate=certificate, private_key=key)), server=True, verify=False
    )  # fmt: skip
    with pytest.raises(TlsFailed, match="does not accept our certificate|" + reason):
        shake(server, client_for(authority, tmp_path, crl=revoked))
    # What the client itself has seen (the server's side was told by an alert).
    with pytest.raises(TlsFailed, match=reason):
        only_client(server, client_for(authority, tmp_path, crl=revoked))


def only_client(server: TlsContext, client: TlsContext) -> None:
    """Raises what the client finds."""
    left, right = socket.socketpair()
    one, other = server.wrap(left), client.wrap(right)
    try:
        while other.advance_handshake():
            try:
                one.advance_handshake()
            except TlsFailed:
                pass
    finally:
        one.close()
        other.close()


@pytest.mark.parametrize("needed", [False, True])
def test_clients_certificates(authority: Authority, server_files: TlsFiles, tmp_path: Path, needed: bool) -> None:
    material = read_material(replace(server_files, ca_cert=authority.write(tmp_path, "ca")))
    server = TlsContext(material, server=True, verify=True, needs_certificate=needed)
    certificate, key = authority.issue("alice", for_clients=True).write(tmp_path, "alice")
    files = TlsFiles(certificate=certificate, private_key=key)
    one, other = shake(server, TlsContext(read_material(files), server=False, verify=False))
    shown = one.peer_certificate()
    assert shown is not None
    assert shown.subject.rfc4514_string() == "CN=alice"
    one.close()
    other.close()

    bare = TlsContext(read_material(TlsFiles()), server=False, verify=False)
    if needed:
        with pytest.raises(TlsFailed, match="peer did not return a certificate"):
            shake(server, bare)
    else:
        one, other = shake(server, bare)
        assert one.peer_certificate() is None
        one.close()
        other.close()

    certificate, key = self_signed("alice").write(tmp_path, "mallory")
    files = TlsFiles(certificate=certificate, private_key=key)
    with pytest.raises(TlsFailed, match="certificate verify failed: it is signed by itself"):
        shake(server, TlsContext(read_material(files), server=False, verify=False))


@pytest.mark.parametrize("offered", [[b"http/1.1"], [b"http/1.1", b"postgresql"]])
def test_other_protocols(server_files: TlsFiles, offered: list[bytes]) -> None:
    server = TlsContext(read_material(server_files), server=True, verify=False)
    client = TlsContext(read_material(TlsFiles()), server=False, verify=False)
    left, right = socket.socketpair()
    one, other = server.wrap(left), client.wrap(right)
    other._connection.set_alpn_protos(offered)
    try:
        if b"postgresql" in offered:
            handshake_of(one, other)
            assert one.protocol == b"postgresql"
        else:
            with pytest.raises(TlsFailed, match="another protocol"):
                handshake_of(one, other)
    finally:
        one.close()
        other.close()


@pytest.mark.parametrize("noise", [b"hello, is there somebody?", b"\x16\x03\x01\0\x05hello", bytes(300)])
def test_what_is_no_handshake(server_files: TlsFiles, noise: bytes) -> None:
    server = TlsContext(read_material(server_files), server=True, verify=False)
    left, right = socket.socketpair()
    with right:
        one = server.wrap(left)
        assert one.advance_handshake() == select.EPOLLIN
        right.send(noise)
        right.shutdown(socket.SHUT_WR)
        with pytest.raises(TlsFailed, match=r"wrong version|packet length|unexpected"):
            one.advance_handshake()
        one.close()


def test_hanging_up_in_a_handshake(server_files: TlsFiles) -> None:
    server = TlsContext(read_material(server_files), server=True, verify=False)
    left, right = socket.socketpair()
    one = server.wrap(left)
    right.close()
    with pytest.raises(TlsFailed, match="closed during the TLS handshake"):
        one.advance_handshake()
    one.close()


def test_a_silent_peer(server_files: TlsFiles) -> None:
    server = TlsContext(read_material(server_files), server=True, verify=False)
    left, right = socket.socketpair()
    with right:
        one = server.wrap(left)
        with pytest.raises(TimeoutError):
            one.wait_handshake(monotonic() + 0.05)
        one.close()
