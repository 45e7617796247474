"""Options that several commands share, declared once."""

import click


def _key_and_value(
    context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> tuple[str, ...]:
    for text in texts:
        key, separator, _ = text.partition("=")
        if not separator or not all(key.split(".")):
            raise click.BadParameter(
                f"{text!r} is not of the form key.path=value, "
                "for example student.training.epochs=50"
            )
    return texts


experiment_argument = click.argument("experiment", metavar="EXPERIMENT")
override_option = click.option(
    "-o",
    "--override",
    "overrides",
    multiple=True,
    metavar="KEY.PATH=VALUE",
    callback=_key_and_value,
    help="Set one value of the experiment; may be repeated.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON on standard output."
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
)
max_bad_option = click.option(
    "--max-bad",
    type=click.FloatRange(0, 1),
    help="Share of unreadable videos at which to stop with exit code 5; default: data.max_bad.",
)
