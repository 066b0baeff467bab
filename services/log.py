"""Logs as JSON lines of events, never of content: neither messages of libraries nor of exceptions.

Libraries and exceptions put into their messages what they stumbled over, and that can be what a
user wrote: pydantic quotes the input, aiogram the whole reply. So of a foreign record only its
logger and its place is kept, and of an exception only its type and where it was raised.
"""

import json
import logging
import sys
import time
import traceback
from typing import Any

_OWN = "services"
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def start_logging(level: str) -> None:
    """Send all logging of this process to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Events())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for foreign in ("aiogram", "aiohttp", "asyncio", "uvicorn"):
        logging.getLogger(foreign).setLevel(logging.WARNING)
    sys.excepthook = _log_crash


def describe_error(error: BaseException) -> str:
    """Name an exception by type and place alone: `TimeoutError at client.py:41`."""
    if isinstance(error, BaseExceptionGroup):
        return ", ".join(describe_error(inner) for inner in error.exceptions)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + place


class _Events(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "time": round(time.time(), 3),
            "level": record.levelname.lower(),
        }
        if record.name.split(".")[0] == _OWN:
            event["action"] = record.getMessage()
            event |= {k: v for k, v in record.__dict__.items() if k not in _STANDARD}
        else:
            event |= {"action": "library", "at": f"{record.name}:{record.lineno}"}
        if record.exc_info and record.exc_info[1]:
            event["error"] = describe_error(record.exc_info[1])
        return json.dumps(event, default=str)


def _log_crash(_type: type[BaseException], error: BaseException, _traceback: Any) -> None:
    logging.getLogger(_OWN).critical("crashed", extra={"error": describe_error(error)})
