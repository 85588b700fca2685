"""Typelets WS: keeps the notes on all of a user's devices in step.

The map; tests/test_architecture.py checks it against every import::

            cli . process . systemd . status . dev/                   doors
                              |
                   app (builds) . daemon (drain, reload)
      +-----------------------+---------------------------+
  websocket/ -- session/ -- delivery/         bus/ -- redis/ . postgres/ . clerk/
  sockets       one client   who gets what    events   adapters: fulfil `ports`
      +-- wire/ ---+-- protocol/ --+          +--- ports . config/ . telemetry/

A client's message: websocket.connection -> session.dispatcher -> session.session ->
session.handlers -> ports.Store, and the reply goes back the same way. An event for
other devices: session.handlers -> bus -> Redis -> delivery.relay -> delivery.hub ->
websocket.connection, as do events of the REST service. A Python REST service imports
`publisher`; it needs `protocol` and redis only. `schema/` and `client/` hold
the protocol for programs in other languages. Commands beside the daemon: `checks/`
(`check-config --connect`), `monitoring/` (alerts and a dashboard), `dev/`. `fastpaths`
lists the code that replaces a library; `testing` is a device for the tests of apps.
"""

__version__ = "0.2.0"
