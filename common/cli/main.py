"""The entry point: a table of commands, loaded when called, and what their ends mean.

Exit codes: 0 ok; 1 unexpected; 2 usage; 3 bad data, experiment or launch; 4 damaged or foreign
cache; 5 stopped short, committed work kept; 75 stopped by a signal, safe to requeue;
130 interrupted.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from io import StringIO, TextIOWrapper

import click

from reskd.common.cli.lazy_group import LazyGroup
from reskd.common.console import in_lines, one_line, shown
from reskd.common.errors import PreemptedError, ReskdError
from reskd.common.parsing.shown import shortened
from reskd.common.storage.system_errors import tell

COMMANDS = {
    "demo": "reskd.student_train.cli.demo:demo",
    "doctor": "reskd.common.cli.doctor:doctor",
    "config": "reskd.common.cli.config:config",
    "models": "reskd.common.models.cli:models",
    "dataset": "reskd.common.dataset.cli:dataset",
    "train-teacher": "reskd.student_train.cli.train:train_teacher",
    "cache-teacher": "reskd.teacher_cache.cli:cache_teacher",
    "cache": "reskd.teacher_cache.cli:cache",
    "train-student": "reskd.student_train.cli.train:train_student",
    "evaluate": "reskd.student_train.cli.evaluate:evaluate",
    "extract-features": "reskd.student_train.cli.deploy:extract_features",
    "predict": "reskd.student_train.cli.deploy:predict",
    "export": "reskd.student_train.cli.deploy:export",
    "benchmark": "reskd.common.cli.benchmark:benchmark",
    "import-checkpoint": "reskd.common.models.importing.cli:import_checkpoint",
}


class Commands(LazyGroup):
    """All of them; a name that is none of them is answered with the nearest one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            near = get_close_matches(args[0], COMMANDS, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(COMMANDS)}."
            ctx.fail(f"No such command {args[0]!r}. {hint}")
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="reskd")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def reskd(debug: bool) -> None:
    """Cross-resolution distillation for video: cache the teacher once, train many students."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; console scripts pass it to sys.exit."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, TextIOWrapper):  # a name that cannot be shown must not end a command
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        result = reskd.main(args, prog_name="reskd", standalone_mode=False)
    except click.exceptions.Abort as error:
        if isinstance(error.__cause__, EOFError):  # no command prompts: a file ended too early
            return _report(_unexpected(error.__cause__), 1, args)
        return _interrupted()
    except click.ClickException as error:
        _show_usage(error)
        return error.exit_code
    except (ReskdError, PreemptedError) as error:
        # As it was raised: str() would forget which line breaks are meant.
        text = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
        return _report(text, error.exit_code, args)
    except OSError as error:
        told = tell(error)
        return _report(told.message, told.exit_code, args)
    except KeyboardInterrupt:  # before click was listening
        return _interrupted()
    except Exception as error:  # noqa: BLE001 - the outermost frame turns anything into a code
        return _report(_unexpected(error), 1, args)
    return result if isinstance(result, int) else 0


def _show_usage(error: click.ClickException) -> None:
    """What click says of words that are no command, in which these words may hold anything."""
    said, message = StringIO(), error.format_message()
    error.show(file=said)
    said_before = said.getvalue().removesuffix("\n").replace(message, one_line(message))
    click.echo(in_lines(*said_before.split("\n")), err=True)


def _interrupted() -> int:
    click.echo("Interrupted. The same command goes on from what is on disk.", err=True)
    return 130


def _report(message: str, exit_code: int, args: Sequence[str]) -> int:
    if "--debug" in args or (exit_code == 1 and os.environ.get("RESKD_DEBUG")):
        traceback.print_exc()
    click.echo(f"Error: {shortened(shown(message))}", err=True)
    return exit_code


def _unexpected(error: BaseException) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return in_lines(
        f"unexpected {type(error).__name__} in {where.filename}:{where.lineno}: {error}",
        "This is a defect of the program, not of your input. "
        "Run `reskd --debug ...` again and report the traceback.",
    )


if __name__ == "__main__":
    sys.exit(main())
