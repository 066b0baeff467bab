"""Stands for OpenSSH: writes down what it is called with, and says what a test has laid out.

Called as `ssh.py FOLDER ARGUMENTS...`; FOLDER/answers holds what each script shall say.
"""

import json
import shlex
import signal
import sys
from pathlib import Path

FOLDER = Path(sys.argv[1])
ARGUMENTS = sys.argv[2:]
OPTIONS = dict(word.split("=", 1) for word in ARGUMENTS if word[:1].isupper() and "=" in word)
KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIGFiY2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6MDEyMzQ1"


def main() -> int:
    answers = FOLDER / "answers"
    if "-G" in ARGUMENTS:
        print(f"hostname {ARGUMENTS[-1]}")
        for name in ("ProxyCommand", "ControlPath", "UserKnownHostsFile"):
            if name in OPTIONS:
                print(name.lower(), OPTIONS[name])
        if (answers / "config").exists():
            print((answers / "config").read_text())
        return 0
    if "-N" in ARGUMENTS:
        Path(OPTIONS["ControlPath"]).touch()
        signal.pause()
    if OPTIONS["StrictHostKeyChecking"] == "accept-new":
        host, port = ARGUMENTS[-2], OPTIONS["Port"]
        known_as = host if port == "22" else f"[{host}]:{port}"
        Path(OPTIONS["UserKnownHostsFile"]).write_text(f"{known_as} ssh-ed25519 {KEY}\n")
        return 255
    words = shlex.split(ARGUMENTS[-1])
    name, *arguments = words[words.index("-c") + 2 :]
    given = sys.stdin.buffer.read()
    with (FOLDER / "calls").open("a", encoding="utf-8") as calls:
        call = {"name": name, "arguments": arguments, "bytes": len(given), "as": words[0]}
        print(json.dumps(call), file=calls)
    file = answers / name
    code, _, text = file.read_text().partition("\n") if file.exists() else ("0", "", "")
    (sys.stdout if code == "0" else sys.stderr).write(text)
    return int(code)


sys.exit(main())
