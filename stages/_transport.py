"""HTTP as pip and npm users have it set up: proxies, certificates, index passwords, timeouts, retries.

Timeout and retries are pip's settings (PIP_DEFAULT_TIMEOUT, PIP_RETRIES), extra certificates those of PIP_CERT,
REQUESTS_CA_BUNDLE and NODE_EXTRA_CA_CERTS beside SSL_CERT_FILE: none of them decides what the output is.
"""

from __future__ import annotations

import base64
import errno
import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from stages._errors import StageError

_CERTIFICATES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # HTTP answers that a later try may better
_OUR_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})


class Transport:
    """Opens http and https addresses. A user name and password in an address serve all later requests to its host."""

    def __init__(self) -> None:
        self._context = _certificates()
        self._credentials: dict[str, str] = {}
        self._timeout = setting("PIP_DEFAULT_TIMEOUT", 60.0)

    def open(self, url: str, headers: dict[str, str]) -> Any:
        """The response, a context manager and a stream.

        Raises:
            OSError: no connection, or an HTTP error status.
            ValueError: the address is neither http nor https.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise ValueError(f"cannot fetch from an address of scheme {parts.scheme!r}: use http or https")
        host = parts.netloc.rpartition("@")[2]
        if parts.username is not None:
            secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._credentials[host] = "Basic " + base64.b64encode(secret.encode()).decode()
        request = urllib.request.Request(
            urlunsplit(parts._replace(netloc=host)), headers={"User-Agent": "glm-rebuild", **headers}
        )
        if host in self._credentials:  # unredirected: another host must not learn it
            request.add_unredirected_header("Authorization", self._credentials[host])
        return urllib.request.urlopen(request, timeout=self._timeout, context=self._context)

    def get(self, url: str, accept: str) -> tuple[str, str, bytes]:
        """(final address, media type, body) of a small page."""
        with self.open(url, {"Accept": accept}) as response:
            return response.url, response.headers.get("Content-Type") or "", response.read()


def with_retries(attempt: Callable[[], None], log: Callable[[str], None]) -> None:
    """Call `attempt` until it succeeds, waiting 0.5, 1, 2, ... seconds after each failure that may pass.

    Raises:
        OSError, http.client.HTTPException: the last failure, or one that no later try will better.
    """
    retries = int(setting("PIP_RETRIES", 5))
    for tried in range(retries + 1):
        try:
            return attempt()
        except (OSError, http.client.HTTPException) as error:  # URLError, HTTPError and timeouts are OSErrors
            lasting = isinstance(error, urllib.error.HTTPError) and error.code not in _PASSING
            if lasting or is_local(error) or tried == retries:
                raise
            wait = min(0.5 * 2**tried, 30.0)
            log(f"{reason(error)}; trying again in {wait:g} s ({tried + 1} of {retries})")
            time.sleep(wait)


def is_local(error: Exception) -> bool:
    """Whether this machine failed, not the network: our disk, or a file that the error names."""
    if not isinstance(error, OSError) or isinstance(error, urllib.error.URLError):
        return False
    return error.filename is not None or error.errno in _OUR_DISK


def reason(error: Exception) -> str:
    """One phrase about a failed request, without the address (which may hold a password)."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return f"{type(cause).__name__}: {cause}" if isinstance(cause, Exception) else str(cause)


def setting(variable: str, default: float) -> float:
    """A non-negative number from the environment; `default` where it is unset.

    Raises:
        StageError: it is no such number.
    """
    text = os.environ.get(variable) or str(default)
    if not text.replace(".", "", 1).isdigit():
        raise StageError(f"environment variable {variable} is {text!r}", remedy="set it to a number, or unset it")
    return float(text)


def _certificates() -> ssl.SSLContext:
    context = ssl.create_default_context()  # reads SSL_CERT_FILE and SSL_CERT_DIR itself
    for name in _CERTIFICATES:
        file = os.environ.get(name)
        if file and not Path(file).is_file():
            raise StageError(f"environment variable {name} names a certificate file that does not exist", file=file)
        if file:
            context.load_verify_locations(cafile=file)
    return context
