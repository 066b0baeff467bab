"""The relay against a Bot API server that others wrote: the npm package `telegram-test-api`.

It knows no offsets, limits or errors, so it proves one thing alone: that the relay does not lean on
how our own stub understands the Bot API.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from python_on_whales import DockerClient

from tests.integration.lab import VERSION, Lab
from tests.unit.chain.conftest import TOKEN, Chain, forward, free_port, hold_namespace
from tests.unit.fakes import USER

IMAGE = f"node-test/telegram-test-api:{VERSION}"
PORT = 9000


@pytest.fixture
async def independent(docker: DockerClient, tmp_path: Path) -> AsyncGenerator[Chain]:
    with Lab(docker, "test-independent", "198.18.4") as lab:
        server = docker.run(
            IMAGE,
            detach=True,
            read_only=True,
            cap_drop=["ALL"],
            networks=[lab.name],
            envs={"HOST": "0.0.0.0", "PORT": str(PORT)},
            labels={"lab": lab.name},
            tmpfs=["/tmp:size=16m"],
        )
        networks = server.network_settings.networks
        assert networks
        address = networks[lab.name].ip_address
        assert address
        base = f"http://{address}:{PORT}"
        async with aiohttp.ClientSession(base) as control:
            deadline = time.monotonic() + 60
            while not await answers(control):
                assert server.state.running, server.logs()
                assert time.monotonic() < deadline, server.logs()
                await asyncio.sleep(0.1)
            async with (
                forward(tmp_path / "telegram.sock", address, PORT),
                hold_namespace(tmp_path / "holder.sock"),
            ):
                chain = Chain(tmp_path, control, gateway_port=free_port())
                await chain.start_gateway()
                await chain.start_relay()
                yield chain
                for name in list(chain.tasks):
                    await chain.kill(name)


async def answers(control: aiohttp.ClientSession) -> bool:
    try:
        async with control.post(f"/bot{TOKEN}/getMe") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


async def said_by_bot(control: aiohttp.ClientSession) -> list[dict[str, Any]]:
    """Everything that the bot sent or edited so far, in order."""
    async with control.post("/getUpdatesHistory", json={"token": TOKEN}) as response:
        history = (await response.json())["result"]
    return [entry["message"] for entry in history if entry.get("botToken") and "message" in entry]


@pytest.mark.parametrize(("text", "expected"), [("hello", "fine"), ("/help", "/new — start")])
async def test_conversation_with_an_independent_server(
    independent: Chain, text: str, expected: str
) -> None:
    """A message, and a command, get their replies through a server that is not ours."""
    user = {"id": USER, "first_name": "U", "username": "u", "is_bot": False, "language_code": "en"}
    message = {
        "botToken": TOKEN,
        "from": user,
        "chat": {"id": USER, "first_name": "U", "username": "u", "type": "private"},
        "date": int(time.time()),
        "text": text,
    }
    async with independent.control.post("/sendMessage", json=message) as response:
        assert response.status == 200

    deadline = time.monotonic() + 20
    while not any(expected in str(entry) for entry in await said_by_bot(independent.control)):
        assert time.monotonic() < deadline, await said_by_bot(independent.control)
        await asyncio.sleep(0.1)
