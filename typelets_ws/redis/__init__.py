"""Connections to Redis and the limits shared over all processes."""
