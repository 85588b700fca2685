"""Who is here: the devices of each user on this process.

Law: every method is a plain `def`, so nobody's feet are stepped on; whoever is
attached gets every frame delivered from then on, in the order of the calls, and
whoever is detached gets nothing more. Fan-out touches only the user's own
devices, so its cost does not grow with the number of users.

What is delivered is gathered by user until `send`, which goes over the devices once:
several frames leave as one, joined once for all of them. Whoever delivers also sends,
in the same turn of the loop and before anybody is attached or detached.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

from ..protocol.errors import CloseCode
from ..wire.frames import Frame, Frames

__all__ = ["Device", "Hub"]


class Device(Protocol):
    """An authenticated connection, as the hub sees it."""

    @property
    def connection_id(self) -> str:
        """Unique over all processes."""
        ...

    @property
    def session_id(self) -> str | None:
        """The Clerk session (`sid`) of its newest token."""
        ...

    @property
    def log_fields(self) -> Mapping[str, str]:
        """Fields of each log line about it: connection, address, user once known."""
        ...

    @property
    def since_ms(self) -> int:
        """When it authenticated, ms since the epoch."""
        ...

    @property
    def open(self) -> bool:
        """False once it is closing or gone."""
        ...

    def send_frame(self, frame: Frame) -> None:
        """Send a frame; never blocks, never raises, never detaches anybody."""
        ...

    def close(self, code: CloseCode, reason: str) -> None:
        """Start closing."""
        ...

    def token_refused(self) -> None:
        """It sent a token that is nobody's: its address may send only so many."""
        ...

    def ask_resync(self, reason: str, delay: float) -> None:
        """Tell it, within `delay` seconds, to fetch anew."""
        ...


_Pending = tuple[Frame, str | None]
"""A frame, and the device that does not get it."""


class Hub:
    """The one index: devices by user, then by connection id."""

    def __init__(self) -> None:
        self._users: dict[str, dict[str, Device]] = {}
        self._queued: dict[str, list[_Pending]] = {}
        self.devices = 0

    def attach(self, user_id: str, device: Device) -> None:
        """A device has authenticated as this user."""
        self._users.setdefault(user_id, {})[device.connection_id] = device
        self.devices += 1

    def detach(self, user_id: str, device: Device) -> None:
        """The device is gone."""
        devices = self._users[user_id]
        del devices[device.connection_id]
        self.devices -= 1
        if not devices:
            del self._users[user_id]

    def queue(self, user_id: str, frame: Frame, exclude: str | None = None) -> int:
        """Give a frame to the user's devices, except the one with id `exclude`.

        Returns how many get it, at the next `send`.
        """
        devices = self._users.get(user_id)
        if devices is None:
            return 0
        self._queued.setdefault(user_id, []).append((frame, exclude))
        return len(devices) - (exclude in devices)

    def flush(self) -> None:
        """Let go of all that was delivered."""
        queued, self._queued = self._queued, {}
        for user_id, pending in queued.items():
            devices = self._users.get(user_id)
            if devices is not None:
                _flush_user(devices, pending)

    def has_other(self, user_id: str, exclude: str | None) -> bool:
        """Whether the user has a device here, apart from the one with id `exclude`."""
        devices = self._users.get(user_id)
        return devices is not None and len(devices) > (exclude in devices)

    def devices_of(self, user_id: str) -> Collection[Device]:
        """The user's devices here, as of now."""
        return tuple(self._users.get(user_id, {}).values())

    def count(self, user_id: str) -> int:
        """How many devices the user has here."""
        return len(self._users.get(user_id, ()))

    def users(self) -> Iterator[tuple[str, int]]:
        """Every user here with the number of devices."""
        return ((user, len(devices)) for user, devices in self._users.items())

    def __len__(self) -> int:
        return len(self._users)


def _flush_user(devices: dict[str, Device], pending: list[_Pending]) -> None:
    together = _joined([frame for frame, _ in pending])
    excluded = {exclude for _, exclude in pending if exclude in devices}
    if not excluded:
        for device in devices.values():
            device.send_frame(together)
        return
    for connection_id, device in devices.items():
        if connection_id not in excluded:
            device.send_frame(together)
        elif frames := [
            frame for frame, exclude in pending if exclude != connection_id
        ]:
            device.send_frame(_joined(frames))


def _joined(frames: list[Frame]) -> Frame:
    return frames[0] if len(frames) == 1 else Frames(frames)
