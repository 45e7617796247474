"""The fast parts of the campaigns: mutants of videos, and file operations that fail."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import REPOSITORY
from tests.campaigns import video_fuzz
from tests.campaigns.faults import shim
from tests.campaigns.faults.subjects import SUBJECTS


@pytest.mark.parametrize("readers", [("pyav", "in order"), ("auto",), ("images", "frame store")])
def test_mutants_of_videos_are_read_or_unreadable(
    tmp_path: Path, readers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reskd.common.video.attempts.WAITS_SECONDS", [0.0])
    result = video_fuzz.run_campaign(
        video_fuzz.small_videos(tmp_path / "own"),
        tmp_path,
        mutants=12,
        seed=1,
        read=video_fuzz.outcome,
        readers=readers,
    )
    assert result["mutants"] == 12
    assert result["escaped"] == []
    assert sum(count.get("unreadable", 0) for count in result["outcomes"].values()) > 0


@pytest.mark.slow
@pytest.mark.skipif(shim.compiler() is None, reason="needs Linux and a C compiler")
@pytest.mark.parametrize("subject", SUBJECTS)
def test_faults_lose_nothing(subject: str) -> None:
    command = [sys.executable, "-m", "tests.campaigns.faults", "--only", subject, "--most", "6"]
    ended = subprocess.run(
        [*command, "--json"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    result = json.loads(ended.stdout)
    assert result["tried"] == 6
    assert result["subjects"][subject]["wrong"] == []
