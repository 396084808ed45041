from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from pipelines.children import Children, StoppedError
from tests.support.processes import running

# Starts a worker, as a stage does, says its number, and goes on.
SLEEP = "[sys.executable, '-c', 'import time; time.sleep(60)']"
PARENT = f"import subprocess, sys; w = subprocess.Popen({SLEEP}, stdout=-3, stderr=-3); print(w.pid, flush=True)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def python(children: Children, code: str, lines: list[str], timeout: float | None = None):
    return children.run([sys.executable, "-c", code], Path.cwd(), os.environ, lines.append, timeout)


def test_lines_status_and_tail() -> None:
    lines: list[str] = []
    code = (
        "import sys; print('out', flush=True); print('b\\u00e4d', file=sys.stderr); [print(n) for n in range(99)]; sys.exit(3)"
    )
    ended = python(Children(1), code, lines)
    assert (ended.status, ended.timed_out) == (3, False)
    assert lines[:3] == ["out", "bäd", "0"]
    assert ended.tail == tuple(str(n) for n in range(59, 99))


def test_a_timeout_ends_the_whole_group() -> None:
    lines: list[str] = []
    ended = python(Children(1), f"{PARENT}; w.wait()", lines, timeout=2)
    assert ended.timed_out
    assert ended.status < 0
    assert ended.seconds < 30
    assert not running(lines[0])


def test_workers_that_a_dead_stage_left_behind_are_ended() -> None:
    lines: list[str] = []
    assert python(Children(1), f"{PARENT}; sys.exit(1)", lines).status == 1
    assert not running(lines[0])


def test_a_process_that_ignores_the_request_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.children._GRACE", 0.5)
    ended = python(Children(1), STUBBORN, [], timeout=2)
    assert ended.status == -9


def test_stop_ends_what_runs_and_bars_what_waits() -> None:
    children = Children(1)
    lines: list[str] = []
    raised: list[BaseException] = []

    def second() -> None:
        try:
            python(children, "print('never')", lines)
        except StoppedError as error:
            raised.append(error)

    first = threading.Thread(target=python, args=(children, f"{PARENT}; w.wait()", lines))
    first.start()
    while not lines:
        time.sleep(0.02)
    waiting = threading.Thread(target=second)
    waiting.start()
    children.stop()
    first.join(20)
    waiting.join(20)
    assert not running(lines[0])
    assert len(lines) == 1
    assert "not started" in str(raised[0])


def test_no_more_than_the_limit_run_at_once() -> None:
    children = Children(2)
    code = "import time; print(time.monotonic(), flush=True); time.sleep(0.6); print(time.monotonic(), flush=True)"
    spans: list[list[str]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=python, args=(children, code, span)) for span in spans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = sorted((float(moment), step) for span in spans for moment, step in zip(span, (1, -1), strict=True))
    running_now, most = 0, 0
    for _, step in events:
        running_now += step
        most = max(most, running_now)
    assert most == 2
