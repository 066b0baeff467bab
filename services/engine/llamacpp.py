"""Serves a GGUF model by llama.cpp on a Unix socket, for machines without a GPU.

Run as `python -m services.engine.llamacpp`; vLLM's counterpart is vllm.sh. The settings are
environment variables, listed in README.md of this directory. They are read without pydantic,
so that the image holds Python's standard library, llama.cpp and the weights, and nothing else.
"""

import logging
import os
import re
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from services.engine.digests import BadWeights, check_digests
from services.log import start_logging

log = logging.getLogger("services.engine.llamacpp")  # this module runs as __main__

BAD_SETTING = 2


def main() -> int:
    try:
        settings = read_settings(os.environ)
        clear_socket(settings.socket)
        for folder in {file.parent for file in (settings.weights, settings.projector) if file}:
            check_digests(folder)
    except (BadSetting, BadWeights) as error:
        print(error, file=sys.stderr)
        return BAD_SETTING
    start_logging("INFO")
    log.info("starting", extra={"settings": vars(settings)})
    return supervise(settings)


@dataclass(frozen=True)
class Settings:
    """How the model is served; every value is checked."""

    socket: Path
    weights: Path
    name: str
    """What GET /v1/models calls the model."""
    context_tokens: int
    """Question and answer of one request together; every slot has as many."""
    slots: int
    """Requests answered at once; further ones wait inside llama.cpp, first come, first served."""
    threads: int
    projector: Path | None = None
    """What makes a model that sees understand pictures; None: it does not."""


class BadSetting(Exception):
    """A setting is missing or wrong: correct it in .env and start again."""


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read and check all settings; BadSetting names the first wrong one and the remedy."""
    weights = Path(environment.get("ENGINE_WEIGHTS", ""))
    if not weights.is_file():
        raise BadSetting(f'ENGINE_WEIGHTS is "{weights}": give the path of a GGUF file')
    projector = environment.get("ENGINE_PROJECTOR") or None
    if projector and not Path(projector).is_file():
        raise BadSetting(
            f'ENGINE_PROJECTOR is "{projector}": give the path of the GGUF file of the model\'s '
            "projector (mmproj), or nothing"
        )
    socket = Path(environment.get("ENGINE_SOCKET") or "/run/engine/engine.sock")
    # llama.cpp takes a name that ends otherwise for a network address; 107 is unix(7)'s limit.
    if socket.suffix != ".sock" or len(os.fsencode(socket)) > 107:
        raise BadSetting(
            f'ENGINE_SOCKET is "{socket}": give a path that ends in .sock, of at most 107 bytes'
        )
    name = environment.get("ENGINE_NAME") or weights.stem
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,99}", name):
        raise BadSetting(f'ENGINE_NAME is "{name}": give up to 100 letters, digits and . _ / : -')
    return Settings(
        socket=socket,
        weights=weights,
        name=name,
        context_tokens=_read_number(environment, "CONTEXT_TOKENS", 2048, 256, 1_048_576),
        slots=_read_number(environment, "ENGINE_SLOTS", 4, 1, 256),
        threads=_read_number(environment, "ENGINE_THREADS", len(os.sched_getaffinity(0)), 1, 512),
        projector=Path(projector) if projector else None,
    )


def _read_number(
    environment: Mapping[str, str], name: str, default: int, least: int, most: int
) -> int:
    value = environment.get(name) or str(default)
    if not re.fullmatch(r"[0-9]{1,9}", value) or not least <= int(value) <= most:
        raise BadSetting(f'{name} is "{value}": give a number between {least} and {most}')
    return int(value)


def clear_socket(socket: Path) -> None:
    """Remove what an engine that was killed has left: llama.cpp binds without unlinking."""
    try:
        socket.unlink(missing_ok=True)
    except OSError as error:
        raise BadSetting(
            f'ENGINE_SOCKET is "{socket}": its old socket cannot be removed ({error.strerror}); '
            "give a path in a directory that the engine's user may write to"
        ) from None
    if not os.access(socket.parent, os.W_OK | os.X_OK):
        raise BadSetting(
            f'ENGINE_SOCKET is "{socket}": '
            "give a path in a directory that exists and that the engine's user may write to"
        )


def supervise(settings: Settings) -> int:
    """Run the server in a child process until it ends or a signal asks to stop.

    llama.cpp keeps Python's lock while it loads the weights, so that no Python code could react
    to a signal meanwhile, and process 1 of a container gets no default handling of signals.
    Killing the child loses nothing: the engine keeps no state.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
    server = os.fork()
    if server == 0:
        os._exit(serve(settings))
    received = signal.sigwait({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
    if received is not signal.SIGCHLD:
        os.kill(server, signal.SIGKILL)
    exit_code = os.waitstatus_to_exitcode(os.waitpid(server, 0)[1])
    settings.socket.unlink(missing_ok=True)
    if received is not signal.SIGCHLD:
        log.info("stopped", extra={"signal": received})
        return 0
    if exit_code != BAD_SETTING:
        log.error("server died", extra={"exit_code": exit_code})
    return exit_code if exit_code > 0 else 1


def serve(settings: Settings) -> int:
    """Load the weights and serve for ever; returns only if that fails."""
    # Untyped, and loaded in the child only: the parent stays at 10 MB.
    xllamacpp: Any = import_module("xllamacpp")
    os.umask(0o117)  # the socket becomes 660: owner and socket group
    try:
        server = xllamacpp.Server(_parameters(xllamacpp, settings))
    except RuntimeError:
        print(
            f'ENGINE_WEIGHTS is "{settings.weights}": llama.cpp cannot serve it (its own words '
            "are above); give a GGUF file that fits into memory with "
            f"{settings.slots} contexts of {settings.context_tokens} tokens",
            file=sys.stderr,
            flush=True,
        )
        return BAD_SETTING
    log.info("ready", extra={"address": server.listening_address})
    while True:
        signal.pause()


def _parameters(xllamacpp: Any, settings: Settings) -> Any:
    p = xllamacpp.CommonParams()
    p.model.path = str(settings.weights)
    p.model_alias = {settings.name}
    if settings.projector:
        p.mmproj.path = str(settings.projector)
    p.hostnames = [str(settings.socket)]
    p.n_parallel = settings.slots
    p.n_ctx = settings.slots * settings.context_tokens
    p.fit_params = False  # would shrink the context silently where memory is short
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = settings.threads
    # Long prompts are read in pieces, so that answers being written go on meanwhile.
    p.n_batch = p.n_ubatch = 256
    # One HTTP thread per open stream, and some for whoever asks for health and counts tokens.
    p.n_threads_http = 2 * settings.slots + 4
    # Prompts of the past would stay in up to 8 GB of memory; a slot's own prefix is reused still.
    p.cache_ram_mib = 0
    p.cache_idle_slots = False
    p.verbosity = 1  # errors only: warnings quote malformed requests
    p.ui = False
    p.offline = True
    p.endpoint_metrics = True
    return p


if __name__ == "__main__":
    sys.exit(main())
