"""Reports of a heal, to devices, metrics and the log."""

from dataclasses import dataclass

from ..ports import StoreError
from ..recovery_ports import Digest, RowKey
from ..telemetry.telemetry import Telemetry
from .resync import ResyncSender
from .senders import RowSender
from .user_states import AUDIT, SIGN_IN, UserState

__all__ = ["HealReports"]


@dataclass(frozen=True, slots=True)
class HealReports:
    """Reports rows sent, ends of heals, and heals that have to wait."""

    sender: RowSender
    resync: ResyncSender
    telemetry: Telemetry

    def row_sent(self, state: UserState, key: RowKey, *, unannounced: bool) -> None:
        """Count a row sent; one that no event announced also as a fault of others."""
        metrics = self.telemetry.metrics
        metrics.healed_rows.labels(state.reason or AUDIT).inc()
        if unannounced and state.reason is None:
            table = f"{key.kind}s"
            metrics.unannounced_changes.labels(table).inc()
            self.telemetry.log.warning(
                "unannounced_change", table=table, user=key.user_id
            )
        state.sent = True

    def healed(self, user_id: str, state: UserState, digest: Digest | None) -> None:
        """A look is complete: send `healed` if rows were sent or a heal was owed."""
        reason = state.reason or AUDIT
        news = state.sent or reason not in {AUDIT, SIGN_IN}
        state.reason, state.sent, state.told = None, False, False
        if news and state.cursor is not None:
            devices = self.sender.hub.devices_of(user_id)
            self.sender.send_healed(devices, reason, state.cursor, digest)
            self.telemetry.metrics.heals.labels(reason).inc()

    def delayed(self, user_id: str, state: UserState) -> None:
        """Send `resync_required`, once for each reason."""
        if state.reason and state.reason != SIGN_IN and not state.told:
            state.told = True
            self.resync.send([user_id], state.reason)

    def failed(self, user_id: str, failure: Exception) -> None:
        """Log a look that failed by a fault of this code."""
        if not isinstance(failure, StoreError):
            log = self.telemetry.log
            log.error("look_failed", user=user_id, exc_info=failure)
