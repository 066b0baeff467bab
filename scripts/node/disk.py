"""What makes a change of a folder last."""

from __future__ import annotations

import os
from pathlib import Path


def sync(folder: Path) -> None:
    """Bring a folder's entries onto the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
