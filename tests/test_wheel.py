"""The wheel: one package, everything in it, and no quarrel with a folder of the user's own."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import REPOSITORY
from tests.tiny_experiment import make_tiny_videos


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: building leaves files behind."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    for name in ("common", "teacher_cache", "student_train", "configs"):
        shutil.copytree(REPOSITORY / name, sources / name)
    shutil.copytree(REPOSITORY / ".package", sources / ".package", symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, sources)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", folder, sources], check=True, capture_output=True)
    (built,) = folder.glob("reskd-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site-packages folder that holds the wheel alone; what it needs comes from this one."""
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(installed: Path, *arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    environment: Mapping[str, str] = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_wheel_puts_one_package_and_its_record_into_site_packages(installed: Path) -> None:
    names = sorted(path.name for path in installed.iterdir())
    assert len(names) == 2
    assert names[0] == "reskd"
    assert names[1].startswith("reskd-")
    assert names[1].endswith(".dist-info")
    assert (installed / "reskd" / "py.typed").is_file()


def test_wheel_holds_every_file_of_the_product(installed: Path) -> None:
    wanted = {
        path.relative_to(REPOSITORY).as_posix()
        for room in ("common", "teacher_cache", "student_train", "configs")
        for pattern in ("*.py", "*.yaml", "*.html", "*.css")
        for path in (REPOSITORY / room).rglob(pattern)
    }
    package = installed / "reskd"
    held = {path.relative_to(package).as_posix() for path in package.rglob("*")}
    assert wanted - held == set()


def test_installed_command_shows_an_installed_experiment(installed: Path, tmp_path: Path) -> None:
    shown = run(installed, "-P", "-m", "reskd", "config", "show", "demo", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "name: demo" in shown.stdout
    assert "test_resnet" in shown.stdout


def test_script_beside_its_own_common_package_works(installed: Path, tmp_path: Path) -> None:
    for name in ("common", "configs", "tests", "student_train"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = True\n")
    (tmp_path / "script.py").write_text(
        "import common, configs, student_train\n"
        "import reskd\n"
        "assert common.MINE and configs.MINE and student_train.MINE\n"
        "experiment = reskd.load_experiment('actnet/r152_to_r50')\n"
        "reskd.train_student, reskd.cache_teacher, reskd.load_predictor\n"
        "print(experiment.name, reskd.__file__)\n"
    )
    done = run(installed, "script.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    name, file = done.stdout.split()
    assert name
    assert Path(file).is_relative_to(installed)


@pytest.mark.slow  # a teacher, a cache and a student
def test_a_teacher_a_loss_and_a_loop_of_ones_own_take_sixty_lines(
    installed: Path, tmp_path: Path
) -> None:
    script = REPOSITORY / "tests" / "own_everything.py"
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 60
    shutil.copy(script, tmp_path)
    make_tiny_videos(tmp_path / "videos")
    done = run(installed, "own_everything.py", "videos", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    steps = [line.split() for line in done.stdout.splitlines() if line[:1].isdigit()]
    losses = [float(loss) for _, loss in steps]
    assert len(losses) == 20 * 3
    assert sum(losses[-9:]) < sum(losses[:9]) / 2
