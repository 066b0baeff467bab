"""Owns what is kept of a run that went wrong: the containers' logs, and what the stub knows."""

import json
import shutil
from pathlib import Path

from tests.faults.evidence import collect
from tests.faults.nodes import SERVICES, Nodes
from tests.stubs.telegram.client import Control


async def keep_traces(nodes: Nodes, control: Control, folder: Path) -> None:
    """Write everything that explains a failure into a folder, instead of what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in SERVICES:
        words = await nodes.last_words(name, 3000)
        (folder / f"{name}.log").write_text(words, encoding="utf-8")
    state = await control.get("state")
    (folder / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    evidence = await collect(control)
    with (folder / "record.jsonl").open("w", encoding="utf-8") as file:
        for entry in evidence.entries:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    (folder / "chats.json").write_text(json.dumps(evidence.chats), encoding="utf-8")
