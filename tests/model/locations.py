"""Where the code implements the steps of the model.

Steps of the REST service and of the outside world have no location in the package.
"""

__all__ = ["LOCATIONS", "OUTSIDE"]

LOCATIONS: dict[str, list[str]] = {
    "publish": ["publisher.Publisher.notify_note_update"],
    "subscribe": ["bus.subscriber.Subscriber.subscribe"],
    "acquire": ["redis.limits.SharedLimits.acquire"],
    "attach": [
        "session.authenticator.Authenticator.authenticate",
        "delivery.hub.Hub.attach",
        "delivery.recovery.Recovery.attach",
    ],
    "leave": [
        "session.authenticator.Authenticator.detach",
        "delivery.recovery.Recovery.detach",
    ],
    "update": ["postgres.store.Store.update_note"],
    "answer": [
        "session.dispatcher.Dispatcher._apply",
        "delivery.conflicts.Conflicts.note_reply",
        "bus.publisher.EventPublisher.publish",
        "delivery.relay.Relay.on_unpublished",
    ],
    "ask": [
        "delivery.syncing.Syncer.page",
        "delivery.newcomers.Newcomers.replay",
        "postgres.store.Store.update_note_based",
    ],
    "page": [
        "delivery.conflicts.Conflicts.note_refusal",
        "delivery.shown.ShownRows.sent_to_one",
        "delivery.shown_row.ShownRow.is_held",
    ],
    "bar": ["delivery.revocations.RevokedSessions.revoke"],
    "revoke": ["publisher.Publisher.revoke_session"],
    "cut": ["bus.subscriber.Subscriber.lost"],
    "relink": [
        "bus.subscriber.Subscriber.on_batch_confirmed",
        "bus.publisher.EventPublisher.publish_resyncs",
        "delivery.relay.Relay.on_gap",
    ],
    "audit": ["delivery.recovery.Recovery._audit"],
    "database_fails": ["delivery.healing.Healer._retry"],
    "receive": [
        "delivery.relay.Relay.on_event",
        "delivery.relay.Relay._apply_control",
        "delivery.shown.ShownRows.updated",
    ],
    "read": [
        "delivery.healing.Healer.look",
        "postgres.changes.ChangeReader.changed",
    ],
    "show": [
        "delivery.judging.Judge.judge",
        "delivery.healing.Healer._finish",
    ],
}
OUTSIDE = {"write", "commit", "rollback", "load"}
