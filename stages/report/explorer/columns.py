"""Arrays and texts as they stand in the page: packed bytes, compressed, in base64; `page/store.js` reads them.

Whole numbers are split into planes, all lowest bytes first, as few planes as the largest number needs: like bytes beside each
other are what deflate shortens. Where neighbours are close, their differences stand there instead, folded to unsigned numbers.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

_EXACT = 2**53  # the page's numbers are doubles


class Columns:
    """The columns of a page.

    Attributes:
        encoded: compressed bytes in base64, by name.
        described: what the page has to know of each column of numbers: [length, planes, whether differences stand there].
    """

    def __init__(self) -> None:
        self.encoded: dict[str, str] = {}
        self.described: dict[str, list[Any]] = {}

    def text(self, name: str, content: str) -> None:
        """Add a text."""
        self._add(name, content.encode())

    def lines(self, name: str, values: Iterable[str | None]) -> None:
        """Add texts, one a line; a line end inside one becomes a blank, None an empty line."""
        self.text(name, "\n".join((value or "").replace("\n", " ").replace("\r", " ") for value in values))

    def integers(self, name: str, values: npt.ArrayLike, *, differences: bool = False) -> None:
        """Add whole numbers from 0 to 2**53 - 1 (differences: between neighbours, the first from 0).

        Raises:
            ValueError: a number is negative or too large for the page.
        """
        numbers = np.asarray(values, np.int64).ravel()
        if numbers.size and not 0 <= int(numbers.min()) <= int(numbers.max()) < _EXACT:
            raise ValueError(f"column {name}: {int(numbers.min())} to {int(numbers.max())} is outside 0 to 2**53 - 1")
        if differences:
            steps = np.diff(numbers, prepend=0)
            numbers = np.where(steps < 0, -2 * steps - 1, 2 * steps)
        planes = max(1, -(-int(numbers.max(initial=0)).bit_length() // 8))
        matrix = numbers.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :planes]
        self.described[name] = [numbers.size, planes, differences]
        self._add(name, np.ascontiguousarray(matrix.T).tobytes())

    def _add(self, name: str, data: bytes) -> None:
        if name in self.encoded:
            raise ValueError(f"column {name} stands there already")
        self.encoded[name] = base64.b64encode(zlib.compress(data, 9)).decode()
