"""What a stage says when it cannot go on."""

from __future__ import annotations

from pathlib import Path


class StageError(Exception):
    """Bad input or a bad environment: names the stage, the file, the row and what to do about it."""

    def __init__(self, message: str, *, file: str | Path | None = None, row: object = None, remedy: str = "") -> None:
        place = f" (file {file}" + (f", row {row})" if row is not None else ")") if file is not None else ""
        super().__init__(message + place + (f". Remedy: {remedy}" if remedy else ""))
