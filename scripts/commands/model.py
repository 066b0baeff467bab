"""Fetches, lists, checks, estimates and switches the weights of language models.

Weights are fetched outside of the isolation: on the model node into the engine's volume, or
elsewhere into a folder to carry. Only safetensors and GGUF are taken, never what could run code.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from scripts.model import GIB, WeightsFailed, estimate, size
from scripts.model.estimate import Plan, Shape, shape_of_gguf, shape_of_tensors
from scripts.model.fetch import Order, check_hub, fetch, proxy_of
from scripts.model.header import (
    kind_of_gguf,
    kind_of_tensors,
    read_config,
    read_gguf,
    read_tensors,
)
from scripts.model.progress import Progress
from scripts.model.settings import change, read_settings, write_settings
from scripts.model.sources import HUB, PART, is_projector
from scripts.model.store import (
    Model,
    digests_of,
    half_done,
    model_at,
    models_in,
    now,
    place_of,
    verify,
)
from scripts.node.arguments import ROOT
from scripts.node.tools import Tools

ABOUT = "fetch, list, check and switch the weights of language models"

EXIT_STATUS = {
    0: "it is done; with `verify`: all digests are right; with `fits`: it fits",
    1: "it could not be done, does not fit, or a digest is wrong",
}
FILES = {
    "model_weights": "Docker's volume that the engine reads; another folder with --into",
    "SHA256SUMS": "beside the weights: what they are checked against",
    ".env": "WEIGHTS or GGUF, which `use` changes",
}

COULD_NOT = 1
LLAMACPP = "llamacpp.yml"

FETCH_EXAMPLES = """\
examples:
  model fetch Qwen/Qwen3-8B --proxy socks5h://127.0.0.1:9050
  model fetch Qwen/Qwen3-8B-GGUF --file '*Q4_K_M*'
  model fetch https://example.org/model.gguf --sha256 DIGEST
  model fetch Qwen/Qwen3-8B --into ./carry        # elsewhere; then, on the model node:
  model fetch ./carry/Qwen3-8B

Run again after an interruption, it goes on where it was. With a proxy (--proxy, or ALL_PROXY in the
environment) it never goes past it, and names are looked up by the proxy."""

USE_EXAMPLES = """\
examples:
  model use Qwen3-8B --dry-run
  model use Qwen3-8B --apply"""

FITS_EXAMPLES = f"""\
examples:
  model fits Qwen3-8B
  model fits Qwen3-8B --context 32768 --slots 8 --gpu-memory 48 --gpus 2

{estimate.__doc__}
Working memory is, for each of BATCH_TOKENS, 4 x hidden size + 3 x inner size, 2 bytes each (shared
among cards), and 12 bytes for each slot and word of the vocabulary. The reserve is
{size(estimate.RESERVE)} a card, and {size(estimate.RESERVE_TOGETHER)} more with several: an \
allowance, not a measurement."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(
        name: str, says: str, run: Callable[..., int], examples: str = ""
    ) -> argparse.ArgumentParser:
        added = actions.add_parser(
            name,
            help=says,
            description=f"{says[0].upper()}{says[1:]}.",
            epilog=examples or f"example:\n  model {name}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(act=run)
        return added

    def folder(added: argparse.ArgumentParser, name: str = "--folder") -> None:
        added.add_argument(
            name, type=Path, metavar="FOLDER", dest="place", help="instead of the engine's volume"
        )

    def env(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "--env-file", type=Path, default=ROOT / ".env", help="the node's settings"
        )

    added = action("fetch", "download a model, or take over one that was carried here", run_fetch,
                   FETCH_EXAMPLES)  # fmt: skip
    added.add_argument("source", help="a hub's repository, a GGUF file's address, or a folder")
    added.add_argument("--revision", default="main", help="branch, tag or commit; `main`")
    added.add_argument("--hub", default=HUB, metavar="URL", help=HUB)
    added.add_argument("--file", action="append", default=[], metavar="PATTERN",
                       help="which weights, where there are several; more than once")  # fmt: skip
    added.add_argument("--name", default="", help="what it is called here; the source's last word")
    added.add_argument("--sha256", default="", metavar="DIGEST", help="of a file at an address")
    added.add_argument("--proxy", default="", metavar="URL", help="socks5h://… or http://…")
    added.add_argument("--token-file", type=Path, metavar="FILE", help="holds a token of the hub's")
    added.add_argument("--restart", action="store_true", help="throw away what is half fetched")
    added.add_argument("--dry-run", action="store_true", help="ask the hub and say what would come")
    folder(added, "--into")
    env(added)

    added = action("list", "show the models that are there", run_list)
    folder(added)
    env(added)

    added = action("verify", "read models anew and compare their digests", run_verify)
    added.add_argument("name", nargs="?", help="all if not given")
    added.add_argument("--record", action="store_true",
                       help="write down the digests of what has none, as it is now")  # fmt: skip
    added.add_argument("--dry-run", action="store_true", help="change no date and record nothing")
    folder(added)

    added = action("use", "let the engine serve another model", run_use, USE_EXAMPLES)
    added.add_argument("name")
    added.add_argument("--file", default="", help="the GGUF file, where there are several")
    added.add_argument("--apply", action="store_true", help="restart the engine with it, too")
    added.add_argument("--dry-run", action="store_true", help="say what would be changed")
    folder(added)
    env(added)

    added = action("fits", "estimate whether a model fits into memory, and say what to change",
                   run_fits, FITS_EXAMPLES)  # fmt: skip
    added.add_argument("name")
    added.add_argument(
        "--context", type=number, metavar="TOKENS", help="CONTEXT_TOKENS if not given"
    )
    added.add_argument("--slots", type=number, metavar="N", help="ENGINE_SLOTS if not given")
    added.add_argument("--gpus", type=number, metavar="N", help="GPU_COUNT if not given")
    added.add_argument("--gpu-memory", type=gibibytes, metavar="GIB",
                       help="of each GPU (llama.cpp: main memory); else what there is")  # fmt: skip
    folder(added)
    env(added)


def run(arguments: argparse.Namespace) -> int:
    try:
        return int(arguments.act(arguments))
    except WeightsFailed as why:
        print(f"{why}.", file=sys.stderr)
    except OSError as error:  # a disk or its rights, wherever that shows
        where = error.filename or "The disk"
        print(f"{where} cannot be used ({error.strerror}): mend that, or run this as root.",
              file=sys.stderr)  # fmt: skip
    return COULD_NOT


def run_fetch(arguments: argparse.Namespace) -> int:
    order = Order(
        arguments.source,
        arguments.revision,
        check_hub(arguments.hub),
        tuple(arguments.file),
        arguments.name,
        check_digest(arguments.sha256),
        read_token(arguments.token_file),
        proxy_of(arguments.proxy, os.environ),
        arguments.restart,
        arguments.dry_run,
    )
    place = arguments.place or place_of(Tools(), may_make=not arguments.dry_run)
    progress = Progress(sys.stderr)
    try:
        model = fetch(order, place, progress)
    except KeyboardInterrupt:
        progress.say("Interrupted. What has come is kept: run it again to go on.")
        raise
    if model is None:
        return 0
    tell_fit(model, read_settings(arguments.env_file))
    if arguments.place:
        print(f"Carry {model.folder} to the model node, and there: model fetch ./{model.name}")
    else:
        print(f"To let the engine serve it: model use {model.name} --apply")
    return 0


def run_list(arguments: argparse.Namespace) -> int:
    place = arguments.place or place_of(Tools())
    used = used_names(read_settings(arguments.env_file))
    rows = [("NAME", "SIZE", "FORMAT", "KIND", "CONTEXT", "VERIFIED", "")]
    rows += [(*described(model), "in use" * (model.name in used)) for model in models_in(place)]
    rows += [(name, "", "", "half fetched", "", "", "") for name in half_done(place)]
    if len(rows) == 1:
        print(f"There is no model in {place}: `model fetch` brings one.")
        return 0
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    return 0


def run_verify(arguments: argparse.Namespace) -> int:
    place = arguments.place or place_of(Tools())
    models = [model_at(place, arguments.name)] if arguments.name else models_in(place)
    progress, status = Progress(sys.stderr), 0
    for model in models:
        if model.digests is None and arguments.record:
            status = max(status, record(model, progress, dry_run=arguments.dry_run))
            continue
        if model.digests is None and not arguments.name:
            print(f"{model.name}: has no digests (--record writes them down as it is now)")
            status = COULD_NOT
            continue
        wrong = verify(model, progress)
        progress.end()
        if wrong:
            print(f"{model.name}: {wrong}; fetch it anew (remove {model.folder} before)")
            status = COULD_NOT
            continue
        print(f"{model.name}: all {len(model.files)} files are what was fetched")
        if not arguments.dry_run:
            note(model, model.digests or {}, {**model.origin, "verified": now()})
    return status


def record(model: Model, progress: Progress, *, dry_run: bool) -> int:
    if links := [path for path in model.files if path.is_symlink() or not path.is_file()]:
        print(f"{model.name}: {links[0].name} is not an ordinary file; remove it, or copy it here")
        return COULD_NOT
    if dry_run:
        print(f"{model.name}: would record the digests of {len(model.files)} files")
        return 0
    digests = digests_of(model.files, progress)
    progress.end()
    note(model, digests, {"source": "by hand", "verified": now()})
    print(f"{model.name}: recorded the digests of {len(digests)} files, as they are now")
    return 0


def note(model: Model, digests: Mapping[str, str], origin: Mapping[str, object]) -> None:
    try:
        model.record(digests, origin)
    except OSError as error:
        raise WeightsFailed(
            f"{model.folder} cannot be written to ({error.strerror}): run this as root"
        ) from None


def run_use(arguments: argparse.Namespace) -> int:
    env_file: Path = arguments.env_file
    settings = read_settings(env_file)
    if not env_file.exists():
        raise WeightsFailed(
            f"{env_file} is missing: run this on the model node, or give --env-file"
        )
    place = arguments.place or place_of(Tools())
    model = model_at(place, arguments.name)
    values = values_for(model, settings, arguments.file)
    before = env_file.read_bytes()
    after = change(before, values)
    words = ", ".join(f"{name}={value}" for name, value in values.items())
    if after == before:
        print(f"{env_file} has {words} already.")
    elif arguments.dry_run:
        print(f"Would set {words} in {env_file}.")
    else:
        write_settings(env_file, after)
        print(f"Set {words} in {env_file}.")
    tell_fit(model, settings)
    if (
        (old := settings.get("WEIGHTS", ""))
        and old != model.name
        and old in settings.get("MODELS", "")
    ):
        print(f"MODELS names {old}, which the engine no longer has: change that, too.")
    if after != before:
        print("So that the next bundle of `init` keeps it: give it there as well "
              f"({init_option(values)}).")  # fmt: skip
    if not arguments.apply:
        print(
            f"To restart the engine with it: cd {env_file.resolve().parent} && docker compose up -d"
        )
        return 0
    command = ["docker", "compose", "up", "-d"]
    if arguments.dry_run:
        print(f"Would run `{' '.join(command)}` in {env_file.resolve().parent}.")
        return 0
    return apply(command, env_file)


def apply(command: list[str], env_file: Path) -> int:
    """Let Compose restart what has changed: the engine, and whoever depends on its settings."""
    path = env_file.resolve()
    options = [] if path.name == ".env" else ["--env-file", str(path)]
    try:
        done = subprocess.run([*command[:2], *options, *command[2:]], cwd=path.parent, check=False)
    except OSError as error:
        raise WeightsFailed(f"Docker cannot be run ({error.strerror}): install it") from None
    if done.returncode:
        raise WeightsFailed(
            "Docker Compose failed (its words are above): mend that and run it again"
        )
    print("The engine loads it now; `doctor` tells when it answers.")
    return 0


def init_option(values: Mapping[str, str]) -> str:
    if "WEIGHTS" in values:
        return f"init --weights {values['WEIGHTS']}"
    return "init " + " ".join(f"--model {name}={value}" for name, value in values.items())


def values_for(model: Model, settings: Mapping[str, str], file: str) -> dict[str, str]:
    """The settings that make the engine serve a model. Raises WeightsFailed."""
    by_llamacpp = LLAMACPP in settings.get("COMPOSE_FILE", "")
    if not by_llamacpp:
        if not (model.folder / "config.json").exists() or not model.tensors:
            raise WeightsFailed(
                f"{model.name} is GGUF, which llama.cpp serves: add :services/engine/{LLAMACPP} to "
                "COMPOSE_FILE in .env, or fetch a model as safetensors for vLLM"
            )
        return {"WEIGHTS": model.name}
    if not model.ggufs:
        raise WeightsFailed(
            f"{model.name} is safetensors, which vLLM serves: fetch a model as GGUF for llama.cpp, "
            f"or take services/engine/{LLAMACPP} out of COMPOSE_FILE in .env"
        )
    projectors = [path.name for path in model.ggufs if is_projector(path.name)]
    projector = f"/weights/{model.name}/{projectors[0]}" if projectors else ""
    values = {"GGUF": f"/weights/{model.name}/{gguf_of(model, file).name}"}
    if projector != settings.get("GGUF_PROJECTOR", ""):
        values["GGUF_PROJECTOR"] = projector
    return values


def gguf_of(model: Model, file: str = "") -> Path:
    """The file that llama.cpp is given: the first of its parts. Raises WeightsFailed."""
    models = [path for path in model.ggufs if not is_projector(path.name)]
    if file:
        models = [path for path in models if path.name == file]
    starts = [path for path in models if not (part := PART.search(path.name)) or part[1] == "00001"]
    if len(starts) != 1:
        there = ", ".join(path.name for path in model.ggufs)
        raise WeightsFailed(f"choose a file of {model.name} with --file; there are: {there}")
    return starts[0]


def run_fits(arguments: argparse.Namespace) -> int:
    settings = read_settings(arguments.env_file)
    place = arguments.place or place_of(Tools())
    model = model_at(place, arguments.name)
    plan = plan_for(model, settings, arguments)
    if plan is None:
        raise WeightsFailed("there is no GPU here to ask (nvidia-smi): give --gpu-memory in GiB")
    does, text = estimate.report(model.name, shape_of(model), plan)
    print(text)
    return 0 if does else COULD_NOT


def tell_fit(model: Model, settings: Mapping[str, str]) -> None:
    """The estimate, where there is something to compare with; it keeps nobody from going on."""
    try:
        plan = plan_for(model, settings, argparse.Namespace())
        if plan is None:
            print(f"Whether it fits a GPU: model fits {model.name} --gpu-memory GIB")
        else:
            print(estimate.report(model.name, shape_of(model), plan)[1])
    except WeightsFailed as why:
        print(f"Not estimated: {why}.")


def shape_of(model: Model) -> Shape:
    """What a model's files say of it. Raises WeightsFailed."""
    if model.tensors:
        tensors = [tensor for path in model.tensors for tensor in read_tensors(path)]
        return shape_of_tensors(read_config(model.folder), tensors)
    return shape_of_gguf(read_gguf(gguf_of(model)), sum(it.stat().st_size for it in model.ggufs))


def plan_for(
    model: Model, settings: Mapping[str, str], arguments: argparse.Namespace
) -> Plan | None:
    """How the node would serve it; None where no memory is known. Raises WeightsFailed."""
    by_llamacpp = not model.tensors

    def chosen(option: str, setting: str, default: int) -> int:
        given = getattr(arguments, option, None)
        return int(given) if given else setting_number(settings, setting, default)

    memory: int | None = getattr(arguments, "gpu_memory", None)
    if memory is None:
        memory = memory_of(settings.get("ENGINE_MEMORY") or "2g") if by_llamacpp else card_bytes()
    if memory is None:
        return None
    copies = 1 if by_llamacpp else setting_number(settings, "GPU_COPIES", 1) or 1
    return Plan(
        context=chosen("context", "CONTEXT_TOKENS", 2048 if by_llamacpp else 8192),
        slots=-(-chosen("slots", "ENGINE_SLOTS", 4 if by_llamacpp else 16) // copies),
        card_bytes=memory,
        cards=1 if by_llamacpp else max(1, chosen("gpus", "GPU_COUNT", 1) // copies),
        share=share_of(settings.get("GPU_MEMORY", "")),
        cache=cache_of(settings.get("KV_CACHE", "")),
        quantization=settings.get("QUANTIZATION", ""),
        batch=setting_number(settings, "BATCH_TOKENS", 0) or None,
        by_llamacpp=by_llamacpp,
    )


def setting_number(settings: Mapping[str, str], name: str, default: int) -> int:
    text = settings.get(name) or str(default)
    if not re.fullmatch("[0-9]{1,9}", text):
        raise WeightsFailed(f'{name} is "{text}": give a number in .env')
    return int(text)


def share_of(text: str) -> float:
    if not text:
        return estimate.SHARE
    if not re.fullmatch(r"0\.[0-9]{1,2}", text) or not float(text):
        raise WeightsFailed(f'GPU_MEMORY is "{text}": give a share between 0.1 and 0.99 in .env')
    return float(text)


def cache_of(text: str) -> str:
    return "" if text == "auto" else text


def memory_of(text: str) -> int:
    """Docker's way to write an amount of memory: 2g, 512m. Raises WeightsFailed."""
    found = re.fullmatch(r"([0-9]{1,9})([bkmg]?)b?", text.lower())
    if not found:
        raise WeightsFailed(f'ENGINE_MEMORY is "{text}": give an amount such as 8g in .env')
    return int(found[1]) << {"": 0, "b": 0, "k": 10, "m": 20, "g": 30}[found[2]]


def card_bytes() -> int | None:
    """Memory of the smallest GPU here; None where there is none."""
    said = Tools().run("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")
    totals = [int(line) for line in said.out.split() if line.isdigit()] if said.code == 0 else []
    return min(totals) << 20 if totals else None


def described(model: Model) -> tuple[str, str, str, str, str, str]:
    """A row of the list."""
    form, kind, context = "safetensors" if model.tensors else "GGUF", "", ""
    try:
        if model.tensors:
            config = read_config(model.folder)
            tensors = [tensor for path in model.tensors for tensor in read_tensors(path)]
            kind = kind_of_tensors(tensors, config)
        else:
            kind = kind_of_gguf(read_gguf(gguf_of(model)))
        context = str(shape_of(model).longest_context or "")
    except WeightsFailed:
        kind = kind or "damaged"
    verified = str(model.origin.get("verified", "")) if model.digests else "no digests"
    return model.name, size(model.bytes), form, kind, context, verified


def used_names(settings: Mapping[str, str]) -> set[str]:
    if LLAMACPP in settings.get("COMPOSE_FILE", ""):
        path = Path(settings.get("GGUF", ""))
        return {path.parent.name, path.name}
    return {settings.get("WEIGHTS", "")}


def read_token(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        token = ""
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise WeightsFailed(
            f"{file} does not hold a token: put the hub's token into it, and no more"
        )
    return token


def check_digest(text: str) -> str:
    if text and not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise WeightsFailed(f"--sha256 {text} is no SHA-256 digest: give 64 hexadecimal digits")
    return text.lower()


def number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError("give a number above 0")
    return int(text)


def gibibytes(text: str) -> int:
    try:
        amount = float(text)
    except ValueError:
        amount = 0.0
    if not 0 < amount < 100_000:
        raise argparse.ArgumentTypeError("give a number of GiB, such as 48")
    return int(amount * GIB)
