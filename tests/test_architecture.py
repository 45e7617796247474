"""Who may import whom, and what may lie where."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from reskd.common.cli.main import COMMANDS

REPOSITORY = Path(__file__).parents[1]
ROOMS = ("common", "teacher_cache", "student_train", "tests")
MAY_IMPORT = {
    "common": {"common", "configs"},
    "teacher_cache": {"common", "teacher_cache"},
    "student_train": {"common", "teacher_cache", "student_train"},
}
OPEN_TO_STUDENTS = {
    "reskd.teacher_cache.read.reader",
    "reskd.teacher_cache.format.manifest",
    "reskd.teacher_cache.format.identity",
}
TOP_LEVEL = {
    *("teacher_cache", "student_train", "common", "configs", "tests"),
    *("pyproject.toml", "README.md", "LICENSE"),
}


def imports(source: str) -> Iterator[str]:
    """Modules that a source text imports, at any depth, with what it takes from a package."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            module = node.module or ""
            # `from teacher_cache import writer` names a module only by its second half.
            yield from (
                f"{module}.{alias.name}" if "." not in module else module for alias in node.names
            )


def imports_of(room: str) -> Iterator[tuple[str, str]]:
    """(file, imported module of ours) for every file of a room."""
    for path in sorted((REPOSITORY / room).rglob("*.py")):
        for module in imports(path.read_text(encoding="utf-8")):
            if module.split(".")[0] in (*ROOMS, "configs"):
                yield path.relative_to(REPOSITORY).as_posix(), module


def test_imports_of_a_source_text_finds_every_form() -> None:
    source = (
        "import a.b, c\nfrom d import e\nfrom f.g import h\n"
        "if x:\n    def y():\n        import i\n        from j.k import l as m\n"
    )
    assert sorted(imports(source)) == ["a.b", "c", "d.e", "f.g", "i", "j.k"]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_run_one_way(room: str) -> None:
    found = list(imports_of(room))
    assert found
    wrong = [pair for pair in found if pair[1].split(".")[0] not in MAY_IMPORT[room]]
    assert wrong == []


def test_student_sees_of_the_teacher_only_what_reads_its_cache() -> None:
    seen = [pair for pair in imports_of("student_train") if pair[1].startswith("teacher_cache")]
    assert seen
    assert [pair for pair in seen if pair[1] not in OPEN_TO_STUDENTS] == []


def test_nothing_of_ours_pickles_what_it_stores() -> None:
    """A run's own training state is torch's; caches, indexes and checkpoints hold no pickle."""
    picklers = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for room in ("common", "teacher_cache", "student_train"):
        for path in sorted((REPOSITORY / room).rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            assert not {module.split(".")[0] for module in imports(source)} & picklers, path
            if room != "student_train":
                assert not re.search(r"(?<!safetensors\.)torch\.save\(", source), path
                assert "allow_pickle=True" not in source, path


def tracked(*patterns: str) -> list[str]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", *patterns],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode or not listing.stdout:
        pytest.skip("not a git working tree")
    return listing.stdout.split("\0")[:-1]


def test_top_level_holds_the_rooms_and_three_files() -> None:
    names = {path.split("/")[0] for path in tracked()}
    assert {name for name in names if not name.startswith(".")} - TOP_LEVEL == set()


def test_every_folder_of_code_is_a_package_that_says_what_it_is() -> None:
    folders = {REPOSITORY / Path(path).parent for path in tracked("*.py")} - {REPOSITORY}
    missing = [
        str(folder)
        for folder in sorted(folders)
        if not (folder / "__init__.py").is_file()
        or not ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    ]
    assert missing == []


def test_readme_names_every_command() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f"reskd {name}" not in text] == []
