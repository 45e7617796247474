"""Options that several commands share, declared once, and a command as it was typed."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def command_line(context: click.Context) -> list[str]:
    """What was typed, with absolute paths, so that it works from anywhere.

    The name of an installed experiment stays a name, and the relative paths inside it start from
    the folder where it is typed. Under torchrun its call comes first, `--nnodes` included where
    there are several machines; how they find each other is theirs to say.

    Args:
        context: Of the running command.
    """
    options, arguments = [], []
    for parameter in context.command.params:
        name = parameter.name or ""
        if context.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE:
            continue
        value = context.params[name]
        values = value if isinstance(value, tuple) else (value,)
        texts = [_absolute(name, one) for one in values]
        if isinstance(parameter, click.Argument):
            arguments += texts
        elif isinstance(value, bool):
            options.append(parameter.opts[0] if value else parameter.secondary_opts[0])
        elif isinstance(parameter, click.Option) and parameter.multiple:
            options += [word for text in texts for word in (parameter.opts[0], text)]
        else:
            options += [parameter.opts[0], *texts]
    return [*_torchrun(), *_names(context), *arguments, *options]


def _absolute(name: str, value: Any) -> str:
    """One value of a parameter; of those with a path inside, the parameters above are known."""
    if isinstance(value, Path):
        return str(value.absolute())
    if name == "experiment" and Path(value).is_file():
        return str(Path(value).absolute())
    return _absolute_override(value) if name == "overrides" else str(value)


def _absolute_override(text: str) -> str:
    """The paths of an override start from the current folder (common/experiment/load.py)."""
    import yaml

    from reskd.common.experiment.load import PATH_KEYS

    key, _, written = text.partition("=")
    keys = tuple(key.split("."))
    value = yaml.safe_load(written)
    absolute = value
    for path in PATH_KEYS:
        if path[: len(keys)] == keys:
            absolute = _absolute_at(absolute, path[len(keys) :])
    if absolute == value:
        return text
    if isinstance(absolute, str) and re.fullmatch(r"[\w./+-]+", absolute):
        return f"{key}={absolute}"
    # JSON is YAML, on one line.
    return f"{key}={json.dumps(absolute, ensure_ascii=False, default=str)}"


def _absolute_at(tree: Any, keys: tuple[str, ...]) -> Any:
    """The same tree with the path at some keys made absolute, if there is one."""
    if not keys:
        return str(Path(tree).expanduser().absolute()) if isinstance(tree, str) else tree
    if not isinstance(tree, dict) or keys[0] not in tree:
        return tree
    return {**tree, keys[0]: _absolute_at(tree[keys[0]], keys[1:])}


def _names(context: click.Context) -> Iterator[str]:
    """`reskd` and the names of the command below it."""
    if context.parent is None:
        yield "reskd"
    else:
        yield from _names(context.parent)
        yield context.info_name or ""


def _torchrun() -> list[str]:
    """The call that started this process with others; nothing where it is alone."""
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes == "1":
        return []
    machines = os.environ.get("GROUP_WORLD_SIZE", "1")
    several = [] if machines == "1" else ["--nnodes", machines]
    here = os.environ.get("LOCAL_WORLD_SIZE", processes)
    return ["torchrun", *several, "--nproc-per-node", here, "--no-python", "--"]
