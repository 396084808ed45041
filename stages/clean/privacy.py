"""Masks personal data: e-mail and IP addresses, telephone numbers, Chinese resident identity numbers.

The patterns prefer to miss a number over taking one that is none: a resident number must have a real region, date of birth
and check character, an IP address must be a public one, a telephone number must look as people write them.
Placeholders are parameters; the published ones of Dolma (Soldaini et al. 2024, section 5.3) are the default.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True)
class Masks:
    """The placeholder for each kind; null leaves the kind alone."""

    email: str | None
    resident_id: str | None
    ip: str | None
    phone: str | None


# Boundaries are stated in ASCII: Han characters are word characters to `re`, and Chinese puts no blank before a number.
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+\-/:])(?!git@|\d+(?:\.\d+)*@)[A-Za-z0-9](?:[A-Za-z0-9._%+-]{0,62}[A-Za-z0-9_+-])?"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+(?!(?:png|jpe?g|gif|svg|webp|html?|css|js)\b)[A-Za-z]{2,24}(?![A-Za-z0-9@-])"
    r"|(?<![A-Za-z0-9._%+\-/:])[1-9]\d{4,11}@(?:qq|163|126|139|189)\.com(?![A-Za-z0-9@-])",  # number accounts
    re.IGNORECASE,
)
_RESIDENT = re.compile(r"(?<![0-9A-Za-z])[1-9]\d{16}[\dXx](?![0-9A-Za-z])", re.ASCII)
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\.?\d|[A-Za-z_])", re.ASCII)
_IPV6 = re.compile(r"[23](?<![\w:.].)[0-9a-f]{3}:(?:[0-9a-f]{0,4}:){1,6}[0-9a-f]{0,4}(?![\w:])", re.ASCII | re.IGNORECASE)
_PHONE = re.compile(
    r"(?<![\w.+\-/=])(?:"
    r"(?:\+|00)?86[- ]?1[3-9]\d[- ]?\d{4}[- ]?\d{4}|1[3-9]\d([- ]?)\d{4}\1\d{4}"  # mobile, China
    r"|(?:(?:\+|00)86[- ]?)?[(（]?0(?:10|2[0-57-9]|[3-9]\d{2})(?:[)）] ?|[- ])[2-8]\d{6,7}"  # fixed line, China
    r"|[(][2-9]\d{2}[)][ -]?[2-9]\d{2}[-. ]\d{4}|(?:1[-. ])?[2-9]\d{2}([-.])[2-9]\d{2}\2\d{4}"  # North America
    r"|\+[1-9]\d{0,2}(?:[ .-]?[(]\d{1,4}[)])?(?:[ .-]?\d{2,5}){2,5}"  # international (ITU-T E.164: at most 15 digits)
    r")(?![\w\-/=]|[.:]\d)",
    re.ASCII,
)
_VERSION = re.compile(r"(?:v|ver|version|release|版本|版|第)[\s.:：]*$", re.IGNORECASE)
_LARGEST_VERSION_PART = 20  # a dotted quad without a larger number is taken for a version or a section number
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)  # GB 11643-1999
_CHECKS = "10X98765432"
_PROVINCES = ((11, 15), (21, 23), (31, 37), (41, 46), (50, 54), (61, 65), (71, 71), (81, 82))  # GB/T 2260
# No telephone number, IPv4 address or identity number has fewer characters, nor both fewer digits and fewer dots.
SHORTEST_NUMBER, FEWEST_DIGITS, FEWEST_DOTS = 6, 8, 3
_DIGITS = re.compile(rf"[0-9][0-9\- .()（）:]{{{SHORTEST_NUMBER - 1},}}")
_BEFORE = 8  # characters before a run of digits that a pattern may look at
_DOMAIN = re.compile(r"@[A-Za-z0-9][A-Za-z0-9-]*\.")
_HEXTET = re.compile("[23][0-9A-Fa-f]{3}:[0-9A-Fa-f]{0,4}:")


def mask(text: str, masks: Masks) -> tuple[str, Counter[str]]:
    """`text` with placeholders in place of personal data, and how many of each kind were masked."""
    counts: Counter[str] = Counter()
    if masks.email is not None and _DOMAIN.search(text) is not None:
        text = _replace(text, _EMAIL, "email", masks.email, counts, lambda match: True)
    runs = _digit_runs(text)
    for kind, pattern, shortest, holds in _NUMBERS:
        token = getattr(masks, kind)
        if token is not None and any(pattern.search(text, *run) for run in runs if run[1] - run[0] >= shortest):
            text = _replace(text, pattern, kind, token, counts, holds)
            runs = _digit_runs(text)
    if masks.ip is not None and _HEXTET.search(text) is not None:
        text = _replace(text, _IPV6, "ip", masks.ip, counts, _is_public_ipv6)
    return text, counts


def _digit_runs(text: str) -> list[tuple[int, int]]:
    """Where a number may stand, with what may come before its first digit and behind it: patterns are tried there alone."""
    return [(max(0, run.start() - _BEFORE), run.end() + 1) for run in _DIGITS.finditer(text)]


def _replace(
    text: str, pattern: re.Pattern[str], kind: str, token: str, counts: Counter[str], holds: Callable[[re.Match[str]], bool]
) -> str:
    def decide(match: re.Match[str]) -> str:
        if not holds(match):
            return match[0]
        counts[kind] += 1
        return token

    return pattern.sub(decide, text)


def _is_resident_id(match: re.Match[str]) -> bool:
    """Region, date of birth, and the check character of ISO 7064 MOD 11-2."""
    number = match[0].upper()
    try:
        date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    check = _CHECKS[sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, number, strict=False)) % 11]
    return (
        any(first <= int(number[:2]) <= last for first, last in _PROVINCES)
        and "1850" <= number[6:10] < "2100"
        and number[17] == check
    )


def _is_public_ipv4(match: re.Match[str]) -> bool:
    parts = match[0].split(".")
    if any((len(part) > 1 and part[0] == "0") or int(part) > 255 for part in parts):
        return False
    before = match.string[max(0, match.start() - 12) : match.start()]
    if max(map(int, parts)) <= _LARGEST_VERSION_PART or _VERSION.search(before):
        return False
    address = ipaddress.IPv4Address(match[0])
    return address.is_global and not address.is_multicast


def _is_public_ipv6(match: re.Match[str]) -> bool:
    try:
        return ipaddress.IPv6Address(match[0]).is_global
    except ipaddress.AddressValueError:
        return False


def _is_phone(match: re.Match[str]) -> bool:
    digits = sum(map(str.isdigit, match[0]))
    return digits >= 10 or (digits >= 8 and match[0][0] in "+(（0")


# Kind, pattern, the fewest characters of its digits and what parts them, and what a match has to be besides.
_NUMBERS: tuple[tuple[str, re.Pattern[str], int, Callable[[re.Match[str]], bool]], ...] = (
    ("resident_id", _RESIDENT, 17, _is_resident_id),
    ("ip", _IPV4, 7, _is_public_ipv4),
    ("phone", _PHONE, FEWEST_DIGITS, _is_phone),
)
