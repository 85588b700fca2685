"""The rules of delivery and recovery that the model can break, one at a time."""

from enum import StrEnum

__all__ = ["Broken"]


class Broken(StrEnum):
    """One rule that a mutant of the model breaks; the value says how."""

    PUBLISH_AFTER_COMMIT = "the event is published before the commit"
    HORIZON_OF_THE_SNAPSHOT = "the horizon comes from a later snapshot than the rows"
    HORIZON_IS_THE_OLDEST = "the horizon is the next id, not the oldest running one"
    HORIZON_IS_INCLUDED = "a row whose xmin equals the horizon is not read"
    EVENTS_ARE_CHECKED = "a row shown from an event is not read again"
    FAILED_HEAL_STAYS_DUE = "a heal that failed is forgotten"
    HEAL_YIELDS_TO_EVENTS = "a heal shows a row although an event came meanwhile"
    HEAL_AFTER_SUBSCRIBING = "a gap is healed before the channel is subscribed again"
    GAP_IS_HEALED = "a gap is not healed"
    OLDER_IS_READ_AGAIN = "an event older than what was shown is ignored"
    OLDER_IS_NOT_SHOWN = "an event older than what was shown is shown"
    REPLY_IS_NOT_OLDER = "a reply shows its row although a newer one was shown"
    REPLY_COUNTS_AS_SHOWN = "a reply is not remembered as shown to its sender"
    PAGE_COUNTS_AS_SHOWN = "a page is not remembered as shown to the device that asked"
    UNPUBLISHED_IS_REPAIRED = "an event that could not be published is forgotten"
    UNPUBLISHED_IS_SERVED_HERE = "an unpublished event is not delivered here either"
    SIGN_IN_IS_HEALED = "a device that signs in is taken to be up to date"
    SUBSCRIBE_BEFORE_ATTACHING = "a device is attached and healed, then subscribed"
    SUBSCRIBE_BEFORE_THE_SLOT = "the slot is acquired before subscribing"
    BAR_BEFORE_PUBLISHING = "a revocation is published, then the session is barred"
    REVOCATION_IS_REMEMBERED = "a revocation heard before the attach is forgotten"
    EVENTS_BELONG_TO_A_USER = "an event goes to the devices of all users"
    HELD_BY_CONTENT = "a row is taken to be held because its time was shown"
    HEAL_READS_ONE_USER = "a heal reads rows of all users"
