"""Brings a node's bundle to its host over SSH and starts it; called again, it changes what differs.

It copies the bundle that `init` made, with the images if asked, starts the node, has it started at
boot, waits until it is healthy, and lets its doctor look. With a SOCKS5 proxy set it reaches the
host through that, or not at all.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scripts.bundle import MODEL, RELAY, ROOT, WORKER
from scripts.commands.init import BadAnswer, as_json, check_proxy, held, read_kept, write
from scripts.deployment import Deployment, Order, titles
from scripts.images import save_beside
from scripts.ssh import Connection, Host, NoConnection, known_keys
from scripts.steps import StepFailed, Steps, end_on_sigterm
from scripts.values import MOST_WORKERS

ABOUT = "bring a node's bundle to its host over SSH, and start it"

EXIT_STATUS = {
    0: "the node runs and is well",
    1: "it stopped before the node was started",
    2: "the node was started and is not well",
}
FILES = {
    "nodes/relay.tar, nodes/model.tar, nodes/workerN.tar": "the bundles, as `init` writes them",
    "nodes/known_hosts": "the hosts' keys, from the first time on",
    "nodes/answers.json": "where --proxy is kept",
}

COULD_NOT = 1
UNHEALTHY = 2

EXAMPLES = """\
examples:
  deploy relay 198.51.100.7 --images       build the images here, send those that it lacks, start
  deploy relay admin@198.51.100.7:2222     as another user than root, who may use sudo
  deploy model 192.168.1.20                the node at home
  deploy worker1 192.168.1.21 --images     the first of the further boxes with GPUs
  deploy relay vps.onion --proxy 127.0.0.1:9050      through Tor, now and from now on
  deploy relay 198.51.100.7 --host-key SHA256:…      where nobody can be asked
  deploy relay --images                    no host: the images go into a file beside the bundle
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "node", type=bundle_name, metavar="NODE", help="relay, model, or worker1, worker2, …"
    )
    parser.add_argument("host", nargs="?", metavar="HOST", help="[USER@]HOST[:PORT]; USER: root")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "nodes", help="where `init` wrote the bundles"
    )
    parser.add_argument(
        "--images", action="store_true", help="build the images here, and send those that it lacks"
    )
    parser.add_argument(
        "--proxy",
        metavar="ADDRESS:PORT",
        help="the SOCKS5 proxy, kept for the next time; `init --proxy none` takes it back",
    )
    parser.add_argument("--identity", type=Path, metavar="FILE", help="the private key to log in")
    parser.add_argument(
        "--host-key",
        metavar="SHA256:…",
        help="the fingerprint of the host's key, at the first time",
    )
    parser.add_argument(
        "--wait", type=int, metavar="SECONDS", help="how long it may take to become healthy"
    )
    parser.add_argument("--dry-run", action="store_true", help="say the steps, and take none")


def run(arguments: argparse.Namespace) -> int:
    end_on_sigterm()
    bundle = {"relay": RELAY, "model": MODEL}.get(arguments.node, WORKER)
    try:
        archive = read_archive(arguments.out, arguments.node)
        proxy = proxy_of(arguments)
        if not arguments.host and not arguments.images:
            arguments.parser.error("give the HOST, or --images without one")
        host = parse_host(arguments.host) if arguments.host else None
        order = Order(bundle, archive, arguments.images, arguments.wait)
        if arguments.dry_run:
            print(plan(order, host, proxy))
            return 0
        number = len(titles(order)) if host else 2
        steps = Steps(number, arguments.out / "deploy.log", sys.stdout)
        try:
            if not host:
                save_beside(steps, bundle, archive, arguments.out)
                return 0
            return deploy(arguments, steps, order, host, proxy)
        except NoConnection:
            raise
        except StepFailed as failure:
            steps.fail(failure)
            return COULD_NOT
    except (BadAnswer, NoConnection) as why:
        print(f"{why}.", file=sys.stderr)
        return COULD_NOT


def deploy(
    arguments: argparse.Namespace, steps: Steps, order: Order, host: Host, proxy: str
) -> int:
    known_hosts = arguments.out / "known_hosts"
    with Connection(host, known_hosts, proxy=proxy, identity=arguments.identity) as connection:
        connection.check()
        meet(connection, arguments.host_key)
        # Before the first step, whose progress would wipe away what OpenSSH asks for.
        print(f"Logging in to {host} ...", flush=True)
        connection.log_in()
        is_well = Deployment(connection, steps, order).run()
    return 0 if is_well else UNHEALTHY


def bundle_name(text: str) -> str:
    """The name of a bundle."""
    if text not in ("relay", "model", *(f"worker{n}" for n in range(1, MOST_WORKERS + 1))):
        raise argparse.ArgumentTypeError("give relay, model, or a worker such as worker1")
    return text


def read_archive(out: Path, node: str) -> bytes:
    """A node's bundle. Raises BadAnswer."""
    try:
        return (out / f"{node}.tar").read_bytes()
    except OSError as error:
        raise BadAnswer(
            f"{out / f'{node}.tar'} cannot be read ({error.strerror}): `init` makes it"
        ) from None


def proxy_of(arguments: argparse.Namespace) -> str:
    """The proxy that is given, which is then kept, or that was kept. Raises BadAnswer."""
    kept = read_kept(arguments.out)
    before = str(kept.get("proxy", ""))
    if arguments.proxy is None:
        return before
    try:
        proxy = check_proxy(arguments.proxy)
    except BadAnswer as why:
        raise BadAnswer(f"--proxy: {why}") from None
    if before and not proxy:
        raise BadAnswer(
            f"the proxy {before} is set, and nothing is connected without it: "
            "`init --proxy none` takes it back"
        )
    if kept and proxy != before:
        content = as_json({**kept, "proxy": proxy})
        with held(arguments.out, dry_run=arguments.dry_run):
            write(arguments.out, {"answers.json": content}, dry_run=arguments.dry_run)
    return proxy


def parse_host(text: str) -> Host:
    try:
        return Host.parse(text)
    except ValueError as why:
        raise BadAnswer(str(why)) from None


def plan(order: Order, host: Host | None, proxy: str) -> str:
    """The steps, for people."""
    if not host:
        return f"Would build the images of the {order.bundle.node} node and save them in a file."
    way = f"through the proxy {proxy}, and not without it" if proxy else "directly"
    lines = [f"Would connect to {host} {way}, and there:"]
    lines += [f"  {number}. {title}" for number, title in enumerate(titles(order), 1)]
    return "\n".join(lines)


def meet(connection: Connection, expected: str | None) -> None:
    """Have the host's key known, by its fingerprint or by somebody's word. Raises NoConnection."""
    host, file = connection.host, connection.known_hosts
    if known_keys(file, host):
        return
    key = connection.ask_for_key()
    if expected:
        if key.fingerprint != expected:
            raise NoConnection(
                f"{host} shows the key {key.fingerprint}, and --host-key is {expected}: "
                "find out which is right; somebody may be between"
            )
    elif not sys.stdin.isatty():
        raise NoConnection(
            f"the key of {host} is not known yet; it shows {key.fingerprint} ({key.kind}): "
            "compare that with its console, and give it as --host-key"
        )
    else:
        print(f"{host} shows this key, which is not known yet:\n  {key.kind} {key.fingerprint}")
        print("On its console: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub (or ecdsa, rsa)")
        if input("Is it the same? [yes/no] ").strip().lower() != "yes":
            raise NoConnection("nothing was sent: the key is not confirmed; compare it again")
    before = file.read_bytes() if file.exists() else b""
    write(file.parent, {file.name: before + key.line(host).encode()}, dry_run=False)
