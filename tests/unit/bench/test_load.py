"""The stub engine and the load client of the benchmark, against each other."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.bench.asgi import Receive, Scope, Send, serving
from tests.bench.engine import BenchEngine
from tests.bench.http import Address, Broken, Connection, Frames, Pool, write_request
from tests.bench.load import Completions, collect, run_round
from tests.bench.program import Program, read_begin, read_end, read_program


@asynccontextmanager
async def engine(directory: Path, slots: int = 8) -> AsyncIterator[tuple[BenchEngine, Address]]:
    app, socket = BenchEngine(slots=slots), directory / "engine.sock"
    async with serving(app, socket):
        yield app, Address(socket)


def test_a_program_survives_its_question() -> None:
    """What the client wants is what the engine does; any other question has a short answer."""
    program = Program(40, 12.5, 0.3, 0.1, 7)

    assert read_program(program.question()) == program
    assert read_program("How are you?") == Program(8)


async def test_all_tokens_come_with_the_engines_own_times(tmp_path: Path) -> None:
    """Each token is a word; the first and the last say when they were sent."""
    async with engine(tmp_path) as (app, address):
        before = time.monotonic()
        answer = await Completions(address).ask(0, Program(12))

    begun, ended = read_begin(answer.text), read_end(answer.text)
    assert answer.text.count(" ") == 12 == app.tokens
    assert sum(count for _, count in answer.marks) == 12
    assert begun
    assert ended
    assert before <= answer.sent <= begun[0] <= begun[1] <= ended <= answer.ended
    assert answer.sent <= answer.first <= answer.ended


async def test_an_answer_keeps_its_pace(tmp_path: Path) -> None:
    """Tokens are counted from the first, so that late ones do not add up."""
    async with engine(tmp_path) as (_, address):
        answer = await Completions(address).ask(0, Program(11, rate=100.0, first_seconds=0.05))

    begun, ended = read_begin(answer.text), read_end(answer.text)
    assert begun
    assert ended
    assert begun[1] - begun[0] >= 0.05
    assert ended - begun[0] > 0.148  # however late the first was


async def test_a_full_engine_serves_in_the_order_of_arrival(tmp_path: Path) -> None:
    """With one slot each answer begins when the one before has ended."""
    async with engine(tmp_path, slots=1) as (_, address):
        client = Completions(address)
        tasks = []
        for _ in range(3):
            tasks.append(asyncio.create_task(client.ask(0, Program(3, rate=50.0))))
            await asyncio.sleep(0.01)
        answers = await asyncio.gather(*tasks)

    ends = [read_end(answer.text) for answer in answers]
    begins = [read_begin(answer.text) for answer in answers]
    for end, begin in zip(ends, begins[1:], strict=False):
        assert end
        assert begin
        assert end <= begin[1]


async def test_who_hangs_up_frees_the_slot(tmp_path: Path) -> None:
    """A load that is broken off must not go on behind the next round."""
    async with engine(tmp_path, slots=1) as (app, address):
        connection = await address.connect()
        body = b'{"messages":[{"role":"user","content":"%s"}]}' % (
            Program(1000, rate=100.0).question().replace('"', '\\"').encode()
        )
        arrived = asyncio.Event()
        end = connection.begin(
            write_request("POST", "/v1/chat/completions", None, body), lambda _: arrived.set()
        )
        await asyncio.wait_for(arrived.wait(), 5)
        connection.close()
        with pytest.raises(Broken):
            await end

        await asyncio.wait_for(Completions(address).ask(0, Program(2)), 5)

        assert app.tokens < 100


async def test_a_round_counts_its_window(tmp_path: Path) -> None:
    """Each chat asks one thing after the other; failures are counted, and end nothing."""
    async with engine(tmp_path) as (_, address):
        client = Completions(address)
        seen = await run_round(client.ask, [[Program(5, rate=500.0)]] * 3, 0.2, 0.05)

    assert len(seen.answers) >= 6
    assert seen.failures == []
    assert seen.incomplete == 0
    assert 0 < seen.tokens <= seen.all_tokens
    assert seen.first_milliseconds(0.5) > 0

    gone = await run_round(Completions(address).ask, [[Program(5)]], 0.1, 0.0)
    assert gone.failures
    assert gone.answers == []


async def test_an_answer_that_lacks_tokens_is_incomplete(tmp_path: Path) -> None:
    """What was lost on the way is not taken for speed."""
    async with engine(tmp_path) as (_, address):
        answer = await Completions(address).ask(0, Program(6))
    answer.text = answer.text.replace(" word2", "", 1)

    assert collect([answer], answer.sent, answer.ended).incomplete == 1


async def _parrot(scope: Scope, _receive: Receive, send: Send) -> None:
    sized = scope["path"] == "/sized"
    headers = [(b"content-length", b"12")] if sized else []
    await send({"type": "http.response.start", "status": 200 + sized, "headers": headers})
    for piece in (b"data: a\n", b"\ndat", b"", b"a: b\n\n")[: 2 if sized else 4]:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def test_bodies_are_read_however_they_are_cut(tmp_path: Path) -> None:
    """With a length or in chunks; a connection is used again."""
    async with serving(_parrot, tmp_path / "parrot.sock"):
        pool = Pool(Address(tmp_path / "parrot.sock"))
        frames: list[bytes] = []
        connection = await Address(tmp_path / "parrot.sock").connect()
        status, _ = await connection.call(write_request("GET", "/"), Frames(frames.append))
        sized = [await pool.call(write_request("GET", "/sized")) for _ in range(2)]
        connection.close()
        pool.close()

    assert (status, frames) == (200, [b"a", b"b"])
    assert sized == [(201, b"data: a\n\ndat")] * 2


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
async def test_answers_are_read_in_pieces_of_any_size(size: int) -> None:
    """The kernel cuts where it likes."""
    whole = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"9\r\ndata: a\n\n\r\n5\r\ndata:\r\n4\r\n b\n\n\r\n0\r\n\r\n"
    )
    connection = Connection()
    connection.connection_made(_Wall())
    frames: list[bytes] = []

    end = connection.begin(b"", Frames(frames.append))
    for start in range(0, len(whole), size):
        connection.data_received(whole[start : start + size])

    assert (await end, frames) == (200, [b"a", b"b"])


class _Wall(asyncio.Transport):
    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Go nowhere."""


async def _refuse(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b'data: {"error": "too busy"}\n\n'})


async def test_an_error_in_a_stream_is_a_failure(tmp_path: Path) -> None:
    """Proxies answer 200 and say it later."""
    async with serving(_refuse, tmp_path / "busy.sock"):
        with pytest.raises(Broken, match="too busy"):
            await Completions(Address(tmp_path / "busy.sock")).ask(0, Program(3))
