"""Made-up texts whose resemblance a test decides."""

from __future__ import annotations

import random
from collections.abc import Sequence


def words(seed: int, count: int = 200) -> list[str]:
    """Made-up words; other seeds give others."""
    generator = random.Random(seed)
    return ["".join(generator.choices("abcdefghij", k=6)) for _ in range(count)]


def han(seed: int, count: int = 200) -> list[str]:
    """Han characters."""
    generator = random.Random(seed)
    return [chr(0x4E00 + generator.randrange(3000)) for _ in range(count)]


def edited(units: Sequence[str], generator: random.Random, edits: int) -> list[str]:
    """The units with some of them replaced by others of their kind."""
    changed = list(units)
    for place in generator.sample(range(len(changed)), edits):
        changed[place] = generator.choice(units) if len(units[0]) == 1 else f"edit{generator.randrange(10**6)}"
    return changed
