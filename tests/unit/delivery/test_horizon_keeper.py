"""When looks may begin: what earlier processes know comes first."""

from tests.fakes import NoChanges
from typelets_ws.delivery.horizon_keeper import RECALL_S, HorizonKeeper
from typelets_ws.delivery.horizons import Horizons
from typelets_ws.recovery_ports import Snapshot


class World(NoChanges):
    """Postgres and Redis; `remembered` is None while Redis does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.identity, self.newest = "a", 500
        self.remembered: list[tuple[float, int]] | None = None
        self.asked: list[str] = []
        self.told: list[tuple[str, int]] = []
        self.horizons = Horizons(60)
        self.keeper = HorizonKeeper(self, self, self.horizons, lambda: self.now)

    def ready(self) -> bool:
        return self.keeper.ready

    async def horizon(self) -> Snapshot:
        return Snapshot(self.identity, self.newest, self.newest)

    def remember(self, identity: str, horizon: int) -> None:
        self.told.append((identity, horizon))

    async def recall(self, identity: str) -> list[tuple[float, int]] | None:
        self.asked.append(identity)
        return self.remembered


async def test_looks_begin_with_the_horizons_of_earlier_processes() -> None:
    world = World()
    assert not world.ready()
    world.remembered = [(10.0, 400), (50.0, 300)]
    await world.keeper.take()
    assert world.ready()
    assert world.horizons.oldest(40, 100.0) == (300, 50.0)
    assert world.told == [("a", 500)]


async def test_looks_wait_for_a_redis_that_comes_later() -> None:
    world = World()
    await world.keeper.take()
    assert not world.ready()
    world.now, world.remembered = 100.0 + RECALL_S / 2, [(50.0, 300)]
    await world.keeper.take()
    assert world.ready()
    assert world.horizons.newest == 500
    horizon, _ = world.horizons.oldest(40, world.now) or (None, None)
    assert horizon == 300


async def test_looks_do_not_wait_for_ever() -> None:
    world = World()
    await world.keeper.take()
    world.now += RECALL_S - 0.1
    await world.keeper.take()
    assert not world.ready()
    world.now += 0.1
    assert world.ready()


async def test_each_database_is_asked_for_once() -> None:
    world = World()
    world.remembered = []
    for identity in ("a", "a", "b", "b"):
        world.identity = identity
        world.now += 2
        await world.keeper.take()
    assert world.asked == ["a", "b"]
    assert world.ready()
