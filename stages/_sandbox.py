"""The undeclared-input detector: a stage may read, inside the project, only what `dvc.yaml` declares for it.

Two nets. A Python audit hook sees every `open` made by Python code and names the file. Code in C++ (Arrow, SentencePiece,
DuckDB) never passes the hook, so where the kernel offers Landlock (Linux >= 5.13) the process also gives up the
right to read anything else in the project: such an open fails with "permission denied", and `explain` names the file.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
import sys
from pathlib import Path

_READ_FILE, _REFER = 1 << 2, 1 << 13
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38
_ALWAYS = (".cache", ".venv", ".git", ".dvc", "params.yaml", "dvc.yaml", "dvc.lock", "pyproject.toml", "runner.yaml")


class UndeclaredInputError(PermissionError):
    """The stage opened a project file that is not among its `deps`."""

    def __init__(self, stage: str, path: str) -> None:
        super().__init__(
            f"stage {stage}: opened {path}, which dvc.yaml does not declare. "
            f"Remedy: add it to stages.{stage}.deps, or do not read it."
        )
        self.path = path


class Sandbox:
    """Limits reads of this process to `allowed` paths inside `root`; paths outside the project stay free."""

    def __init__(self, stage: str, root: Path, allowed: list[Path]) -> None:
        self.stage = stage
        self.root = root.resolve()
        self.allowed = [Path(os.path.normpath(self.root / path)) for path in [*allowed, *map(Path, _ALWAYS)]]

    def permits(self, path: str) -> bool:
        """Whether a read of `path` is outside the project or declared."""
        absolute = os.path.normpath(os.path.join(os.getcwd(), path))
        if "__pycache__" in absolute or not _beneath(absolute, str(self.root)):
            return True
        return any(_beneath(absolute, str(entry)) for entry in self.allowed)

    def enter(self) -> None:
        """Switch both nets on, Landlock for the rest of the process's life and its children's."""
        self.watch()
        if sys.platform == "linux":
            self._landlock()

    def watch(self) -> None:
        """Switch the audit hook on alone, in place of an earlier sandbox's; for workers that serve one stage after another."""
        global _watching  # noqa: PLW0603 (an audit hook cannot be taken off, so one hook serves whoever is set here)
        if _watching is None:
            sys.addaudithook(_hook)
        _watching = self

    def explain(self, error: OSError) -> UndeclaredInputError | None:
        """The undeclared file behind a 'permission denied' that native code raised, if it is one."""
        if isinstance(error, UndeclaredInputError):
            return error
        names = [str(error.filename)] if error.filename else re.findall(r"['\"]([^'\"]+)['\"]", str(error))
        for name in names:
            if "ermission denied" in str(error) and not self.permits(name):
                return UndeclaredInputError(self.stage, os.path.relpath(name, self.root))
        return None

    def check(self, path: str) -> None:
        """Refuse an undeclared file.

        Raises:
            UndeclaredInputError: `path` is a file of the project that the stage does not declare.
        """
        if not self.permits(path) and os.path.isfile(path):
            raise UndeclaredInputError(self.stage, os.path.relpath(path, self.root))

    def _landlock(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(_CREATE_RULESET, None, 0, 1) < 2:  # version asked for; without it the audit hook stands alone
            return
        try:
            readable = self._readable()
        except OSError:  # a parent folder that may not be listed: its other children could not be kept open
            return
        attributes = struct.pack("Q", _READ_FILE | _REFER)
        ruleset = libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0)
        if ruleset < 0:
            return
        try:
            _allow(libc, ruleset, Path("/"), _REFER)  # else every rename between folders would be refused
            for path in readable:
                _allow(libc, ruleset, path, _READ_FILE)
            if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
                libc.syscall(_RESTRICT_SELF, ruleset, 0)
        finally:
            os.close(ruleset)

    def _readable(self) -> list[Path]:
        """Everything but the project (a rule only adds rights, so: the siblings of each ancestor), and what is declared."""
        paths = [path for path in self.allowed if path.exists()]
        below = self.root
        for parent in self.root.parents:
            paths += [entry for entry in parent.iterdir() if entry != below and not entry.is_symlink()]  # it may lead back in
            below = parent
        return paths


_watching: Sandbox | None = None


def _hook(event: str, args: tuple[object, ...]) -> None:
    if event == "open" and _watching is not None and isinstance(args[0], (str, bytes)):
        _watching.check(os.fsdecode(args[0]))


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # a dangling link or a file that has just gone: nothing there to read
        return
    try:
        rule = struct.pack("=Qi", access, descriptor)
        libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)


def _beneath(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
