"""How people write durations, sizes and permissions, and how we write them back.

Durations are float seconds, sizes are int bytes. Sizes use powers of 1024, as PostgreSQL's own settings do.
"""

import re

_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_BYTES = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}

_DURATION_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|[smhd])", re.IGNORECASE)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?", re.IGNORECASE)
_MODE = re.compile(r"(?:0[oO])?([0-7]{1,4})")


def parse_duration(text: str, bare_unit: str = "ms") -> float:
    """Seconds in `250ms`, `1.5s`, `10m`, `1h30m`, `7d`, or in a bare integer counted in `bare_unit` (ms or s).

    A compound value names each unit at most once, the larger first, so that a typing error such as `1m1h` is noticed.
    Raises ValueError.
    """
    text = text.strip()
    if text.isdecimal() and text.isascii():
        return int(text) * _SECONDS[bare_unit]
    if not text.isascii():
        raise ValueError("not a duration")
    total, position, last = 0.0, 0, float("inf")
    while position < len(text):
        part = _DURATION_PART.match(text, position)
        if part is None:
            raise ValueError("not a duration")
        unit = _SECONDS[part[2].lower()]
        if unit >= last:
            raise ValueError("units of a duration go from large to small, each once")
        total += float(part[1]) * unit
        position, last = part.end(), unit
    if last == float("inf"):
        raise ValueError("not a duration")
    return total


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads back as the same number of milliseconds: `1h30m`, `250ms`, `0`."""
    left = round(seconds * 1000)
    if left == 0:
        return "0"
    parts = []
    for unit, milliseconds in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, left = divmod(left, milliseconds)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def parse_size(text: str) -> int:
    """Bytes in `64KB`, `1.5GB`, `8k` or a bare integer; units B K M G T with or without B, in powers of 1024.

    A fraction must come out as whole bytes. Raises ValueError.
    """
    match = _SIZE.fullmatch(text.strip()) if text.isascii() else None
    if match is None:
        raise ValueError("not a size")
    number, unit, suffix = match[1], match[2].lower(), (match[3] or "").lower()
    if suffix == "ib" and not unit:
        raise ValueError("not a size")
    if "." not in number:
        return int(number) * _BYTES[unit]
    whole, fraction = number.split(".")
    scaled = int(whole + fraction) * _BYTES[unit]
    scale: int = 10 ** len(fraction)
    count, rest = divmod(scaled, scale)
    if rest and not unit:
        raise ValueError("a size is a whole number of bytes")
    return count


def format_size(count: int) -> str:
    """`1GB`, `64KB`, or plain bytes where no unit divides it."""
    for unit, scale in (("TB", 1024**4), ("GB", 1024**3), ("MB", 1024**2), ("KB", 1024)):
        if count >= scale and count % scale == 0:
            return f"{count // scale}{unit}"
    return str(count)


def parse_mode(text: str) -> int:
    """Permission bits in octal text such as `0600` or `0o660`, at most 0777. Raises ValueError."""
    match = _MODE.fullmatch(text.strip())
    if match is None:
        raise ValueError("not an octal mode")
    mode = int(match[1], 8)
    if mode > 0o777:
        raise ValueError("only the permission bits, up to 0777, may be set")
    return mode


def format_mode(mode: int) -> str:
    """Octal text with a leading zero: `0600`."""
    return f"0{mode:03o}"
