"""Typelets WS: keeps the notes on all of a person's devices in step.

The map. Imports point down, never up, and the two halves of floor 3 never see each
other; tests/test_architecture.py keeps it so and has the whole list::

    5  doors       cli  status  schema_command  dev/
    4  assembly    app  daemon  service  systemd  schema
    3  transport   sockets: connection  entrance  wire  conversation  outbox  house
                            listener  tls  endpoints  relay
                   outside: clerk  keys | store | bus  subscriber  publishing  probe
                            redis_link | shared_limits
    2  behaviour   hub  handlers  admission
    1  rules       session  signing  nonces  javascript  limits  deadlines  liveness
                   convergence  fields  frames  assembly  upgrade  no I/O, no clock
    0  words       errors  messages  events  config  settings  metrics  log  ports

The road of a message: connection -> conversation -> session -> handlers -> store,
and back as a reply; what other devices must see goes handlers -> bus -> relay ->
hub -> connection, the same way as what the REST service publishes. `publisher` is
what a Python REST service imports; it needs only `events` and redis.
"""

__version__ = "0.1.0"
