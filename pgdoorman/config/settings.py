"""The settings as values: what a configuration file means once it has been read.

Everything here is frozen. Durations are float seconds, sizes are int bytes. The names of the fields are the names of
the keys; their defaults, ranges and meanings stand in one place, `keys`. An override that a pool or a user does not
give is None; `Settings.effective` resolves general, pool and user into the one value that the pool room works with.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from types import MappingProxyType

type Network = IPv4Network | IPv6Network
type Parameters = tuple[tuple[str, str], ...]


class PoolMode(StrEnum):
    """When a client gives its backend back: at its end, at the end of a transaction, or after each statement."""

    TRANSACTION = "transaction"
    SESSION = "session"
    STATEMENT = "statement"


class PinPolicy(StrEnum):
    """What to do about session state that cannot move to another backend (temporary tables, advisory locks ...)."""

    PIN = "pin"
    REFUSE = "refuse"
    IGNORE = "ignore"


class ReparseLiveName(StrEnum):
    """What to do about a Parse for a statement name that is in use."""

    ERROR = "error"
    REPLACE = "replace"


class IdleAtStop(StrEnum):
    """What a graceful stop does about clients that are in no transaction."""

    DISMISS = "dismiss"
    KEEP = "keep"


class TlsMode(StrEnum):
    """TLS towards clients. `prefer` is `allow` and `verify-ca` is `verify-full`, under PgBouncer's names."""

    DISABLE = "disable"
    ALLOW = "allow"
    PREFER = "prefer"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"

    @property
    def is_needed(self) -> bool:
        """Whether clients must use TLS."""
        return self not in (TlsMode.DISABLE, TlsMode.ALLOW, TlsMode.PREFER)

    @property
    def wants_certificates(self) -> bool:
        """Whether clients must show a certificate."""
        return self in (TlsMode.VERIFY_CA, TlsMode.VERIFY_FULL)


class ServerTlsMode(StrEnum):
    """TLS towards PostgreSQL, with libpq's meanings of `sslmode`."""

    DISABLE = "disable"
    ALLOW = "allow"
    PREFER = "prefer"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


class TlsVersion(StrEnum):
    """A version of the TLS protocol."""

    TLS_1_2 = "1.2"
    TLS_1_3 = "1.3"


class Secret:
    """A password or another secret. It never shows itself: only `reveal` gives the text."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The secret itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret('***')" if self._text else "Secret('')"

    __str__ = __repr__

    def __format__(self, _specification: str) -> str:
        return repr(self)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self._text))


@dataclass(frozen=True, slots=True)
class RulesText:
    """Host-based rules as they were written. Line n of `text` is line `first_line + n - 1` of `file`."""

    text: str
    file: str = field(compare=False)
    first_line: int = field(default=1, compare=False)


@dataclass(frozen=True, slots=True)
class TcpSettings:
    """Socket options. Seconds are whole where the kernel takes whole seconds; a buffer size of 0 leaves it alone."""

    keepalives_idle: int
    keepalives_interval: int
    keepalives_count: int
    no_delay: bool
    user_timeout: float
    socket_buffer_size: int
    unix_socket_buffer_size: int


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What one side of TLS is made of: our certificate and its key, who signs the others' certificates, which of those
    are revoked, and what may be negotiated (None: what OpenSSL thinks best)."""

    certificate: Path | None = None
    private_key: Path | None = None
    passphrase: Secret = Secret("")  # noqa: RUF009 - a Secret never changes
    ca_cert: Path | None = None
    crl: Path | None = None
    minimum: TlsVersion = TlsVersion.TLS_1_2
    maximum: TlsVersion | None = None
    ciphers: str | None = None
    cipher_suites: str | None = None
    groups: str | None = None
    dh_params: Path | None = None


@dataclass(frozen=True, slots=True)
class ClientTlsSettings:
    """TLS towards clients."""

    mode: TlsMode
    files: TlsFiles

    @property
    def is_on(self) -> bool:
        """Whether clients that ask for TLS get it."""
        return self.mode is not TlsMode.DISABLE and self.files.certificate is not None


@dataclass(frozen=True, slots=True)
class ServerTlsSettings:
    """TLS towards one PostgreSQL."""

    mode: ServerTlsMode
    files: TlsFiles


@dataclass(frozen=True, slots=True)
class FallbackSettings:
    """Where to look for another PostgreSQL when ours is down."""

    patroni_api_urls: tuple[str, ...]
    cooldown: float
    api_timeout: float
    connect_timeout: float
    lifetime: float


@dataclass(frozen=True, slots=True)
class GeneralSettings:
    """`[general]`."""

    # listening
    host: str
    port: int
    backlog: int
    unix_socket_dir: str | None
    unix_socket_mode: int
    so_reuseport: bool
    # clients
    max_connections: int
    max_user_client_connections: int
    max_db_client_connections: int
    client_login_timeout: float
    client_idle_timeout: float
    log_client_connections: bool
    log_client_disconnections: bool
    # pooling
    pool_mode: PoolMode
    application_name: str
    startup_parameters: Parameters
    sync_server_parameters: bool
    server_reset_always: bool
    pin_policy: PinPolicy
    pooler_parameters: bool
    pooler_check_query: str
    # the life of a backend
    connect_timeout: float
    idle_timeout: float
    server_lifetime: float
    server_idle_check_timeout: float
    server_login_retry: float
    server_round_robin: bool
    retain_connections_time: float
    retain_connections_max: int
    max_concurrent_creates: int
    scaling_warm_pool_ratio: int
    scaling_fast_retries: int
    scaling_max_parallel_creates: int
    # time limits
    query_wait_timeout: float
    query_timeout: float
    transaction_timeout: float
    idle_transaction_timeout: float
    cancel_wait_timeout: float
    proxy_copy_data_timeout: float
    shutdown_timeout: float
    shutdown_delay: float
    shutdown_idle_clients: IdleAtStop
    # memory
    message_size_to_be_stream: int
    max_message_size: int
    max_memory_usage: int
    # prepared statements
    prepared_statements: bool
    prepared_statements_cache_size: int
    server_prepared_statements_cache_size: int | None
    client_anonymous_prepared_cache_size: int
    reparse_live_name: ReparseLiveName
    query_interner_gc_interval_seconds: float
    query_interner_anon_idle_ttl_seconds: float
    # sockets
    tcp_keepalives_idle: int
    tcp_keepalives_interval: int
    tcp_keepalives_count: int
    tcp_so_linger: int
    tcp_no_delay: bool
    tcp_user_timeout: float
    tcp_socket_buffer_size: int
    unix_socket_buffer_size: int
    # threads
    worker_threads: int
    login_workers: int
    helper_threads: int
    worker_cpu_affinity_pinning: bool
    worker_stack_size: int | None
    max_blocking_threads: int | None
    tokio_global_queue_interval: int | None
    tokio_event_interval: int | None
    # who may come in
    admin_username: str
    admin_password: Secret
    hba: tuple[Network, ...]
    pg_hba: RulesText | None
    pg_ident: RulesText | None
    failed_login_limit: int
    failed_login_window: float
    scram_iterations: int
    # the process
    user: str | None
    local_console: bool
    daemon_pid_file: str
    syslog_prog_name: str | None
    log_stats: bool
    # TLS
    tls_mode: TlsMode | None
    tls_certificate: Path | None
    tls_private_key: Path | None
    tls_private_key_passphrase: Secret | None
    tls_ca_cert: Path | None
    tls_crl: Path | None
    tls_min_version: TlsVersion
    tls_max_version: TlsVersion | None
    tls_ciphers: str | None
    tls_cipher_suites: str | None
    tls_groups: str | None
    tls_dh_params: Path | None
    tls_rate_limit_per_second: int
    server_tls_mode: ServerTlsMode
    server_tls_ca_cert: Path | None
    server_tls_crl: Path | None
    server_tls_certificate: Path | None
    server_tls_private_key: Path | None
    server_tls_private_key_passphrase: Secret | None
    server_tls_min_version: TlsVersion
    server_tls_max_version: TlsVersion | None
    server_tls_ciphers: str | None
    server_tls_cipher_suites: str | None
    server_tls_groups: str | None
    # fallback
    patroni_api_urls: tuple[str, ...] | None
    patroni_api_timeout: float
    fallback_cooldown: float
    fallback_connect_timeout: float
    fallback_lifetime: float | None

    @property
    def hosts(self) -> tuple[str, ...]:
        """The addresses to listen on: `host` may hold several, separated by commas; `*` means every IPv4 and IPv6."""
        return _addresses(self.host)

    @property
    def listen_backlog(self) -> int:
        """The backlog for listen(2): 0 in the file means as many as `max_connections`."""
        return self.backlog or self.max_connections

    @property
    def tcp(self) -> TcpSettings:
        """The socket options, for clients and backends alike."""
        return TcpSettings(
            keepalives_idle=self.tcp_keepalives_idle,
            keepalives_interval=self.tcp_keepalives_interval,
            keepalives_count=self.tcp_keepalives_count,
            no_delay=self.tcp_no_delay,
            user_timeout=self.tcp_user_timeout,
            socket_buffer_size=self.tcp_socket_buffer_size,
            unix_socket_buffer_size=self.unix_socket_buffer_size,
        )

    @property
    def tls(self) -> ClientTlsSettings:
        """TLS towards clients."""
        files = TlsFiles(
            certificate=self.tls_certificate,
            private_key=self.tls_private_key,
            passphrase=self.tls_private_key_passphrase or Secret(""),
            ca_cert=self.tls_ca_cert,
            crl=self.tls_crl,
            minimum=self.tls_min_version,
            maximum=self.tls_max_version,
            ciphers=self.tls_ciphers,
            cipher_suites=self.tls_cipher_suites,
            groups=self.tls_groups,
            dh_params=self.tls_dh_params,
        )
        return ClientTlsSettings(self.tls_mode or TlsMode.ALLOW, files)


@dataclass(frozen=True, slots=True)
class UserSettings:
    """One of a pool's users: whom clients log in as, and as whom we log in to PostgreSQL."""

    username: str
    password: Secret
    pool_size: int
    min_pool_size: int
    server_username: str | None
    server_password: Secret | None
    auth_pam_service: str | None
    max_user_client_connections: int | None
    client_idle_timeout: float | None
    pool_mode: PoolMode | None
    server_reset_always: bool | None
    pin_policy: PinPolicy | None
    idle_timeout: float | None
    server_lifetime: float | None
    query_wait_timeout: float | None
    query_timeout: float | None
    transaction_timeout: float | None
    idle_transaction_timeout: float | None
    reparse_live_name: ReparseLiveName | None


@dataclass(frozen=True, slots=True)
class AuthQuerySettings:
    """`[pools.NAME.auth_query]`: users that are not in the file are looked up in the database."""

    query: str
    user: str
    password: Secret
    database: str | None
    workers: int
    server_user: str | None
    server_password: Secret | None
    pool_size: int
    min_pool_size: int
    cache_ttl: float
    cache_failure_ttl: float
    min_interval: float


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """`[pools.NAME]`: one database that clients may ask for. None means that the general setting holds."""

    name: str
    users: tuple[UserSettings, ...]
    auth_query: AuthQuerySettings | None
    server_host: str
    server_port: int
    server_database: str | None
    cleanup_server_connections: bool
    log_client_parameter_status_changes: bool
    max_db_connections: int
    min_connection_lifetime: float
    reserve_pool_size: int
    reserve_pool_timeout: float
    min_guaranteed_pool_size: int
    max_user_client_connections: int | None
    max_db_client_connections: int | None
    client_idle_timeout: float | None
    pool_mode: PoolMode | None
    application_name: str | None
    startup_parameters: Parameters
    sync_server_parameters: bool | None
    server_reset_always: bool | None
    pin_policy: PinPolicy | None
    pooler_parameters: bool | None
    connect_timeout: float | None
    idle_timeout: float | None
    server_lifetime: float | None
    server_idle_check_timeout: float | None
    server_login_retry: float | None
    server_round_robin: bool | None
    max_concurrent_creates: int | None
    scaling_warm_pool_ratio: int | None
    scaling_fast_retries: int | None
    scaling_max_parallel_creates: int | None
    query_wait_timeout: float | None
    query_timeout: float | None
    transaction_timeout: float | None
    idle_transaction_timeout: float | None
    prepared_statements: bool | None
    prepared_statements_cache_size: int | None
    server_prepared_statements_cache_size: int | None
    client_anonymous_prepared_cache_size: int | None
    reparse_live_name: ReparseLiveName | None
    server_tls_mode: ServerTlsMode | None
    server_tls_ca_cert: Path | None
    server_tls_crl: Path | None
    server_tls_certificate: Path | None
    server_tls_private_key: Path | None
    server_tls_private_key_passphrase: Secret | None
    server_tls_min_version: TlsVersion | None
    server_tls_max_version: TlsVersion | None
    server_tls_ciphers: str | None
    server_tls_cipher_suites: str | None
    server_tls_groups: str | None
    patroni_api_urls: tuple[str, ...] | None
    patroni_api_timeout: float | None
    fallback_cooldown: float | None
    fallback_connect_timeout: float | None
    fallback_lifetime: float | None

    @property
    def database(self) -> str:
        """The real name of the database on the server."""
        return self.server_database or self.name

    def user(self, username: str) -> UserSettings | None:
        """The user of that name in the file, if there is one."""
        return next((user for user in self.users if user.username == username), None)

    def dynamic_user(self, username: str, password: Secret) -> UserSettings:
        """Settings for a user that auth_query has found. Requires `auth_query`."""
        if self.auth_query is None:
            raise ValueError(f"pool {self.name} has no auth_query")
        return UserSettings(
            username=username,
            password=password,
            pool_size=self.auth_query.pool_size,
            min_pool_size=self.auth_query.min_pool_size,
            server_username=self.auth_query.server_user,
            server_password=self.auth_query.server_password,
            auth_pam_service=None,
            max_user_client_connections=None,
            client_idle_timeout=None,
            pool_mode=None,
            server_reset_always=None,
            pin_policy=None,
            idle_timeout=None,
            server_lifetime=None,
            query_wait_timeout=None,
            query_timeout=None,
            transaction_timeout=None,
            idle_transaction_timeout=None,
            reparse_live_name=None,
        )


@dataclass(frozen=True, slots=True)
class WebSettings:
    """`[web]`: metrics, probes and the console's pages."""

    enabled: bool
    host: str
    port: int
    ui: bool
    ui_anonymous: bool
    log_tap_max_entries: int
    trusted_proxies: tuple[Network, ...]
    sso_enabled: bool
    sso_proxy_url: str | None
    sso_public_key_file: Path | None
    sso_audience: tuple[str, ...]
    sso_allowed_users: tuple[str, ...]
    sso_groups_claim: str
    sso_admin_groups: tuple[str, ...]
    sso_require_https: bool

    @property
    def hosts(self) -> tuple[str, ...]:
        """The addresses to listen on, written as the general `host`."""
        return _addresses(self.host)


@dataclass(frozen=True, slots=True)
class TalosSettings:
    """`[talos]`: logins with a role token."""

    keys: tuple[Path, ...]
    databases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UserPoolSettings:
    """All that holds for one user of one pool, with general, pool and user resolved. Comparable and hashable."""

    pool: str
    username: str
    password: Secret
    # where and as whom
    server_host: str
    server_port: int
    server_database: str
    server_username: str
    server_password: Secret | None
    application_name: str
    startup_parameters: Parameters
    server_tls: ServerTlsSettings
    fallback: FallbackSettings | None
    tcp: TcpSettings
    auth_pam_service: str | None
    # how many
    pool_size: int
    min_pool_size: int
    max_db_connections: int
    reserve_pool_size: int
    reserve_pool_timeout: float
    min_guaranteed_pool_size: int
    min_connection_lifetime: float
    max_user_client_connections: int
    max_db_client_connections: int
    max_concurrent_creates: int
    scaling_warm_pool_ratio: int
    scaling_fast_retries: int
    scaling_max_parallel_creates: int
    server_round_robin: bool
    # how
    pool_mode: PoolMode
    sync_server_parameters: bool
    cleanup_server_connections: bool
    server_reset_always: bool
    pin_policy: PinPolicy
    pooler_parameters: bool
    log_client_parameter_status_changes: bool
    # how long
    connect_timeout: float
    idle_timeout: float
    server_lifetime: float
    server_idle_check_timeout: float
    server_login_retry: float
    query_wait_timeout: float
    query_timeout: float
    transaction_timeout: float
    idle_transaction_timeout: float
    client_idle_timeout: float
    cancel_wait_timeout: float
    proxy_copy_data_timeout: float
    # messages and statements
    pooler_check_query: str
    message_size_to_be_stream: int
    max_message_size: int
    prepared_statements: bool
    prepared_statements_cache_size: int
    server_prepared_statements_cache_size: int
    client_anonymous_prepared_cache_size: int
    reparse_live_name: ReparseLiveName

    @property
    def identity(self) -> tuple[str, str]:
        """Which pool this is: (name of the pool, user)."""
        return self.pool, self.username


@dataclass(frozen=True, slots=True)
class Settings:
    """A whole configuration. Two of them are equal if they ask for the same, wherever and however it was written."""

    general: GeneralSettings
    pools: Mapping[str, PoolSettings]
    web: WebSettings
    talos: TalosSettings
    warnings: tuple[str, ...] = field(default=(), compare=False)
    files: tuple[Path, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pools", MappingProxyType(dict(self.pools)))

    def effective(self, pool: PoolSettings, user: UserSettings) -> UserPoolSettings:
        """What holds for `user` in `pool`: the user's own setting, else the pool's, else the general one."""
        general = self.general
        statements = _first(pool.prepared_statements_cache_size, general.prepared_statements_cache_size)
        parameters = merge_parameters(general.startup_parameters, pool.startup_parameters)
        named = next((value for name, value in parameters if name == "application_name"), None)
        application = _first(named, pool.application_name, general.application_name)
        return UserPoolSettings(
            pool=pool.name,
            username=user.username,
            password=user.password,
            server_host=pool.server_host,
            server_port=pool.server_port,
            server_database=pool.database,
            server_username=_first(user.server_username, user.username),
            server_password=user.server_password,
            application_name=application,
            startup_parameters=merge_parameters((("application_name", application),), parameters),
            server_tls=self.server_tls(pool),
            fallback=self._fallback(pool),
            tcp=general.tcp,
            auth_pam_service=user.auth_pam_service,
            pool_size=user.pool_size,
            min_pool_size=user.min_pool_size,
            max_db_connections=pool.max_db_connections,
            reserve_pool_size=pool.reserve_pool_size,
            reserve_pool_timeout=pool.reserve_pool_timeout,
            min_guaranteed_pool_size=pool.min_guaranteed_pool_size,
            min_connection_lifetime=pool.min_connection_lifetime,
            max_user_client_connections=_first(
                user.max_user_client_connections, pool.max_user_client_connections, general.max_user_client_connections
            ),
            max_db_client_connections=_first(pool.max_db_client_connections, general.max_db_client_connections),
            max_concurrent_creates=_first(pool.max_concurrent_creates, general.max_concurrent_creates),
            scaling_warm_pool_ratio=_first(pool.scaling_warm_pool_ratio, general.scaling_warm_pool_ratio),
            scaling_fast_retries=_first(pool.scaling_fast_retries, general.scaling_fast_retries),
            scaling_max_parallel_creates=_first(
                pool.scaling_max_parallel_creates, general.scaling_max_parallel_creates
            ),
            server_round_robin=_first(pool.server_round_robin, general.server_round_robin),
            pool_mode=_first(user.pool_mode, pool.pool_mode, general.pool_mode),
            sync_server_parameters=_first(pool.sync_server_parameters, general.sync_server_parameters),
            cleanup_server_connections=pool.cleanup_server_connections,
            server_reset_always=_first(user.server_reset_always, pool.server_reset_always, general.server_reset_always),
            pin_policy=_first(user.pin_policy, pool.pin_policy, general.pin_policy),
            pooler_parameters=_first(pool.pooler_parameters, general.pooler_parameters),
            log_client_parameter_status_changes=pool.log_client_parameter_status_changes,
            connect_timeout=_first(pool.connect_timeout, general.connect_timeout),
            idle_timeout=_first(user.idle_timeout, pool.idle_timeout, general.idle_timeout),
            server_lifetime=_first(user.server_lifetime, pool.server_lifetime, general.server_lifetime),
            server_idle_check_timeout=_first(pool.server_idle_check_timeout, general.server_idle_check_timeout),
            server_login_retry=_first(pool.server_login_retry, general.server_login_retry),
            query_wait_timeout=_first(user.query_wait_timeout, pool.query_wait_timeout, general.query_wait_timeout),
            query_timeout=_first(user.query_timeout, pool.query_timeout, general.query_timeout),
            transaction_timeout=_first(user.transaction_timeout, pool.transaction_timeout, general.transaction_timeout),
            idle_transaction_timeout=_first(
                user.idle_transaction_timeout, pool.idle_transaction_timeout, general.idle_transaction_timeout
            ),
            client_idle_timeout=_first(user.client_idle_timeout, pool.client_idle_timeout, general.client_idle_timeout),
            cancel_wait_timeout=general.cancel_wait_timeout,
            proxy_copy_data_timeout=general.proxy_copy_data_timeout,
            pooler_check_query=general.pooler_check_query,
            message_size_to_be_stream=general.message_size_to_be_stream,
            max_message_size=general.max_message_size,
            prepared_statements=_first(pool.prepared_statements, general.prepared_statements),
            prepared_statements_cache_size=statements,
            server_prepared_statements_cache_size=_first(
                pool.server_prepared_statements_cache_size, general.server_prepared_statements_cache_size, statements
            ),
            client_anonymous_prepared_cache_size=_first(
                pool.client_anonymous_prepared_cache_size, general.client_anonymous_prepared_cache_size
            ),
            reparse_live_name=_first(user.reparse_live_name, pool.reparse_live_name, general.reparse_live_name),
        )

    def effective_pools(self) -> dict[tuple[str, str], UserPoolSettings]:
        """`effective` for every user in the file, by (name of the pool, user)."""
        resolved = (self.effective(pool, user) for pool in self.pools.values() for user in pool.users)
        return {settings.identity: settings for settings in resolved}

    def server_tls(self, pool: PoolSettings) -> ServerTlsSettings:
        """TLS towards the PostgreSQL of one pool."""
        general = self.general
        # A certificate and its key belong together: a pool that names one does not get the other from general.
        own = pool.server_tls_certificate is not None or pool.server_tls_private_key is not None
        identity = pool if own else general
        files = TlsFiles(
            certificate=identity.server_tls_certificate,
            private_key=identity.server_tls_private_key,
            passphrase=identity.server_tls_private_key_passphrase or Secret(""),
            ca_cert=pool.server_tls_ca_cert or general.server_tls_ca_cert,
            crl=pool.server_tls_crl or general.server_tls_crl,
            minimum=_first(pool.server_tls_min_version, general.server_tls_min_version),
            maximum=pool.server_tls_max_version or general.server_tls_max_version,
            ciphers=pool.server_tls_ciphers or general.server_tls_ciphers,
            cipher_suites=pool.server_tls_cipher_suites or general.server_tls_cipher_suites,
            groups=pool.server_tls_groups or general.server_tls_groups,
        )
        return ServerTlsSettings(_first(pool.server_tls_mode, general.server_tls_mode), files)

    def _fallback(self, pool: PoolSettings) -> FallbackSettings | None:
        general = self.general
        urls = pool.patroni_api_urls or general.patroni_api_urls
        if not urls:
            return None
        cooldown = _first(pool.fallback_cooldown, general.fallback_cooldown)
        return FallbackSettings(
            patroni_api_urls=urls,
            cooldown=cooldown,
            api_timeout=_first(pool.patroni_api_timeout, general.patroni_api_timeout),
            connect_timeout=_first(pool.fallback_connect_timeout, general.fallback_connect_timeout),
            lifetime=_first(pool.fallback_lifetime, general.fallback_lifetime, cooldown),
        )


def merge_parameters(base: Parameters, other: Parameters) -> Parameters:
    """`other` over `base`, by name; names are compared without case, and the later spelling wins."""
    merged = {name.lower(): (name, value) for name, value in base}
    merged |= {name.lower(): (name, value) for name, value in other}
    return tuple(merged.values())


def _addresses(host: str) -> tuple[str, ...]:
    names = [name.strip() for name in host.split(",")]
    return tuple(address for name in names for address in (("0.0.0.0", "::") if name == "*" else (name,)))


def _first[T](*values: T | None) -> T:
    """The first value that is given. The last one always is."""
    return next(value for value in values if value is not None)
