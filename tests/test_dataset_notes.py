"""The notes beside the recipes: their commands can be typed, their bytes are the recipes'."""

import re
import shlex
from collections.abc import Iterator
from importlib.resources import files

import click
import pytest

from reskd.common.cli.main import reskd
from reskd.common.experiment.load import config_names

FOLDERS = ("actnet", "fcvid", "k400", "minik", "sthv2")
every_folder = pytest.mark.parametrize("folder", FOLDERS)


def notes(folder: str) -> str:
    """The README beside the recipes."""
    return (files("reskd.configs") / folder / "README.md").read_text(encoding="utf-8")


def written_commands(folder: str) -> Iterator[list[str]]:
    """Words of every command in the blocks of code of a README."""
    for block in re.findall(r"```bash\n(.*?)```", notes(folder), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line and not line.startswith("#"):
                yield shlex.split(line)


@every_folder
def test_commands_in_the_notes_exist_and_go_from_import_to_evaluate(folder: str) -> None:
    done = set()
    for program, *words in written_commands(folder):
        assert program == "reskd"
        command: click.Command = reskd
        context = click.Context(reskd)
        while isinstance(command, click.Group):
            name, found, words = command.resolve_command(context, words)
            assert found is not None
            command = found
            context = click.Context(command, parent=context, info_name=name)
        # Parses and checks all options and arguments; nothing is called.
        command.make_context(command.name, words, parent=context.parent)
        done.add(command.name)
        recipes = [word for word in words if re.match(rf"({'|'.join(FOLDERS)})/", word)]
        assert set(recipes) <= set(config_names())
    steps = {"check", "show", "train-teacher", "import-checkpoint", "cache-teacher", "verify"}
    assert done >= {*steps, "plan", "train-student", "evaluate"}


@every_folder
def test_bytes_in_the_notes_are_those_that_the_recipes_say(folder: str) -> None:
    inside = (files("reskd.configs") / folder).iterdir()
    recipes = [path for path in inside if path.name[-5:] == ".yaml"]
    said = " ".join(path.read_text(encoding="utf-8") for path in recipes).replace("\n#", "")
    told = re.findall(r"[\d.,]*\d [GM]B\b", notes(folder))
    assert len(told) >= 3
    assert [
        amount for amount in told if not re.search(rf"(?<![\d.,]){re.escape(amount)}", said)
    ] == []
