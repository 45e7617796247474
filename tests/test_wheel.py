"""The wheel holds everything: installed without the sources, the commands and configs work."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests import REPOSITORY


def test_wheel_unpacked_elsewhere_shows_an_installed_experiment(tmp_path: Path) -> None:
    sources = tmp_path / "sources"  # building leaves files behind: not in the working tree
    for name in ("common", "teacher_cache", "student_train", "configs"):
        shutil.copytree(REPOSITORY / name, sources / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, sources)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", tmp_path, sources], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("reskd-*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
        assert not any(name.startswith("tests") for name in archive.namelist())
    shown = subprocess.run(
        [sys.executable, "-P", "-m", "reskd.common.cli.main", "config", "show", "demo"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "name: demo" in shown.stdout
    assert "test_resnet" in shown.stdout
