"""What a stage says when it cannot go on."""

from __future__ import annotations

from pathlib import Path


class StageError(Exception):
    """Bad input or a bad environment: names the stage, the file, the row and what to do about it."""

    def __init__(self, message: str, *, file: str | Path | None = None, row: object = None, remedy: str = "") -> None:
        place = f" (file {file}" + (f", row {row})" if row is not None else ")") if file is not None else ""
        super().__init__(message + place + (f". Remedy: {remedy}" if remedy else ""))


def damaged(error: Exception, file: str | Path, remedy: str = "run `dvc repro`, which makes it anew") -> Exception:
    """What to raise where Arrow cannot read a file; what the system or the sandbox refuses stays what it is."""
    if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
        return error
    return StageError(f"damaged or cut short: {error}", file=file, remedy=remedy)
