"""Hours and break-even against hand-made sums."""

from dataclasses import replace

import pytest

from reskd.teacher_cache.estimate.hours import (
    Checks,
    MeasuredSpeed,
    break_even,
    disk_bytes,
    predict_hours,
)
from reskd.teacher_cache.estimate.machines import Machines
from reskd.teacher_cache.format.plan import Work

MEASURED = MeasuredSpeed(
    start_seconds=5.0,
    decode_seconds_per_video=0.2,
    teacher_seconds_per_clip=0.1,
    forward_seconds_per_clip=0.08,
    view_seconds=0.05,
    write_bytes_per_second=1000.0,
    processor_seconds_per_video=0.3,
    stored_fraction={"features": 0.5},
    videos_probed=7,
    views_probed=3,
    unreadable={"run/7.mp4": "it is a text file"},
    seconds=12.0,
)


WORK = Work(videos=90, clips=720, units=9, bytes_by_array={"features": 12000, "views": 3000})


def test_hours_are_those_of_the_slowest_part() -> None:
    checks = Checks(accuracy_clips=50, precision_clips=64)
    hours = predict_hours(WORK, MEASURED, machines=Machines(cores=2), checks=checks)
    assert disk_bytes(WORK, MEASURED) == 9000
    assert hours.decode * 3600 == pytest.approx(18)
    assert hours.teacher * 3600 == pytest.approx(72)
    assert hours.write * 3600 == pytest.approx(9)
    assert hours.processor * 3600 == pytest.approx(90 * 0.3 / 2)
    assert hours.network == 0
    # Loading, 50 clips shown once and 64 twice, which is slower than decoding, and the last unit.
    assert hours.start * 3600 == pytest.approx(5 + 50 * 0.08 + 64 * 2 * 0.08 + 1)
    assert hours.wall == pytest.approx(hours.start + hours.teacher)
    assert hours.bound == "teacher"


def test_checks_take_the_time_of_decoding_where_that_is_slower() -> None:
    measured = replace(MEASURED, view_seconds=0.5)
    checks = Checks(accuracy_clips=2, precision_clips=4)
    hours = predict_hours(WORK, measured, machines=Machines(), checks=checks)
    assert hours.start * 3600 == pytest.approx(5 + 6 * 0.5 + 1)


@pytest.mark.parametrize(
    ("machines", "expected", "bound"),
    [
        # Of 9 units the busiest of two workers has 5, with half of the four threads that decode.
        pytest.param(
            Machines(devices=2, threads=4, cores=4),
            {"decode": 18 * 2 * 5 / 9, "teacher": 72 * 5 / 9, "write": 9, "processor": 27 / 4},
            "teacher",
            id="two-devices",
        ),
        # 8 workers have a thread each, where one had 4: twice as many as were measured.
        pytest.param(
            Machines(devices=8, threads=4, cores=4),
            {"decode": 18 * 4 * 2 / 9, "teacher": 72 * 2 / 9, "write": 9, "processor": 27 / 4},
            "decode or teacher",
            id="more-devices-than-threads",
        ),
        # The busiest machine has 3 units, its busiest worker 2.
        pytest.param(
            Machines(devices=2, nodes=4, threads=2),
            {"decode": 18 * 2 * 2 / 9, "teacher": 72 * 2 / 9, "write": 9 * 3 / 9, "processor": 9},
            "teacher",
            id="four-machines",
        ),
        pytest.param(
            Machines(nodes=4, threads=2, cores=1, network_bytes_per_second=100.0),
            {
                "decode": 18 * 3 / 9,
                "teacher": 72 * 3 / 9,
                "write": 9 * 3 / 9,
                "processor": 9,
                "network": (9000 + 90 * 10) / 100 * 3 / 9,
            },
            "network",
            id="network",
        ),
        # A CPU's workers share the threads that run the teacher as well.
        pytest.param(
            Machines(devices=2, threads=2, teacher_threads=2, cores=2),
            {"decode": 18 * 2 * 5 / 9, "teacher": 72 * 2 * 5 / 9, "write": 9, "processor": 27 / 2},
            "teacher",
            id="cpu-shared",
        ),
        pytest.param(
            Machines(devices=2, threads=1, teacher_threads=1, cores=2),
            {"decode": 18 * 5 / 9, "teacher": 72 * 5 / 9, "write": 9, "processor": 27 / 2},
            "teacher",
            id="cpu-a-thread-each",
        ),
        pytest.param(
            Machines(devices=9, threads=9, cores=1),
            {"decode": 18, "teacher": 72 / 9, "write": 9, "processor": 27},
            "processor",
            id="few-cores",
        ),
        pytest.param(
            Machines(devices=100, threads=100, cores=100),
            {"decode": 18 * 100 / 9, "teacher": 72 / 9, "write": 9, "processor": 0.27},
            "decode",
            id="more-workers-than-units",
        ),
    ],
)
def test_hours_of_several_machines_are_those_of_the_busiest(
    machines: Machines, expected: dict[str, float], bound: str
) -> None:
    hours = predict_hours(WORK, MEASURED, machines=machines, checks=Checks(), video_bytes=10)
    seconds = {name: part * 3600 for name, part in hours.parts.items()}
    assert seconds == pytest.approx({"network": 0.0, **expected})
    assert hours.bound in bound
    # Every worker loads the teacher, after the driver has.
    starts = 1 if machines.devices == 1 else 2
    assert hours.wall * 3600 == pytest.approx(5 * starts + 1 + max(expected.values()))


def test_nothing_to_do_takes_the_start_alone() -> None:
    work = Work(videos=0, clips=0, units=0, bytes_by_array={"features": 0})
    hours = predict_hours(
        work, MEASURED, machines=Machines(nodes=3, network_bytes_per_second=1.0), checks=Checks()
    )
    assert hours.wall * 3600 == pytest.approx(5)


def test_break_even_with_stored_frames_matches_hand_values() -> None:
    pays = break_even(epochs=30, students=2, videos=100, online_seconds=0.5, cache_seconds=1000)
    assert pays.online_hours == pytest.approx(3000 / 3600)
    assert pays.cached_hours == pytest.approx(1000 / 3600)
    assert pays.ratio == pytest.approx(3)
    assert pays.pays_from_epoch == 20  # of 50 s each


def test_break_even_without_stored_frames_counts_the_students_decoding() -> None:
    pays = break_even(
        epochs=30,
        students=2,
        videos=100,
        online_seconds=0.5,
        cache_seconds=1000,
        epoch_seconds=0.1,
    )
    assert pays.cached_hours == pytest.approx(1600 / 3600)
    assert pays.pays_from_epoch == 25  # an epoch saves 40 s


@pytest.mark.parametrize(("cache_seconds", "epoch"), [(0.0, 1), (49.0, 1), (50.0, 1), (51.0, 2)])
def test_cache_pays_in_the_first_epoch_that_costs_as_much(cache_seconds: float, epoch: int) -> None:
    pays = break_even(
        epochs=1, students=1, videos=100, online_seconds=0.5, cache_seconds=cache_seconds
    )
    assert pays.pays_from_epoch == epoch


def test_cache_that_saves_nothing_never_pays() -> None:
    pays = break_even(
        epochs=9,
        students=1,
        videos=100,
        online_seconds=0.5,
        cache_seconds=1.0,
        epoch_seconds=0.5,
    )
    assert pays.pays_from_epoch is None
