"""What opening needs: stored frames are read where no video decoder is installed."""

import subprocess
import sys

import pytest

WITHOUT_DECODERS = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("av", "decord"):
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent())
import reskd.common.dataset.frames.encode
import reskd.student_train.train.runs
import reskd.teacher_cache.estimate.forecast
import reskd.teacher_cache.verify.recompute
"""


@pytest.mark.slow
def test_both_stages_load_where_no_video_decoder_is_installed() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_DECODERS], check=True, timeout=120)
