"""Log lines and metrics for messages that are answered with an error.

Invariant: a failure of the daemon has a correlation id in its log line and in its
reply; a signature that is refused is a security event. (spec section 5)
Tested by tests/unit/session/test_dispatcher.py.
"""

from ..delivery.hub import Device
from ..protocol.errors import ClientError, Code
from .context import Context
from .ids import new_id
from .signing import SignatureError

__all__ = ["internal_error", "record"]


def record(context: Context, device: Device, error: ClientError, name: str) -> None:
    """Count and log an error before its reply is sent; `name` is the message type."""
    context.observe(name, str(error.code), device)
    if isinstance(error, SignatureError):
        kind = f"signature_{error.verdict}"
        context.telemetry.metrics.security_events.labels(kind).inc()
        context.telemetry.log.warning(
            "signature_rejected",
            security=True,
            verdict=str(error.verdict),
            **device.log_fields,
        )
    elif error.correlation_id is not None:
        context.telemetry.log.error(
            "message_failed",
            type=name,
            code=str(error.code),
            correlation_id=error.correlation_id,
            cause=str(error.__cause__),
            **device.log_fields,
        )


def internal_error(
    context: Context, device: Device, exc: Exception, name: str
) -> ClientError:
    """Log an unexpected exception; return the error for the client."""
    correlation_id = new_id()
    context.telemetry.log.error(
        "internal_error",
        type=name,
        correlation_id=correlation_id,
        exc_info=exc,
        **device.log_fields,
    )
    context.observe(name, str(Code.INTERNAL), device)
    return ClientError(Code.INTERNAL, "Internal error", correlation_id=correlation_id)
