"""The learning rate of every step: a curve over epochs, and a warm-up over steps before it.

Source: the ResKD reference's schedules, which follow mmcv's: the curve is constant within an epoch,
the warm-up rises with every step.
"""

from math import cos, pi

from common.specs import ScheduleSpec


def learning_rate(
    base_lr: float,
    schedule: ScheduleSpec,
    *,
    epoch: int,
    epochs: int,
    step: int = 0,
    steps_per_epoch: int = 1,
) -> float:
    """Learning rate of one step.

    Args:
        base_lr: What the curve starts from.
        schedule: Which curve, and how long the warm-up is.
        epoch: From 0.
        epochs: In all.
        step: Within the epoch, from 0.
        steps_per_epoch: Steps of a whole epoch.
    """
    regular = _curve(base_lr, schedule, epoch=epoch, epochs=epochs)
    warmup_steps = schedule.warmup_epochs * steps_per_epoch
    last = int(warmup_steps)
    step_of_run = epoch * steps_per_epoch + step
    if warmup_steps != last and epoch == last // steps_per_epoch:
        # The reference returns to the curve at the step that ends the warm-up, or when an epoch
        # begins. No step ends a warm-up of 17.5: the rate of step 17 holds until the next epoch.
        step_of_run = min(step_of_run, last)
    if step_of_run >= warmup_steps:
        return regular
    return regular * (1 - (1 - step_of_run / warmup_steps) * (1 - schedule.warmup_ratio))


def _curve(base_lr: float, schedule: ScheduleSpec, *, epoch: int, epochs: int) -> float:
    if schedule.name == "cosine":  # Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5
        return 0.5 * base_lr * (1 + cos(pi * epoch / epochs))
    passed = sum(milestone <= epoch for milestone in schedule.milestones)
    lowered: float = base_lr * schedule.gamma**passed
    return lowered
