"""Tokens (JWT, RFC 7519) in place of passwords: judged with public keys, and minted with a private one.

All of this reads files and computes signatures, so it is called from an `Offload` only, and imported there, with the
libraries behind it: most houses never see a token.

A key decides which signature algorithm goes with it, never the token: a token that names another one, or none, is
refused. So is a token without an expiry.
"""

import json
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from pgdoorman.auth.tokens import (
    DEFAULT_CLAIM,
    PublicKey,
    TalosGrant,
    TalosRules,
    TokenKeys,
    TokenRefused,
    TokenRules,
)
from pgdoorman.errors import ConfigError

MINTED_LIFETIME: Final = 120
"""Seconds for which a token that we made for a server is good."""

_MAX_KEY_FILE: Final = 1 << 20
_MAX_KEYS: Final = 1_000
_SUFFIXES: Final = frozenset({".pem", ".pub", ".crt", ".key"})


def load_keys(path: str) -> tuple[PublicKey, ...]:
    """Read the public keys at a path. Raises ConfigError."""
    place = Path(path)
    try:
        if not place.is_dir():
            return _keys_of_file(place, _read_bounded(place), "")
        files = sorted(entry for entry in place.iterdir() if entry.suffix in _SUFFIXES)
        keys = [key for file in files for key in _keys_of_file(file, _read_bounded(file), file.stem)]
    except OSError as error:
        raise ConfigError(f"could not read the token key: {error.strerror or error}", file=path) from None
    if not keys:
        raise ConfigError("there is no token key in this directory", file=path)
    return tuple(keys)


def _read_bounded(file: Path) -> bytes:
    with file.open("rb") as stream:
        data = stream.read(_MAX_KEY_FILE + 1)
    if len(data) > _MAX_KEY_FILE:
        raise OSError("the file is too large")
    return data


def _keys_of_file(file: Path, data: bytes, key_id: str) -> tuple[PublicKey, ...]:
    try:
        if data.lstrip().startswith(b"{"):
            return _keys_of_jwks(json.loads(data))
        return (_public_key(_load_pem(data), key_id),)
    except (ValueError, TypeError, KeyError, RecursionError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"not a public key that can be used: {error}", file=str(file)) from None


def _load_pem(data: bytes) -> Any:
    if b"BEGIN CERTIFICATE" in data:
        return x509.load_pem_x509_certificate(data).public_key()
    return load_pem_public_key(data)


def _keys_of_jwks(document: Any) -> tuple[PublicKey, ...]:
    entries = document.get("keys", [document])
    if not isinstance(entries, list) or len(entries) > _MAX_KEYS:
        raise ValueError("the key set has no list of keys, or too many")
    keys: list[PublicKey] = []
    for entry in entries:
        # A set may hold keys for other purposes and of kinds that we do not use; a symmetric one is never used.
        if (
            not isinstance(entry, dict)
            or entry.get("use", "sig") != "sig"
            or entry.get("kty") not in ("RSA", "EC", "OKP")
        ):
            continue
        try:
            key = jwt.PyJWK(entry, algorithm=entry.get("alg")).key
            keys.append(_public_key(key, str(entry.get("kid", ""))))
        except (jwt.PyJWTError, ValueError):
            continue
    if not keys:
        raise ValueError("the key set has no key that can be used")
    return tuple(keys)


def _public_key(key: Any, key_id: str) -> PublicKey:
    match key:
        case rsa.RSAPublicKey() if key.key_size >= 2048:
            return PublicKey(key_id, ("RS256", "RS384", "RS512"), key)
        case ec.EllipticCurvePublicKey() if isinstance(key.curve, ec.SECP256R1):
            return PublicKey(key_id, ("ES256",), key)
        case ed25519.Ed25519PublicKey():
            return PublicKey(key_id, ("EdDSA",), key)
    raise ValueError("RSA of at least 2048 bits, P-256 or Ed25519 expected")


# Judging.


def judge_token(token: bytes, rules: TokenRules, keys: TokenKeys) -> str:
    """The user that a token is for. Raises TokenRefused; that the keys cannot be read refuses every token."""
    try:
        usable = keys.at(rules.keys, load_keys)
    except ConfigError as error:
        raise TokenRefused(str(error)) from None
    return token_user(verify_token(token, usable, rules), rules.claim)


def verify_token(
    token: bytes, keys: Iterable[PublicKey], rules: TokenRules, now: float | None = None
) -> Mapping[str, Any]:
    """The claims of a token. `now` is in seconds since 1970, by default the clock's. Raises TokenRefused."""
    now = time.time() if now is None else now
    try:
        text = token.decode("ascii")
        header = jwt.get_unverified_header(text)
        key = _choose(keys, header)
        claims = jwt.decode(
            text,
            key.key,
            algorithms=list(key.algorithms),
            # Times and names are judged below, by a clock that tests can set.
            options={
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
                "verify_aud": False,
                "verify_iss": False,
                "verify_sub": False,
                "verify_jti": False,
            },
        )
    except UnicodeDecodeError:
        raise TokenRefused("the token is not text") from None
    except jwt.InvalidSignatureError:
        raise TokenRefused("the signature of the token is wrong") from None
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        raise TokenRefused(f"the token is malformed ({type(error).__name__})") from None
    _check_times(claims, now, rules.leeway)
    _check_names(claims, rules)
    return claims


def _choose(keys: Iterable[PublicKey], header: Mapping[str, Any]) -> PublicKey:
    """The key that a token names, or the only one that can be meant. Its algorithm must be one of the key's own."""
    key_id, algorithm = header.get("kid"), header.get("alg")
    usable = [key for key in keys if algorithm in key.algorithms]
    named = [key for key in usable if key.key_id == key_id]
    nameless = [key for key in usable if not key.key_id]
    for candidates in (named, nameless, usable if key_id is None else []):
        if len(candidates) == 1:
            return candidates[0]
    raise TokenRefused("no key goes with the token's key id and algorithm")


def _check_times(claims: Mapping[str, Any], now: float, leeway: float) -> None:
    expires = _time(claims, "exp")
    if expires is None:
        raise TokenRefused("the token has no expiry")
    if expires <= now - leeway:
        raise TokenRefused("the token has expired")
    begins = _time(claims, "nbf")
    if begins is not None and begins > now + leeway:
        raise TokenRefused("the token is not valid yet")


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TokenRefused(f'the token\'s "{name}" is not a time')
    return float(value)


def _check_names(claims: Mapping[str, Any], rules: TokenRules) -> None:
    if rules.issuer and claims.get("iss") != rules.issuer:
        raise TokenRefused("the token is from another issuer")
    audience = claims.get("aud", [])
    named = audience if isinstance(audience, list) else [audience]
    if rules.audiences and not any(wanted in named for wanted in rules.audiences):
        raise TokenRefused("the token is for another audience")
    granted = claims.get("scope", claims.get("scp", ()))
    scopes = granted.split() if isinstance(granted, str) else granted
    if rules.scopes and not (isinstance(scopes, list) and set(rules.scopes) <= {str(scope) for scope in scopes}):
        raise TokenRefused("the token lacks a scope")


def token_user(claims: Mapping[str, Any], claim: str) -> str:
    """The user that a token is for; `claim` may be a path ("realm.name"). Raises TokenRefused if it names none."""
    value: Any = claims.get(claim)
    if value is None:
        value = claims
        for part in claim.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    if not isinstance(value, str) or not value:
        raise TokenRefused(f'the token has no "{claim}"')
    return value


def talos_role(claims: Mapping[str, Any], databases: Iterable[str]) -> tuple[str, str] | None:
    """The database and the strongest role that `resource_access` grants in one of these databases: its keys end in
    ":DATABASE" and its roles are owner, read_write, read_only. None if it grants none."""
    access = claims.get("resource_access")
    if not isinstance(access, Mapping):
        return None
    wanted = set(databases)
    for role in ("owner", "read_write", "read_only"):
        for resource, grant in access.items():
            database = str(resource).rpartition(":")[2]
            roles = grant.get("roles") if isinstance(grant, Mapping) else None
            if ":" in str(resource) and database in wanted and isinstance(roles, list) and role in roles:
                return database, role
    return None


def load_talos_key(path: str) -> tuple[PublicKey, ...]:
    """The RSA key in a file called by its id. Raises ConfigError."""
    place = Path(path)
    try:
        keys = _keys_of_file(place, _read_bounded(place), place.stem)
    except OSError as error:
        raise ConfigError(f"could not read the token key: {error.strerror or error}", file=path) from None
    if not isinstance(keys[0].key, rsa.RSAPublicKey):
        raise ConfigError("not an RSA public key", file=path)
    return keys


def judge_talos(token: bytes, rules: TalosRules, database: str, keys: TokenKeys) -> TalosGrant:
    """The role that a token grants in the database asked for, and whose token it is. Raises TokenRefused."""
    usable: list[PublicKey] = []
    for path in rules.keys:
        try:
            usable += keys.at(path, load_talos_key)
        except ConfigError as error:
            raise TokenRefused(str(error)) from None
    claims = verify_token(token, usable, TokenRules(""))
    granted = talos_role(claims, rules.names.get(database, frozenset()))
    if granted is None:
        raise TokenRefused("the token grants no role in this database")
    client = claims.get("clientId")
    return TalosGrant(granted[1], client if isinstance(client, str) else "")


# Minting.


def load_private_key(path: str) -> rsa.RSAPrivateKey:
    """The key with which tokens are signed. Raises ConfigError."""
    key: object = None
    try:
        key = load_pem_private_key(_read_bounded(Path(path)), password=None)
    except OSError as error:
        raise ConfigError(f"could not read the token key: {error.strerror or error}", file=path) from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        pass
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ConfigError("not an RSA private key in PEM form without a passphrase", file=path)
    return key


def mint_token(key_path: str, user: str, claim: str = DEFAULT_CLAIM, now: float | None = None) -> bytes:
    """A token that says that we are `user`, good for two minutes, signed RS256 with the private key in this PEM file:
    the password of a backend whose setting is jwt-priv-key-fpath. Raises ConfigError."""
    issued = int(time.time() if now is None else now)
    key = load_private_key(key_path)
    claims = {claim: user, "iat": issued, "nbf": issued, "exp": issued + MINTED_LIFETIME}
    return jwt.encode(claims, key, algorithm="RS256").encode()
