"""`resync_required`: for devices that cannot be healed, or not at once."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from .hub import Hub

__all__ = ["ResyncSender"]

GAP_S: Final = 0.005
"""Least distance between two `resync_required`, up to the spread."""


@dataclass(frozen=True, slots=True)
class ResyncSender:
    """Sends it, spread over up to `spread_s` seconds when the devices are many.

    Otherwise all of them would call the REST service in the same instant.
    """

    hub: Hub
    spread_s: float
    random: Callable[[], float]

    def send(self, user_ids: Collection[str], reason: str, delay: float = 0.0) -> None:
        """Send `resync_required` to the users' devices, after `delay` seconds."""
        devices = [d for user_id in user_ids for d in self.hub.devices_of(user_id)]
        spread = max(0.0, min(self.spread_s, GAP_S * (len(devices) - 1)))
        for device in devices:
            device.ask_resync(reason, delay + self.random() * spread)
