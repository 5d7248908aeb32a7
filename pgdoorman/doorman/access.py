"""Who may come in, as the settings say it: rules, user-name maps, and the files of keys that they name.

What a log-in could only trip over is found here, when the file is read: rules that mean nothing, maps that nobody has
written, keys that cannot be read.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pgdoorman.auth.hba import HbaRules, Method, allow_all, parse_hba, rules_from_networks
from pgdoorman.auth.ident import NO_MAPS, IdentMaps, parse_ident
from pgdoorman.auth.pam import is_installed as has_pam
from pgdoorman.auth.tokens import PRIVATE_KEY_PREFIX, PUBLIC_KEY_PREFIX, TalosRules
from pgdoorman.config.settings import GeneralSettings, PoolSettings, Settings
from pgdoorman.errors import ConfigError, ConfigErrors


@dataclass(frozen=True, slots=True)
class Access:
    """The rules by which clients are let in."""

    rules: HbaRules
    ident_maps: IdentMaps
    talos: TalosRules | None = None


def read_access(settings: Settings) -> Access:
    """What the settings mean, all files read. Raises ConfigErrors with everything that cannot be used, in the order in
    which it stands in the files."""
    errors: list[ConfigError] = []
    rules = _attempt(lambda: rules_of(settings.general), errors) or HbaRules(())
    maps = _attempt(lambda: maps_of(settings.general), errors) or NO_MAPS
    if not errors:
        errors += _unknown_maps(rules, maps)
    errors += _unusable_files(rules, settings.pools.values())
    errors += _unusable_talos_keys(settings)
    if errors:
        raise ConfigErrors(sorted(errors, key=lambda error: (not error.file, error.file, error.line)))
    return Access(rules, maps, talos_of(settings))


def _attempt[T](read: Callable[[], T], errors: list[ConfigError]) -> T | None:
    try:
        return read()
    except ConfigErrors as found:
        errors += found.errors
        return None


def rules_of(general: GeneralSettings) -> HbaRules:
    """The host-based rules that the settings mean. Raises ConfigErrors."""
    text = general.pg_hba
    if text is not None:
        return parse_hba(text.text, text.file, first_line=text.first_line)
    if general.hba:
        return rules_from_networks([str(network) for network in general.hba])
    return allow_all()


def maps_of(general: GeneralSettings) -> IdentMaps:
    """The user-name maps that the settings mean. Raises ConfigErrors."""
    text = general.pg_ident
    return NO_MAPS if text is None else parse_ident(text.text, text.file, first_line=text.first_line)


def talos_of(settings: Settings) -> TalosRules | None:
    """Role tokens; None if none are accepted. A token may call a database as clients do or as the server does."""
    if not settings.talos.keys:
        return None
    known = frozenset(settings.talos.databases)
    names = {pool.name: known & {pool.name, pool.database} for pool in settings.pools.values()}
    return TalosRules(tuple(map(str, settings.talos.keys)), names)


def _unusable_talos_keys(settings: Settings) -> Iterator[ConfigError]:
    if not settings.talos.keys:
        return
    from pgdoorman.auth import jwt  # noqa: PLC0415 - heavy, and most houses have no tokens

    for path in settings.talos.keys:
        try:
            jwt.load_talos_key(str(path))
        except ConfigError as error:
            yield ConfigError(str(error), key="talos.keys")


def _unknown_maps(rules: HbaRules, maps: IdentMaps) -> Iterator[ConfigError]:
    for rule in rules.rules:
        if rule.map and rule.map not in maps.names:
            message = f'there is no user-name map "{rule.map}" in pg_ident'
            yield ConfigError(message, file=rule.file, line=rule.line)


def _unusable_files(rules: HbaRules, pools: Iterable[PoolSettings]) -> Iterator[ConfigError]:
    for rule in rules.rules:
        if rule.method in (Method.JWT, Method.OAUTH):
            path = rule.options.get("key") or rule.options.get("jwks", "")
            yield from _unusable_key(path, private=False, place=ConfigError("", file=rule.file, line=rule.line))
        if rule.method is Method.PAM and not has_pam():
            yield ConfigError("libpam is not installed", file=rule.file, line=rule.line)
    for pool in pools:
        for key, text in _secrets_of(pool):
            place = ConfigError("", key=f"pools.{pool.name}.{key}")
            if text.startswith(PUBLIC_KEY_PREFIX):
                yield from _unusable_key(text.removeprefix(PUBLIC_KEY_PREFIX), private=False, place=place)
            if text.startswith(PRIVATE_KEY_PREFIX):
                yield from _unusable_key(text.removeprefix(PRIVATE_KEY_PREFIX), private=True, place=place)
        for user in pool.users:
            if user.auth_pam_service is not None and not has_pam():
                key = f"pools.{pool.name}.users.{user.username}.auth_pam_service"
                yield ConfigError("libpam is not installed", key=key)


def _secrets_of(pool: PoolSettings) -> Iterator[tuple[str, str]]:
    for user in pool.users:
        yield f"users.{user.username}.password", user.password.reveal()
        if user.server_password is not None:
            yield f"users.{user.username}.server_password", user.server_password.reveal()
    query = pool.auth_query
    if query is not None:
        yield "auth_query.password", query.password.reveal()
        if query.server_password is not None:
            yield "auth_query.server_password", query.server_password.reveal()


def _unusable_key(path: str, *, private: bool, place: ConfigError) -> Iterator[ConfigError]:
    from pgdoorman.auth import jwt  # noqa: PLC0415 - heavy, and most houses have no tokens

    try:
        if private:
            jwt.load_private_key(path)
        else:
            jwt.load_keys(path)
    except ConfigError as error:
        yield ConfigError(str(error), file=place.file, line=place.line, key=place.key)
