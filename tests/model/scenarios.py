"""The scenarios: few actors each, chosen so that every rule matters in one of them.

Publishers that always publish, with clocks in order, need no audit: a gap, a reply
and a late event are healed at once. Publishers that skip, that roll back or whose
clocks disagree need the audit; those scenarios end with one.
"""

from dataclasses import replace

from tests.model import steps
from tests.model.explorer import Scenario
from tests.model.rules import Broken
from tests.model.state import ALICE, BOB, Device, Process, State
from tests.model.steps import Step

__all__ = ["scenarios"]

Script = tuple[tuple[str, Step], ...]
HERE = Process(subscribed=True, horizon=1)


def device(process: int = 0, **more: object) -> Device:
    """A device that is connected and up to date."""
    one = Device(process, attached=True, granted=True, known=0)
    return replace(one, **more)  # type: ignore[arg-type]


def rest(stamp: int, broken: Broken | None, *, owner: str = ALICE) -> Script:
    """A REST host: writes, commits and publishes."""
    names = {"commit": steps.commit, "publish": steps.publish}
    order = ["commit", "publish"]
    if broken is Broken.PUBLISH_AFTER_COMMIT:
        order.reverse()
    return (("write", steps.write(stamp, owner)), *((n, names[n]) for n in order))


def silent(stamp: int) -> Script:
    """A REST host that does not publish."""
    return (("write", steps.write(stamp)), ("commit", steps.commit))


def there_and_back(stamp: int) -> Script:
    """A change by hand that is taken back; `updatedAt` stays."""
    return (
        ("write", steps.write(stamp)),
        ("commit", steps.commit),
        ("write back", steps.write(stamp, content=1)),
        ("commit", steps.commit),
    )


def sync(number: int) -> Script:
    """A device that asks for the row."""
    return (("ask", steps.ask(number)), ("page", steps.page(number)))


def undone(stamp: int, broken: Broken | None) -> Script:
    """A REST host whose transaction is rolled back."""
    begin: Script = (("write", steps.write(stamp)),)
    if broken is Broken.PUBLISH_AFTER_COMMIT:
        begin = (*begin, ("publish", steps.publish))
    return (*begin, ("rollback", steps.rollback))


def client(number: int) -> Script:
    """A device that saves through its socket."""
    return (("update", steps.update(number)), ("answer", steps.answer(number)))


def sign_in(number: int, broken: Broken | None, *, loads: bool = True) -> Script:
    """A page is loaded, and then its socket is authenticated."""
    parts = {
        "subscribe": steps.subscribe(number),
        "acquire": steps.acquire(number),
        "attach": steps.attach(number),
    }
    order = ["subscribe", "acquire", "attach"]
    if broken is Broken.SUBSCRIBE_BEFORE_THE_SLOT:
        order = ["acquire", "subscribe", "attach"]
    if broken is Broken.SUBSCRIBE_BEFORE_ATTACHING:
        order = ["acquire", "attach", "subscribe"]
    first: Script = (("load", steps.load(number)),) if loads else ()
    return (*first, *((name, parts[name]) for name in order))


def revocation(session: int, broken: Broken | None) -> Script:
    """The REST service revokes a session."""
    script: Script = (("bar", steps.bar(session)), ("revoke", steps.revoke(session)))
    reverse = broken is Broken.BAR_BEFORE_PUBLISHING
    return script[::-1] if reverse else script


def outage(process: int) -> Script:
    """The process loses Redis and finds it again."""
    return (("cut", steps.cut(process)), ("relink", steps.relink(process)))


def scenarios(broken: Broken | None) -> dict[str, Scenario]:
    """All scenarios by name, with the scripts that a broken rule changes."""
    two = State(processes=(HERE, HERE), devices=(device(0), device(1)))
    one = State(processes=(HERE,), devices=(device(),))
    away = device(session=7, attached=False, granted=False, known=None)
    new = State(processes=(Process(),), devices=(away,))
    audit = ("audit", steps.audit(0))
    return {
        "two devices save, two processes": Scenario(
            two, {"a": client(0), "b": client(1)}
        ),
        "a device and a REST host": Scenario(
            State(processes=(HERE,), devices=(device(), device())),
            {"a": client(0), "rest": rest(1, broken)},
            audited=True,
        ),
        "two REST hosts, events out of order": Scenario(
            one, {"one": rest(1, broken), "two": rest(2, broken)}, audited=True
        ),
        "a clock steps back, events in order": Scenario(
            one, {"rest": (*rest(9, broken), *rest(3, broken))}
        ),
        "a clock steps back while a device saves": Scenario(
            two,
            {"rest": (*rest(9, broken), *rest(3, broken)), "a": client(0)},
            audited=True,
        ),
        "Redis stays away": Scenario(
            State(processes=(HERE,), devices=(device(), device())),
            {"a": (("cut", steps.cut(0)), *client(0))},
        ),
        "an outage of Redis": Scenario(
            one, {"rest": rest(1, broken), "outage": outage(0)}
        ),
        "an outage at the sender": Scenario(
            State(processes=(HERE, HERE), devices=(device(0), device(0), device(1))),
            {"a": client(0), "outage": outage(0)},
        ),
        "a page is loaded": Scenario(
            new, {"page": sign_in(0, broken), "rest": rest(1, broken)}
        ),
        "a device changes its process": Scenario(
            State(processes=(HERE, Process()), devices=(device(0),)),
            {
                "device": (
                    ("leave", steps.leave(0, 1)),
                    *sign_in(0, broken, loads=False),
                ),
                "rest": rest(1, broken),
            },
        ),
        "a session is revoked": Scenario(
            new, {"device": sign_in(0, broken), "rest": revocation(7, broken)}
        ),
        "nobody publishes": Scenario(
            one,
            {"one": silent(1), "two": silent(2), "audit": (audit, audit)},
            audited=True,
        ),
        "a row changes and keeps its time": Scenario(
            State(processes=(HERE,), devices=(device(), device())),
            {"a": client(0), "folder": silent(1)},
            audited=True,
        ),
        "a row changes and changes back": Scenario(
            State(processes=(HERE,), devices=(device(), device())),
            {"sync": sync(0), "hand": there_and_back(0), "audit": (audit,)},
            audited=True,
        ),
        "clocks apart": Scenario(
            one,
            {
                "one": rest(9, broken),
                "two": rest(3, broken),
                "three": silent(5),
                "audit": (audit, audit),
            },
            audited=True,
        ),
        "a rollback": Scenario(
            one,
            {"one": undone(9, broken), "two": rest(3, broken), "audit": (audit,)},
            audited=True,
        ),
        "the database fails": Scenario(
            one,
            {
                "rest": rest(1, broken),
                "outage": outage(0),
                "database": (("fails", steps.database_fails(0)),),
            },
        ),
        "a note changes hands": Scenario(
            State(processes=(HERE,), devices=(device(), device(user=BOB))),
            {
                "one": rest(1, broken),
                "two": rest(2, broken, owner=BOB),
                "audit": (audit,),
            },
            audited=True,
        ),
    }
