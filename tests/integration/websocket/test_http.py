"""Spec section 7: the HTTP answers to a probe, an operator and a stranger."""

import json

from tests.daemon import Boot, RunningDaemon, eventually
from tests.postgres import Database


async def status(house: RunningDaemon, *, admin: bool = False, token: str = "") -> dict:  # type: ignore[type-arg]
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    code, fields, body = await house.get(
        "/websocket/status", admin=admin, headers=headers
    )
    assert code == 200
    assert fields["content-type"] == "application/json"
    found = json.loads(body)
    assert isinstance(found, dict)
    return found


async def test_status_shows_users_only_to_the_token_and_the_admin(boot: Boot) -> None:
    server = {"status_token": "s3cret"}
    async with (
        boot(server=server) as house,
        house.device("alice"),
        house.device("alice"),
        house.device("bob"),
        house.device(),
    ):
        users = [
            {"userId": "alice", "deviceCount": 2},
            {"userId": "bob", "deviceCount": 1},
        ]
        hidden = await status(house)
        assert hidden == {
            "status": "healthy",
            "connections": {"total": 4, "authenticated": 3, "perUser": []},
            "uptime": "0h 0m",
        }
        assert (await status(house, token="wrong"))["connections"]["perUser"] == []
        shown = await status(house, token="s3cret")
        assert shown["connections"]["perUser"] == users
        admin = await status(house, admin=True)
        assert admin["connections"]["perUser"] == users
        # Every two seconds, all in one turn.
        await eventually(lambda: house.figure("users") == 2)
        known = house.figure("connections", state="authenticated")
        unknown = house.figure("connections", state="unauthenticated")
        assert (known, unknown) == (3, 1)


async def test_without_a_status_token_no_one_has_it(boot: Boot) -> None:
    async with boot() as house, house.device("alice"):
        _, _, body = await house.get(
            "/websocket/status", headers={"Authorization": "Bearer "}
        )
        assert json.loads(body)["connections"]["perUser"] == []


async def test_ready_is_red_while_postgres_is_away(
    boot: Boot, database: Database
) -> None:
    async with boot() as house:
        plain, asking = await house.get("/ready"), await house.get("/ready?x=1")
        for _, fields, _ in (plain, asking):
            del fields["date"]  # a second may pass between the two
        assert plain == asking
        code, fields, body = plain
        assert code == 200
        assert fields["content-type"] == "application/json"
        assert json.loads(body) == {"ready": True, "reasons": []}
        database.stop()
        await eventually(lambda: bool(house.daemon.health.unready_reasons()))
        code, _, body = await house.get("/ready")
        assert code == 503
        assert json.loads(body)["reasons"] == ["postgres does not answer"]
        assert (await status(house))["status"] == "degraded"
        assert (await house.get("/health"))[0] == 200
        database.start()
        await eventually(lambda: not house.daemon.health.unready_reasons())
        assert (await house.get("/ready"))[0] == 200


async def test_metrics_are_the_admins_alone(boot: Boot) -> None:
    async with boot() as house, house.device("alice"):
        assert (await house.get("/metrics"))[0] == 426
        code, fields, body = await house.get("/metrics", admin=True)
        assert code == 200
        assert fields["content-type"].startswith("text/plain")
        assert b'typelets_ws_authentications_total{result="ok"} 1.0' in body
        assert (await house.get("/nothing", admin=True))[0] == 404
        assert (await house.get("/ready", admin=True))[0] == 200
        assert (await house.get("/health", admin=True))[0] == 200


async def test_nothing_of_dev_is_served(boot: Boot) -> None:
    async with boot() as house:
        for path in ("/", "/index.html", "/client.js", "/dev/token?user=alice"):
            assert (await house.get(path))[0] == 426
