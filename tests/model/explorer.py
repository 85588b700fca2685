"""All interleavings of a scenario, shortest first, each state visited once.

A scenario is a start and the scripts of its actors. The explorer lets each actor
take its next step, and each process receive, read and show, in every order. A state
without a next step is an end; there the invariants that hold at rest are checked.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from tests.model.rules import Broken
from tests.model.state import ALICE, State
from tests.model.steps import Step, audit, environment, read, show

__all__ = ["Found", "Scenario", "explore"]

MOST_STATES = 400_000


@dataclass(frozen=True)
class Scenario:
    """Where it starts, who acts, and whether an audit comes at the end."""

    start: State
    actors: Mapping[str, tuple[tuple[str, Step], ...]]
    audited: bool = False


@dataclass(frozen=True)
class Found:
    """The result of an exploration."""

    states: int
    ends: int
    wrong: str = ""
    schedule: tuple[str, ...] = ()
    """The shortest way to the broken invariant."""


def explore(scenario: Scenario, broken: Broken | None = None) -> Found:
    """Visit every state; stop at the first broken invariant."""
    actors = list(scenario.actors.items())
    start = replace(
        scenario.start, places=(0,) * len(actors), written=(None,) * len(actors)
    )
    came: dict[State, tuple[State, str] | None] = {start: None}
    queue, ends = deque([start]), 0
    free = environment(len(start.processes))
    while queue:
        state = queue.popleft()
        at_rest = True
        for name, following in _steps(state, actors, free, broken):
            at_rest = False
            if following not in came:
                came[following] = (state, name)
                queue.append(following)
                if following.wrong:
                    return Found(
                        len(came), ends, following.wrong, _way(came, following)
                    )
        if at_rest:
            ends += 1
            wrong = _wrong_at_rest(state, scenario.audited, broken)
            if wrong:
                return Found(len(came), ends, wrong, _way(came, state))
        assert len(came) < MOST_STATES, "the scenario is too large"
    return Found(len(came), ends)


def _steps(
    state: State,
    actors: list[tuple[str, tuple[tuple[str, Step], ...]]],
    free: Mapping[str, Step],
    broken: Broken | None,
) -> Iterator[tuple[str, State]]:
    for index, (actor, script) in enumerate(actors):
        place = state.places[index]
        if place == len(script):
            continue
        name, step = script[place]
        following = step(state, index, broken)
        if following is not None:
            places = (*state.places[:index], place + 1, *state.places[index + 1 :])
            yield f"{actor}: {name}", replace(following, places=places)
    for name, step in free.items():
        following = step(state, -1, broken)
        if following is not None:
            yield name, following


def _wrong_at_rest(state: State, audited: bool, broken: Broken | None) -> str:
    for index in range(len(state.processes) if audited else 0):
        for step in (audit(index), read(index), show(index)):
            state = step(state, -1, broken) or state
    for number, device in enumerate(state.devices):
        if not device.attached or device.user != ALICE:
            continue
        if device.session in state.barred:
            return f"device {number} is attached although its session is revoked"
        content = state.row.content
        if state.row.owner == ALICE and device.screen != content:
            return f"device {number} shows {device.screen}, the row is {content}"
    return state.wrong


def _way(
    came: Mapping[State, tuple[State, str] | None], state: State
) -> tuple[str, ...]:
    names: list[str] = []
    step = came[state]
    while step is not None:
        state, name = step
        names.append(name)
        step = came[state]
    return tuple(reversed(names))
