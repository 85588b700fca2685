"""The targets of `scripts/fuzz`, with a few thousand inputs each."""

import os
import random

import pytest

from tests.fuzz.inputs import generator
from tests.fuzz.targets import TARGETS

INPUTS = int(os.environ.get("TYPELETS_WS_INPUTS", "2000"))


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_is_misread(name: str) -> None:
    seed = random.randrange(2**32)
    for number in range(INPUTS):
        try:
            TARGETS[name](generator(seed, number))
        except Exception as exc:
            exc.add_note(f"input {number} of seed {seed}: scripts/fuzz {name}")
            raise
