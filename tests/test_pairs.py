"""One round of the campaign that starts every command that makes something twice at once."""

import json
import subprocess
import sys

import pytest

from tests import REPOSITORY
from tests.campaigns.pairs import PAIRS


@pytest.mark.slow  # pairs of real processes
def test_two_first_drivers_at_once_end_as_they_may() -> None:
    command = [sys.executable, "-m", "tests.campaigns.pairs", "--json"]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["bad"] == {}
    assert found["pairs"].keys() == {pair.id for pair in PAIRS}
