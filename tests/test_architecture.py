"""Who may import whom, and what may lie where."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from reskd.common.cli.benchmark import BENCHMARKS
from reskd.common.cli.main import COMMANDS
from tests import REPOSITORY

PACKAGE = REPOSITORY / ".package" / "reskd"
ROOMS = ("common", "teacher_cache", "student_train")
MAY_IMPORT = {
    "common": {"common", "configs"},
    "teacher_cache": {"common", "teacher_cache"},
    "student_train": {"common", "teacher_cache", "student_train"},
}
OPEN_TO_STUDENTS = (
    *("reskd.teacher_cache.read.", "reskd.teacher_cache.format."),
    "reskd.teacher_cache.clip_store.",  # the store for clips that no teacher has seen
    "reskd.teacher_cache.missing.",  # the one door to what runs the teacher
    "reskd.teacher_cache.noise.",  # to measure reading without a teacher
)
TOP_LEVEL = {
    *("teacher_cache", "student_train", "common", "configs", "tests"),
    *("pyproject.toml", "README.md", "LICENSE"),
}
MOST_LINES = 350


def imports(source: str) -> Iterator[str]:
    """What a source text imports, at any depth; `a.b` of `from a import b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def modules() -> dict[str, Path]:
    """Every module of the product, by its name."""
    found = {}
    for room in ROOMS:
        for path in sorted((REPOSITORY / room).rglob("*.py")):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            found[".".join(("reskd", *parts)).removesuffix(".__init__")] = path
    return found


@cache
def imported_by(module: str) -> frozenset[str]:
    """What a module of ours imports of reskd: modules, whatever it takes from them."""
    found = set()
    for name in imports(modules()[module].read_text(encoding="utf-8")):
        if name.split(".")[0] == "reskd":
            found.add(name if name in modules() else name.rpartition(".")[0])
    return frozenset(found)


def test_imports_of_a_source_text_finds_every_form() -> None:
    source = (
        "import a.b, c\nfrom d import e\nfrom f.g import h\n"
        "if x:\n    def y():\n        import i\n        from j.k import l as m\n"
    )
    assert sorted(imports(source)) == ["a.b", "c", "d.e", "f.g.h", "i", "j.k.l"]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_run_one_way(room: str) -> None:
    found = {
        (module, imported)
        for module in modules()
        if module.split(".")[1] == room
        for imported in imported_by(module)
    }
    assert found
    assert [pair for pair in found if pair[1].split(".")[1] not in MAY_IMPORT[room]] == []


def test_no_module_imports_itself_round_a_circle() -> None:
    try:
        order = list(
            TopologicalSorter({name: imported_by(name) for name in modules()}).static_order()
        )
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))
    assert len(order) >= len(modules())


def test_student_sees_of_the_teacher_only_what_reads_its_cache() -> None:
    seen = {
        imported
        for module in modules()
        if module.startswith("reskd.student_train")
        for imported in imported_by(module)
        if imported.startswith("reskd.teacher_cache")
    }
    assert seen
    assert [module for module in seen if not f"{module}.".startswith(OPEN_TO_STUDENTS)] == []


def test_nothing_is_imported_by_the_bare_name_of_a_folder() -> None:
    """`import common` would find whatever package of that name lies beside somebody's script."""
    sources = [path for room in (*ROOMS, "tests") for path in (REPOSITORY / room).rglob("*.py")]
    bare = [
        (path.relative_to(REPOSITORY).as_posix(), name)
        for path in (*sources, *PACKAGE.glob("*.py"))
        for name in imports(path.read_text(encoding="utf-8"))
        if name.split(".")[0] in (*ROOMS, "configs")
    ]
    assert bare == []


def test_no_two_classes_have_one_name() -> None:
    names = Counter(
        node.name
        for path in modules().values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, times in names.items() if times > 1] == []


def test_no_file_of_the_product_is_longer_than_one_idea() -> None:
    lengths = {
        name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()
    }
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}


def test_json_and_yaml_are_read_within_bounds() -> None:
    """Python's and PyYAML's own parsers have none: who calls them stands in common/parsing."""
    unbounded = re.compile(r"\bjson\.loads?\(|\byaml\.\w*load\w*\(|\bvalidate_json\(")
    found = {name for name, path in modules().items() if unbounded.search(path.read_text("utf-8"))}
    assert found == {"reskd.common.parsing.rows", "reskd.common.parsing.yaml_text"}


def command_files() -> list[Path]:
    """Files that are loaded before a command's work is known."""
    loaded = "import sys; import reskd.common.cli.main as m\n" + "\n".join(
        f"import {target.partition(':')[0]}"
        for target in (*COMMANDS.values(), *BENCHMARKS.values())
    )
    shown = "print(*(f for m in list(sys.modules.values()) if (f := getattr(m, '__file__', None))))"
    done = subprocess.run(
        [sys.executable, "-c", f"{loaded}\n{shown}"], capture_output=True, text=True, check=True
    )
    names = ("cli.py", "options.py")
    return [
        path
        for path in (Path(name).resolve() for name in done.stdout.split())
        if path.is_relative_to(REPOSITORY)
        and (path.name.endswith(names) or path.parent.name == "cli")
    ]


def test_heavy_imports_are_refused_in_every_file_of_a_command() -> None:
    files = command_files()
    assert len(files) >= len({target.partition(":")[0] for target in COMMANDS.values()})
    passed = []
    for path in files:
        planted = f"{path.read_text(encoding='utf-8')}\nimport torch\n"
        done = subprocess.run(
            ["ruff", "check", "--select", "TID253", "--stdin-filename", str(path), "-"],
            cwd=REPOSITORY,
            input=planted,
            capture_output=True,
            text=True,
            check=False,
        )
        if "TID253" not in done.stdout:
            passed.append(path.relative_to(REPOSITORY).as_posix())
    assert passed == []


def test_nothing_of_ours_pickles_what_it_stores() -> None:
    """A run's own training state is torch's; caches, indexes and checkpoints hold no pickle."""
    picklers = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for name, path in modules().items():
        source = path.read_text(encoding="utf-8")
        assert not {module.split(".")[0] for module in imports(source)} & picklers, path
        if not name.startswith("reskd.student_train"):
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
