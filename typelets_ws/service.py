"""A daemon as a process: loop, signals, and what systemd wants to know.

`run` serves until SIGTERM or SIGINT, drains, and returns; a second signal ends at
once. SIGHUP reloads. uvloop where it is there, asyncio's own loop otherwise.
"""

import asyncio
import gc
import resource
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

from .app import Daemon, running
from .config import Config
from .config_rules import cautions
from .endpoints import Page
from .log import FilteringBoundLogger
from .systemd import Systemd

__all__ = ["run", "serve"]


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on the best loop there is."""
    with asyncio.Runner(loop_factory=_best_loop()) as runner:
        runner.run(work)


def _best_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return asyncio.new_event_loop
    return cast("Callable[[], asyncio.AbstractEventLoop]", uvloop.new_event_loop)


async def serve(
    config: Config,
    *,
    log: FilteringBoundLogger,
    systemd: Systemd,
    reload: Callable[[], Config | None],
    pages: Mapping[str, Page] | None = None,
    announce: Callable[[Daemon], None] = lambda _: None,
) -> None:
    """Serve until told to stop.

    `reload` reads the configuration anew, or says what is wrong and returns None.
    `announce` is called once the port is open. Raises `OSError` and `ValueError`
    like `app.running`.
    """
    for caution in cautions(config):
        log.warning("caution", text=caution)
    _raise_file_limit(config, log)
    async with running(
        config, log=log, pages=pages, sockets=systemd.sockets()
    ) as daemon:
        log.info("listening", host=config.server.host, port=daemon.port)
        announce(daemon)
        _settle_memory()
        async with _signals(daemon, reload, systemd) as stop:
            await _supervise(daemon, systemd, stop)
        systemd.notify("STOPPING=1", "STATUS=draining")
    log.info("stopped")


async def _supervise(daemon: Daemon, systemd: Systemd, stop: asyncio.Event) -> None:
    """Tell systemd how things stand until the end comes."""
    ready = False
    while not stop.is_set():
        complaints = daemon.complaints()
        if not complaints and not ready:
            ready = True
            systemd.notify("READY=1")
            daemon.log.info("ready")
        systemd.notify(
            f"STATUS={daemon.hub.devices} devices of {len(daemon.hub)} users"
            + (f"; not ready: {', '.join(complaints)}" if complaints else "")
        )
        if daemon.alive():
            systemd.notify("WATCHDOG=1")
        try:
            await asyncio.wait_for(stop.wait(), systemd.interval_s if ready else 0.2)
        except TimeoutError:
            continue


@asynccontextmanager
async def _signals(
    daemon: Daemon, reload: Callable[[], Config | None], systemd: Systemd
) -> AsyncIterator[asyncio.Event]:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def end() -> None:
        if stop.is_set():
            daemon.log.warning("second signal: ending at once")
            daemon.hurry()
        stop.set()

    def read_again() -> None:
        systemd.reloading()
        config = reload()
        if config is not None:
            daemon.reconfigure(config)
        systemd.notify("READY=1")

    loop.add_signal_handler(signal.SIGTERM, end)
    loop.add_signal_handler(signal.SIGINT, end)
    loop.add_signal_handler(signal.SIGHUP, read_again)
    yield stop


def _settle_memory() -> None:
    """What is there now stays: the collector need not look at it again.

    Without this a third of a handshake's CPU is the collector's.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _raise_file_limit(config: Config, log: FilteringBoundLogger) -> None:
    """One descriptor per connection, and a few for ourselves."""
    wanted = config.limits.connections + config.limits.unauthenticated + 1_100
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    possible = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
    if possible < wanted:
        log.warning("file_limit", allowed=possible, wanted=wanted)
