"""`reskd config`: look at experiments."""

import click

from reskd.common.cli.options import experiment_argument, override_option


@click.group()
def config() -> None:
    """Look at experiment files."""


@config.command("show")
@experiment_argument
@override_option
def show(experiment: str, overrides: tuple[str, ...]) -> None:
    """Print the resolved EXPERIMENT: everything it extends merged, every default filled in."""
    from reskd.common.experiment.load import experiment_yaml, load_experiment

    click.echo(experiment_yaml(load_experiment(experiment, overrides)), nl=False)
