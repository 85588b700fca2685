"""What devices are told of a heal that has to wait."""

from tests.fakes import FakeTransport, Log
from typelets_ws.delivery.hub import Hub
from typelets_ws.delivery.reports import HealReports
from typelets_ws.delivery.resync import ResyncSender
from typelets_ws.delivery.senders import RowSender
from typelets_ws.delivery.user_states import SIGN_IN, UserState
from typelets_ws.telemetry.metrics import Metrics
from typelets_ws.telemetry.telemetry import Telemetry


def test_a_heal_that_waits_is_announced_once_for_each_reason() -> None:
    hub, device, metrics = Hub(), FakeTransport("c1"), Metrics()
    hub.attach("ann", device)
    reports = HealReports(
        RowSender(hub, metrics, lambda: 0),
        ResyncSender(hub, 0.0, lambda: 0.0),
        Telemetry(metrics, Log().bound()),
    )
    state = UserState(0.0)
    reports.delayed("ann", state)
    assert device.resyncs == [], "the audit owes nothing"
    for reason in ("lost", "publish_failed"):
        state.reason = reason
        for _ in range(2):
            reports.delayed("ann", state)
        assert device.resyncs[-1:] == [reason]
        reports.healed("ann", state, None)
    state.reason = SIGN_IN
    reports.delayed("ann", state)
    assert device.resyncs == ["lost", "publish_failed"]
