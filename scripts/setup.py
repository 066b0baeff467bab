"""Owns making a machine ready: Docker, base image, the project's images; all of it repeatable."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.steps import Step, StepFailed, Steps

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".setup"
LOG = STATE / "setup.log"
DAEMON_LOG = Path("/var/log/dockerd.log")

MINIMUM_ENGINE = (25, 0)  # health checks with a start_interval
MINIMUM_COMPOSE = (2, 24, 4)  # `!override` in the overlays
RELEASES = ("bookworm", "trixie")
NEWER_RELEASE = "trixie"  # bookworm's own Docker is too old
INSTALL_BY_HAND = (
    "Install Docker Engine 25 or newer with the plugins Compose (2.24.4 or newer) and buildx, "
    "or run this as root on Debian 12 or 13, which does it by itself."
)


@dataclass(frozen=True)
class Images:
    """Images that are built together: what for, from which Compose files, and from which inputs."""

    title: str
    files: tuple[str, ...]
    env_file: str | None
    inputs: tuple[str, ...]
    bases: tuple[tuple[str, str], ...] = (("BASE", "trixie"),)
    """Build argument and the Debian release whose slim image it names."""
    gigabytes: float = 3


RELAY_NODE = Images(
    "images of the relay node",
    ("compose.vps.yml",),
    ".env.vps.example",
    ("compose.vps.yml", "services", "wireguard", "requirements"),
)
STUBS = Images(
    "images of the test internet",
    ("tests/stubs/internet.yml",),
    None,
    ("tests/stubs", "services", "requirements"),
)

BYSTANDERS = Images(
    "images of the bystanders",
    ("tests/stubs/bystanders.yml",),
    None,
    ("tests/stubs", "tests/integration", "requirements"),
)


WORKER = Images(
    "images of a worker",
    ("compose.gpu.worker.yml",),
    ".env.worker.example",
    ("compose.gpu.worker.yml", "services", "wireguard"),
)


def model_node(engine: str) -> Images:
    """The model node's images; engine is `llamacpp`, `vllm-cpu` or `stub` (no image of its own)."""
    overlay = () if engine == "stub" else (f"services/engine/{engine}.yml",)
    return Images(
        f"images of the model node ({engine})",
        ("compose.gpu.yml", *overlay),
        ".env.gpu.example",
        ("compose.gpu.yml", *overlay, "services", "wireguard", "requirements"),
        (*RELAY_NODE.bases, *((("BASE_PY311", "bookworm"),) if engine == "vllm-cpu" else ())),
        15 if engine == "vllm-cpu" else 3,
    )


def prepare(steps: Steps, wanted: Sequence[Images]) -> None:
    """All that must be there before containers start. Number of steps: `step_count(wanted)`."""
    ready_docker(steps)
    if all(are_current(images) for images in wanted):
        for images in wanted:
            with steps.step(images.title) as step:
                step.say("up to date")
        return
    bases = {argument: ready_base(steps, release) for argument, release in missing_bases(wanted)}
    for images in wanted:
        build(steps, images, bases)


def step_count(wanted: Sequence[Images]) -> int:
    """How many steps `prepare` will announce."""
    return 3 + len(missing_bases(wanted)) + len(wanted)


def missing_bases(wanted: Sequence[Images]) -> list[tuple[str, str]]:
    """The base images of those images that have to be built."""
    stale = [images for images in wanted if not are_current(images)]
    return sorted({base for images in stale for base in images.bases})


@contextlib.contextmanager
def only_one(steps: Steps | None = None) -> Iterator[None]:
    """Hold the set-up lock: two set-ups at once would fight over apt and the image tags."""
    STATE.mkdir(mode=0o700, exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another set-up is under way in this checkout: waiting for it.", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# Docker


def ready_docker(steps: Steps) -> None:
    """Engine installed, daemon running, Compose and buildx new enough."""
    with steps.step("Docker Engine") as step:
        if server_version() is None and not can_start_daemon():
            install_docker(step)
        step.say("installed")
    with steps.step("Docker daemon") as step:
        start_daemon(step)
        version = server_version() or ""
        if numbers(version) < MINIMUM_ENGINE:
            raise StepFailed(
                f"Docker Engine {version} is too old: health checks here need 25 or newer. "
                "Update it, then run this again."
            )
        step.say(f"version {version} answers")
    with steps.step("Docker Compose and buildx") as step:
        step.say(ready_plugins(step))


def server_version() -> str | None:
    """The daemon's version, or None if no daemon answers."""
    return answer_of(["docker", "version", "--format", "{{.Server.Version}}"])


def can_start_daemon() -> bool:
    return shutil.which("docker") is not None and daemon_program() is not None


def daemon_program() -> str | None:
    return shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def install_docker(step: Step) -> None:
    """Docker from Debian's own archive."""
    if os.environ.get("DOCKER_HOST"):
        raise StepFailed(
            f"No Docker daemon answers at DOCKER_HOST={os.environ['DOCKER_HOST']}: "
            "start it, or unset DOCKER_HOST."
        )
    if shutil.which("docker") and Path("/var/run/docker.sock").exists() and os.geteuid() != 0:
        raise StepFailed(
            "The Docker daemon cannot be reached by this user: add the user to the group `docker` "
            "and log in again, or run this as root."
        )
    packages = ["docker.io"]
    packages += [] if shutil.which("docker") else ["docker-cli"]
    packages += [] if compose_version() else ["docker-compose"]
    packages += [] if buildx_version() else ["docker-buildx"]
    apt_install(step, packages, "installing Docker", newer=True)


def start_daemon(step: Step) -> None:
    """Wait for the daemon, starting it first if nobody did."""
    if server_version() is not None:
        return
    if os.geteuid() != 0:
        raise StepFailed(
            "The Docker daemon does not answer: start it (`sudo systemctl start docker`), add this "
            "user to the group `docker`, or run this as root."
        )
    process: subprocess.Popen[bytes] | None = None
    if Path("/run/systemd/system").exists():
        step.run(["systemctl", "start", "docker"], doing="starting Docker", timeout=120)
    elif not is_running("dockerd"):
        process = spawn_daemon()
    deadline = time.monotonic() + 90
    while server_version() is None:
        if process is not None and process.poll() is not None:
            copy_tail(DAEMON_LOG, step.steps.log)
            raise StepFailed(
                f"The Docker daemon ended at once (exit code {process.returncode}): "
                f"the reason is in {DAEMON_LOG}; mend it and run this again."
            )
        if time.monotonic() > deadline:
            raise StepFailed(
                f"The Docker daemon does not answer after 90 s: see {DAEMON_LOG} or "
                "`journalctl -u docker`, then run this again."
            )
        step.note = "waiting for the daemon to answer"
        time.sleep(0.3)


def spawn_daemon() -> subprocess.Popen[bytes]:
    """Start dockerd where no systemd would: in its own session, so that it outlives this run."""
    program = daemon_program()
    if program is None:
        raise StepFailed(f"dockerd was not found. {INSTALL_BY_HAND}")
    with DAEMON_LOG.open("ab") as log:
        return subprocess.Popen(
            [program],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )


def ready_plugins(step: Step) -> str:
    """Compose and buildx, installed if they are missing; returns what there is."""
    missing = [] if compose_version() else ["docker-compose"]
    missing += [] if buildx_version() else ["docker-buildx"]
    if missing:
        apt_install(step, missing, "installing Docker's plugins", newer=True)
    compose, buildx = compose_version(), buildx_version()
    if compose is None or numbers(compose) < MINIMUM_COMPOSE:
        raise StepFailed(
            f"Docker Compose {compose or 'is missing'}: 2.24.4 or newer is needed. "
            "Install the Compose plugin of your Docker, then run this again."
        )
    if buildx is None:
        raise StepFailed("Docker buildx is missing: install the buildx plugin of your Docker.")
    return f"Compose {compose}, buildx {buildx}"


def compose_version() -> str | None:
    return answer_of(["docker", "compose", "version", "--short"])


def buildx_version() -> str | None:
    found = re.search(r"\d+\.\d+\.\d+", answer_of(["docker", "buildx", "version"]) or "")
    return found[0] if found else None


# The base image


def ready_base(steps: Steps, release: str) -> str:
    """The tag of a base image: the official one, else one made from the Debian archive."""
    official, own = f"debian:{release}-slim", f"node-base:{release}"
    with steps.step(f"base image ({release})") as step:
        for tag in (official, own):
            if image_id(tag):
                step.say(f"{tag} is there")
                return tag
        step.note = f"docker pull {official}"
        if pull(step, official):
            step.say(f"{official} pulled")
            return official
        make_base(step, release, own)
        step.say(f"no registry answers, so {own} was made from the Debian archive")
        return own


def pull(step: Step, tag: str, *, answer_seconds: float = 20, total_seconds: float = 600) -> bool:
    """Pull an image; give up soon if no registry answers, be patient with a slow one that does."""
    with step.steps.log.open("ab") as log:
        mark = log.tell()
        log.write(f"\n$ docker pull {tag}\n".encode())
        log.flush()
        process = subprocess.Popen(["docker", "pull", tag], stdout=log, stderr=log)
        began = time.monotonic()
        try:
            while process.poll() is None:
                answered = b"Pulling fs layer" in step.steps.log.read_bytes()[mark:]
                if time.monotonic() - began > (total_seconds if answered else answer_seconds):
                    return False
                time.sleep(0.2)
            return process.returncode == 0
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def make_base(step: Step, release: str, tag: str) -> None:
    """What the official slim image is: a minimal system without documentation."""
    if not is_known_debian() or os.geteuid() != 0:
        raise StepFailed(
            f"The base image debian:{release}-slim can be neither pulled (no registry answers) nor "
            "made (that takes root on Debian): load it with `docker load`, then run this again."
        )
    apt_install(step, ["mmdebstrap"], "installing mmdebstrap")
    main, security = known_archive(), known_archive("-security")
    archive = STATE / f"base-{release}.tar"
    step.note = f"mmdebstrap {release}"
    step.run(
        [
            "mmdebstrap",
            "--variant=minbase",
            *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT),
            "--dpkgopt=path-include=/usr/share/doc/*/copyright",
            release,
            str(archive),
            f"deb {main.uri} {release} main",
            f"deb {main.uri} {release}-updates main",
            f"deb {security.uri} {release}-security main",
        ],
        doing="making the base image",
        remedy="Check that the Debian archive is reachable, then run this again.",
        timeout=900,
    )
    step.note = "docker import"
    step.run(
        ["docker", "import", "--change", 'CMD ["bash"]', str(archive), tag],
        doing="importing the base image",
    )
    archive.unlink()


LEFT_OUT = ("doc", "man", "locale", "info", "groff", "lintian", "linda")  # as in the official one


# The project's images


def build(steps: Steps, images: Images, bases: Mapping[str, str]) -> None:
    """Build with Compose, unless the inputs are the same as when the present images were built."""
    with steps.step(images.title) as step:
        if are_current(images):
            step.say("up to date")
            return
        need_space(images.gigabytes)
        digest = digest_of(images)
        step.run(
            [*compose_command(images), "build"],
            doing=f"building the {images.title}",
            remedy="Run it again: what was built so far is kept.",
            timeout=3600,
            env=compose_environment({**bases, **build_settings(step)}),
            cwd=ROOT,
        )
        names = image_names(images)
        write_record(images, {"inputs": digest, "images": {name: image_id(name) for name in names}})
        step.say(", ".join(f"{name.rsplit('/', 1)[-1].split(':')[0]}" for name in names))


def build_settings(step: Step) -> dict[str, str]:
    """What builds take over from this machine: its certificates, and where pip looks for wheels."""
    settings = {"BUILD_CA": str(certificate_bundle(step))}
    for name in ("WHEELS", "PIP_EXTRA_INDEX_URL"):
        if os.environ.get(name):
            settings[name] = os.environ[name]
    wheels = os.environ.get("PIP_FIND_LINKS", "")
    if "WHEELS" not in settings and Path(wheels or "missing").is_dir():
        settings["WHEELS"] = wheels
    return settings


def are_current(images: Images) -> bool:
    """True if the images exist and were built from exactly the present inputs."""
    record = read_record(images)
    made = record.get("images")
    if not isinstance(made, dict) or record.get("inputs") != digest_of(images):
        return False
    return all(present and image_id(name) == present for name, present in made.items())


def compose_command(images: Images) -> list[str]:
    # Compose writes the project's name into the images, and one image serves both nodes.
    command = ["docker", "compose", "--project-directory", str(ROOT), "-p", "node"]
    command += ["--env-file", images.env_file] if images.env_file else []
    for file in images.files:
        command += ["-f", file]
    return command


def image_names(images: Images) -> list[str]:
    """The images that these Compose files build."""
    shown = subprocess.run(
        [*compose_command(images), "config", "--format", "json"],
        env=compose_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    services = json.loads(shown.stdout)["services"].values()
    return sorted({service["image"] for service in services if "build" in service})


def compose_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for Compose: only what Docker needs.

    A variable of the caller's shell would win over every env file, so it must not get through.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in {"PATH", "HOME", "TERM", "LANG", "XDG_RUNTIME_DIR", "SSH_AUTH_SOCK", "TMPDIR"}
        or name.startswith("DOCKER_")
        or name.upper() in {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}
    }
    # The files of the test internet insist on their variables, for building as well.
    return {**kept, "STATE": str(STATE), "COMPOSE_ANSI": "never", **(extra or {})}


def digest_of(images: Images) -> str:
    """One digest over names, modes and contents of everything that goes into the images."""
    digest = hashlib.sha256()
    for name in images.inputs:
        top = ROOT / name
        for path in sorted([top] if top.is_file() else top.rglob("*")):
            if path.is_file() and not {"__pycache__", "tests.txt"} & set(path.parts):
                mode = path.stat().st_mode & 0o111
                digest.update(f"{path.relative_to(ROOT)} {mode}\n".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def read_record(images: Images) -> dict[str, object]:
    with contextlib.suppress(OSError, ValueError):
        record = json.loads(record_file(images).read_text(encoding="utf-8"))
        if isinstance(record, dict):
            return record
    return {}


def write_record(images: Images, record: dict[str, object]) -> None:
    part = record_file(images).with_suffix(".part")
    part.write_text(json.dumps(record, indent=2), encoding="utf-8")
    part.replace(record_file(images))


def record_file(images: Images) -> Path:
    """Where it is noted from which inputs the present images were built."""
    STATE.mkdir(mode=0o700, exist_ok=True)
    return STATE / (re.sub(r"[^a-z]+", "-", images.title).strip("-") + ".json")


def image_id(name: str) -> str | None:
    return answer_of(["docker", "image", "inspect", "--format", "{{.Id}}", name])


def certificate_bundle(step: Step) -> Path:
    """The host's certificates, which builds trust; an empty file where there are none to be had."""
    given = os.environ.get("BUILD_CA")
    if given and not Path(given).is_file():
        raise StepFailed(f'BUILD_CA is "{given}": give the path of a file of certificates.')
    bundle = Path(given or "/etc/ssl/certs/ca-certificates.crt")
    if not bundle.is_file() and is_known_debian() and os.geteuid() == 0:
        apt_install(step, ["ca-certificates"], "installing certificates")
    for path in (bundle, Path("/etc/pki/tls/certs/ca-bundle.crt")):
        if path.is_file():
            return path
    empty = STATE / "no-certificates.crt"
    empty.touch()
    return empty


def need_space(gigabytes: float) -> None:
    """Fail early, with a sentence, where a build would fail late, with a stack of messages."""
    root = answer_of(["docker", "info", "--format", "{{.DockerRootDir}}"])
    if root and Path(root).exists():
        free = shutil.disk_usage(root).free / 1e9
        if free < gigabytes:
            raise StepFailed(
                f"{root} has {free:.1f} GB free, building needs {gigabytes:.0f}: make room "
                "(`docker system df` shows what Docker holds), then run this again."
            )


# Debian packages


def apt_install(step: Step, packages: Sequence[str], doing: str, *, newer: bool = False) -> None:
    """Install Debian packages, after mending what an interrupted run may have left half-done."""
    wanted = [name for name in packages if not is_installed(name)]
    if not wanted:
        return
    if not is_known_debian() or os.geteuid() != 0:
        raise StepFailed(f"{doing.capitalize()}: {' '.join(wanted)} missing. {INSTALL_BY_HAND}")
    step.note = "mending an interrupted apt"
    apt(step, ["dpkg", "--configure", "-a"], doing)
    if newer:
        # `package/release` and not `-t release`: the latter would upgrade libc6 and base-files too.
        wanted = [f"{name}/{NEWER_RELEASE}" for name in wanted]
        list_newer_release()
    step.note = "apt-get update"
    apt(step, ["apt-get", "update", "-q"], doing)
    step.note = ""
    apt(step, ["apt-get", "--fix-broken", "install", "-y", "-q"], doing)
    options = ["-y", "-q", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold"]
    apt(step, ["apt-get", "install", *options, *wanted], doing)


def apt(step: Step, argv: Sequence[str], doing: str, *, patience_seconds: float = 180) -> None:
    """Run one command of the package system; wait while another holds its lock."""
    deadline = time.monotonic() + patience_seconds
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    while True:
        mark = step.steps.log.stat().st_size
        if step.attempt(argv, timeout=1200, env=env) == 0:
            return
        output = step.steps.log.read_bytes()[mark:]
        is_locked = b"Could not get lock" in output or b"locked by another process" in output
        if not is_locked or time.monotonic() > deadline:
            raise StepFailed(
                f"{doing.capitalize()}: `{' '.join(argv[:2])}` failed. "
                "Mend what the lines below say (network, apt sources), then run this again."
            )
        step.note = "waiting for another apt to finish"
        time.sleep(1)


def is_known_debian() -> bool:
    """True on Debian 12 and 13."""
    with contextlib.suppress(OSError):
        text = Path("/etc/os-release").read_text(encoding="utf-8")
        values = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', text, re.MULTILINE))
        return values.get("ID") == "debian" and values.get("VERSION_CODENAME") in RELEASES
    return False


def is_installed(package: str) -> bool:
    return answer_of(["dpkg-query", "-W", "-f", "${db:Status-Abbrev}", package]) == "ii"


def list_newer_release() -> None:
    """Add trixie to bookworm's sources, at a priority so low that nothing is upgraded by it."""
    if archive_source(NEWER_RELEASE, apt_sources()):
        return
    source = known_archive()
    write_if_new(
        Path("/etc/apt/sources.list.d/adyton-trixie.sources"),
        f"Types: deb\nURIs: {source.uri}\nSuites: {NEWER_RELEASE}\nComponents: main\n"
        + (f"Signed-By: {source.signed_by}\n" if source.signed_by else ""),
    )
    write_if_new(
        Path("/etc/apt/preferences.d/adyton-trixie"),
        f"Package: *\nPin: release n={NEWER_RELEASE}\nPin-Priority: 100\n",
    )


@dataclass(frozen=True)
class Source:
    """A Debian archive, as the machine's own apt sources name it."""

    uri: str
    signed_by: str


def apt_sources() -> list[str]:
    """The texts of all apt source files, ours excepted."""
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    return [
        file.read_text(encoding="utf-8", errors="replace")
        for file in files
        if file.is_file()
        and file.suffix in (".list", ".sources")
        and file.name != "adyton-trixie.sources"
    ]


def known_archive(branch: str = "") -> Source:
    """The Debian archive that this machine uses: no host's name is written into this project."""
    for release in RELEASES:
        source = archive_source(release + branch, apt_sources())
        if source is not None:
            return source
    raise StepFailed(
        "apt's sources name no Debian archive that carries "
        f"{' or '.join(name + branch for name in RELEASES)}: add one to /etc/apt/sources.list, "
        "then run this again."
    )


def archive_source(release: str, texts: Sequence[str]) -> Source | None:
    """The first archive that carries `release` itself (not its security or backports branch)."""
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    for text in texts:
        for stanza in re.split(r"\n\s*\n", text):
            fields = dict(re.findall(r"^([\w-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
            is_release = release in fields.get("Suites", "").split()
            is_main = "main" in fields.get("Components", "").split()
            uris = fields.get("URIs", "").split()
            if uris and is_release and is_main and "deb" in fields.get("Types", "").split():
                return Source(uris[0], fields.get("Signed-By", keyring))
        for options, uri, suite, parts in re.findall(
            r"^deb[ \t]+(?:\[([^\]]*)\][ \t]+)?(\S+)[ \t]+(\S+)[ \t]+(.*)$", text, re.MULTILINE
        ):
            if suite == release and "main" in parts.split():
                signed = re.search(r"signed-by=(\S+)", options)
                return Source(uri, signed[1] if signed else keyring)
    return None


# Small questions


def answer_of(argv: Sequence[str]) -> str | None:
    """The output of a short command, or None if it fails, hangs or does not exist."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else None


def numbers(version: str) -> tuple[int, ...]:
    """`2.26.1-4` → (2, 26, 1)."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def is_running(program: str) -> bool:
    """True if a process of that name lives."""
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if comm.read_text(encoding="utf-8").strip() == program:
                return True
    return False


def copy_tail(source: Path, target: Path) -> None:
    with contextlib.suppress(OSError), target.open("ab") as out:
        out.write(source.read_bytes()[-4096:])


def write_if_new(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
