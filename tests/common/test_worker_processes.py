"""Work in processes ends with the process that asked for it."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys, time
from torch.utils.data import DataLoader
from reskd.common.worker_processes import start_server_of_workers

class Slow:
    def __len__(self): return 4
    def __getitem__(self, item):
        if item: time.sleep(600)
        return item

if __name__ == "__main__":
    start_server_of_workers()
    loader = DataLoader(
        Slow(), batch_size=None, num_workers=2, multiprocessing_context="forkserver",
        persistent_workers=True,
    )
    kept = iter(loader)
    assert next(kept) == 0
    sys.modules["keeps"] = kept  # is not tidied up before the very end
    print("done", flush=True)
"""


@pytest.mark.slow
def test_process_ends_though_its_workers_are_busy(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.stdout == "done\n"
