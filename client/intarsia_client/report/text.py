"""Texts that others wrote, made fit to be shown: no page can hold every code point.

What is escaped for HTML is no matter of this file; templates and XML do that themselves.
"""

import unicodedata

KEPT_CONTROLS = "\n\t"
REPLACEMENT = "\ufffd"
TURNS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}
CONTROL_PICTURES, PICTURE_OF_DELETE = 0x2400, "\u2421"
ELLIPSIS = "…"


def printable(text: str) -> str:
    """Control characters as their pictures; as U+FFFD what no document may hold, and what turns
    the direction of what follows, with which one name can be made to look like another."""
    return "".join(map(_printable, text))


def _printable(char: str) -> str:
    code = ord(char)
    if char in KEPT_CONTROLS:
        return char
    if code < 0x20:
        return chr(CONTROL_PICTURES + code)
    if code == 0x7F:
        return PICTURE_OF_DELETE
    is_noncharacter = 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE
    is_unfit = unicodedata.category(char) in ("Cc", "Cs") or is_noncharacter or code in TURNS
    return REPLACEMENT if is_unfit else char


def shortened(name: str, columns: int) -> str:
    """At most `columns` cells of a monospaced font; the middle goes, since versions end names."""
    name = " ".join(printable(name).split())
    if _columns(name) <= columns:
        return name
    tail = _fitting(name[::-1], (columns - 1) // 2)[::-1]
    return _fitting(name, columns - 1 - _columns(tail)) + ELLIPSIS + tail


def _fitting(text: str, columns: int) -> str:
    end, used = 0, 0
    while end < len(text) and (used := used + _columns(text[end])) <= columns:
        end += 1
    return text[:end]


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
