"""Typelets WS: keeps the notes on all of a person's devices in step.

The map. Imports point down, never up; the two halves of floor 3 never see each
other (tests/test_architecture.py keeps it so)::

    5  doors       cli  dev/
    4  assembly    app
    3  transport   connection  listener  endpoints  relay | store  bus  shared_limits  clerk
    2  behaviour   hub  handlers  admission
    1  rules       session  signing  limits  deadlines  convergence      no I/O, no clock
    0  words       errors  messages  events  config  metrics  log

The road of a message: connection -> session -> handlers -> store, and back as
replies; what other devices must see goes handlers -> bus -> relay -> hub ->
connection, the same way as what the REST service publishes. `publisher` is what
a Python REST service imports; it needs only `events` and redis.
"""  # noqa: E501

__version__ = "0.1.0"
