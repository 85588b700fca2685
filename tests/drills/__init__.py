"""Faults of Redis under load, with numbered events.

`scripts/drills` runs all of them and prints the README's table; the suite runs the
short ones (`test_drills.py`). `drill` plays one fault and counts, `sentinel` and
`cluster` have the faults.
"""
