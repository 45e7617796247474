"""Names of the user's code: which are followed, which are refused, and what is said."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from reskd.common import own_code
from reskd.common.errors import ExperimentError
from reskd.common.own_code import ANY_NAME, trust_code
from tests.own_networks import write_module


@pytest.fixture(autouse=True)
def _no_trust_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_code, "_trusted", set())


def test_an_import_path_is_followed_only_where_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "was run"
    write_module(
        tmp_path,
        "own_mark",
        f"open({str(mark)!r}, 'w').close()\nclass Inner:\n    build = staticmethod(len)\n",
        monkeypatch,
    )
    with pytest.raises(ExperimentError, match=r"own_mark:Inner\.build is named by what was read"):
        own_code.own_code("recognizers", "own_mark:Inner.build")
    assert not mark.exists()
    take_back = trust_code("own_mark:Inner.build")
    assert own_code.own_code("recognizers", "own_mark:Inner.build") is len
    assert mark.exists()
    take_back()
    with pytest.raises(ExperimentError, match="--trust-code"):
        own_code.own_code("recognizers", "own_mark:Inner.build")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:build", "Cannot import no_such_module .*PYTHONPATH"),
        ("json:no_such_name", "There is no 'no_such_name' in .*json"),
        ("json:__name__", "is str, and a function or a class is wanted"),
        ("no_such_entry", "neither an import path .* nor an entry point of the group reskd.losses"),
    ],
)
def test_a_name_that_leads_nowhere_says_where_it_ended(name: str, message: str) -> None:
    trust_code(ANY_NAME)
    with pytest.raises(ExperimentError, match=message):
        own_code.own_code("losses", name)


def test_a_module_that_fails_on_import_is_the_users_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, "own_failing", "1 / 0\n", monkeypatch)
    trust_code("own_failing:build")
    with pytest.raises(ExperimentError, match=r"Importing own_failing .*ZeroDivisionError"):
        own_code.own_code("recognizers", "own_failing:build")


def test_an_entry_point_was_installed_so_it_needs_no_trust(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def installed(*, group: str) -> list[EntryPoint]:
        return [EntryPoint("tiny", "builtins:len", group)] if group == "reskd.recognizers" else []

    monkeypatch.setattr(own_code, "entry_points", installed)
    assert own_code.own_code("recognizers", "tiny") is len
    with pytest.raises(ExperimentError, match="installed are none"):
        own_code.own_code("losses", "tiny")
