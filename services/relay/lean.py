"""Imports aiogram without building what the relay never uses.

aiogram builds the pydantic schema of each of Telegram's 400 types when it is imported, which takes
100 MB and two seconds. Here each is built when it is used for the first time.
"""

import sys
from typing import Any

from pydantic import BaseModel

REBUILD = "model_rebuild"


def import_aiogram() -> None:
    """Import it, unless somebody has; its types build themselves from then on.

    pydantic asks a class that is not built yet to rebuild itself (`model_rebuild`, its public way
    to complete forward references), and aiogram's import calls the same with the namespace that
    its types take. So it is enough to keep that namespace until it is wanted. If a later aiogram
    calls something else, it only costs the memory again.
    """
    if "aiogram" in sys.modules:
        return
    rebuild = BaseModel.__dict__[REBUILD]
    namespace: dict[str, Any] = {}

    def postpone(_kind: type[BaseModel], /, **options: Any) -> None:
        namespace.update(options.get("_types_namespace") or {})

    def rebuild_when_used(kind: type[BaseModel], /, **options: Any) -> bool | None:
        built: bool | None = rebuild.__func__(kind, **({"_types_namespace": namespace} | options))
        return built

    setattr(BaseModel, REBUILD, classmethod(postpone))
    try:
        from aiogram import methods, types
    finally:
        setattr(BaseModel, REBUILD, rebuild)
    for base in (types.TelegramObject, methods.TelegramMethod, methods.Response):
        setattr(base, REBUILD, classmethod(rebuild_when_used))
