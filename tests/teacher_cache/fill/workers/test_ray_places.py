"""Which nodes get how many workers, and what is refused before a cluster is asked."""

import socket
import sys
from typing import Any

import pytest

from reskd.common.cli.main import main
from reskd.common.errors import DataError
from reskd.teacher_cache.fill.cluster import RayOptions
from reskd.teacher_cache.fill.workers.ray_places import device_kind, places_of
from tests.tiny_experiment import TinyCache


def node(name: str, *, cpus: float = 0, gpus: float = 0, alive: bool = True) -> dict[str, Any]:
    resources = {"CPU": cpus, "GPU": gpus}
    return {
        "NodeID": name,
        "NodeManagerAddress": f"10.0.0.{name}",
        "Alive": alive,
        "Resources": {kind: number for kind, number in resources.items() if number},
    }


@pytest.mark.parametrize(
    ("nodes", "kind", "threads", "expected"),
    [
        ([node("1", cpus=16, gpus=4)], "cuda", None, [("1", 4)] * 4),
        ([node("1", cpus=16, gpus=4)], "cuda", 2, [("1", 2)] * 4),
        ([node("1", cpus=16, gpus=4)], "cuda", 9, [("1", 4)] * 4),
        ([node("1", gpus=1)], "cuda", None, [("1", 0)]),
        ([node("1", cpus=8), node("2", cpus=8, gpus=1)], "cuda", None, [("2", 8)]),
        ([node("1", cpus=8), node("2", cpus=3)], "cpu", None, [("1", 8), ("2", 3)]),
        ([node("1", cpus=8), node("2", cpus=3)], "cpu", 4, [("1", 4), ("1", 4), ("2", 3)]),
        ([node("1", cpus=8, alive=False), node("2", cpus=1)], "cpu", None, [("2", 1)]),
        ([node("1")], "cpu", None, []),
        ([node("1")], "cpu", 2, []),
    ],
    ids=[
        "a GPU each",
        "fewer threads",
        "more threads than CPUs",
        "no CPUs",
        "node without GPU",
        "CPUs of a node",
        "CPUs shared out",
        "dead node",
        "head alone",
        "head alone with threads",
    ],
)
def test_places_of_nodes(
    nodes: list[dict[str, Any]], kind: str, threads: int | None, expected: list[tuple[str, int]]
) -> None:
    places = places_of(nodes, kind, threads)
    assert [(place.node, place.cpus) for place in places] == expected
    assert len(set(places)) == len(places)
    for place in places:
        assert place.device.type == kind
        assert place.count == sum(other.node == place.node for other in places)


def test_device_is_that_of_living_nodes_unless_named() -> None:
    nodes = [node("1", cpus=4), node("2", cpus=4, gpus=1)]
    assert device_kind(nodes, RayOptions()) == "cuda"
    assert device_kind(nodes, RayOptions(device="cpu")) == "cpu"
    lost = [node("1", cpus=4), node("2", cpus=4, gpus=1, alive=False)]
    assert device_kind(lost, RayOptions()) == "cpu"
    with pytest.raises(DataError, match="the 1 nodes of the Ray cluster have no GPU"):
        device_kind(lost, RayOptions(device="cuda"))


def run_on_ray(cache: TinyCache, *words: str) -> int:
    command = ["cache-teacher", str(cache.experiment), "--cache", str(cache.cache)]
    return main([*command, *words])


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--ray-address", "head:6379"], 2, "--ray-address goes with --engine ray"),
        (["--engine", "ray", "--devices", "cpu:2"], 2, "--engine ray finds its own"),
        (["--engine", "ray", "--device", "cuda:1"], 3, "Ray numbers the GPUs"),
    ],
)
def test_options_that_do_not_go_together(
    tiny_cache: TinyCache,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    told: str,
) -> None:
    assert run_on_ray(tiny_cache, *words) == code
    assert told in capsys.readouterr().err


def test_ray_that_is_not_installed_is_said_with_the_extra(
    tiny_cache: TinyCache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run_on_ray(tiny_cache, "--engine", "ray") == 3
    assert "pip install 'reskd[ray]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "address", ["head", "head:", "ray://head:10001", "http://head:8265", "head:99999", ":6379"]
)
def test_address_that_is_none_is_refused(
    tiny_cache: TinyCache,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    address: str,
) -> None:
    pytest.importorskip("ray")
    assert run_on_ray(tiny_cache, "--engine", "ray", "--ray-address", address) == 3
    assert f"{address!r} is no address of a Ray head" in capsys.readouterr().err
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert run_on_ray(tiny_cache, "--engine", "ray") == 3


def test_address_where_nobody_answers_is_said_at_once(
    tiny_cache: TinyCache, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        assert run_on_ray(tiny_cache, "--engine", "ray", "--ray-address", address) == 3
    assert f"No Ray head answers at {address}" in capsys.readouterr().err
