"""A daemon as a process: event loop, signals, systemd notifications.

`serve` runs until SIGTERM or SIGINT, drains, and returns; a second signal exits at
once. SIGHUP reloads. The loop is uvloop if installed, asyncio's otherwise.
"""

import asyncio
import gc
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, cast

from .app import Daemon, running
from .config.model import Config, ConfigError, Log
from .systemd import Systemd
from .telemetry.log import FilteringBoundLogger, Output
from .websocket.http import Page

__all__ = ["OTHER_FILES", "heartbeat", "log_output", "run", "serve"]

START_S: Final = 30
"""EXTEND_TIMEOUT_USEC of each notification before READY."""
HURRY_S: Final = 0.5
"""From the second signal to `exit_now`."""
OTHER_FILES: Final = 100
"""Descriptors for Postgres, Redis, the admin port, the key source."""
UNREADY_S: Final = 0.2
"""Between checks while not ready yet."""


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on uvloop, or on asyncio's loop without it."""
    with asyncio.Runner(loop_factory=_best_loop()) as runner:
        runner.run(work)


def _best_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return asyncio.new_event_loop
    return cast("Callable[[], asyncio.AbstractEventLoop]", uvloop.new_event_loop)


def log_output(log: Log) -> Output:
    """The log of the process, on standard error."""
    level, form, burst = log.level, log.format, log.burst
    return Output(sys.stderr, time.time, level=level, form=form, burst=burst)


async def serve(
    config: Config,
    output: Output,
    *,
    systemd: Systemd,
    reload: Callable[[], Config | None] | None,
    pages: Mapping[str, Page] | None = None,
    announce: Callable[[Daemon], None] = lambda _: None,
    exit_now: Callable[[], None] = lambda: None,
) -> None:
    """Serve until a signal stops the process.

    `reload` reads the configuration again; it logs an error and returns None. Without
    it SIGHUP stops the process, as a terminal sends it when it closes.
    `announce` is called once the port is open. `output` receives the log: a reload
    sets its level, and `heartbeat` writes its summaries. `exit_now` ends the process
    `HURRY_S` after a second signal. Raises like `app.running`.
    """
    log = output.logger()
    _raise_file_limit(config, log)
    sockets = systemd.sockets()
    async with (
        _ignored_exceptions_logged(log),
        running(config, log=log, pages=pages, sockets=sockets) as daemon,
    ):
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


async def heartbeat(daemon: Daemon, systemd: Systemd, output: Output) -> None:
    """Notify systemd of readiness, status and liveness until cancelled.

    READY is sent once, after the first probes came back. Until then each notification
    extends the start timeout, so an unreachable database causes no restart.
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
        output.summarise()
        await asyncio.sleep(systemd.interval_s if ready else UNREADY_S)


def _status(daemon: Daemon, reasons: list[str]) -> str:
    """The one line of `systemctl status`."""
    text = f"STATUS={daemon.hub.devices} devices of {len(daemon.hub)} users"
    return f"{text}; not ready: {', '.join(reasons)}" if reasons else text


def _on_signals(
    daemon: Daemon,
    reload: Callable[[], Config | None] | None,
    systemd: Systemd,
    output: Output,
    exit_now: Callable[[], None],
) -> asyncio.Event:
    """Handle SIGTERM, SIGINT and SIGHUP; return the event that stops the process."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def request_stop() -> None:
        if stop.is_set():
            daemon.log.warning("ending_at_once")
            daemon.force_exit()
            # While Postgres is silent, a cancelled statement does not end either.
            loop.call_later(HURRY_S, exit_now)
        stop.set()

    def reload_config() -> None:
        if reload is None:
            stop.set()
        if reload is None or stop.is_set():
            return
        systemd.reloading()
        config = reload()
        taken = config is not None and _take(config, daemon, output)
        _record_reload(daemon, taken=taken)
        systemd.reloaded()

    loop.add_signal_handler(signal.SIGTERM, request_stop)
    loop.add_signal_handler(signal.SIGINT, request_stop)
    loop.add_signal_handler(signal.SIGHUP, reload_config)
    return stop


def _take(config: Config, daemon: Daemon, output: Output) -> bool:
    """Use new settings; return False and log the error when they are refused."""
    try:
        daemon.reconfigure(config)
    except (ConfigError, ValueError) as exc:
        daemon.log.error("reload_refused", text=str(exc))
        return False
    output.set_level(config.log.level)
    return True


def _record_reload(daemon: Daemon, *, taken: bool) -> None:
    """Set the metrics of the last reload; the start counts as one."""
    daemon.metrics.reload_successful.set(taken)
    if taken:
        daemon.metrics.reload_time.set_to_current_time()


@asynccontextmanager
async def _ignored_exceptions_logged(log: FilteringBoundLogger) -> AsyncIterator[None]:
    """Log exceptions that Python cannot raise, in place of its lines on stderr.

    A TLS client causes one by a server name that is not ASCII: a flood of them is one
    summary in the log.
    """

    def ignored(event: "sys.UnraisableHookArgs") -> None:
        log.warning("exception_ignored", error=event.exc_type.__name__)

    before, sys.unraisablehook = sys.unraisablehook, ignored
    try:
        yield
    finally:
        sys.unraisablehook = before


def _freeze_startup_objects() -> None:
    """Freeze start-up objects, so that the garbage collector skips them.

    Without it the collector takes a third of a handshake's CPU.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    gc.enable()


def _raise_file_limit(config: Config, log: FilteringBoundLogger) -> None:
    """Allow a descriptor for each socket, and more; warn when impossible."""
    limits = config.limits
    # As many sockets as `ServerState.add_socket` lets in.
    sockets = limits.connections + limits.unauthenticated + 2 * limits.handshakes
    wanted = sockets + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    possible = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
    if possible < wanted:
        log.warning("file_limit", allowed=possible, wanted=wanted)
