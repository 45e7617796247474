"""Hours and break-even against hand-made sums."""

import pytest

from reskd.teacher_cache.estimate.hours import MeasuredSpeed, break_even, disk_bytes, predict_hours
from reskd.teacher_cache.format.plan import Work

MEASURED = MeasuredSpeed(
    start_seconds=5.0,
    decode_seconds_per_video=0.2,
    teacher_seconds_per_clip=0.1,
    forward_seconds_per_clip=0.08,
    view_seconds=0.05,
    write_bytes_per_second=1000.0,
    stored_fraction={"features": 0.5},
    videos_probed=7,
    views_probed=3,
    unreadable={"run/7.mp4": "it is a text file"},
    seconds=12.0,
)


def test_hours_are_those_of_the_slowest_part() -> None:
    work = Work(videos=90, clips=720, units=9, bytes_by_array={"features": 12000, "views": 3000})
    hours = predict_hours(work, MEASURED, gate_videos=50)
    assert disk_bytes(work, MEASURED) == 9000
    assert hours.decode * 3600 == pytest.approx(18)
    assert hours.teacher * 3600 == pytest.approx(72)
    assert hours.write * 3600 == pytest.approx(9)
    # Loading, 50 checked clips, of which the teacher is slower than decoding, and the last unit.
    assert hours.start * 3600 == pytest.approx(5 + 50 * 0.08 + 1)
    assert hours.wall * 3600 == pytest.approx(10 + 72)


def test_nothing_to_do_takes_the_start_alone() -> None:
    work = Work(videos=0, clips=0, units=0, bytes_by_array={"features": 0})
    assert predict_hours(work, MEASURED).wall * 3600 == pytest.approx(5)


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
