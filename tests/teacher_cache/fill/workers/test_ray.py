"""Actors in a Ray cluster make the cache of one process, also where nodes and the head die."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from reskd.common.cli.main import main
from reskd.common.dataset.index import read_index
from reskd.common.errors import StoppedShortError
from reskd.common.experiment.load import load_experiment
from reskd.teacher_cache.fill.cluster import RayOptions
from reskd.teacher_cache.fill.cut import MOST_THREADS
from reskd.teacher_cache.fill.engine import run_cache_teacher
from reskd.teacher_cache.fill.job import Job
from reskd.teacher_cache.fill.pipeline.fill_units import fill_units
from reskd.teacher_cache.fill.workers import driver
from reskd.teacher_cache.format.commits import read_commits
from reskd.teacher_cache.format.plan import plan_cache
from reskd.teacher_cache.run_log import read_runs
from reskd.teacher_cache.verify.verify import verify_cache
from tests.processes import started
from tests.teacher_cache.fill.workers.ray_cluster import SmallCluster, small_cluster
from tests.teacher_cache.handling import OPTIONS, tree_of
from tests.tiny_experiment import TinyCache

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow  # nodes of a cluster are many processes

UNITS, HELD = 9, 4
PATIENCE_SECONDS = 120


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[SmallCluster]:
    with small_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: SmallCluster) -> Iterator[SmallCluster]:
    """Without nodes, before and after."""
    yield shared_cluster
    shared_cluster.kill_nodes()


def fill_on_ray(cache: TinyCache, folder: Path, cluster: SmallCluster) -> dict[str, Any]:
    experiment = load_experiment(str(cache.experiment))
    plan = plan_cache(experiment, read_index(experiment.data.index), memory_bytes=10**9)
    options = replace(OPTIONS, ray=RayOptions(address=cluster.address, device="cpu"))
    return run_cache_teacher(experiment, plan, folder, options)


def _wait_for(path: Path) -> str:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, path
        time.sleep(0.02)
    return path.read_text()


def _node() -> str:
    return str(ray.get_runtime_context().get_node_id())


def _holding(job: Job, units: Iterable[int]) -> Iterator[int]:
    """The units, of which one is held for good by the first node that gets it."""
    held = job.folder.with_name("held")
    for unit in units:
        if unit == HELD and not held.exists():
            held.write_text(_node())
            time.sleep(PATIENCE_SECONDS)
        yield unit


def _waiting(job: Job, units: Iterable[int]) -> Iterator[int]:
    """The units; the first node goes on when another one has begun."""
    first, other = (job.folder.with_name(name) for name in ("first", "other"))
    if not first.exists():
        first.write_text(_node())
    elif first.read_text() != _node():
        other.write_text(_node())
    for unit in units:
        if unit == HELD:
            _wait_for(other)
        yield unit


def _dying(job: Job, units: Iterable[int]) -> Iterator[int]:
    for unit in units:
        if unit == HELD:
            with job.folder.with_name("deaths").open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        yield unit


def _raising(job: Job, units: Iterable[int]) -> Iterator[int]:
    tried = job.folder.with_name("tried")
    for unit in units:
        if unit == HELD and not tried.exists():
            tried.write_text("x")
            raise MemoryError("no memory in this one")
        yield unit


def with_units(of: Callable[[Job, Iterable[int]], Iterator[int]]) -> Callable[..., None]:
    """A `fill_units` whose units come through a function; travels to actors."""

    def fill(job: Job, manifest: Any, generation: Any, units: Any, *rest: Any, **how: Any) -> None:
        fill_units(job, manifest, generation, of(job, units), *rest, **how)

    return fill


def command_of(cache: TinyCache, folder: Path, *words: str) -> list[str]:
    start = [sys.executable, "-m", "reskd.common.cli.main", "cache-teacher"]
    return [*start, str(cache.experiment), "--cache", str(folder), "--engine", "ray", *words]


def test_two_nodes_write_the_bytes_of_one_process(
    tiny_cache: TinyCache, cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_cache.cache.with_name("ray")
    nodes = {cluster.add_node().node_id for _ in range(2)}
    monkeypatch.setattr(driver, "fill_units", with_units(_waiting))
    before = signal.getsignal(signal.SIGTERM)
    assert fill_on_ray(tiny_cache, folder, cluster)["units_written"] == UNITS
    assert {folder.with_name(name).read_text() for name in ("first", "other")} == nodes
    assert tree_of(folder) == tree_of(tiny_cache.cache)
    (run,) = read_runs(folder)
    assert (run["units"], run["videos"], run["device"]) == (9, 9, "ray")
    assert signal.getsignal(signal.SIGTERM) == before


def test_node_that_is_killed_leaves_its_units_to_the_other(
    tiny_cache: TinyCache,
    cluster: SmallCluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tiny_cache.cache.with_name("ray")
    for _ in range(2):
        cluster.add_node()
    monkeypatch.setattr(driver, "fill_units", with_units(_holding))
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(lambda: cluster.kill_node(_wait_for(folder.with_name("held"))))
        assert fill_on_ray(tiny_cache, folder, cluster)["units_missing"] == 0
        killed.result()
    assert tree_of(folder) == tree_of(tiny_cache.cache)
    assert f"{HELD}) again" in capsys.readouterr().err


def test_node_that_comes_later_gets_a_worker(
    tiny_cache: TinyCache, cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_cache.cache.with_name("ray")
    cluster.add_node()
    monkeypatch.setattr(driver, "fill_units", with_units(_waiting))

    with ThreadPoolExecutor(1) as pool:
        filled = pool.submit(fill_on_ray, tiny_cache, folder, cluster)
        _wait_for(folder.with_name("first"))
        added = cluster.add_node()  # only the main thread can
        filled.result()
    assert folder.with_name("other").read_text() == added.node_id
    assert tree_of(folder) == tree_of(tiny_cache.cache)


def test_unit_that_ends_every_actor_stops_the_run_and_the_command_goes_on(
    tiny_cache: TinyCache, cluster: SmallCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_cache.cache.with_name("ray")
    cluster.add_node()
    with monkeypatch.context() as patch:
        patch.setattr(driver, "fill_units", with_units(_dying))
        with pytest.raises(StoppedShortError, match=f"Unit {HELD} has ended 3 workers"):
            fill_on_ray(tiny_cache, folder, cluster)
    assert folder.with_name("deaths").read_text() == "xxx"
    monkeypatch.setattr(driver, "fill_units", with_units(_raising))
    fill_on_ray(tiny_cache, folder, cluster)
    assert folder.with_name("tried").exists()
    assert tree_of(folder) == tree_of(tiny_cache.cache)


def test_actor_of_many_cpus_decodes_in_processes(
    tiny_cache: TinyCache, cluster: SmallCluster
) -> None:
    folder = tiny_cache.cache.with_name("ray")
    cluster.add_node(cpus=MOST_THREADS + 1)
    assert fill_on_ray(tiny_cache, folder, cluster)["units_missing"] == 0
    assert verify_cache(folder, "bytes").findings == ()


def test_cluster_without_gpu_is_said(
    tiny_cache: TinyCache, cluster: SmallCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_cache.cache.with_name("ray")
    cluster.add_node()
    command = command_of(tiny_cache, folder, "--device", "cuda")[3:]
    assert main([*command, "--ray-address", cluster.address]) == 3
    assert "nodes of the Ray cluster have no GPU" in capsys.readouterr().err


def test_signal_to_the_driver_ends_with_75_and_the_same_command_goes_on(
    tiny_cache: TinyCache, cluster: SmallCluster
) -> None:
    folder = tiny_cache.cache.with_name("ray")
    cluster.add_node()
    command = command_of(tiny_cache, folder, "--json", "--ray-address", cluster.address)
    with started(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as run:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while run.poll() is None and time.monotonic() < deadline:
            if list(folder.glob("commits/*.json")):
                run.send_signal(signal.SIGTERM)
                break
            time.sleep(0.001)
        _, err = run.communicate(timeout=PATIENCE_SECONDS)
        assert run.returncode == 75, err
    assert 1 <= len(read_commits(folder, 1, range(UNITS))) < UNITS
    assert not list(folder.rglob("*.partial"))
    fill_on_ray(tiny_cache, folder, cluster)
    assert tree_of(folder) == tree_of(tiny_cache.cache)


def test_head_that_is_lost_stops_the_run_and_what_is_committed_stays(
    tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own, for Ray ends those whose head is gone."""
    folder, held = tiny_cache.cache.with_name("ray"), tiny_cache.cache.with_name("held")
    program = (
        "import sys\n"
        "from reskd.common.cli.main import main\n"
        "from reskd.teacher_cache.fill.workers import driver, ray_site\n"
        "from tests.teacher_cache.fill.workers import test_ray\n"
        "ray_site._SECONDS_WITHOUT_HEAD = 4.0\n"
        "driver.fill_units = test_ray.with_units(test_ray._holding)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    with small_cluster() as cluster:
        for _ in range(2):
            cluster.add_node()
        words = command_of(tiny_cache, folder, "--ray-address", cluster.address)[3:]
        command = [sys.executable, "-c", program, *words]
        with started(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as run:
            _wait_for(held)
            cluster.kill_head()
            _, err = run.communicate(timeout=PATIENCE_SECONDS)
    assert run.returncode == 5, err
    assert "The head of the Ray cluster has not answered" in err
    kept = read_commits(folder, 1, range(UNITS))
    assert HELD not in kept
    assert len(kept) >= 1
    assert main([*command_of(tiny_cache, folder)[3:-2], "--threads", "1"]) == 0
    assert tree_of(folder) == tree_of(tiny_cache.cache)


def test_without_a_cluster_one_is_started_that_leaves_nothing(
    tiny_cache: TinyCache, tmp_path: Path
) -> None:
    folder, home = tiny_cache.cache.with_name("ray"), tmp_path / "home"
    home.mkdir()
    with TemporaryDirectory(prefix="t") as temporary:
        own = {**os.environ, "HOME": str(home), "TMPDIR": temporary}
        own.pop("RAY_TMPDIR", None)
        command = command_of(tiny_cache, folder, "--threads", "1", "--json")
        done = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["units_missing"] == 0
        assert not list(Path(temporary).glob("ray-*"))
    assert not list(home.iterdir())
    assert tree_of(folder) == tree_of(tiny_cache.cache)
