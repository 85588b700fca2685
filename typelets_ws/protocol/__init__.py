"""What travels on the wire: messages, events, errors and the values in their fields."""
