"""Access to the page of `dev`, and to the tokens behind it."""

import json
from typing import Any

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from typelets_ws.dev.greeting import warning
from typelets_ws.dev.keys import SigningKey
from typelets_ws.dev.pages import Site, is_local_host
from typelets_ws.dev.rest import RestStub

OWN = {"X-Typelets-Dev": "1"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    key = SigningKey(tmp_path_factory.mktemp("pages") / "key.pem")
    nowhere = RestStub("postgresql://127.0.0.1:1/none", "redis://127.0.0.1:1/0", "t:")
    return Site(key, nowhere, ["user_1"], "127.0.0.1")


def get(site: Site, path: str, host: str = "localhost:8765", **more: str) -> Response:
    headers = Headers([("Host", host), *more.items()])
    return site.pages()[path.partition("?")[0]](Request(path, headers))


def value(response: Response) -> Any:
    return json.loads(response.body)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8765", "127.0.0.1", "localhost", "LocalHost:1", "[::1]:8765", "[::1]",
     "192.168.1.5:8765", "app.localhost:8765", "laptop.lan:8765"],
)  # fmt: skip
def test_at_home(host: str) -> None:
    assert is_local_host([host], "laptop.lan")


@pytest.mark.parametrize(
    "hosts",
    [[], [""], ["evil.example:8765"], ["127.0.0.1.evil.example"], ["localhost.evil"],
     ["notlocalhost"], ["1"], ["localhost", "evil.example"],
     ["localhost", "localhost"]],
)  # fmt: skip
def test_not_at_home(hosts: list[str]) -> None:
    assert not is_local_host(hosts, "127.0.0.1")


def test_every_path_refuses_a_foreign_name(site: Site) -> None:
    for path in site.pages():
        assert get(site, path, "evil.example", **OWN).status_code == 403


def test_every_path_has_the_strict_policy(site: Site) -> None:
    for path in site.pages():
        headers = get(site, path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'; script-src 'self'; " in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in headers


def test_what_is_dynamic_wants_the_header_no_foreign_page_can_send(site: Site) -> None:
    dynamic = [path for path in site.pages() if path.startswith("/dev/")]
    assert len(dynamic) == 6
    for path in dynamic:
        assert get(site, f"{path}?user=user_1").status_code == 403


def test_files_refer_to_nothing_elsewhere(site: Site) -> None:
    files = [path for path in site.pages() if not path.startswith("/dev/")]
    assert {"/", "/typelets-client.js", "/style.css", "/icon.svg"} <= set(files)
    for path in files:
        response = get(site, path)
        assert response.status_code == 200
        text = response.body.decode().replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text
        assert "https:" not in text.replace('"https:"', "")
        assert "url(" not in text


def test_tokens(site: Site) -> None:
    token = value(get(site, "/dev/token?user=user_1", **OWN))["token"]
    assert token.count(".") == 2
    refused = get(site, "/dev/token", **OWN)
    assert refused.status_code == 400
    assert value(refused) == {"error": "user is missing"}
    refused = get(site, "/dev/token?user=user_1&expires=soon", **OWN)
    assert refused.status_code == 400
    assert value(get(site, "/dev/users", **OWN)) == ["user_1"]


def test_a_fault_that_does_not_exist_is_refused(site: Site) -> None:
    for query in ("", "?kind=sing", "?kind=redis", "?kind=close&user=user_1&code=1"):
        assert get(site, f"/dev/fault{query}", **OWN).status_code == 400


def test_what_is_away_is_said(site: Site) -> None:
    for path in (
        "/dev/notes?user=user_1",
        "/dev/publish?user=user_1&event=user_disconnected",
        "/dev/figures",
        "/dev/fault?kind=close&user=user_1&code=1012",
    ):
        response = get(site, path, **OWN)
        assert response.status_code == 503
        assert value(response)["error"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_no_warning_on_loopback(host: str) -> None:
    assert warning(host) == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "laptop.lan"])
def test_a_warning_elsewhere(host: str) -> None:
    assert "sign in as any" in warning(host)
