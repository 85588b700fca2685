"""The directory of `typelets-ws dev`: database, key and settings."""

import os
from pathlib import Path
from typing import Final

__all__ = ["DEFAULT_DATA"]

DEFAULT_DATA: Final = (
    Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    / "typelets-ws"
    / "dev"
)
