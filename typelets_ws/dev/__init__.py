"""A whole Typelets WS on one machine, for trying it out and for its tests."""
