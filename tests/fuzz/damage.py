"""Random damage to valid files and values, from a seeded generator."""

import json
from random import Random
from typing import Any

NUMBERS = (0, -1, 1, 7, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63, 2**64, 10**30)
VALUES: tuple[Any, ...] = (
    *(*NUMBERS, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), None, True, [], {}),
    *("", "x", "../../x", "\x1b[2J", "\ud800", "a" * 100_000, [[[[[]]]]], {"a": 1}, ["a", 1]),
)
"""Values that take the place of others: extremes, other types, and hostile texts."""


def damaged_bytes(random: Random, content: bytes) -> bytes:
    """Returns `content` with up to four changes: bits, numbers, cuts, copies and insertions."""
    data = bytearray(content)
    for _ in range(random.randint(1, 4)):
        start = _position(random, len(data))
        end = start + random.choice((1, 2, 4, 8, random.randint(0, 1 + len(data) // 4)))
        kind = random.randrange(6)
        if kind == 0 and data:
            data[start % len(data)] ^= 1 << random.randrange(8)
        elif kind == 1:
            del data[start:]
        elif kind == 2:
            del data[start:end]
        elif kind == 3:
            data[start:start] = data[start:end]
        elif kind == 4:
            number = random.choice(NUMBERS) % 2**64
            size = random.choice((1, 2, 4, 8))
            order = random.choice(("little", "big"))
            data[start : start + size] = (number % 256**size).to_bytes(size, order)
        else:
            data[start:start] = random.randbytes(random.randint(1, 16))
    return bytes(data)


def _position(random: Random, size: int) -> int:
    """Returns a position, in half of all cases among the first 64 bytes, where headers are."""
    return random.randint(0, min(size, 64) if random.random() < 0.5 else size)


def damaged_json(random: Random, content: bytes) -> bytes:
    """Returns a JSON document with one value replaced, removed, renamed or nested deeply.

    In one of four cases its text is damaged as bytes.
    """
    if random.random() < 0.25:
        return damaged_bytes(random, content)
    document = json.loads(content)
    deep = random.random() < 0.05
    document = damaged_value(random, document, "DEEP" if deep else random.choice(VALUES))
    text = json.dumps(document)
    return text.replace('"DEEP"', "[" * 100_000 + "]" * 100_000).encode()


def damaged_value(random: Random, tree: Any, value: Any) -> Any:
    """Returns a copy of nested dictionaries and lists with `value` in the place of one part."""
    parts = (
        list(tree.items() if isinstance(tree, dict) else enumerate(tree)) if _inner(tree) else []
    )
    if not parts or random.random() < 0.1:
        return value
    key, part = random.choice(parts)
    changed = dict(parts)
    if random.random() < 0.1:
        del changed[key]
    elif random.random() < 0.1 and isinstance(tree, dict):
        changed[random.choice(("x", "\x1b[2J", "", "a.b", "\ud800"))] = changed.pop(key)
    else:
        changed[key] = damaged_value(random, part, value)
    return changed if isinstance(tree, dict) else list(changed.values())


def _inner(tree: Any) -> bool:
    return isinstance(tree, dict | list)
