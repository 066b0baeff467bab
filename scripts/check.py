"""Owns the checks that need no running container: style, types, import rules, shell, Compose files.

Each check is one item in the closing count of ./scripts/test.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from scripts.setup import ROOT, compose_environment

OVERLAYS = {
    "compose.vps.yml": (
        ".env.vps.example",
        "compose.vps.journal.yml",
        "tests/stubs/vps.yml",
        "tests/stubs/tunnel.yml",
        "tests/faults/relay.yml",
        "tests/leaks/relay.yml",
        "tests/leaks/delayed.yml",
        "tests/leaks/delayed_egress.yml",
        "tests/vm/relay.yml",
    ),
    "compose.gpu.yml": (
        ".env.gpu.example",
        "compose.gpu.hop.yml",
        "compose.gpu.journal.yml",
        "compose.gpu.passphrase.yml",
        "compose.gpu.tpm.yml",
        "compose.gpu.router.yml",
        "services/engine/llamacpp.yml",
        "services/engine/vllm-cpu.yml",
        "tests/stubs/engine.yml",
        "tests/stubs/gpu.yml",
        "tests/faults/model.yml",
        "tests/leaks/model.yml",
        "tests/leaks/delayed.yml",
        "tests/vm/model.yml",
    ),
    "compose.gpu.worker.yml": (
        ".env.worker.example",
        "compose.gpu.worker.journal.yml",
        "tests/stubs/engine.yml",
    ),
}
INDEX_ADDRESS = re.compile(r"https?://|--(extra-)?index-url|--find-links|file:", re.IGNORECASE)


def checks(venv: Path) -> list[tuple[str, Callable[[], str]]]:
    """All checks, cheapest first; each returns what is wrong, or nothing."""
    python = str(venv / "bin" / "python")
    shell = shell_files()
    return [
        ("ruff check", lambda: run([python, "-m", "ruff", "check", "."])),
        ("ruff format", lambda: run([python, "-m", "ruff", "format", "--check", "--diff", "."])),
        ("shellcheck", lambda: run_tool("shellcheck", ["-x", "-P", "SCRIPTDIR", *shell])),
        ("shfmt", lambda: run_tool("shfmt", ["-d", *shell])),
        ("requirements name no index", no_index_address),
        ("README in two languages", same_headings),
        ("Compose files", compose_files_are_valid),
        ("Compose files say what is missing", missing_values_are_explained),
        ("import rules", lambda: run([str(venv / "bin" / "lint-imports"), "--no-logo"])),
        ("mypy", lambda: run([python, "-m", "mypy"])),
    ]


def run(argv: Sequence[str]) -> str:
    """What a command printed if it failed, else nothing."""
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stdout + done.stderr) or f"exit {done.returncode}"


def run_tool(name: str, arguments: Sequence[str]) -> str:
    if shutil.which(name) is None:
        return f"{name} is missing: install it (`apt-get install {name}`)"
    return run([name, *arguments])


def shell_files() -> list[str]:
    """Every tracked or new file that is a shell script, by its first line or its ending."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        names = [name.decode() for name in listed.stdout.split(b"\0") if name]
    else:  # an archive of the repository, without git
        folders = ("scripts", "services", "wireguard", "tests", ".ci")
        files = [path for folder in folders for path in (ROOT / folder).rglob("*")]
        names = [str(path.relative_to(ROOT)) for path in files]
    return sorted(name for name in set(names) if is_shell(ROOT / name))


def is_shell(path: Path) -> bool:
    if not path.is_file() or path.is_symlink():
        return False
    if path.suffix in (".sh", ".bash"):
        return True
    with path.open("rb") as file:
        first = file.readline(80)
    return re.match(rb"#!\s*\S*/(env\s+)?(ba|da)?sh\b", first) is not None


def no_index_address() -> str:
    """Locks hold hashes only: where packages come from is each machine's own setting."""
    found = [
        f"{file.name}:{number}: {line.strip()}"
        for file in sorted((ROOT / "requirements").glob("*"))
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if INDEX_ADDRESS.search(line) and not line.lstrip().startswith("# via")
    ]
    return "\n".join(found)


def same_headings() -> str:
    """The two READMEs have the same chapters, in number and level."""
    levels = {}
    for name in ("README.md", "README.ru.md"):
        path = ROOT / name
        if not path.exists():
            return f"{name} is missing"
        text = re.sub(
            r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
        )
        levels[name] = [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]
    english, russian = levels.values()
    if english == russian:
        return ""
    return f"headings by level: README.md {english}, README.ru.md {russian}"


def compose(files: Sequence[str], env_file: str) -> subprocess.CompletedProcess[str]:
    command = ["docker", "compose", "--project-directory", str(ROOT), "--env-file", env_file]
    for file in files:
        command += ["-f", str(ROOT / file)]
    extra = {
        "SUBNET": "198.18.0",
        "INTERNET": "internet",
        # Of an overlay that insists on them, which only few operators need.
        **dict.fromkeys(("HOP_ADDRESS", "HOP_ENDPOINT", "HOP_PEER_KEY", "WORKERS"), "set"),
        "WORKERS_LISTEN": "127.0.0.1:51821",
    }
    return subprocess.run(
        [*command, "config", "-q"],
        cwd=ROOT,
        env=compose_environment(extra),
        capture_output=True,
        text=True,
        check=False,
    )


def compose_files_are_valid() -> str:
    """Each node's file with its example settings, alone and with each overlay."""
    wrong = []
    for file, (env_file, *overlays) in OVERLAYS.items():
        for files in [[file], *([file, overlay] for overlay in overlays)]:
            done = compose(files, env_file)
            if done.returncode != 0 or done.stderr.strip():
                wrong.append(f"{' + '.join(files)}: {done.stderr.strip()}")
    return "\n".join(wrong)


def missing_values_are_explained() -> str:
    """Without a required value Compose stops, and says the sentence that stands in the file."""
    wrong = []
    for file, (env_file, *_) in OVERLAYS.items():
        text = (ROOT / file).read_text(encoding="utf-8")
        example = (ROOT / env_file).read_text(encoding="utf-8")
        required = dict(re.findall(r"\$\{(\w+):\?([^}]*)\}", text))
        if not required:
            wrong.append(f"{file} requires nothing: this check has lost its object")
        for name, sentence in required.items():
            if len(sentence.split()) < 4:
                wrong.append(f'{file}: "{sentence}" does not say what to do about {name}')
            with tempfile.NamedTemporaryFile("w", suffix=".env", encoding="utf-8") as without:
                without.write(re.sub(rf"^{name}=.*$", "", example, flags=re.MULTILINE))
                without.flush()
                done = compose([file], without.name)
            if done.returncode == 0 or sentence not in done.stderr:
                wrong.append(f"{file} without {name}: {done.stderr.strip() or 'accepted'}")
    return "\n".join(wrong)
