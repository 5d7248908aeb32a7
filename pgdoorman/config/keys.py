"""The one table of keys: what a configuration file may say, and what each word means.

It feeds reading and validation (`read`), SHOW CONFIG (`rows`), reload (`changes`), the reference page and file
(`reference`) and the JSON schema (`schema`). A key that stands in more than one section is inherited: a user's setting
beats the pool's, the pool's beats the general one; the default belongs to the first section in which the key stands.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum
from typing import Any

from pgdoorman.config.kinds import (
    NETWORKS,
    PATHS,
    TEXTS,
    URLS,
    Choice,
    Duration,
    FilePath,
    Flag,
    Integer,
    Kind,
    Mode,
    ParameterTable,
    Rules,
    SecretText,
    Size,
    Text,
    human,
)
from pgdoorman.config.settings import (
    IdleAtStop,
    PinPolicy,
    PoolMode,
    ReparseLiveName,
    Secret,
    ServerTlsMode,
    TlsMode,
    TlsVersion,
)


class Section(StrEnum):
    """Where a key may stand. The value is how the section is written in the reference."""

    GENERAL = "general"
    POOL = "pools.NAME"
    USER = "pools.NAME.users"
    AUTH_QUERY = "pools.NAME.auth_query"
    WEB = "web"
    TALOS = "talos"


class Change(IntEnum):
    """What it takes to bring a changed value into force, from the least to the most."""

    NOTHING = 0
    NEW_CLIENTS = 1
    NEW_BACKENDS = 2
    NEW_POOL = 3
    RESTART = 4

    @property
    def words(self) -> str:
        """As a message or the reference page says it."""
        return self.name.lower().replace("_", " ")


class Feature(Enum):
    """Parts of the program that keys belong to. The value is how a message names it."""

    TLS = "TLS towards clients"
    SERVER_TLS = "TLS towards PostgreSQL"
    AUTH_QUERY = "auth_query"
    WEB = "the [web] listener"
    WEB_PAGES = "the web console"
    SSO = "single sign-on"
    TALOS = "Talos tokens"
    JWT = "JWT"
    PAM = "PAM"
    PATRONI = "Patroni fallback"


# The features that this version has. A key of any other is refused: it would promise what nobody keeps.
FEATURES: frozenset[Feature] = frozenset(
    {
        Feature.TLS,
        Feature.SERVER_TLS,
        Feature.AUTH_QUERY,
        Feature.WEB,
        # Feature.WEB_PAGES,
        # Feature.SSO,
        Feature.TALOS,
        Feature.JWT,
        Feature.PAM,
        Feature.PATRONI,
    }
)


def is_available(feature: Feature) -> bool:
    """Whether this version has the feature."""
    return feature in FEATURES


class Since(StrEnum):
    """Whether this version has what a key asks for."""

    AVAILABLE = "available"
    LATER = "later"


@dataclass(frozen=True, slots=True)
class Derived:
    """A default that is found out when the file is read; `words` describe it in the reference."""

    words: str
    find: Callable[[], Any] = lambda: None


class Required(Enum):
    """Stands for the default of a key that has none."""

    REQUIRED = "required"


REQUIRED = Required.REQUIRED


@dataclass(frozen=True, slots=True)
class Key:
    """One key: grammar, default, what a change of it needs, and its meaning in a sentence.

    `zero` says what 0 means where that is not obvious. `ignored` keys are accepted with a warning and have no effect.
    `example` is a value as a file would hold it, for keys whose default shows nothing.
    """

    name: str
    sections: tuple[Section, ...]
    kind: Kind
    default: Any
    change: Change
    meaning: str
    zero: str = ""
    feature: Feature | None = None
    ignored: bool = False
    aliases: tuple[str, ...] = ()
    example: Any = None

    @property
    def since(self) -> Since:
        """Whether a file may use the key."""
        return Since.AVAILABLE if self.feature is None or is_available(self.feature) else Since.LATER

    def inherits(self, section: Section) -> bool:
        """Whether in this section a missing key means "as in the section above"."""
        return section is not self.sections[0]

    def default_in(self, section: Section) -> Any:
        """The value of the key where the file does not give it; None where it is inherited or simply absent."""
        if self.inherits(section):
            return () if isinstance(self.kind, ParameterTable) else None
        return self.default.find() if isinstance(self.default, Derived) else self.default

    @property
    def default_words(self) -> str:
        """The default as the reference and SHOW CONFIG write it."""
        if self.default is REQUIRED:
            return "required"
        if isinstance(self.default, Derived):
            return self.default.words
        if self.default is None:
            return "none"
        return human(self.kind, self.default)


G = (Section.GENERAL,)
P = (Section.POOL,)
U = (Section.USER,)
GP = (Section.GENERAL, Section.POOL)
GPU = (Section.GENERAL, Section.POOL, Section.USER)
A = (Section.AUTH_QUERY,)
W = (Section.WEB,)
T = (Section.TALOS,)

_U16 = 65_535
# The largest number that a key may hold: no limit to speak of.
ENDLESS = 4_294_967_295
_MB = 1024 * 1024
_GB = 1024 * _MB
# PostgreSQL refuses a message of more than this (MaxAllocSize), whatever the length field could say.
_LONGEST_MESSAGE = _GB

_COUNT = Integer(0, ENDLESS)
_POSITIVE = Integer(1, ENDLESS)
_TIME = Duration()
_TIMEOUT = Duration(low=0.001)
_SECONDS = Duration(bare_unit="s")
_BUFFER = Size(0, _GB)
_TEXT = Text()
_FLAG = Flag()


def _cores() -> int:
    return os.process_cpu_count() or 1


# Two lines a key: what the program needs, then what a reader needs.
# fmt: off
NOTHING, NEW_CLIENTS, NEW_BACKENDS, NEW_POOL, RESTART = Change

_LISTENING = (
    Key("host", G, _TEXT, "0.0.0.0", RESTART,
        "The addresses to listen on: one, or several separated by commas; `*` is every IPv4 and IPv6 address."),
    Key("port", G, Integer(0, _U16), 6432, RESTART,
        "The TCP port to listen on; also part of the unix socket's name.", zero="any free port"),
    Key("backlog", G, _COUNT, 0, RESTART,
        "How many connections the kernel holds for us before we accept them.", zero="max_connections"),
    Key("unix_socket_dir", G, _TEXT, None, RESTART,
        "Also listen on the unix socket `.s.PGSQL.<port>` in this directory.", example="/run/pgdoorman"),
    Key("unix_socket_mode", G, Mode(), 0o600, RESTART,
        "Permissions of the unix socket."),
    Key("so_reuseport", G, _FLAG, False, RESTART,
        "Let other processes listen on the same TCP port (SO_REUSEPORT); the kernel spreads the clients over them."),
)

_CLIENTS = (
    Key("max_connections", G, _POSITIVE, 8192, NOTHING,
        "The most clients that may be connected at once."),
    Key("max_user_client_connections", GPU, _COUNT, 0, NOTHING,
        "The most clients of one user, over all its databases.", zero="no limit"),
    Key("max_db_client_connections", GP, _COUNT, 0, NOTHING,
        "The most clients of one pool.", zero="no limit"),
    Key("client_login_timeout", G, _TIME, 60.0, NEW_CLIENTS,
        "How long a client may take to log in.", zero="no limit"),
    Key("client_idle_timeout", GPU, _TIME, 0.0, NOTHING,
        "A client that holds no backend and is silent for this long is sent away.", zero="never"),
    Key("log_client_connections", G, _FLAG, True, NOTHING,
        "Log every login."),
    Key("log_client_disconnections", G, _FLAG, True, NOTHING,
        "Log every end of a client."),
)

_SERVER = (
    Key("server_host", P, _TEXT, "127.0.0.1", NEW_BACKENDS,
        "Where PostgreSQL is; with a leading `/`, the directory of its unix socket."),
    Key("server_port", P, Integer(1, _U16), 5432, NEW_BACKENDS,
        "PostgreSQL's port."),
    Key("server_database", P, _TEXT, Derived("the pool's name"), NEW_BACKENDS,
        "The database's name on the server, where it is not the pool's.", example="shop_production"),
    Key("application_name", GP, Text(empty=True), "pgdoorman", NEW_BACKENDS,
        "The application_name with which backends are opened."),
    Key("startup_parameters", GP, ParameterTable(), (), NEW_BACKENDS,
        "Parameters sent when a backend is opened; a pool's are laid over the general ones.",
        example={"statement_timeout": "30s"}),
)

_POOLING = (
    Key("pool_mode", GPU, Choice(PoolMode), PoolMode.TRANSACTION, NOTHING,
        "When a client gives its backend back."),
    Key("max_db_connections", P, _COUNT, 0, NOTHING,
        "The most backends of this pool over all its users.", zero="no limit"),
    Key("min_connection_lifetime", P, _TIME, 30.0, NOTHING,
        "How old a backend must be before it may be closed in favour of another user."),
    Key("reserve_pool_size", P, _COUNT, 0, NOTHING,
        "Backends beyond max_db_connections for clients that have waited for reserve_pool_timeout."),
    Key("reserve_pool_timeout", P, _TIME, 3.0, NOTHING,
        "How long a client waits before the reserve is opened for it."),
    Key("min_guaranteed_pool_size", P, _COUNT, 0, NOTHING,
        "As many backends of each user are never closed in favour of another user."),
    Key("cleanup_server_connections", P, _FLAG, True, NOTHING,
        "Reset a backend whose session state a client has changed before another client gets it."),
    Key("server_reset_always", GPU, _FLAG, False, NOTHING,
        "Reset a backend fully each time that it comes back, whether or not a change was seen."),
    Key("sync_server_parameters", GP, _FLAG, True, NOTHING,
        "Carry the parameters that a client has set to every backend that it gets."),
    Key("pin_policy", GPU, Choice(PinPolicy), PinPolicy.PIN, NOTHING,
        "For session state that cannot be carried (temporary tables, advisory locks, cursors WITH HOLD): keep the "
        "client on its backend, send it away at the end of the transaction (which stands), or remove what it made."),
    Key("pooler_parameters", GP, _FLAG, False, NEW_CLIENTS,
        "Tell clients at login that they sit behind a pooler, by ParameterStatus messages named `pgdoorman.*`."),
    Key("pooler_check_query", G, Text(empty=True), ";", NOTHING,
        "A simple query that is answered without a backend; other texts than `;` are asked of a server once, with the "
        "next backend that is opened."),
    Key("log_client_parameter_status_changes", P, _FLAG, False, NOTHING,
        "Log every ParameterStatus that a server sends for a client."),
)

_BACKENDS = (
    Key("connect_timeout", GP, _TIMEOUT, 3.0, NOTHING,
        "How long opening a backend may take, from TCP to ReadyForQuery, and how long the check of an idle one."),
    Key("idle_timeout", GPU, _TIME, 600.0, NOTHING,
        "Close a backend that has been idle for this long.", zero="never"),
    Key("server_lifetime", GPU, _TIME, 1200.0, NOTHING,
        "Close a backend at this age, give or take a fifth, when it is idle.", zero="never"),
    Key("server_idle_check_timeout", GP, _TIME, 60.0, NOTHING,
        "Check that a backend is alive before use if it has been idle for longer than this.", zero="never"),
    Key("server_login_retry", GP, _TIME, 1.0, NOTHING,
        "How long to wait before the next try after PostgreSQL could not be reached or refused a login.",
        zero="no wait"),
    Key("server_round_robin", GP, _FLAG, False, NOTHING,
        "Use the backend that has been idle longest; otherwise the one used last."),
    Key("retain_connections_time", G, _TIMEOUT, 30.0, NOTHING,
        "How often expired backends are closed and missing ones opened."),
    Key("retain_connections_max", G, _COUNT, 3, NOTHING,
        "The most expired backends closed at one such time, over all pools.", zero="no limit"),
    Key("max_concurrent_creates", GP, _POSITIVE, 4, NOTHING,
        "The most backends of one user that are being opened at once, however few there are."),
    Key("scaling_warm_pool_ratio", GP, Integer(0, 100), 20, NOTHING,
        "Below this fill grade, in percent, max_concurrent_creates backends may be opened at once."),
    Key("scaling_fast_retries", GP, _COUNT, 10, NOTHING,
        "Accepted for compatibility: nobody spins here; who waits gets what comes first, a backend that returns or a new "
        "one.", ignored=True, example=10),
    Key("scaling_max_parallel_creates", GP, _POSITIVE, 2, NOTHING,
        "Above it, this many, if that is less."),
)

_LIMITS = (
    Key("query_wait_timeout", GPU, _TIMEOUT, 5.0, NOTHING,
        "How long a client waits for a backend."),
    Key("query_timeout", GPU, _TIME, 0.0, NOTHING,
        "Cancel a query that runs for longer and send its client away.", zero="never"),
    Key("transaction_timeout", GPU, _TIME, 0.0, NOTHING,
        "End a transaction that takes longer and send its client away.", zero="never"),
    Key("idle_transaction_timeout", GPU, _TIME, 0.0, NOTHING,
        "End a transaction whose client is silent for longer and send the client away.", zero="never"),
    Key("cancel_wait_timeout", G, _TIME, 10.0, NOTHING,
        "A cancel request that could not be sent to the server for this long is dropped.", zero="no limit"),
    Key("proxy_copy_data_timeout", G, _TIMEOUT, 15.0, NOTHING,
        "How long the delivery of one large message to a client may stand still."),
    Key("shutdown_timeout", G, _TIME, 10.0, NOTHING,
        "How long a graceful stop waits for running transactions.", zero="do not wait"),
    Key("shutdown_delay", G, _TIME, 0.0, NOTHING,
        "How long a graceful stop goes on serving as before while the readiness probe already says no.",
        zero="begin at once"),
    Key("shutdown_idle_clients", G, Choice(IdleAtStop), IdleAtStop.DISMISS, NOTHING,
        "Clients outside a transaction when a graceful stop begins: dismiss sends them away at once, keep leaves them "
        "until the end of their next transaction or until shutdown_timeout."),
)

_MEMORY = (
    Key("message_size_to_be_stream", G, Size(1024, _GB), _MB, NOTHING,
        "A server's message that is larger is passed on in pieces."),
    Key("max_message_size", G, Size(8192, _LONGEST_MESSAGE), _LONGEST_MESSAGE, NOTHING,
        "The largest message that is taken from a client."),
    Key("max_memory_usage", G, Size(_MB, 1024 * _GB), 256 * _MB, NOTHING,
        "The most memory for clients' messages that are being read, over all clients."),
)

_STATEMENTS = (
    Key("prepared_statements", GP, _FLAG, True, NEW_POOL,
        "Let clients use prepared statements in transaction mode."),
    Key("prepared_statements_cache_size", GP, _COUNT, 8192, NOTHING,
        "The most statements that a pool remembers."),
    Key("server_prepared_statements_cache_size", GP, _POSITIVE, Derived("prepared_statements_cache_size"), NEW_BACKENDS,
        "The most statements that one backend keeps prepared.", example=1000),
    Key("client_anonymous_prepared_cache_size", GP, _COUNT, 256, NEW_CLIENTS,
        "The most unnamed statements remembered for one client.",
        zero="no limit", aliases=("client_prepared_statements_cache_size",), example=1000),
    Key("reparse_live_name", GPU, Choice(ReparseLiveName), ReparseLiveName.ERROR, NEW_CLIENTS,
        "A Parse for a statement name that is in use: an error, as PostgreSQL has it, or the new one takes its place."),
    Key("query_interner_gc_interval_seconds", G, Duration(low=1.0, bare_unit="s"), 60.0, NOTHING,
        "How often to look for query texts that nobody uses."),
    Key("query_interner_anon_idle_ttl_seconds", G, _SECONDS, 60.0, NOTHING,
        "Forget the text of a statement that nobody has parsed for this long, and that no client and no backend has.",
        zero="never"),
)

_SOCKETS = (
    Key("tcp_keepalives_idle", G, Integer(1, 32_767, "s"), 5, NEW_BACKENDS,
        "Probe a silent TCP connection after this long (TCP_KEEPIDLE)."),
    Key("tcp_keepalives_interval", G, Integer(1, 32_767, "s"), 5, NEW_BACKENDS,
        "Time between two probes (TCP_KEEPINTVL)."),
    Key("tcp_keepalives_count", G, Integer(1, 127), 5, NEW_BACKENDS,
        "Probes without an answer until the connection counts as lost (TCP_KEEPCNT)."),
    Key("tcp_so_linger", G, Integer(0, _U16, "s"), 0, NEW_BACKENDS,
        "Accepted for compatibility: the kernel delivers what is left when a connection is closed, and nobody waits for it.",
        ignored=True, example=0),
    Key("tcp_no_delay", G, _FLAG, True, NEW_BACKENDS,
        "Send small messages at once (TCP_NODELAY)."),
    Key("tcp_user_timeout", G, _SECONDS, 60.0, NEW_BACKENDS,
        "Give up a connection whose peer has not acknowledged data for this long (TCP_USER_TIMEOUT, Linux).",
        zero="the kernel's own"),
    Key("tcp_socket_buffer_size", G, _BUFFER, 0, NEW_BACKENDS,
        "Size of the kernel's buffers of a TCP socket, each way.", zero="the kernel's own"),
    Key("unix_socket_buffer_size", G, _BUFFER, _MB, NEW_BACKENDS,
        "Size of the kernel's buffers of a unix socket, each way.", zero="the kernel's own"),
)

_THREADS = (
    Key("worker_threads", G, Integer(1, 1024), Derived("the number of cores", _cores), RESTART,
        "Threads that serve clients.", example=4),
    Key("login_workers", G, Integer(1, 1024), 1, RESTART,
        "Threads that let clients in."),
    Key("helper_threads", G, Integer(1, 1024), 8, RESTART,
        "Threads for work that blocks: opening backends, name look-ups, password hashes."),
    Key("worker_cpu_affinity_pinning", G, _FLAG, False, RESTART,
        "Bind each worker to a core, from the second core up; not with fewer than three cores."),
    Key("worker_stack_size", G, Size(65_536, _GB), None, RESTART,
        "Stack of a thread.", example="1MB"),
    Key("max_blocking_threads", G, _POSITIVE, None, RESTART,
        "Accepted for compatibility; see helper_threads.", ignored=True, example=64),
    Key("tokio_global_queue_interval", G, _COUNT, None, RESTART,
        "Accepted for compatibility.", ignored=True, example=5),
    Key("tokio_event_interval", G, _COUNT, None, RESTART,
        "Accepted for compatibility.", ignored=True, example=1),
)

_ACCESS = (
    Key("admin_username", G, _TEXT, REQUIRED, NOTHING,
        "Who may use the admin console.", example="admin"),
    Key("admin_password", G, SecretText(), REQUIRED, NOTHING,
        "The password of the admin console.", example="${PGDOORMAN_ADMIN_PASSWORD}"),
    Key("hba", G, NETWORKS, (), NEW_CLIENTS,
        "Networks that clients may come from; empty is everywhere; not together with pg_hba.", example=["10.0.0.0/8"]),
    Key("pg_hba", G, Rules(), None, NEW_CLIENTS,
        "Rules in the format of pg_hba.conf: a text, `{path = \"file\"}` or `{content = \"rules\"}`.",
        example="host all all 10.0.0.0/8 scram-sha-256"),
    Key("pg_ident", G, Rules(), None, NEW_CLIENTS,
        "User-name maps in the format of pg_ident.conf, for `map=` in pg_hba: a text, `{path = \"file\"}` or "
        "`{content = \"maps\"}`.", example="staff /^(.*)@example\\.com$ \\1"),
    Key("failed_login_limit", G, _COUNT, 0, NEW_CLIENTS,
        "After this many failed logins from one address within failed_login_window, no client is let in from there "
        "until the window has passed. An IPv6 address stands for its /64; unix sockets are exempt.", zero="no limit"),
    Key("failed_login_window", G, _TIMEOUT, 60.0, NEW_CLIENTS,
        "The time in which failed logins are counted."),
    Key("scram_iterations", G, Integer(4096, 10_000_000), 4096, NEW_CLIENTS,
        "Iterations of SCRAM secrets that are made from plain passwords."),
)

_PROCESS = (
    Key("user", G, _TEXT, None, RESTART,
        "Become this user once the doors are open, if started by root.", example="pgdoorman"),
    Key("local_console", G, _FLAG, True, RESTART,
        "Let root and the user that pgdoorman runs as into the console without a password, through an abstract unix "
        "socket; the command line's reload, show, stop and so on use it."),
    Key("daemon_pid_file", G, _TEXT, "/tmp/pgdoorman.pid", RESTART,  # noqa: S108 - PgDoorman's place for it
        "Where the process id is written in daemon mode."),
    Key("syslog_prog_name", G, _TEXT, None, RESTART,
        "Log to syslog under this name.", example="pgdoorman"),
    Key("log_stats", G, _FLAG, True, NOTHING,
        "Log a line for each pool that was used, at the end of each statistics period (15 s)."),
)

_TLS = (
    Key("tls_mode", G, Choice(TlsMode), None, NEW_CLIENTS,
        "Whether clients may, must or must not use TLS; verify-full (or verify-ca) also wants a certificate from them. "
        "None is allow, and so is prefer.", feature=Feature.TLS, example="require"),
    Key("tls_certificate", G, FilePath(), None, NEW_CLIENTS,
        "Our certificate for clients, and behind it what leads to its root.", feature=Feature.TLS,
        example="server.crt"),
    Key("tls_private_key", G, FilePath(), None, NEW_CLIENTS,
        "Its private key.", feature=Feature.TLS, example="server.key"),
    Key("tls_private_key_passphrase", G, SecretText(), None, NEW_CLIENTS,
        "The passphrase of that key.", feature=Feature.TLS, example="${PGDOORMAN_KEY_PASSPHRASE}"),
    Key("tls_ca_cert", G, FilePath(), None, NEW_CLIENTS,
        "Who signs clients' certificates; without it none is asked for.", feature=Feature.TLS,
        example="clients-ca.crt"),
    Key("tls_crl", G, FilePath(), None, NEW_CLIENTS,
        "Which of clients' certificates are revoked: a list from each that signs them.", feature=Feature.TLS,
        example="clients.crl"),
    Key("tls_min_version", G, Choice(TlsVersion), TlsVersion.TLS_1_2, NEW_CLIENTS,
        "The oldest version of TLS that clients may use.", feature=Feature.TLS),
    Key("tls_max_version", G, Choice(TlsVersion), None, NEW_CLIENTS,
        "The newest one.", feature=Feature.TLS, example="1.3"),
    Key("tls_ciphers", G, _TEXT, None, NEW_CLIENTS,
        "The ciphers of TLS 1.2, as OpenSSL lists them.", feature=Feature.TLS, example="ECDHE+AESGCM"),
    Key("tls_cipher_suites", G, _TEXT, None, NEW_CLIENTS,
        "The cipher suites of TLS 1.3.", feature=Feature.TLS, example="TLS_AES_256_GCM_SHA384"),
    Key("tls_groups", G, _TEXT, None, NEW_CLIENTS,
        "Which groups (curves) keys are agreed on with, best first, by OpenSSL's names.", feature=Feature.TLS,
        example="X25519:prime256v1"),
    Key("tls_dh_params", G, FilePath(), None, NEW_CLIENTS,
        "Diffie-Hellman parameters, for ciphers of TLS 1.2 that begin with DHE.", feature=Feature.TLS,
        example="dh2048.pem"),
    Key("tls_rate_limit_per_second", G, _COUNT, 0, NOTHING,
        "The most TLS handshakes per second; a multiple of 100.", zero="no limit", feature=Feature.TLS),
    Key("server_tls_mode", GP, Choice(ServerTlsMode), ServerTlsMode.ALLOW, NEW_BACKENDS,
        "TLS towards PostgreSQL, as libpq's sslmode.", feature=Feature.SERVER_TLS),
    Key("server_tls_ca_cert", GP, FilePath(), None, NEW_BACKENDS,
        "Who signs PostgreSQL's certificate.", feature=Feature.SERVER_TLS, example="servers-ca.crt"),
    Key("server_tls_crl", GP, FilePath(), None, NEW_BACKENDS,
        "Which of servers' certificates are revoked.", feature=Feature.SERVER_TLS, example="servers.crl"),
    Key("server_tls_certificate", GP, FilePath(), None, NEW_BACKENDS,
        "Our certificate for PostgreSQL.", feature=Feature.SERVER_TLS, example="pgdoorman.crt"),
    Key("server_tls_private_key", GP, FilePath(), None, NEW_BACKENDS,
        "Its private key.", feature=Feature.SERVER_TLS, example="pgdoorman.key"),
    Key("server_tls_private_key_passphrase", GP, SecretText(), None, NEW_BACKENDS,
        "The passphrase of that key.", feature=Feature.SERVER_TLS, example="${PGDOORMAN_SERVER_KEY_PASSPHRASE}"),
    Key("server_tls_min_version", GP, Choice(TlsVersion), TlsVersion.TLS_1_2, NEW_BACKENDS,
        "The oldest version of TLS towards PostgreSQL.", feature=Feature.SERVER_TLS),
    Key("server_tls_max_version", GP, Choice(TlsVersion), None, NEW_BACKENDS,
        "The newest one.", feature=Feature.SERVER_TLS, example="1.3"),
    Key("server_tls_ciphers", GP, _TEXT, None, NEW_BACKENDS,
        "The ciphers of TLS 1.2 towards PostgreSQL.", feature=Feature.SERVER_TLS, example="ECDHE+AESGCM"),
    Key("server_tls_cipher_suites", GP, _TEXT, None, NEW_BACKENDS,
        "The cipher suites of TLS 1.3 towards PostgreSQL.", feature=Feature.SERVER_TLS,
        example="TLS_AES_256_GCM_SHA384"),
    Key("server_tls_groups", GP, _TEXT, None, NEW_BACKENDS,
        "Which groups (curves) keys are agreed on with towards PostgreSQL.", feature=Feature.SERVER_TLS,
        example="X25519:prime256v1"),
)

_FALLBACK = (
    Key("patroni_api_urls", GP, URLS, None, NOTHING,
        "Where to ask Patroni for another PostgreSQL when ours is down.", feature=Feature.PATRONI,
        example=["http://10.0.0.1:8008", "http://10.0.0.2:8008"]),
    Key("patroni_api_timeout", GP, _TIMEOUT, 5.0, NOTHING,
        "How long Patroni may take to answer.", feature=Feature.PATRONI),
    Key("fallback_cooldown", GP, _TIME, 30.0, NOTHING,
        "How long our own PostgreSQL is left alone after it failed.", feature=Feature.PATRONI),
    Key("fallback_connect_timeout", GP, _TIMEOUT, 5.0, NOTHING,
        "How long each candidate may take to answer.", feature=Feature.PATRONI),
    Key("fallback_lifetime", GP, _TIMEOUT, Derived("fallback_cooldown"), NOTHING,
        "Age at which backends of a fallback are closed.", feature=Feature.PATRONI, example="30s"),
)

_USERS = (
    Key("username", U, _TEXT, REQUIRED, NEW_POOL,
        "The name under which clients log in.", example="shop"),
    Key("password", U, SecretText(), REQUIRED, NEW_CLIENTS,
        "What they prove: a plain password, `md5...` or `SCRAM-SHA-256$...` as PostgreSQL stores it, "
        "`jwt-pkey-fpath:/path` for tokens, or empty.",
        example="${SHOP_PASSWORD}"),
    Key("pool_size", U, _POSITIVE, REQUIRED, NOTHING,
        "The most backends of this user.", example=40),
    Key("min_pool_size", U, _COUNT, 0, NOTHING,
        "Backends that are opened ahead and kept open."),
    Key("server_username", U, _TEXT, Derived("username"), NEW_BACKENDS,
        "The role as which we log in to PostgreSQL.", example="shop_owner"),
    Key("server_password", U, SecretText(), None, NEW_BACKENDS,
        "That role's password, or `jwt-priv-key-fpath:/path` for tokens; without it what the client has proved is used.",
        example="${SHOP_OWNER_PASSWORD}"),
    Key("auth_pam_service", U, _TEXT, None, NEW_CLIENTS,
        "Check the password by this PAM service.", feature=Feature.PAM, example="postgresql"),
)

_AUTH_QUERY = (
    Key("query", A, _TEXT, REQUIRED, NEW_POOL,
        "The query that looks a user up; `$1` is the name.", feature=Feature.AUTH_QUERY,
        example="SELECT usename, passwd FROM pg_shadow WHERE usename = $1"),
    Key("user", A, _TEXT, REQUIRED, NEW_POOL,
        "The role that runs it.", feature=Feature.AUTH_QUERY, example="pgdoorman_auth"),
    Key("password", A, SecretText(), Secret(""), NEW_POOL,
        "That role's password.", feature=Feature.AUTH_QUERY, example="${PGDOORMAN_AUTH_PASSWORD}"),
    Key("database", A, _TEXT, Derived("the pool's server_database"), NEW_POOL,
        "Where it is run.", feature=Feature.AUTH_QUERY, example="postgres"),
    Key("workers", A, Integer(1, 1024), 2, NEW_POOL,
        "Connections that run it.", feature=Feature.AUTH_QUERY),
    Key("server_user", A, _TEXT, None, NEW_POOL,
        "One role for the backends of all users found this way.", feature=Feature.AUTH_QUERY, example="shop_owner"),
    Key("server_password", A, SecretText(), None, NEW_POOL,
        "That role's password.", feature=Feature.AUTH_QUERY, example="${SHOP_OWNER_PASSWORD}"),
    Key("pool_size", A, _POSITIVE, 40, NOTHING,
        "The most backends of each user found this way, or of the one role.", feature=Feature.AUTH_QUERY),
    Key("min_pool_size", A, _COUNT, 0, NOTHING,
        "Backends that are opened ahead and kept open.", feature=Feature.AUTH_QUERY),
    Key("cache_ttl", A, _TIME, 3600.0, NOTHING,
        "How long a user that was found is remembered.", feature=Feature.AUTH_QUERY),
    Key("cache_failure_ttl", A, _TIME, 30.0, NOTHING,
        "How long it is remembered that a user was not found.", feature=Feature.AUTH_QUERY),
    Key("min_interval", A, _TIME, 1.0, NOTHING,
        "The least time between two look-ups of one user.", feature=Feature.AUTH_QUERY),
)

_WEB = (
    Key("enabled", W, _FLAG, False, RESTART,
        "Listen for HTTP.", feature=Feature.WEB),
    Key("host", W, _TEXT, "0.0.0.0", RESTART,
        "The address to listen on.", feature=Feature.WEB),
    Key("port", W, Integer(0, _U16), 9127, RESTART,
        "The port to listen on.", zero="any free port", feature=Feature.WEB),
    Key("ui", W, _FLAG, False, NOTHING,
        "Serve the console's pages and API; not while admin_password is empty or \"admin\".",
        feature=Feature.WEB_PAGES),
    Key("ui_anonymous", W, _FLAG, False, NOTHING,
        "Let everybody read what is not personal.", feature=Feature.WEB_PAGES),
    Key("log_tap_max_entries", W, _COUNT, 8192, NOTHING,
        "Log lines kept for the console.", zero="none", feature=Feature.WEB_PAGES),
    Key("trusted_proxies", W, NETWORKS, (), NOTHING,
        "Networks whose forwarded headers are believed.", feature=Feature.WEB_PAGES, example=["10.0.0.0/8"]),
    Key("sso_enabled", W, _FLAG, False, NOTHING,
        "Let people in with a JWT.", feature=Feature.SSO),
    Key("sso_proxy_url", W, _TEXT, None, NOTHING,
        "The link that the login dialog shows.", feature=Feature.SSO, example="https://login.example.com"),
    Key("sso_public_key_file", W, FilePath(), None, NOTHING,
        "The RS256 key of tokens.", feature=Feature.SSO, example="sso.pem"),
    Key("sso_audience", W, TEXTS, (), NOTHING,
        "Audiences that a token may be for.", feature=Feature.SSO, example=["pgdoorman"]),
    Key("sso_allowed_users", W, TEXTS, ("*",), NOTHING,
        "Who may come in.", feature=Feature.SSO),
    Key("sso_groups_claim", W, _TEXT, "groups", NOTHING,
        "The claim that holds the groups.", feature=Feature.SSO),
    Key("sso_admin_groups", W, TEXTS, (), NOTHING,
        "Groups whose members are admins.", feature=Feature.SSO, example=["dba"]),
    Key("sso_require_https", W, _FLAG, False, NOTHING,
        "Refuse tokens that came over plain HTTP.", feature=Feature.SSO),
)

_TALOS = (
    Key("keys", T, PATHS, (), NEW_CLIENTS,
        "Public RSA keys of tokens; the file's stem is the key's id.", feature=Feature.TALOS, example=["talos-1.pem"]),
    Key("databases", T, TEXTS, (), NEW_CLIENTS,
        "Databases that a token may name.", feature=Feature.TALOS, example=["shop"]),
)

# fmt: on

# Groups give the reference page and the reference file their order and headings.
GROUPS: tuple[tuple[str, tuple[Key, ...]], ...] = (
    ("Listening", _LISTENING),
    ("The server", _SERVER),
    ("Pooling", _POOLING),
    ("Time limits", _LIMITS),
    ("The life of a backend", _BACKENDS),
    ("Clients", _CLIENTS),
    ("Who may come in", _ACCESS),
    ("Prepared statements", _STATEMENTS),
    ("Memory", _MEMORY),
    ("Sockets", _SOCKETS),
    ("Threads", _THREADS),
    ("The process", _PROCESS),
    ("TLS", _TLS),
    ("Fallback", _FALLBACK),
    ("Users", _USERS),
    ("auth_query", _AUTH_QUERY),
    ("Web", _WEB),
    ("Talos", _TALOS),
)

KEYS: tuple[Key, ...] = tuple(key for _, group in GROUPS for key in group)

_BY_SECTION: dict[Section, dict[str, Key]] = {
    section: {key.name: key for key in KEYS if section in key.sections} for section in Section
}


def keys_of(section: Section) -> dict[str, Key]:
    """The keys of one section by name, in the order of the table."""
    return _BY_SECTION[section]
