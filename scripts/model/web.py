"""Asks web servers for files, by one way alone: directly, or through the one proxy."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import ipaddress
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from scripts.model import WeightsFailed
from scripts.model.socks import Proxy, dial

SECONDS = 60.0  # without a byte
REDIRECTS = 6
LONGEST_WAIT = 600.0


class Passing(Exception):
    """It failed, and may work again in a while: broken connections, servers that are busy."""

    def __init__(self, why: str, wait_seconds: float | None = None) -> None:
        super().__init__(why)
        self.wait_seconds = wait_seconds
        """As the server wishes."""


@dataclass(frozen=True)
class Answer:
    """A server's answer: status 200, 206 or 416, and the body to be read piece by piece."""

    status: int
    headers: http.client.HTTPMessage
    response: http.client.HTTPResponse

    def read(self, most: int = 1 << 18) -> bytes:
        """What has come of the body; nothing at its end. Raises Passing."""
        try:
            return self.response.read1(most)
        except (OSError, http.client.HTTPException) as error:
            raise Passing(f"the connection broke off ({_words(error)})") from None


class Web:
    """Makes requests. `token` is for `origin` (scheme and host) alone, and follows no redirect."""

    def __init__(self, proxy: Proxy | None = None, token: str = "", origin: str = "") -> None:
        self.proxy = proxy
        self._token = token
        self._origin = origin
        self._tls = ssl.create_default_context()

    @contextlib.contextmanager
    def get(self, url: str, headers: Mapping[str, str]) -> Iterator[Answer]:
        """Ask, and follow redirects. Raises Passing, or WeightsFailed for a lasting refusal."""
        asked = url
        for _ in range(REDIRECTS):
            connection, response = self._ask(url, headers)
            with contextlib.closing(connection):
                if response.status in (301, 302, 303, 307, 308):
                    url = urljoin(url, response.headers.get("Location", ""))
                    continue
                _check(response, asked)
                yield Answer(response.status, response.headers, response)
                return
        raise WeightsFailed(f"{asked} leads from one address to the next without an end")

    def _ask(
        self, url: str, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme != "https" and not (parts.scheme == "http" and is_this_machine(host)):
            raise WeightsFailed(f"{url} is not an address with https://: give one that is")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        connection = http.client.HTTPConnection(host, port)
        connection.auto_open = 0  # it would connect by itself, past the proxy
        connection.default_port = 443 if parts.scheme == "https" else 80
        sent = {"User-Agent": "fetch", "Accept-Encoding": "identity", **headers}
        if self._token and f"{parts.scheme}://{parts.netloc}" == self._origin:
            sent["Authorization"] = f"Bearer {self._token}"
        try:
            connection.sock = dial(host, port, self.proxy, SECONDS)
            if parts.scheme == "https":
                connection.sock = self._tls.wrap_socket(connection.sock, server_hostname=host)
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", target, headers=sent)
            return connection, connection.getresponse()
        except ssl.SSLCertVerificationError as error:
            connection.close()
            raise WeightsFailed(
                f"{host} does not show a certificate that this machine trusts "
                f"({error.verify_message}): check the address and the clock"
            ) from None
        except UnicodeError:
            connection.close()
            raise WeightsFailed(f"{host[:80]} cannot be a host's name: check the address") from None
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Passing(_words(error)) from None


def is_this_machine(host: str) -> bool:
    """Whether an address is on the loopback; a name never counts, since others could answer it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check(response: http.client.HTTPResponse, asked: str) -> None:
    status = response.status
    if status in (200, 206, 416):
        return
    if status in (408, 425, 429) or status >= 500:
        raise Passing(f"the server says {status}", _wait(response.headers.get("Retry-After", "")))
    if status in (401, 403):
        raise WeightsFailed(
            f"{asked} is not for everybody (status {status}): agree to its terms on the hub's "
            "page, and give a token of yours with --token-file"
        )
    if status == 404:
        raise WeightsFailed(f"{asked} does not exist: check the name and --revision")
    raise WeightsFailed(f"{asked} was refused with status {status}: check the address")


def _wait(text: str) -> float | None:
    """What Retry-After asks for, in seconds: it is a number of them, or a date."""
    if text.strip().isdigit():
        return min(float(text), LONGEST_WAIT)
    with contextlib.suppress(TypeError, ValueError):
        then = email.utils.parsedate_to_datetime(text).timestamp()
        return min(max(then - time.time(), 0.0), LONGEST_WAIT)
    return None


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing came for {SECONDS:.0f} s"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
