"""Nothing secret on the screen: a second look at values whose owners should not have handed a secret out at all."""

import re
from typing import Final

MASK: Final = "********"

_SECRET_KEY: Final = re.compile(r"passw|passphrase|secret|token(?!s)|credential|api_?key", re.IGNORECASE)
_NO_SECRET: Final = ("_file", "_path", "_type", "_method", "_ttl", "_query")

# A password in SQL text (CREATE ROLE ... PASSWORD '...', with E, U& and dollar quotes) and in a connection string. Each
# alternative begins with a literal and every repetition is over a negated class, so matching is linear.
_PASSWORD_LITERAL: Final = re.compile(
    r"""(\bpassword\s+)(?:[eEnN]|[uU]&)?(?:'(?:[^'\\]|''|\\.)*'?|(\$\w*\$).*?(?:\2|\Z))""", re.IGNORECASE | re.DOTALL
)
_PASSWORD_PAIR: Final = re.compile(
    r"""(\bpassword\s*=\s*)(?:'(?:[^'\\]|''|\\.)*'?|[^\s'&]+)""", re.IGNORECASE | re.DOTALL
)
_VERIFIER: Final = re.compile(r"SCRAM-SHA-256\$[^\s'\"]+|\bmd5[0-9a-f]{32}\b")
_PRIVATE_KEY: Final = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?:-----END|\Z)", re.DOTALL)
_URL_PASSWORD: Final = re.compile(r"(\w://[^\s:/@]*:)[^\s@/]+(?=@)")


def is_secret_key(key: str) -> bool:
    """Whether a setting of this name holds a secret. Names of files and of methods do not."""
    name = key.rsplit(".", 1)[-1]
    return bool(_SECRET_KEY.search(name)) and not name.endswith(_NO_SECRET)


def masked_value(key: str, value: str | None) -> str | None:
    """The value of a setting as it may be shown. What is unset or empty is shown as that: it hides nothing."""
    if value and is_secret_key(key):
        return MASK
    return None if value is None else masked_text(value)


def masked_text(text: str) -> str:
    """A text (SQL, a connection string, a message) with passwords, verifiers and private keys struck out."""
    text = _PASSWORD_LITERAL.sub(rf"\1'{MASK}'", text)
    text = _PASSWORD_PAIR.sub(rf"\1{MASK}", text)
    text = _VERIFIER.sub(MASK, text)
    text = _PRIVATE_KEY.sub(rf"\1{MASK}", text)
    return _URL_PASSWORD.sub(rf"\1{MASK}", text)
