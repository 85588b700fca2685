"""The devices of each user on this process.

Invariants. No method awaits, so no other task can change the index halfway through; a
test checks it. An attached device gets every frame queued from then on, in order, and a
detached one gets none. Fan-out touches the user's own devices only, so its time does
not grow with the number of users.

Frames are gathered by user until `flush`, which iterates over the devices once; frames
that leave together are joined once. After `queue`, call `flush` in the same loop
iteration, before any attach or detach. Tested by tests/unit/delivery/test_hub.py.
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

    @property
    def session_id(self) -> str | None:
        """The Clerk session (`sid`) of its newest token."""

    @property
    def log_fields(self) -> Mapping[str, str]:
        """Fields of each log line about it: connection, address, user once known."""

    @property
    def since_ms(self) -> int:
        """When it authenticated, ms since the epoch."""

    @property
    def open(self) -> bool:
        """False once it is closing or gone."""

    @property
    def behind(self) -> bool:
        """True while it has to read much of what it was sent."""

    def send_frame(self, frame: Frame) -> None:
        """Send a frame; never blocks, never raises, never detaches a device."""

    def close(self, code: CloseCode, reason: str) -> None:
        """Start closing."""

    def token_refused(self) -> None:
        """Count a rejected token against the device's address."""

    def ask_resync(self, reason: str, delay: float) -> None:
        """Send `resync_required` within `delay` seconds."""


_Pending = tuple[Frame, str | None]
"""A frame, and the device that does not get it."""


class Hub:
    """The index: devices by user, then by connection id."""

    def __init__(self) -> None:
        self._users: dict[str, dict[str, Device]] = {}
        self._queued: dict[str, list[_Pending]] = {}
        self.devices = 0

    def attach(self, user_id: str, device: Device) -> None:
        """Add a device that has authenticated as this user."""
        self._users.setdefault(user_id, {})[device.connection_id] = device
        self.devices += 1

    def detach(self, user_id: str, device: Device) -> None:
        """Remove a device."""
        devices = self._users[user_id]
        del devices[device.connection_id]
        self.devices -= 1
        if not devices:
            del self._users[user_id]

    def queue(self, user_id: str, frame: Frame, exclude: str | None = None) -> int:
        """Give a frame to the user's devices, except the one with id `exclude`.

        Returns how many get it, at the next `flush`.
        """
        devices = self._users.get(user_id)
        if devices is None:
            return 0
        self._queued.setdefault(user_id, []).append((frame, exclude))
        return len(devices) - (exclude in devices)

    def flush(self) -> None:
        """Write the queued frames to their devices."""
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
    if len(pending) == 1:
        ((frame, exclude),) = pending
        for connection_id, device in devices.items():
            if connection_id != exclude:
                device.send_frame(frame)
        return
    together = _joined([frame for frame, _ in pending])
    excluded = {exclude for _, exclude in pending if exclude in devices}
    for connection_id, device in devices.items():
        if connection_id not in excluded:
            device.send_frame(together)
        elif frames := [
            frame for frame, exclude in pending if exclude != connection_id
        ]:
            device.send_frame(_joined(frames))


def _joined(frames: list[Frame]) -> Frame:
    return frames[0] if len(frames) == 1 else Frames(frames)
