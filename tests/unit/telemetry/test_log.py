"""One event, one line; floods are counted; the stream may break."""

import io
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from typelets_ws.telemetry.log import Output


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.5

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    def write(self, _: str) -> int:
        raise BrokenPipeError


def written_to(
    stream: io.StringIO, clock: Callable[[], float] | None = None, **settings: Any
) -> Output:
    wanted = {"level": "info", "form": "json", "burst": 50, **settings}
    return Output(stream, clock or Clock(), **wanted)


def output(
    clock: Callable[[], float] | None = None, **settings: Any
) -> tuple[Output, io.StringIO]:
    stream = io.StringIO()
    return written_to(stream, clock, **settings), stream


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def bridges() -> list[logging.Handler]:
    handlers = logging.getLogger().handlers
    return [
        each
        for each in handlers
        if type(each).__module__ == "typelets_ws.telemetry.log"
    ]


def test_line_has_time_level_event_and_fields() -> None:
    out, stream = output()
    out.logger(worker=1).bind(connection_id="c").warning(
        "origin_refused", security=True
    )
    assert lines(stream) == [
        {
            "timestamp": "2023-11-14T22:13:20.500Z",
            "level": "warning",
            "event": "origin_refused",
            "worker": 1,
            "connection_id": "c",
            "security": True,
        }
    ]


def test_secrets_are_hidden() -> None:
    out, stream = output()
    out.logger(token="eyJhbGciOi.x.y").error("bad eyJhbGciOi.x.y", at="redis://u:p@h")
    assert "eyJ" not in stream.getvalue()
    assert "u:p" not in stream.getvalue()


@pytest.mark.parametrize("form", ["json", "console"])
def test_text_cannot_forge_a_line(form: str) -> None:
    out, stream = output(form=form)
    out.logger().info("a\nb", origin="x\r\n{}\x1b[0m\u2028")
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


def test_terminal_gets_plain_text_and_machines_json() -> None:
    terminal = Terminal()
    written_to(terminal, form="auto").logger().info("started", port=1)
    assert "\x1b[" in terminal.getvalue()
    with pytest.raises(json.JSONDecodeError):
        json.loads(terminal.getvalue())
    out, stream = output(form="auto")
    out.logger().info("started")
    assert lines(stream)


@pytest.mark.parametrize("form", ["json", "console"])
def test_exception_is_reported_without_its_details(form: str) -> None:
    out, stream = output(form=form)
    log = out.logger()
    try:
        raise ValueError("first\nDETAIL: (title)=(diary)")
    except ValueError as exc:
        caught = exc
        log.exception("failed")
    log.error("failed", exc_info=caught)
    log.error("failed", exc_info=(ValueError, caught, None))
    log.error("failed", exc_info=(None, None, None))
    assert len(stream.getvalue().splitlines()) == 4
    assert stream.getvalue().count("ValueError: first (at test_log.py:") == 3
    assert "diary" not in stream.getvalue()
    assert out.lost == 0


def test_exc_info_without_an_exception_is_no_field() -> None:
    out, stream = output()
    out.logger().error("failed", exc_info=True)
    assert "raised" not in lines(stream)[0]


def test_level_is_kept_and_changes_for_all_loggers_at_once() -> None:
    out, stream = output(level="warning")
    log = out.logger()
    log.info("no")
    log.warning("yes")
    out.set_level("debug")
    log.debug("now")
    out.set_level("error")
    log.warning("no")
    log.critical("yes")
    assert [line["event"] for line in lines(stream)] == ["yes", "now", "yes"]


def test_flood_is_counted_and_reported_once() -> None:
    clock = Clock()
    out, stream = output(clock, burst=2)
    for _ in range(1000):
        out.logger().warning("junk")
    out.logger().info("other")
    assert [line["event"] for line in lines(stream)] == ["junk", "junk", "other"]
    clock.now += 9
    out.summarise()
    assert len(lines(stream)) == 3
    clock.now += 1
    out.summarise()
    out.summarise()
    assert len(lines(stream)) == 4
    told = lines(stream)[-1]
    assert (told["event"], told["lines_of"], told["count"]) == (
        "suppressed",
        "junk",
        998,
    )


def test_a_flood_that_lasts_is_one_summary_also_at_level_info() -> None:
    clock = Clock()
    out, stream = output(clock, burst=2)
    for _ in range(90):
        for _ in range(10):
            out.logger().info("request_refused")
        clock.now += 0.1
    out.logger().debug("request_refused")
    clock.now += 2
    out.summarise()
    events = [line["event"] for line in lines(stream)]
    assert events == ["request_refused"] * 2 + ["suppressed"]
    assert lines(stream)[-1]["count"] == 898


def test_broken_stream_does_not_reach_the_caller() -> None:
    out = written_to(Broken())
    out.logger().info("started")
    assert out.lost == 1


def test_value_that_cannot_be_shown_does_not_reach_the_caller() -> None:
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError

    out, stream = output()
    out.logger().info("started", odd=Odd())
    assert (out.lost, lines(stream)) == (1, [])


def test_library_warnings_end_in_the_same_place() -> None:
    out, stream = output()
    library = logging.getLogger("websockets.server")
    with out.attached():
        library.warning("odd %s", "frame\nand more")
        library.info("quiet")
        try:
            raise OSError("gone")
        except OSError:
            library.exception("failed")
    library.warning("after")
    found = lines(stream)
    assert [line["event"] for line in found] == ["websockets.server"] * 2
    assert found[0]["text"] == "odd frame"
    assert found[0]["level"] == "warning"
    assert found[1]["level"] == "error"
    assert str(found[1]["raised"]).startswith("['OSError: gone")


def test_library_line_with_a_wrong_template_is_reported_as_it_is() -> None:
    out, stream = output()
    with out.attached():
        (bridge,) = bridges()
        record = {"name": "x", "msg": "wrong %s %s", "args": ("one",), "levelno": 30}
        bridge.handle(logging.makeLogRecord(record))
    assert lines(stream)[0]["text"] == "wrong %s %s"


def test_library_level_of_its_own_is_a_warning() -> None:
    out, stream = output()
    with out.attached():
        logging.getLogger("x").log(35, "odd")
    assert lines(stream)[0]["level"] == "warning"


def test_detaching_tells_what_was_kept_back() -> None:
    out, stream = output(burst=1)
    with out.attached():
        for _ in range(3):
            out.logger().info("junk")
    assert [line["event"] for line in lines(stream)] == ["junk", "suppressed"]
    assert bridges() == []
