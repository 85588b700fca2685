"""A daemon as a process: loop, signals, and what systemd wants to know.

`run` serves until SIGTERM or SIGINT, drains, and returns; a second signal ends at
once. SIGHUP reloads. uvloop where it is there, asyncio's own loop otherwise.
"""

import asyncio
import gc
import resource
import signal
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, cast

from .app import Daemon, running
from .config.model import Config, ConfigError
from .config.validate import warnings
from .systemd import Systemd
from .telemetry.log import FilteringBoundLogger, Output
from .websocket.http import Page

__all__ = ["heartbeat", "run", "serve"]

START_S: Final = 30
"""How long a start may still take, told to systemd again and again."""
HURRY_S: Final = 0.5
"""From the second signal to the end, whatever it takes."""
UNREADY_S: Final = 0.2
"""Between looks while not ready yet."""


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
    output: Output | None = None,
    exit_now: Callable[[], None] = lambda: None,
) -> None:
    """Serve until told to stop.

    `reload` reads the configuration anew, or says what is wrong and returns None.
    `announce` is called once the port is open. `output` is what the log ends in: it
    is told its level, and asked to sum up floods. `leave` ends the process when a
    second signal has not ended it in time. Raises like `app.running`.
    """
    for warning in warnings(config):
        log.warning("caution", text=warning)
    _raise_file_limit(config, log)
    sockets = systemd.sockets()
    async with running(config, log=log, pages=pages, sockets=sockets) as daemon:
        _record_reload(daemon, taken=True)
        stop = _on_signals(daemon, reload, systemd, output, exit_now)
        passed = bool(sockets)
        log.info("listening", host=config.server.host, port=daemon.port, passed=passed)
        announce(daemon)
        _freeze_startup_objects()
        async with asyncio.TaskGroup() as group:
            heart = group.create_task(heartbeat(daemon, systemd, output))
            await stop.wait()
            systemd.notify("STOPPING=1")
            await daemon.drain()
            heart.cancel()
    log.info("stopped")


async def heartbeat(daemon: Daemon, systemd: Systemd, output: Output | None) -> None:
    """Tell systemd how things stand, until cancelled.

    READY once, after the first probes came back; until then we ask for more time to
    start, so that a database that is away is no reason to be started again.
    """
    ready = False
    while True:
        reasons = daemon.health.unready_reasons()
        if not reasons and not ready:
            ready = True
            systemd.ready()
            daemon.log.info("ready")
        alive = daemon.health.alive()
        systemd.notify(
            _status(daemon, reasons),
            *(["WATCHDOG=1"] if alive else []),
            *([] if ready else [f"EXTEND_TIMEOUT_USEC={START_S * 1_000_000}"]),
        )
        if not alive:
            daemon.log.error("subscriber_stuck")
        if output is not None:
            output.summarise()
        await asyncio.sleep(systemd.interval_s if ready else UNREADY_S)


def _status(daemon: Daemon, reasons: list[str]) -> str:
    """The one line of `systemctl status`."""
    text = f"STATUS={daemon.hub.devices} devices of {len(daemon.hub)} users"
    return f"{text}; not ready: {', '.join(reasons)}" if reasons else text


def _on_signals(
    daemon: Daemon,
    reload: Callable[[], Config | None],
    systemd: Systemd,
    output: Output | None,
    exit_now: Callable[[], None],
) -> asyncio.Event:
    """Obey SIGTERM, SIGINT and SIGHUP; returns what is set when we are to stop."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def end() -> None:
        if stop.is_set():
            daemon.log.warning("ending_at_once")
            daemon.force_exit()
            # A Postgres that says nothing holds even a cancelled statement.
            loop.call_later(HURRY_S, exit_now)
        stop.set()

    def read_again() -> None:
        if stop.is_set():
            return
        systemd.reloading()
        config = reload()
        taken = config is not None and _take(config, daemon, output)
        _record_reload(daemon, taken=taken)
        systemd.reloaded()

    loop.add_signal_handler(signal.SIGTERM, end)
    loop.add_signal_handler(signal.SIGINT, end)
    loop.add_signal_handler(signal.SIGHUP, read_again)
    return stop


def _take(config: Config, daemon: Daemon, output: Output | None) -> bool:
    """Go over to new settings; False when they are refused, which is logged."""
    try:
        daemon.reconfigure(config)
    except (ConfigError, ValueError) as exc:
        daemon.log.error("reload_refused", text=str(exc))
        return False
    if output is not None:
        output.set_level(config.log.level)
    return True


def _record_reload(daemon: Daemon, *, taken: bool) -> None:
    """The start counts as a reload that was taken."""
    daemon.metrics.reload_successful.set(taken)
    if taken:
        daemon.metrics.reload_time.set_to_current_time()


def _freeze_startup_objects() -> None:
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
