"""Models are fetched whole or not at all, whatever breaks, and by one way alone."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme

from scripts.model import WeightsFailed, download
from scripts.model.fetch import Order, fetch, proxy_of
from scripts.model.progress import Progress
from scripts.model.store import Model, models_in
from services.engine.digests import check_digests
from tests.unit.adyton.hub import COMMIT, Hub, Socks, proxying, pump, running
from tests.unit.adyton.weights import gguf, model_files, tensors

TAKEN = {
    "m-1.safetensors", "m-2.safetensors", "model.safetensors.index.json", "config.json",
    "tokenizer.json", "chat_template.jinja",
}  # fmt: skip
NAMES = "0123456789abcdef"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running(Hub(model_files())) as started:
        yield started


class Call:
    """Fetches into a folder, and remembers what was said and how long it would have waited."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.said = io.StringIO()
        self.waits: list[float] = []

    def __call__(self, source: str, hub: Hub | str = "", **order: Any) -> Model | None:
        if hub:
            order = {"hub": hub if isinstance(hub, str) else hub.url, **order}
        return fetch(Order(source, **order), self.place, Progress(self.said), self.waits.append)


@pytest.fixture
def call(tmp_path: Path) -> Call:
    return Call(tmp_path / "weights")


def test_model_is_fetched_with_its_digests(hub: Hub, call: Call) -> None:
    """Weights and what belongs to them, recorded, dated, readable for the engine's user."""
    model = call("maker/Small-1", hub)

    assert model is not None
    assert {path.name for path in model.files} == TAKEN
    assert all((model.folder / name).read_bytes() == hub.files[name] for name in TAKEN)
    assert check_digests(model.folder) == len(TAKEN)
    assert {path.stat().st_mode & 0o777 for path in model.folder.iterdir()} == {0o644}
    assert model.origin["revision"] == COMMIT
    assert model.origin["verified"].endswith("Z")
    assert [path.name for path in call.place.iterdir()] == ["Small-1"]
    assert f"/resolve/{COMMIT}/" in hub.asked[-1][0]


def test_what_is_not_taken_is_said(hub: Hub, call: Call) -> None:
    """Pickles and code by name; never silently."""
    call("maker/Small-1", hub)

    said = call.said.getvalue()
    assert "left out: pytorch_model.bin (a pickle, which can run code" in said
    assert "left out: original/consolidated.00.pth (a pickle" in said
    assert "left out: modeling_own.py (code, which is never run" in said
    assert "left out: consolidated.safetensors (the same weights again)" in said


@pytest.mark.parametrize("seed", range(5))
def test_connections_that_break_anywhere_lose_nothing(hub: Hub, call: Call, seed: int) -> None:
    """It goes on where it was, and asks for the rest of the very same file."""
    source = random.Random(seed)
    hub.faults = [("cut", source.randrange(40_000)) for _ in range(source.randrange(3, 12))]
    hub.faults += [("status", 503)] if seed % 2 else []

    model = call("maker/Small-1", hub)

    assert model is not None
    assert check_digests(model.folder) == len(TAKEN)
    resumed = [headers for _, headers in hub.asked if "Range" in headers]
    assert all(headers["If-Range"].startswith('"') for headers in resumed)


def test_second_call_goes_on_where_the_first_one_gave_up(hub: Hub, call: Call) -> None:
    """What has come is kept; an engine does not see it."""
    hub.faults = [("ok", 0)] * 5 + [("cut", 50_000)] + [("status", 500)] * 8

    with pytest.raises(WeightsFailed, match="what is here is kept: run it again to go on"):
        call("maker/Small-1", hub)
    seen_between = models_in(call.place)
    asked = len(hub.asked)
    model = call("maker/Small-1", hub)

    assert seen_between == []
    assert model is not None
    assert check_digests(model.folder) == len(TAKEN)
    assert [headers.get("Range") for path, headers in hub.asked[asked:] if "/resolve/" in path] == [
        "bytes=50000-"
    ]


def test_pauses_grow_and_servers_may_ask_for_more(hub: Hub, call: Call) -> None:
    """1, 2, 4 seconds, or what Retry-After says."""
    hub.faults = [("status", 503), ("status", 500), ("wait", 77), ("status", 502)]

    call("maker/Small-1", hub)

    assert call.waits == [1, 2, 77, 8]


def test_file_that_changes_half_way_is_begun_anew(call: Call) -> None:
    """The entity tag tells; two halves of two files are never put together."""
    old, new = (gguf({"general.architecture": it}, bytes(99_000)) for it in ("one", "two"))
    with running(Hub({"w.gguf": old}, faults=[("cut", 60_000)])) as hub:

        def change(seconds: float) -> None:
            hub.files["w.gguf"] = new

        order = Order(f"{hub.url}/files/w.gguf")
        model = fetch(order, call.place, Progress(call.said), change)

    assert model is not None
    assert (model.folder / "w.gguf").read_bytes() == new


@pytest.mark.parametrize(("etags", "ranges"), [(False, True), (True, False), (False, False)])
def test_servers_that_cannot_go_on(call: Call, etags: bool, ranges: bool) -> None:
    """Without a tag or without ranges a file of unknown digest is fetched from its beginning."""
    old, new = (gguf({"general.architecture": it}, bytes(99_000)) for it in ("one", "two"))
    hub = Hub({"w.gguf": old}, etags=etags, ranges=ranges, faults=[("cut", 60_000)])
    with running(hub):

        def change(seconds: float) -> None:
            hub.files["w.gguf"] = new

        order = Order(f"{hub.url}/files/w.gguf")
        model = fetch(order, call.place, Progress(call.said), change)

    assert model is not None
    assert (model.folder / "w.gguf").read_bytes() == new


@pytest.mark.parametrize("name", ["m-2.safetensors", "config.json"])
def test_wrong_digest_is_refused(hub: Hub, call: Call, name: str) -> None:
    """By SHA-256 for large files, by Git's for small ones; nothing is published."""
    right = hub.files[name]
    hub.lies[name] = right[:-1] + bytes([right[-1] ^ 1])

    with pytest.raises(WeightsFailed, match=f"{name} does not have the digest"):
        call("maker/Small-1", hub)

    assert models_in(call.place) == []
    assert not list(call.place.rglob(f"{name}*"))


def test_digest_given_for_an_address_is_checked(call: Call) -> None:
    """Where no hub tells it."""
    content = gguf({"general.architecture": "one"})
    with running(Hub({"w.gguf": content})) as hub:
        with pytest.raises(WeightsFailed, match="does not have the digest"):
            call(f"{hub.url}/files/w.gguf", sha256="0" * 64)
        model = call(f"{hub.url}/files/w.gguf", sha256=hashlib.sha256(content).hexdigest())

        assert model is not None
        with pytest.raises(WeightsFailed, match="does not have the digest of --sha256"):
            call(f"{hub.url}/files/w.gguf", sha256="0" * 64)


def test_more_or_less_than_the_listing_says_is_refused(hub: Hub, call: Call) -> None:
    """A size that does not fit is not waited for."""
    hub.lies["config.json"] = hub.files["config.json"] + b" "

    with pytest.raises(WeightsFailed, match="should have"):
        call("maker/Small-1", hub)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (
            {"model.bin": b"x", "config.json": b"{}"},
            "weights only as model.bin .* safetensors or GGUF",
        ),
        ({"config.json": b"{}"}, "no weights as safetensors or GGUF"),
        ({"a.safetensors": b"\x80\x04 a pickle by another name"}, "no whole safetensors file"),
        ({"a.gguf": b"PK\x03\x04 an archive by another name...."}, "no GGUF file"),
        ({"../a.safetensors": tensors({"a": (2, 2)})}, "no weights"),
        ({"a/../../b.gguf": gguf({})}, "no weights"),
        (
            {"a-Q4.gguf": gguf({}), "a-Q8.gguf": gguf({}, b"1")},
            r"choose one with --file; there are: a-Q4.gguf \(24 bytes\), a-Q8.gguf \(25 bytes\)",
        ),
        (
            {
                "a.safetensors": tensors({"a": (2, 2)}),
                "model.safetensors.index.json": b'{"weight_map": {"b": "b.safetensors"}}',
            },
            "names b.safetensors, which the source does not have",
        ),
    ],
)
def test_sources_without_a_usable_model(call: Call, files: dict[str, bytes], says: str) -> None:
    """One sentence each, and nothing that an engine could see."""
    with running(Hub(files)) as hub, pytest.raises(WeightsFailed, match=says):
        call("maker/Small-1", hub)

    assert models_in(call.place) == []


def test_one_of_several_files_is_chosen(call: Call) -> None:
    """With all of its parts, out of a folder of the repository, too."""
    parts = {f"Q8/a-Q8-0000{n}-of-00002.gguf": gguf({"n": n}) for n in (1, 2)}
    with running(Hub({"a-Q4.gguf": gguf({}), **parts})) as hub:
        model = call("maker/Small-1", hub, files=("*Q8*",))
        with pytest.raises(WeightsFailed, match="fits no weights; there are: a-Q4"):
            call("maker/Small-1", hub, files=("*Q5*",), name="other")

    assert model is not None
    assert [path.name for path in model.files] == [
        "a-Q8-00001-of-00002.gguf",
        "a-Q8-00002-of-00002.gguf",
    ]


def test_fetching_again_changes_nothing(hub: Hub, call: Call) -> None:
    """The model is there already; another one of its name is not overwritten."""
    call("maker/Small-1", hub)
    asked = len(hub.asked)
    call("maker/Small-1", hub)

    assert len(hub.asked) == asked
    with pytest.raises(WeightsFailed, match="another model Small-1"):
        call("other/Small-1", hub)


def test_branch_that_moves_half_way_does_not_mix_models(hub: Hub, call: Call) -> None:
    """What was begun at a commit goes on at that commit."""
    hub.faults = [("ok", 0)] * 4 + [("cut", 10)] + [("status", 500)] * 9
    with pytest.raises(WeightsFailed):
        call("maker/Small-1", hub)
    hub.commits.append("f" * 40)

    model = call("maker/Small-1", hub)

    assert model is not None
    assert model.origin["revision"] == COMMIT
    assert any(f"/revision/{COMMIT}?" in path for path, _ in hub.asked)


def test_half_fetched_model_is_not_mixed_with_another(hub: Hub, call: Call) -> None:
    """Unless it is thrown away on purpose."""
    hub.faults = [("cut", 10)] + [("status", 500)] * 9
    with pytest.raises(WeightsFailed):
        call("maker/Small-1", hub)

    with pytest.raises(WeightsFailed, match="half fetched from maker/Small-1"):
        call("other/Small-1", hub)
    assert call("maker/Small-1", hub, restart=True) is not None


def test_dry_run_writes_nothing(hub: Hub, call: Call) -> None:
    """It asks the hub, and tells."""
    assert call("maker/Small-1", hub, dry_run=True) is None

    assert not call.place.exists()
    assert f"6 files, 246 KiB at {COMMIT[:12]}" in call.said.getvalue()
    assert hub.served() == []


def test_disk_without_room_is_noticed_before(
    hub: Hub, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after an hour."""

    class Full:
        f_bavail, f_frsize = 10, 1000

    monkeypatch.setattr(os, "statvfs", lambda path: Full)

    with pytest.raises(WeightsFailed, match=r"246 KiB are still to come, .* has 9\.8 KiB left"):
        call("maker/Small-1", hub)

    assert hub.served() == []


def test_token_is_for_the_hub_alone(hub: Hub, call: Call) -> None:
    """It does not follow to where the hub sends us."""
    with running(Hub(hub.files)) as elsewhere:
        hub.redirect = elsewhere.url
        call("maker/Small-1", hub, token="secret")

    assert {headers.get("Authorization") for _, headers in hub.asked} == {"Bearer secret"}
    assert elsewhere.asked
    assert all("Authorization" not in headers for _, headers in elsewhere.asked)


@pytest.mark.parametrize("status", [401, 403])
def test_models_that_are_not_for_everybody(hub: Hub, call: Call, status: int) -> None:
    """No waiting, and what to do."""
    hub.faults = [("status", status)]

    with pytest.raises(WeightsFailed, match="--token-file"):
        call("maker/Small-1", hub)

    assert call.waits == []


def test_addresses_without_tls_are_refused(hub: Hub, call: Call) -> None:
    """Also those that a server leads to; this machine's own are none."""
    hub.redirect = "http://192.0.2.1"

    with pytest.raises(WeightsFailed, match="not an address with https://"):
        call("maker/Small-1", hub)
    with pytest.raises(WeightsFailed, match="not an address with https://"):
        call("http://localhost/w.gguf")


# Folders


def test_carried_model_is_checked_and_published(hub: Hub, call: Call, tmp_path: Path) -> None:
    """Fetched elsewhere, carried, taken over: with its origin, and not twice."""
    carried = Call(tmp_path / "carry")
    source = carried("maker/Small-1", hub)
    assert source is not None

    model = call(str(source.folder))
    again = call(str(source.folder))

    assert model is not None
    assert again == model
    assert check_digests(model.folder) == len(TAKEN)
    assert model.origin["source"] == "maker/Small-1"


def test_carried_model_that_was_changed_is_refused(hub: Hub, call: Call, tmp_path: Path) -> None:
    """By the digests that came with it."""
    source = Call(tmp_path / "carry")("maker/Small-1", hub)
    assert source is not None
    (source.folder / "config.json").write_text("{}", encoding="utf-8")

    with pytest.raises(WeightsFailed, match=r"config\.json is not what .*SHA256SUMS says"):
        call(str(source.folder))

    assert models_in(call.place) == []


def test_links_in_a_folder_are_refused(call: Call, tmp_path: Path) -> None:
    """A hub's own cache is made of them: one sentence says what to do."""
    source = tmp_path / "Linked"
    source.mkdir()
    (tmp_path / "blob").write_bytes(tensors({"a": (2, 2)}))
    (source / "model.safetensors").symlink_to(tmp_path / "blob")

    with pytest.raises(WeightsFailed, match=r"a symbolic link: copy what it leads to .*cp -rL"):
        call(str(source))

    assert models_in(call.place) == []


# Proxies


@contextlib.contextmanager
def overheard() -> Iterator[list[tuple[str, object]]]:
    """Every connection that this process opens, and every name that it looks up."""
    heard: list[tuple[str, object]] = []
    listening.append(heard)
    try:
        yield heard
    finally:
        listening.remove(heard)


listening: list[list[tuple[str, object]]] = []


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if listening and event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        what = arguments[1] if event == "socket.connect" else arguments[0]
        for heard in listening:
            heard.append((event, what))


sys.addaudithook(_listen)


@pytest.fixture
def authority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> trustme.CA:
    """Whom this machine trusts."""
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return made


def tls_for(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def port_of(url: str) -> int:
    return urlsplit(url).port or 0


@pytest.mark.parametrize("login", [None, ("user", "pass word")])
def test_all_goes_through_the_proxy(
    authority: trustme.CA, call: Call, login: tuple[str, str] | None
) -> None:
    """Over TLS, by names that only the proxy can look up; this process connects to nothing else."""
    with (
        running(Hub(model_files()), tls_for(authority, "hub.example")) as hub,
        proxying(Socks({}, login)) as socks,
    ):
        socks.names["hub.example"] = ("127.0.0.1", port_of(hub.url))
        address = socks.url.replace("//", "//user:pass%20word@") if login else socks.url
        proxy = proxy_of("", {"ALL_PROXY": address})
        with overheard() as heard:
            model = call("maker/Small-1", hub="https://hub.example", proxy=proxy)

    assert model is not None
    assert set(socks.asked) == {("hub.example", 443)}
    mine = {what for event, what in heard if event == "socket.getaddrinfo"}
    assert mine == {"127.0.0.1"}


def test_dead_proxy_lets_nothing_through(authority: trustme.CA, call: Call) -> None:
    """It is tried again, said, and given up; the hub is neither looked up nor called."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        address = unused.getsockname()
    with running(Hub(model_files()), tls_for(authority, "127.0.0.1")) as hub:
        proxy = proxy_of(f"socks5h://127.0.0.1:{address[1]}", {})
        with (
            overheard() as heard,
            pytest.raises(WeightsFailed, match=r"the proxy .* does not answer"),
        ):
            call("maker/Small-1", hub, proxy=proxy)

        assert hub.asked == []
    assert len(call.waits) == download.PATIENCE
    assert {what for event, what in heard if event == "socket.connect"} == {address}
    assert {what for event, what in heard if event == "socket.getaddrinfo"} == {"127.0.0.1"}


def test_proxy_that_dies_half_way_lets_nothing_through(authority: trustme.CA, call: Call) -> None:
    """Nor does a second call without the proxy go on directly."""
    with running(Hub(model_files()), tls_for(authority, "hub.example")) as hub:
        with proxying(Socks({"hub.example": ("127.0.0.1", port_of(hub.url))})) as socks:
            hub.faults = [("ok", 0)] * 5 + [("cut", 1000)] + [("status", 503)] * 9
            proxy = proxy_of(socks.url, {})
            with pytest.raises(WeightsFailed):
                call("maker/Small-1", hub="https://hub.example", proxy=proxy)
        asked = len(hub.asked)
        with pytest.raises(WeightsFailed, match="does not answer"):
            call("maker/Small-1", hub="https://hub.example", proxy=proxy)
        with overheard() as heard, pytest.raises(WeightsFailed, match="would now go directly"):
            call("maker/Small-1", hub="https://hub.example")

        assert len(hub.asked) == asked
    assert heard == []


@pytest.mark.parametrize(
    ("socks", "says"),
    [
        (Socks({}), "did not connect to hub.example: the host cannot be reached"),
        (Socks({}, refuses=2), "its rules forbid it"),
        (Socks({}, login=("a", "b")), "wants a user and a password"),
    ],
)
def test_proxies_that_refuse(call: Call, socks: Socks, says: str) -> None:
    """Their own reason is told."""
    with proxying(socks), pytest.raises(WeightsFailed, match=says):
        call("maker/Small-1", hub="https://hub.example", proxy=proxy_of(socks.url, {}))


def test_certificate_of_another_is_refused(authority: trustme.CA, call: Call) -> None:
    """A proxy may lead anywhere; TLS tells whether that is the hub."""
    with (
        running(Hub(model_files()), tls_for(authority, "other.example")) as hub,
        proxying(Socks({"hub.example": ("127.0.0.1", port_of(hub.url))})) as socks,
        pytest.raises(WeightsFailed, match="certificate"),
    ):
        call("maker/Small-1", hub="https://hub.example", proxy=proxy_of(socks.url, {}))

    assert hub.asked == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("127.0.0.1:9050", "not understood: give one such as socks5h"),
        ("ftp://127.0.0.1:1", "not understood"),
        ("socks5h://127.0.0.1:99999", "not understood"),
        ("socks5h://[127.0.0.1", "not understood"),
        ("socks5h://user:word@127.0.0.1", "everybody on this machine could read"),
    ],
)
def test_odd_proxies_are_refused(given: str, says: str) -> None:
    """Rather than going without."""
    with pytest.raises(WeightsFailed, match=says):
        proxy_of(given, {})


@pytest.mark.parametrize("host", ["a..example", "x" * 64 + ".example", "a." * 130 + "example"])
def test_hosts_that_cannot_be(call: Call, host: str) -> None:
    """Neither here nor at the proxy."""
    for proxy in (None, proxy_of("socks5h://127.0.0.1:9", {})):
        with pytest.raises(WeightsFailed, match="cannot be a host's name"):
            call("maker/Small-1", f"https://{host}", proxy=proxy)


def test_proxy_of_the_environment_counts() -> None:
    """Whoever has set one does not want to be seen."""
    proxy = proxy_of("", {"HTTPS_PROXY": "http://192.0.2.1:3128"})

    assert str(proxy) == "http://192.0.2.1:3128"
    assert proxy_of("", {}) is None


def test_http_proxy_is_asked_to_connect(authority: trustme.CA, call: Call) -> None:
    """By name; TLS passes through it."""
    with running(Hub(model_files()), tls_for(authority, "hub.example")) as hub:
        requests: list[bytes] = []
        with connecting(port_of(hub.url), requests) as address:
            model = call("maker/Small-1", hub="https://hub.example", proxy=proxy_of(address, {}))

    assert model is not None
    assert set(requests) == {b"CONNECT hub.example:443 HTTP/1.1"}


@contextlib.contextmanager
def connecting(port: int, requests: list[bytes]) -> Iterator[str]:
    """An HTTP proxy that connects to one port, whatever is asked for."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        requests.append(head.split(b"\r\n")[0])
        client.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            back = threading.Thread(target=pump, args=(server, client), daemon=True)
            back.start()
            pump(client, server)
            back.join()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_progress_tells_rate_and_what_is_left() -> None:
    """Where there is no terminal, a line now and then."""
    out, time = io.StringIO(), 0.0
    progress = Progress(out, lambda: time)
    progress.expect("a", 100 << 20)
    for second in range(40):
        time = float(second)
        progress.at("a", second << 20)

    assert out.getvalue().splitlines() == [
        "a: 15.0 MiB of 100 MiB",
        "a: 30.0 MiB of 100 MiB, 1.0 MiB/s, 1 min 10 s left",
    ]


def test_listing_that_is_none(call: Call) -> None:
    """An address that is no hub."""
    with running(Hub({})) as hub:
        hub.listing = lambda revision: json.dumps(["hello"]).encode()  # type: ignore[method-assign]

        with pytest.raises(WeightsFailed, match="does not answer as a hub does"):
            call("maker/Small-1", hub)
