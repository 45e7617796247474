"""Learning rates worked out on paper."""

from itertools import pairwise
from math import sqrt

import pytest

from reskd.common.experiment import ScheduleSpec
from reskd.student_train.train.optim import learning_rate

COSINE = ScheduleSpec()
STEP = ScheduleSpec(name="step", milestones=(90, 130))


@pytest.mark.parametrize(
    ("epoch", "factor"),
    [(0, 1.0), (1, 0.5 + sqrt(3) / 4), (2, 0.75), (3, 0.5), (4, 0.25), (5, 0.5 - sqrt(3) / 4)],
)
def test_cosine_of_six_epochs_matches_hand_values(epoch: int, factor: float) -> None:
    lr = learning_rate(0.04, COSINE, epoch=epoch, epochs=6)
    assert lr == pytest.approx(0.04 * factor)
    assert lr == learning_rate(0.04, COSINE, epoch=epoch, epochs=6, step=7, steps_per_epoch=9)


@pytest.mark.parametrize(
    ("epoch", "factor"), [(0, 1), (89, 1), (90, 0.1), (129, 0.1), (130, 0.01), (149, 0.01)]
)
def test_steps_fall_at_their_milestones(epoch: int, factor: float) -> None:
    assert learning_rate(0.01, STEP, epoch=epoch, epochs=150) == pytest.approx(0.01 * factor)


def test_warm_up_rises_by_step_from_its_ratio_to_the_curve() -> None:
    schedule = ScheduleSpec(name="step", milestones=(90,), warmup_epochs=10)
    rates = [
        learning_rate(1.0, schedule, epoch=n // 4, epochs=150, step=n % 4, steps_per_epoch=4)
        for n in range(44)
    ]
    assert rates[0] == pytest.approx(0.1)
    assert rates[20] == pytest.approx(0.55)
    assert rates[40:] == [1.0] * 4
    assert all(later > earlier for earlier, later in pairwise(rates[:41]))


def test_warm_up_of_a_part_of_an_epoch_ends_within_it_and_follows_the_cosine() -> None:
    schedule = ScheduleSpec(warmup_epochs=2.5)

    def rate(epoch: int, step: int) -> float:
        return learning_rate(1.0, schedule, epoch=epoch, epochs=30, step=step, steps_per_epoch=4)

    curve = learning_rate(1.0, COSINE, epoch=2, epochs=30)
    assert rate(2, 1) == pytest.approx(curve * (1 - (1 - 9 / 10) * 0.9))
    assert rate(2, 2) == pytest.approx(curve)


def test_warm_up_that_ends_between_two_steps_holds_its_last_rate_until_the_next_epoch() -> None:
    schedule = ScheduleSpec(warmup_epochs=2.5)  # 17.5 steps, 7 an epoch

    def rate(step: int) -> float:
        return learning_rate(
            1.0, schedule, epoch=step // 7, epochs=30, step=step % 7, steps_per_epoch=7
        )

    def curve(epoch: int) -> float:
        return learning_rate(1.0, COSINE, epoch=epoch, epochs=30)

    for step in range(18):
        assert rate(step) == pytest.approx(curve(step // 7) * (1 - (1 - step / 17.5) * 0.9))
    assert [rate(step) for step in (18, 19, 20)] == [rate(17)] * 3
    assert rate(21) == pytest.approx(curve(3))


def test_warm_up_shorter_than_a_step_holds_its_first_rate_for_one_epoch() -> None:
    schedule = ScheduleSpec(warmup_epochs=0.1)
    rates = [
        learning_rate(1.0, schedule, epoch=n // 4, epochs=30, step=n % 4, steps_per_epoch=4)
        for n in range(5)
    ]
    assert rates[:4] == pytest.approx([0.1] * 4)
    assert rates[4] == learning_rate(1.0, COSINE, epoch=1, epochs=30)


def test_schedules_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ValueError, match="needs milestones"):
        ScheduleSpec(name="step")
    with pytest.raises(ValueError, match="cosine has none"):
        ScheduleSpec(milestones=(3,))
