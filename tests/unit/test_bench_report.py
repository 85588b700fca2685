"""The bench's table, JSON and charts, made of invented figures."""

import json
import socket
from contextlib import closing
from threading import Thread
from xml.etree import ElementTree

import pytest

from tests.bench.centrifugo import Api
from tests.bench.charts import charts
from tests.bench.cores import Layout, layout, times
from tests.bench.figure import Figure
from tests.bench.peers import PeerCommand
from tests.bench.report import MARKS, PEER_MARKS, PEERS, as_json, readme, table

MET = Figure("ping", "ping <1>", "µs", [4.0, 6.0], "serve", [10.0, 10.0], 0.6)
MISSED = Figure("idle", "weight", "B", [9000.0], "websockets.serve", [10000.0], 0.5)
RATE = Figure(
    "updates", "rate", "/s", [100.0], "loop", [1000.0], 0.8, at_least=True,
    shares=(0.25, 0.0), cores=[[0.5, 0.99], [0.75, 0.6]],
)  # fmt: skip
ALONE = Figure(
    "storm", "all at once, none refused", "s", [2.0],
    curves={"round 1": [(0.0, 0.0), (1.0, 50.0), (2.0, 100.0)]},
)  # fmt: skip
GROWN = Figure(
    "growth", "event", "µs", [20.0], "bare", [0.0], divided=False,
    curves={"daemon": [(100.0, 8.0), (10000.0, 9.0)], "bare": [(100, 4), (10000, 5)]},
)  # fmt: skip
ALL = [MET, MISSED, RATE, ALONE, GROWN]


def cells(figures: list[Figure]) -> list[list[str]]:
    lines = table(figures).splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_a_target_is_met_missed_or_not_there() -> None:
    assert [figure.met for figure in ALL] == [True, False, False, None, None]
    most = Figure("r", "w", "", [0.8], target=0.8)
    least = Figure("r", "w", "", [0.9], target=0.8, at_least=True)
    assert (most.met, least.met) == (True, True)


def test_table_tells_medians_spreads_and_verdicts() -> None:
    head, _, met, missed, rate, alone, grown = cells(ALL)
    assert head[-1] == "cores"
    assert met[:5] == ["ping <1>", "5 µs [4..6]", "serve", "10 µs", "0.5 [0.4..0.6]"]
    assert met[5:7] == ["<= 0.6", "met"]
    assert missed[6] == "missed"
    assert rate[5:] == [">= 0.8", "missed", "25%", "", "50% + 99% / 75% + 60%"]
    assert alone[2:7] == [""] * 5
    assert grown[3:5] == ["0 µs", ""]


def test_table_has_no_column_for_cores_that_no_one_watched() -> None:
    assert cells([MET])[0][-1] == "robbed"


def test_json_has_every_round() -> None:
    met, *_, alone, grown = json.loads(as_json(ALL, quick=True))["figures"]
    assert (met["ours"], met["ratio"], met["met"]) == ([4.0, 6.0], 0.5, True)
    assert alone["curves"]["round 1"][-1] == [2.0, 100.0]
    assert "ratio" not in grown


def test_charts_are_xml_and_say_what_was_measured() -> None:
    pictures = charts(ALL)
    assert sorted(pictures) == ["growth", "idle", "storm", "targets"]
    words = {
        name: " ".join(ElementTree.fromstring(picture).itertext())
        for name, picture in pictures.items()
    }
    assert "ping <1>" in words["targets"]
    assert "0.1 ×, at least 0.8" in words["targets"]
    assert "»" in words["targets"]
    assert "9.0 kB" in words["idle"]
    assert "9 µs" in words["growth"]


def test_nothing_measured_is_no_chart() -> None:
    assert charts([]) == {}


def test_load_and_second_server_get_cores_of_their_own_where_there_are_some() -> None:
    one, two, four = layout({3}), layout({0, 1}), layout({0, 1, 2, 3})
    assert one == Layout(3, 3, frozenset({3}))
    assert two == Layout(0, 1, frozenset({1}))
    assert four == Layout(0, 1, frozenset({2, 3}))
    assert [len(each.groups) for each in (one, two, four)] == [1, 2, 3]


def test_waiting_for_a_disk_is_idle() -> None:
    text = "cpu  9 9 9 9\ncpu1 10 0 5 80 3 1 1 0 7 0\nintr 5\n"
    assert times(text) == {1: (17, 100)}


def test_the_table_of_a_readme_is_replaced_between_its_marks() -> None:
    begin, end = MARKS
    text = f"before\n{begin}\nold\n{end}\nafter\n"
    written = readme(text, [MET, MISSED])
    assert written.startswith(f"before\n{begin}\n\n| work | daemon | baseline |")
    assert written.endswith(f"\n\n{end}\nafter\n")
    assert "old" not in written
    assert readme(written, [MET, MISSED]) == written
    with pytest.raises(ValueError, match="unpack"):
        readme("no marks", [MET])


def test_figures_beside_other_servers_have_a_table_of_their_own() -> None:
    peer = Figure(PEERS, "event to all", "µs", [2.0], "another", [4.0])
    empty = "\n".join([*MARKS, *PEER_MARKS])
    written = readme(empty, [MET, peer])
    own, others = written.split(MARKS[1], 1)
    assert "ping <1>" in own
    assert "another" not in own
    assert "| event to all | 2 µs | another | 4 µs | 0.5 |  |  |" in others
    assert "ping <1>" not in others
    assert readme(written, [peer]) == written == readme(written, [MET])


def test_a_peer_is_a_name_and_a_command() -> None:
    assert PeerCommand.named("mine=node x.js --port={port}") == PeerCommand(
        "mine", "node x.js --port={port}"
    )
    with pytest.raises(ValueError, match="NAME=COMMAND"):
        PeerCommand.named("mine")


def test_an_event_for_centrifugo_is_a_request_and_its_answer_is_awaited() -> None:
    command = Api.command("#", "user_1", b'{"event":"note_updated"}')
    head, body = command.split(b"\r\n\r\n")
    assert head.startswith(b"POST /api/publish HTTP/1.1\r\n")
    assert b"Content-Length: %d" % len(body) in head
    assert json.loads(body) == {
        "channel": "#user_1",
        "data": {"event": "note_updated"},
    }
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"result":{}}'
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]

        def serve() -> None:
            sock, _ = door.accept()
            with sock, sock.makefile("rb") as came:
                came.read(2 * len(command))
                sock.sendall(answer + answer[:-2])
                sock.sendall(answer[-2:])
                came.read()

        server = Thread(target=serve)
        server.start()
        with closing(Api(port)) as api:
            api.send(command * 2, 2)
        server.join()
