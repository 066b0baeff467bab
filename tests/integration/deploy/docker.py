#!/usr/bin/env python3
"""Stands for Docker on a machine that has none: images are files, and so are containers."""

import os
import sys
from pathlib import Path

STATE = Path(os.environ["DOCKER_STATE"])
BUILT = {
    "compose.vps.yml": ("egress", "relay"),
    "compose.gpu.yml": ("gateway",),
    "compose.gpu.worker.yml": ("router",),
}
ARGUMENTS = sys.argv[1:]


def main() -> int:
    STATE.mkdir(exist_ok=True)
    with (STATE / "calls").open("a", encoding="utf-8") as calls:
        print(*ARGUMENTS, file=calls)
    match ARGUMENTS:
        case ["version", *_]:
            print("26.1.5")
        case ["compose", "version", *_]:
            print("2.26.1")
        case ["image", "inspect", "--format", form, name]:
            file = image(name)
            if not file.exists():
                return 1
            print(file.read_text(), "amd64 50000000" if "Size" in form else "")
        case ["compose", "--env-file", _, "-f", file, *more, "build"]:
            services = ["wireguard", *BUILT[Path(file).name]]
            for service in services + ["router"] * bool(more):
                name = f"{os.environ['IMAGES']}/{service}:{os.environ['VERSION']}"
                image(name).write_text(f"sha256:of-{service}")
        case ["save", *names]:
            for name in names:
                print(f"{name} {image(name).read_text()}")
            sys.stdout.flush()
            sys.stdout.buffer.write(os.urandom(3_000_000).replace(b"\n", b" "))
        case ["load"]:
            for line in sys.stdin.buffer:
                words = line.split(b" ")
                if len(words) == 2:
                    image(words[0].decode()).write_text(words[1].decode().strip())
        case ["compose", "up", *_]:
            (STATE / "up").write_text(str(Path.cwd()))
        case ["ps", *_]:
            print("one" if (STATE / "up").exists() else "")
        case ["inspect", *_]:
            print(f"{Path((STATE / 'up').read_text()).name} running healthy")
        case _:
            print(f"no such command: {ARGUMENTS}", file=sys.stderr)
            return 125
    return 0


def image(name: str) -> Path:
    return STATE / name.replace("/", "_")


sys.exit(main())
