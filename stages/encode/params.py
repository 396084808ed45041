"""Section `encode` of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from stages._params import Range


@dataclass(frozen=True)
class Params:
    """Section `encode` of params.yaml.

    Attributes:
        shard_bytes: of text that go into a shard, at most, or one row group: a token takes 3 to 5 of them.
    """

    shard_bytes: Annotated[int, Range(2**20, 2**40)]
