"""All rows, in the order of their worth."""

from functools import partial

from tests.campaigns.gpu import checks, stage_one, stage_two
from tests.campaigns.gpu.recipes import NETWORKS, VARIANTS, Network, Precision, Variant
from tests.campaigns.gpu.rows import Row


def all_rows() -> list[Row]:
    """What is found out first is what would be missed most."""
    half: Precision = "float16"
    others: tuple[Precision, ...] = ("bfloat16", "tf32", "float32")
    return [
        Row(name="device", run=stage_one.facts),
        *(_forward(network, half) for network in NETWORKS),
        *(_caching(network, half) for network in NETWORKS),
        Row(name="student step", run=stage_two.student_step, seconds=90),
        Row(name="graphed step", run=stage_two.graphed_step, card_only=True, seconds=90),
        Row(name="graphed student step", run=stage_two.graphed_student, card_only=True, seconds=90),
        Row(name="waits per step", run=stage_two.waits_in_steps, card_only=True),
        Row(name="cached over live", run=stage_two.live_step),
        Row(name="cache of the device verified on the CPU", run=_verified("R50", half), seconds=90),
        Row(name="preprocessing on the device", run=checks.preprocessing),
        Row(name="equal caches by either preprocessing", run=checks.equal_caches),
        Row(name="half the batch where memory ends", run=checks.half_batch, card_only=True),
        Row(name="waits per batch", run=checks.waits_in_stage_one, card_only=True),
        Row(name="ghost BatchNorm", run=stage_two.ghost_step),
        *(_caching("R50", half, variant) for variant in VARIANTS),
        *(_forward(network, other) for other in others for network in NETWORKS),
        *(_caching("R50", other) for other in others),
        *(_caching(network, other) for other in others for network in NETWORKS[1:]),
        Row(name="compiled step", run=stage_two.compiled_step, seconds=120),
    ]


def _forward(network: Network, precision: Precision) -> Row:
    run = partial(stage_one.forward, network, precision)
    return Row(name=f"forward {network} {precision}", run=run)


def _caching(network: Network, precision: Precision, variant: Variant = "") -> Row:
    run = partial(stage_one.caching, network, precision, variant)
    return Row(name=f"stage one {network} {precision}{variant}", run=run, seconds=75)


def _verified(network: Network, precision: Precision) -> "partial[dict[str, object]]":
    return partial(checks.verified, network, precision)
