"""`reskd benchmark`: a network, or a whole stage. Without a word it is a network."""

import click

from reskd.common.cli.lazy_group import LazyGroup

BENCHMARKS = {
    "model": "reskd.student_train.cli.deploy:benchmark",
    "stage-one": "reskd.teacher_cache.estimate.cli:benchmark_stage_one",
    "stage-two": "reskd.student_train.cli.benchmark:benchmark_stage_two",
}


class _ModelByDefault(LazyGroup):
    """What names none of its commands is the network to measure."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        named = args and (args[0] in self.table or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if named or not args else ["model", *args])


@click.group(cls=_ModelByDefault, table=BENCHMARKS)
def benchmark() -> None:
    """Measure a network, or a stage and its parts, on this machine.

    `reskd benchmark RUN|NAME` is short for `reskd benchmark model RUN|NAME`.
    """
