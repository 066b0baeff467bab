"""Tells the operator who has used how much: `python3 -m services.gateway.usage --days 7 --json`.

It runs beside the gateway, with the same settings, and reads numbers alone.
"""

import argparse
import json
import sys

from services.gateway.settings import GatewaySettings
from services.gateway.store import Store, StoreError
from services.settings import BadSetting, read_settings

COLUMNS = ("user", "day", "asks", "prompt_tokens", "answer_tokens", "engine_seconds")


def main() -> int:
    """Read arguments and settings, and print the report. Returns the process's exit status."""
    parser = argparse.ArgumentParser(prog="usage", description=__doc__)
    parser.add_argument("--days", type=int, default=30, help="today included (default: 30)")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    arguments = parser.parse_args()
    try:
        report(read_settings(GatewaySettings), arguments.days, as_json=arguments.json)
    except (BadSetting, StoreError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def report(settings: GatewaySettings, days: int, *, as_json: bool) -> None:
    """Print one line a user and day. Raises StoreError."""
    rows = read_rows(settings, days)
    if as_json:
        print(json.dumps([dict(zip(COLUMNS, row, strict=True)) for row in rows]))
        return
    lines = [COLUMNS, *rows]
    widths = [max(len(str(line[column])) for line in lines) for column in range(len(COLUMNS))]
    for line in lines:
        print("  ".join(str(value).rjust(width) for value, width in zip(line, widths, strict=True)))


def read_rows(settings: GatewaySettings, days: int) -> list[tuple[int | str | float, ...]]:
    """Read the usage of the last days, oldest first. Raises StoreError."""
    if not settings.store_file.exists():
        raise StoreError(f"there is no store {settings.store_file} yet: start the gateway first")
    store = Store(settings.store_file, settings.store_key)
    try:
        return [
            (
                row.user_id,
                row.day,
                row.asks,
                row.usage.prompt_tokens,
                row.usage.answer_tokens,
                row.usage.engine_ms / 1000,
            )
            for row in store.usage(days)
        ]
    finally:
        store.close()


if __name__ == "__main__":
    sys.exit(main())
