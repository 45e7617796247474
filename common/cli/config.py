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


@config.command("keys")
@click.argument("path", default="")
@click.option("--markdown", is_flag=True, help="All of them as a page, which is configs/KEYS.md.")
def keys(path: str, markdown: bool) -> None:
    """List the keys of an experiment, all or those below PATH: type, default, meaning.

    Example: reskd config keys student.training.optimizer
    """
    from reskd.common.experiment.keys import experiment_keys, keys_markdown

    if markdown:
        click.echo(keys_markdown(), nl=False)
        return
    for key in experiment_keys(path):
        click.echo(f"{key.path}: {key.type}; default {key.default}")
        click.echo(f"    {key.meaning}")
