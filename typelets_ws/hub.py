"""Who is here: the devices of each user on this process.

Law: every method is a plain `def`, so nobody's feet are stepped on; whoever is
attached gets every frame delivered from then on, in the order of the calls, and
whoever is detached gets nothing more. Fan-out touches only the user's own
devices, so its cost does not grow with the number of users.
"""

from collections.abc import Collection, Iterator
from typing import Protocol

from .errors import CloseCode
from .frames import Frame

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
    def open(self) -> bool:
        """False once it is closing or gone."""
        ...

    def push(self, frame: Frame) -> None:
        """Queue a frame; never blocks, never raises."""
        ...

    def close(self, code: CloseCode, reason: str) -> None:
        """Start closing."""
        ...

    def ask_resync(self, reason: str, delay: float) -> None:
        """Tell it, within `delay` seconds, to fetch anew."""
        ...


class Hub:
    """The one index: devices by user, then by connection id."""

    def __init__(self) -> None:
        self._users: dict[str, dict[str, Device]] = {}
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

    def deliver(self, user_id: str, frame: Frame, but: str | None = None) -> int:
        """Give a frame to the user's devices, except the one with id `but`.

        Returns how many got it.
        """
        devices = self._users.get(user_id)
        if devices is None:
            return 0
        # push() only queues; even a device that is full detaches later, in its own
        # turn of the loop, so the dict does not change under this iteration.
        if but is None or but not in devices:
            for device in devices.values():
                device.push(frame)
            return len(devices)
        for connection_id, device in devices.items():
            if connection_id != but:
                device.push(frame)
        return len(devices) - 1

    def has_other(self, user_id: str, but: str | None) -> bool:
        """Whether the user has a device here, apart from the one with id `but`."""
        devices = self._users.get(user_id)
        return devices is not None and len(devices) > (but in devices)

    def of_user(self, user_id: str) -> Collection[Device]:
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
