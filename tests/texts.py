"""The alphabet of Hypothesis texts: all that UTF-8 can encode.

The default alphabet is the same, but each process encodes every character to find it:
2.5 s of a core, until a directory `.hypothesis` has the result.
"""

from typing import Final

from hypothesis import strategies as st

CHARACTERS: Final = st.characters(exclude_categories=["Cs"])
