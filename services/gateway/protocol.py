"""The gateway's end of HTTP: uvicorn's on httptools, with a bound on what is not a body.

httptools keeps a head, trailers or the length of a chunk however long they get, and before anybody
is asked for the link token.
"""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_AROUND_BODY = 64 * 1024
"""Bytes of one request beside its body."""

MOST_A_BYTE = 16
"""And so many for each byte of its body: chunks may be small."""


class Protocol(HttpToolsProtocol):
    """Refuses a request that goes on and on without getting anywhere."""

    _received = 0
    """Bytes of the request that is being read, but for those that came with its first."""
    _most = MOST_AROUND_BODY
    _is_new = False

    def on_message_begin(self) -> None:
        """A request begins in what has just come."""
        self._is_new, self._received, self._most = True, 0, MOST_AROUND_BODY
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        """More of its body."""
        self._most += MOST_A_BYTE * len(body)
        super().on_body(body)

    def data_received(self, data: bytes) -> None:
        """Read what has come."""
        self._is_new = False
        super().data_received(data)
        if not self._is_new:
            self._received += len(data)
        if self._received > self._most and not self.transport.is_closing():
            self.send_400_response("Invalid HTTP request received.")
