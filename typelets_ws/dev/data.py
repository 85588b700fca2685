"""Where `typelets-ws dev` keeps its database, its key and its settings."""

import os
from pathlib import Path
from typing import Final

__all__ = ["DEFAULT_DATA"]

DEFAULT_DATA: Final = (
    Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    / "typelets-ws"
    / "dev"
)
