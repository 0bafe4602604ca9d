"""Damage to files, drawn from a seed: the same seed damages alike on every machine."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Sequence
from typing import Any

_NUMBERS = (0, 1, -1, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1)

_TOKENS = (
    b"", b"\0", b"\xff", b"\xfe\xff", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b'""', b"'", b",", b"\t", b";", b"|",
    b"::", b" ", b"\n", b"\r", b"\r\n", b"\n\n", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"\\ud800", b"\x1f", b"\x1c",
    b"{", b"}", b"[", b"]", b"[" * 400, b'{"a":' * 400, b"(", b")", b":", b"u'", b"-", b"+", b".", b"#", b"=",
    b"nan", b"NaN", b"inf", b"-Infinity", b"1e999", b"-1", b"0", b"007", b"1_000", b"0x10", b"9" * 19, b"9" * 40,
    b"9" * 5000, b"99999999999999999999.5", b"null", b"None", b"true", b"__import__('os')", b"../", b"/",
    b"2024-02-31", b"0001-01-01T00:00+23:59", b"31.12.9999", b"9999-12-31T23:59:59.999999-23:59",
    b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\0", b"\x93NUMPY", b"PAR1",
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF", b"II*\0", b"MM\0*", b"BM", b"<html>", b"%PDF",
    b"|O", b"<f8", b"<i8", b"<U9", b"(2**63,)", b"(9223372036854775807, 2)", b"F64", b"I64", b"U8", b"BOOL",
)  # fmt: skip
"""What parsers trip over: marks, quotes, numbers at the edge, first bytes of other formats."""


def mutate(seed_files: Sequence[bytes], rng: random.Random, longest: int = 1 << 17) -> bytes:
    """Take one of some files and damage it in one to six places."""
    data = bytearray(rng.choice(seed_files))
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        rng.choice(_DAMAGES)(data, rng, seed_files)
    return bytes(data[:longest])


def mutate_json(seed_files: Sequence[bytes], rng: random.Random) -> bytes:
    """Take one of some JSON files and change values in it; every other file is damaged as bytes instead."""
    if rng.random() < 0.5:
        return mutate(seed_files, rng)
    value = json.loads(rng.choice(seed_files))
    for _ in range(rng.choice((1, 1, 2, 4))):
        holder, key = rng.choice(list(_places(value)))
        if rng.random() < 0.2:
            del holder[key]
        else:
            holder[key] = rng.choice(_VALUES)
        if not value:
            break
    return json.dumps(value).encode()


_VALUES = (
    None,
    True,
    0,
    -1,
    1.5,
    float("nan"),
    2**63,
    10**30,
    "",
    "x",
    "../../x",
    "/etc/passwd",
    "a\0b",
    [],
    [1],
    {},
    {"a": 1},
)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """List every place in nested lists and objects: what holds it, and its key there."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in ((value, key), *_places(value[key]))]


def _place(data: bytearray, rng: random.Random) -> int:
    return rng.randrange(len(data) + 1)


def _flip_a_bit(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set_a_byte(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _cut_off(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    del data[_place(data, rng) :]


def _take_out(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    start = _place(data, rng)
    del data[start : start + rng.choice((1, 2, 4, 8, 64, 512))]


def _repeat(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    start = _place(data, rng)
    part = bytes(data[start : start + rng.choice((1, 4, 16, 128))])
    data[start:start] = part * rng.choice((1, 2, 50))


def _splice(data: bytearray, rng: random.Random, seed_files: Sequence[bytes]) -> None:
    other = rng.choice(seed_files)
    start = rng.randrange(len(other) + 1)
    data[_place(data, rng) :] = other[start:]


def _write_a_token(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    start, token = _place(data, rng), rng.choice(_TOKENS)
    data[start : start + rng.choice((0, 0, 1, len(token)))] = token


def _write_a_number(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    """Put a length or a count that cannot be in the place of what may be one."""
    number = rng.choice(_NUMBERS)
    if rng.random() < 0.3:
        packed = str(number).encode()
    else:
        packed = struct.pack(rng.choice("<>") + "q", number)
        width = rng.choice((1, 2, 4, 8))
        packed = packed[:width] if rng.random() < 0.5 else packed[-width:]
    start = _place(data, rng)
    data[start : start + len(packed)] = packed


_DAMAGES = (
    _flip_a_bit, _flip_a_bit, _set_a_byte, _cut_off, _take_out, _repeat, _splice,
    _write_a_token, _write_a_token, _write_a_number,
)  # fmt: skip
