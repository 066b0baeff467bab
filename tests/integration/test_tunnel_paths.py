"""What lies between the tunnel's ends, and what may change about it while the tunnel is up."""

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from python_on_whales import Container, DockerClient

from tests.integration.lab import PEER, Lab, attempt, probe, wait_until, wait_until_healthy
from tests.integration.tunnels import (
    ADDRESSES,
    Keys,
    Node,
    passes,
    start_pair,
    start_uplink,
)
from tests.integration.ways import log_of

SUBNET = "198.18.88"
MEBIBYTE = 1 << 20
KEEPALIVE_SECONDS = 25  # in wireguard/uplink
PASSIVE_KEEPALIVE_SECONDS = 10  # WireGuard's own, after what it has received
REKEY_TIMEOUT_SECONDS = 5  # and this much later, after what it believes unanswered


@pytest.fixture(scope="module")
def lab(docker: DockerClient) -> Iterator[Lab]:
    with Lab(docker, "edges-paths", SUBNET) as lab:
        yield lab


# A router between the ends, which translates addresses as the one at somebody's home does


@dataclass
class Router:
    """Stands for the listening end, and passes on what the dialling end says as its own."""

    box: Container
    number: int
    listen: int

    def forget_after(self, seconds: int) -> None:
        """How long it remembers a conversation in which nothing is said."""
        for name in ("udp_timeout", "udp_timeout_stream"):
            setting = f"net.netfilter.nf_conntrack_{name}={seconds}"
            self._in_namespace("sysctl", "-q", "-w", setting)

    def translate(self, first_port: int, number: int) -> None:
        """From now on new conversations go out from these ports, and this address."""
        rules = f"""
            table ip nat
            delete table ip nat
            table ip nat {{
              chain in {{
                type nat hook prerouting priority dstnat;
                ip daddr {SUBNET}.{self.number} udp dport 51820 dnat to {SUBNET}.{self.listen}
              }}
              chain out {{
                type nat hook postrouting priority srcnat;
                ip daddr {SUBNET}.{self.listen} udp dport 51820 snat to \
                    {SUBNET}.{number}:{first_port}-{first_port + 999}
              }}
            }}
        """
        assert attempt(self.box, "nft", rules)[0]

    def narrow(self, dial: int, size_bytes: int) -> None:
        """A larger packet passes in pieces only, in either direction."""
        for number in (self.listen, dial):
            route = ["ip", "route", "replace", f"{SUBNET}.{number}/32", "dev", "eth0"]
            assert attempt(self.box, *route, "mtu", "lock", str(size_bytes))[0]

    def fragments(self) -> int:
        words = attempt(self.box, "nft", "list", "table", "netdev", "seen")[1].split()
        return int(words[words.index("packets") + 1])

    def _in_namespace(self, *command: str) -> None:
        process = str(self.box.state.pid)
        subprocess.run(["nsenter", "-t", process, "-n", *command], check=True)


SEEN = """
table netdev seen {
  counter fragments {}
  chain out {
    type filter hook egress device "eth0" priority 0;
    ip frag-off & 0x3fff != 0 counter name fragments
  }
}
"""


def start_router(lab: Lab, name: str, number: int, listen: int) -> Router:
    box = lab.run(
        name,
        PEER,
        ["sleep", "infinity"],
        address=number,
        capabilities=["NET_ADMIN"],
        sysctls={
            "net.ipv4.ip_forward": "1",
            "net.ipv4.conf.all.send_redirects": "0",
            "net.ipv4.conf.default.send_redirects": "0",
        },
        hardened=False,
    )
    router = Router(box, number, listen)
    assert attempt(box, "nft", SEEN)[0]
    router.translate(30000, number)
    return router


def pair_behind_router(
    lab: Lab, keys: Keys, name: str, first: int, mtu: int
) -> tuple[dict[str, Node], Router]:
    """The listening end is the first of three addresses, the router the second."""
    router = start_router(lab, f"{name}-router", first + 1, first)
    nodes = start_pair(
        lab,
        keys,
        name,
        listen=first,
        dial=first + 2,
        endpoint=f"{SUBNET}.{first + 1}:51820",
        mtu=mtu,
    )
    wait_until(lambda: passes(nodes), "the first bytes pass the tunnel", 30)
    endpoint = attempt(nodes["listen"].uplink, "wg", "show", "all", "endpoints")[1]
    assert f"{SUBNET}.{first + 1}:30" in endpoint, "control: it comes from the router"
    return nodes, router


# Each of these waits for clocks to run down: beside one another


@dataclass
class Story:
    sizes: tuple[int, ...]
    fragments: tuple[int, ...]
    passed_after_idling: bool = False
    healed_after_seconds: float = 0.0
    endpoint: str = ""


@pytest.fixture(scope="module", autouse=True)
def stories(
    lab: Lab, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Story]]]:
    tellers = {"patient": patient_router, "forgetful": forgetful_router}
    with ThreadPoolExecutor(len(tellers)) as pool:
        yield {
            name: pool.submit(tell, lab, Keys(tmp_path_factory.mktemp(name)))
            for name, tell in tellers.items()
        }


def patient_router(lab: Lab, keys: Keys) -> Story:
    """It forgets after half a minute, as Linux does; the tunnel's packets are large."""
    nodes, router = pair_behind_router(lab, keys, "patient", 10, 1420)
    story = transfer(nodes, router, 12)
    router.forget_after(30)
    # After the last word: WireGuard's answer to it, then the keepalive, then more than the rest.
    idle(nodes, PASSIVE_KEEPALIVE_SECONDS + 30 + 8)
    story.passed_after_idling = passes(nodes)
    return story


def forgetful_router(lab: Lab, keys: Keys) -> Story:
    """It forgets before the keepalive comes, and then translates to another port and address."""
    nodes, router = pair_behind_router(lab, keys, "forgetful", 14, 1280)
    story = transfer(nodes, router, 16)
    router.forget_after(2)
    assert attempt(router.box, "ip", "address", "add", f"{SUBNET}.17/24", "dev", "eth0")[0]
    router.translate(40000, 17)
    # What may be said in silence, at the latest: a keepalive 10 s after the last word; a handshake
    # 15 s after it (wireguard-go's clock for the answer may start when the answer is there
    # already); another keepalive at 20 s. Between the last two the way is shut in every case.
    for _ in range(3):
        began = time.monotonic()
        idle(nodes, PASSIVE_KEEPALIVE_SECONDS + REKEY_TIMEOUT_SECONDS + 2 + 1.5)
        story.passed_after_idling = passes(nodes)
        # What passes later, on a slow machine, may owe it to the second keepalive: once more.
        is_early = time.monotonic() - began < 2 * PASSIVE_KEEPALIVE_SECONDS
        if is_early or not story.passed_after_idling:
            break
    wait_until(lambda: passes(nodes), "the keepalive has come", 60)
    story.healed_after_seconds = time.monotonic() - began
    story.endpoint = attempt(nodes["listen"].uplink, "wg", "show", "all", "endpoints")[1]
    return story


def idle(nodes: dict[str, Node], seconds: float) -> None:
    """Nobody says a word; what is waited for is time itself."""
    assert passes(nodes), "control: bytes pass before"
    time.sleep(seconds)


def transfer(nodes: dict[str, Node], router: Router, dial: int) -> Story:
    """A mebibyte there and back, over a path that takes 1500 bytes, and one that takes 1280."""
    sizes, fragments = [], []
    for path_bytes in (1500, 1280):
        router.narrow(dial, path_bytes)
        _, answer = probe(
            nodes["listen"].workload, "bulk", ADDRESSES["dial"], "8080", str(MEBIBYTE)
        )
        sizes.append(int(answer) if answer.isdigit() else 0)
        fragments.append(router.fragments())
    return Story(tuple(sizes), tuple(fragments))


@pytest.mark.parametrize("name", ["patient", "forgetful"], ids=["mtu-1420", "mtu-1280"])
def test_payload_passes_a_narrow_path(stories: dict[str, Future[Story]], name: str) -> None:
    """At a path MTU of 1500, and of 1280, where each large packet comes in pieces."""
    story = stories[name].result(timeout=200)

    assert story.sizes == (MEBIBYTE, MEBIBYTE)
    assert story.fragments[0] == 0, "control: 1500 bytes are enough"
    assert story.fragments[1] > MEBIBYTE / 1500, "control: the path is narrow"


def test_keepalive_keeps_the_way_through_nat_open(stories: dict[str, Future[Story]]) -> None:
    """After long silence the listening end gets through at once, if the router waits 30 s."""
    assert stories["patient"].result(timeout=200).passed_after_idling
    assert not stories["forgetful"].result(timeout=200).passed_after_idling, "control"


def test_keepalive_finds_a_way_that_nat_has_forgotten(stories: dict[str, Future[Story]]) -> None:
    """It comes no later than 25 s after the last word, here from another port and address."""
    story = stories["forgetful"].result(timeout=200)

    last_word_seconds = PASSIVE_KEEPALIVE_SECONDS + REKEY_TIMEOUT_SECONDS
    assert story.healed_after_seconds < last_word_seconds + KEEPALIVE_SECONDS + 6
    assert f"{SUBNET}.17:4" in story.endpoint


# Ends that move


@pytest.fixture(scope="module")
def moving(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Node], Keys]:
    keys = Keys(tmp_path_factory.mktemp("moving"))
    nodes = start_pair(lab, keys, "moving", listen=20, dial=21)
    wait_until(lambda: passes(nodes), "the first bytes pass the tunnel", 30)
    return nodes, keys


def test_dialling_end_roams_without_a_restart(
    lab: Lab, moving: tuple[dict[str, Node], Keys]
) -> None:
    """Its network goes and another address comes: bytes pass, and the rules cover what is new."""
    nodes, _ = moving
    uplink = nodes["dial"].uplink
    process = uplink.state.pid

    lab.docker.network.disconnect(lab.name, uplink)
    assert not passes(nodes), "control: there is no network"
    lab.docker.network.connect(lab.name, uplink, ip=f"{SUBNET}.22")

    seconds = wait_until(lambda: passes(nodes), "bytes pass", 15)
    print(f"roamed within {seconds:.1f} s")
    wait_until_healthy(uplink, 5)
    assert uplink.state.pid == process
    assert "because=outside-changed" in log_of(uplink)
    endpoint = attempt(nodes["listen"].uplink, "wg", "show", "all", "endpoints")[1]
    assert f"{SUBNET}.22:" in endpoint
    wire = attempt(uplink, "nft", "list", "chain", "netdev", "node", "outside")[1]
    present = set(attempt(uplink, "ls", "/sys/class/net")[1].split()) - {"lo"}
    assert [name for name in present if f'device "{name}"' in wire] == list(present)


def test_listening_end_moves_to_another_address(
    lab: Lab, moving: tuple[dict[str, Node], Keys]
) -> None:
    """Both uplinks are made anew, one elsewhere, one that looks there: the namespaces stay."""
    nodes, keys = moving
    workloads = {end: node.workload.state.pid for end, node in nodes.items()}
    for node in nodes.values():
        node.uplink.remove(force=True)
    assert not passes(nodes), "control"

    for end, number in (("listen", 24), ("dial", 21)):
        nodes[end].uplink = start_uplink(
            lab,
            keys,
            end,
            nodes[end].holder,
            name="moving",
            address=number,
            endpoint=f"{SUBNET}.24:51820",
        )

    seconds = wait_until(lambda: passes(nodes), "bytes pass", 20)
    print(f"moved within {seconds:.1f} s")
    assert {end: node.workload.state.pid for end, node in nodes.items()} == workloads
