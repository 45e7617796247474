"""Options that several commands share, declared once, and a command as it was typed."""

import json
import os
import re
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from reskd.common.launch import read_launch
from reskd.common.own_code import ANY_NAME, trust_code

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

folder_path = click.Path(path_type=Path, file_okay=False)
file_path = click.Path(path_type=Path, dir_okay=False)


def combined(*options: Decorator) -> Decorator:
    """Several options as one decorator, in the order in which `--help` shows them."""
    return lambda command: reduce(lambda inner, option: option(inner), reversed(options), command)


class _RunPath(click.Path):
    """The folder of a run; who names a file inside it, or weights from elsewhere, is told so."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(value)
        if path.is_file():
            self.fail(_file_instead_of_run_text(path), param, ctx)
        return super().convert(value, param, ctx)


def _file_instead_of_run_text(path: Path) -> str:
    if (path.parent / "config.json").is_file():
        return f"{path} is a file of a run. Name its folder: {path.parent}"
    return (
        f"{path} is a file; a run is the folder that training wrote. Weights from elsewhere become "
        f"one with `reskd import-checkpoint {path} DIR`."
    )


run_path = _RunPath()


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


def _trust_all_code(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        context.call_on_close(trust_code(ANY_NAME))


trust_code_option = click.option(
    "--trust-code",
    is_flag=True,
    expose_value=False,
    callback=_trust_all_code,
    help="Run Python code that a run or a cache names: networks, losses, readers of your own.",
)


def command_line(context: click.Context) -> list[str]:
    """What was typed, with absolute paths, so that it works from anywhere.

    The name of an installed experiment stays a name, and the relative paths inside it start from
    the folder where it is typed. The call of torchrun or srun comes first, with `--nnodes` where
    torchrun was called on several machines; how they find each other is theirs to say.

    Args:
        context: Of the running command.
    """
    options, arguments = [], []
    for parameter in context.command.params:
        name = str(parameter.name)
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        if name not in context.params:  # a flag that has done its work already
            options.append(parameter.opts[0])
            continue
        value = context.params[name]
        texts = [_absolute(name, one) for one in (value if isinstance(value, tuple) else [value])]
        if isinstance(parameter, click.Argument):
            arguments += texts
        elif isinstance(value, bool):
            options.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            options += [word for text in texts for word in (parameter.opts[0], text)]
    # The first word is the program, however it was started.
    commands = context.command_path.split()[1:]
    return [*_launcher(), "reskd", *commands, *arguments, *options]


def _absolute(name: str, value: Any) -> str:
    """One value of a parameter; of those with a path inside, the parameters above are known."""
    if isinstance(value, Path) or (name == "experiment" and Path(value).is_file()):
        return str(Path(value).absolute())
    return _absolute_override(value) if name == "overrides" else str(value)


def _absolute_override(text: str) -> str:
    from reskd.common.experiment.load import parse_override
    from reskd.common.parsing.yaml_text import parse_yaml

    key, _, written = text.partition("=")
    value: Any = parse_override(text)
    for part in key.split("."):
        value = value[part]
    if value == parse_yaml(written):
        return text
    if isinstance(value, str) and re.fullmatch(r"[\w./+-]+", value):
        return f"{key}={value}"
    # JSON is YAML, on one line.
    return f"{key}={json.dumps(value, ensure_ascii=False, default=str)}"


def _launcher() -> list[str]:
    """The call that started this process with others; nothing where it is alone."""
    launch = read_launch(os.environ)
    if launch.world == 1:
        return []
    if launch.by == "srun":
        return ["srun", "--ntasks", str(launch.world)]
    machines = os.environ.get("GROUP_WORLD_SIZE", "1")
    several = [] if machines == "1" else ["--nnodes", machines]
    here = os.environ.get("LOCAL_WORLD_SIZE", str(launch.world))
    return ["torchrun", *several, "--nproc-per-node", here, "--no-python", "--"]
