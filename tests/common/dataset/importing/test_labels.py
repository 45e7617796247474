"""Labels become positions in a class list, and numbers are never shifted silently."""

import pytest

from reskd.common.dataset.importing.annotations import Annotations, Row
from reskd.common.dataset.importing.class_list import parse_class_list
from reskd.common.dataset.importing.labels import (
    Labelled,
    LabelRules,
    label_rows,
    with_default_classes,
)
from reskd.common.errors import DataError


def annotations(*labels: str, numbered: bool = True, may_be_names: bool = False) -> Annotations:
    """Rows with labels such as "3" or "3 17"."""
    rows = [
        Row(
            where=f"line {line} of x", id=str(line), files=(), labels=tuple(text.split()), split="a"
        )
        for line, text in enumerate(labels, start=1)
    ]
    return Annotations(rows=tuple(rows), numbered=numbered, may_be_names=may_be_names)


def labels(labelled: Labelled) -> list[tuple[int, ...]]:
    return [positions for _, positions in labelled.rows]


def test_numbers_are_positions_and_name_the_classes() -> None:
    labelled = label_rows(annotations("0", "3 1 3"), LabelRules())
    assert labels(labelled) == [(0,), (3, 1)]
    assert labelled.classes == ("0", "1", "2", "3")


def test_numbers_with_a_class_list_take_its_names() -> None:
    labelled = label_rows(annotations("0"), LabelRules(classes=("run", "jump")))
    assert (labels(labelled), labelled.classes) == ([(0,)], ("run", "jump"))


def test_numbers_from_one_are_refused_until_said() -> None:
    rows = annotations("1", "2 3")
    with pytest.raises(DataError, match=r"no video has label 0; .* 1 to 3\. .*--labels-from 1"):
        label_rows(rows, LabelRules())
    assert labels(label_rows(rows, LabelRules(labels_from=1))) == [(0,), (1, 2)]
    labelled = label_rows(rows, LabelRules(labels_from=0))
    assert (labels(labelled), len(labelled.classes)) == ([(1,), (2, 3)], 4)


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        (
            LabelRules(num_classes=3),
            "line 2 of x has label 3; .*0 to 2. If the labels count from 1",
        ),
        (LabelRules(num_classes=2), "line 2 of x has label 3; .*class list.*that of this data set"),
        (LabelRules(labels_from=1), "line 1 of x has label 0; .*counted from 1 labels are 1 to 3"),
        (LabelRules(classes=("a", "b")), "line 2 of x has label 3; with 2 classes"),
        (LabelRules(classes=("a", "b"), num_classes=4), "2 names and --num-classes says 4"),
        (LabelRules(only_classes=True), "--only-classes needs --classes"),
        (LabelRules(only_classes=True, classes=("a", "b")), "here they are numbers"),
    ],
)
def test_numbers_outside_the_classes_are_refused_with_their_line(
    rules: LabelRules, problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        label_rows(annotations("0", "3"), rules)


def test_names_are_numbered_alphabetically_unless_listed() -> None:
    rows = annotations("run", "jump run", numbered=False)
    assert labels(label_rows(rows, LabelRules())) == [(1,), (0, 1)]
    rules = LabelRules(classes=("run", "walk", "jump"))
    assert labels(label_rows(rows, rules)) == [(0,), (2, 0)]


def test_names_of_a_subset_leave_the_others_out_with_a_reason() -> None:
    rows = annotations("run", "jump", "jump run", numbered=False)
    labelled = label_rows(rows, LabelRules(classes=("jump",), only_classes=True))
    assert labels(labelled) == [(0,), (0,)]
    assert [row.where for row in labelled.ignored] == ["line 1 of x"]


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        (LabelRules(classes=("runs", "jump")), "line 1 of x has class 'run', .*nearest is 'runs'"),
        (LabelRules(num_classes=5), "name 2 classes and --num-classes says 5.*--classes FILE"),
        (LabelRules(labels_from=1), "--labels-from is for labels that are numbers"),
        (LabelRules(classes=("x",), only_classes=True), "none of the 1 classes asked for occurs"),
    ],
)
def test_names_outside_the_classes_are_refused(rules: LabelRules, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        label_rows(annotations("run", "jump", numbered=False), rules)


def test_numbers_may_be_names_of_classes() -> None:
    labelled = label_rows(annotations("10", "20"), LabelRules(classes=("20", "10")))
    assert labels(labelled) == [(1,), (0,)]


def test_annotations_without_a_labelled_video_are_refused() -> None:
    with pytest.raises(DataError, match="no labelled video"):
        label_rows(annotations(), LabelRules())


def test_number_of_classes_of_a_data_set_yields_to_the_users() -> None:
    assert with_default_classes(LabelRules(), 239).num_classes == 239
    assert with_default_classes(LabelRules(num_classes=3), 239).num_classes == 3
    assert with_default_classes(LabelRules(classes=("a",)), 239).num_classes is None


def test_digits_that_leave_gaps_in_a_table_are_refused_until_said() -> None:
    years = annotations("0", "1995", "2003", may_be_names=True)
    with pytest.raises(DataError, match=r"2001 classes would have no video.*--labels names"):
        label_rows(years, LabelRules())
    labelled = label_rows(years, LabelRules(labels="names"))
    assert (labels(labelled), labelled.classes) == ([(0,), (1,), (2,)], ("0", "1995", "2003"))
    assert len(label_rows(years, LabelRules(labels="numbers")).classes) == 2004
    assert len(label_rows(years, LabelRules(num_classes=2100)).classes) == 2100


def test_names_in_digits_are_numbered_in_their_order() -> None:
    rules = LabelRules(labels="names")
    assert label_rows(annotations("10", "9"), rules).classes == ("9", "10")


def test_digits_that_are_names_and_other_positions_are_refused_until_said() -> None:
    rows = annotations("0", "1")
    classes = ("1", "0")
    with pytest.raises(DataError, match="--labels names or --labels numbers"):
        label_rows(rows, LabelRules(classes=classes))
    assert labels(label_rows(rows, LabelRules(classes=classes, labels="names"))) == [(1,), (0,)]
    assert labels(label_rows(rows, LabelRules(classes=classes, labels="numbers"))) == [(0,), (1,)]


def test_numbers_outside_the_class_list_name_the_option_for_names() -> None:
    with pytest.raises(DataError, match=r"with 2 classes .*--labels names"):
        label_rows(annotations("0", "7"), LabelRules(classes=("a", "b")))


def test_names_called_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="not all in digits"):
        label_rows(annotations("run", numbered=False), LabelRules(labels="numbers"))


@pytest.mark.parametrize(
    "text",
    [
        "run\njump\n",
        "0 run\n1 jump\n",
        "2. jump\n1. run\n",
        "run,0\njump,1\n",
        "jump 2\nrun 1\n",
        "id,name\n1,jump\n0,run\n",
        '["run", "jump"]',
        '{"jump": 1, "run": 0}',
        '{"0": "run", "1": "jump"}',
    ],
)
def test_order_of_a_class_list_is_kept_however_it_is_written(text: str) -> None:
    assert parse_class_list(text, "classes") == ("run", "jump")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("0 run\n2 jump\n", "not 0, 1, 2 .*put the names in quotes"),
        ('["run", "run"]', "names class 'run' twice"),
        ("run\nrun\n", "names class 'run' twice"),
    ],
)
def test_class_list_of_unclear_order_is_refused(text: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        parse_class_list(text, "classes")


def test_numbers_of_names_in_quotes_belong_to_the_names() -> None:
    assert parse_class_list('"2 hands"\n"1 hand"\n', "classes") == ("2 hands", "1 hand")
    assert parse_class_list("[a] up\n[a] down\n", "classes") == ("[a] up", "[a] down")
    assert parse_class_list("stage 2\nstage 1\n", "classes") == ("stage 2", "stage 1")
