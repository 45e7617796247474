"""Each parser on its published format, and what it says of lines that are not of it."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from reskd.common.dataset.importing.annotations import Annotations, merged, read_text
from reskd.common.dataset.importing.class_list import parse_class_list
from reskd.common.dataset.importing.formats.activitynet_json import parse_activitynet
from reskd.common.dataset.importing.formats.fcvid import is_label_matrix, is_split_list, parse_fcvid
from reskd.common.dataset.importing.formats.hmdb51 import class_and_fold, parse_hmdb51
from reskd.common.dataset.importing.formats.kinetics_csv import parse_kinetics
from reskd.common.dataset.importing.formats.mmaction_list import ListLayout, parse_list
from reskd.common.dataset.importing.formats.plain_csv import parse_table
from reskd.common.dataset.importing.formats.sthv2_json import parse_videos
from reskd.common.dataset.importing.formats.ucf101 import parse_ucf101
from reskd.common.dataset.importing.sources import Source
from reskd.common.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class ListCase:
    """A line of a list and what it means."""

    id: str
    line: str
    layout: ListLayout = "auto"
    name: str
    labels: tuple[str, ...]
    num_frames: int | None = None
    start_frame: int | None = None


LIST_CASES = (
    ListCase(id="video", line="a/b.mp4 3", name="a/b.mp4", labels=("3",)),
    ListCase(id="labels", line="a/b.mp4 3 17", layout="videos", name="a/b.mp4", labels=("3", "17")),
    ListCase(
        id="video, frames",
        line="a/b.mp4 20 1",
        layout="videos-frames",
        name="a/b.mp4",
        labels=("1",),
        num_frames=20,
    ),
    ListCase(
        id="video, start",
        line="a/b.mp4 17 1",
        layout="videos-start",
        name="a/b.mp4",
        labels=("1",),
        start_frame=17,
    ),
    ListCase(id="spaces", line="a b/c  d 2.mp4  3", name="a b/c  d 2.mp4", labels=("3",)),
    ListCase(id="number in name", line="a 1.mp4 2.mp4 3", name="a 1.mp4 2.mp4", labels=("3",)),
    ListCase(id="no suffix", line="74225 3", name="74225", labels=("3",)),
    ListCase(id="comma video", line="a, b.mp4,3", name="a, b.mp4", labels=("3",)),
    ListCase(id="frames", line="a/b 120 3", name="a/b", labels=("3",), num_frames=120),
    ListCase(id="frames, labels", line="b 120 3 17", name="b", labels=("3", "17"), num_frames=120),
    ListCase(id="AR-Net", line="v_x,120,3,17", name="v_x", labels=("3", "17"), num_frames=120),
    ListCase(id="minik", line="yoga/x_1 250 199", name="yoga/x_1", labels=("199",), num_frames=250),
    ListCase(id="AR-Net b", line="my v,9,3,4", name="my v", labels=("3", "4"), num_frames=9),
    ListCase(id="tabs", line="my dir 7\t120\t3", name="my dir 7", labels=("3",), num_frames=120),
    ListCase(
        id="quotes", line='"my dir 7" 9 3 4', name="my dir 7", labels=("3", "4"), num_frames=9
    ),
    ListCase(id="spaced dir", line="my dir 120 3", name="my dir", labels=("3",), num_frames=120),
    ListCase(
        id="offset",
        line="a/b 40 120 3",
        layout="frames-offset",
        name="a/b",
        labels=("3",),
        num_frames=120,
        start_frame=40,
    ),
    ListCase(id="bare #", line="#20_clap.avi 0", name="#20_clap.avi", labels=("0",)),
)


@pytest.mark.parametrize("case", LIST_CASES, ids=lambda case: case.id)
def test_mmaction_line_is_read_as_published(case: ListCase) -> None:
    annotations = parse_list(
        f"\r\n{case.line}\r\n",
        "x.txt",
        split="val",
        layout=case.layout,
        folders_state_frames=True,
    )
    (row,) = annotations.rows
    assert (row.files, row.labels, row.split) == ((case.name,), case.labels, "val")
    assert (row.num_frames, row.start_frame) == (case.num_frames, case.start_frame)
    assert row.where == "line 2 of x.txt"
    assert annotations.numbered


def test_mmaction_json_list_is_read() -> None:
    entries = [
        {"frame_dir": "a b", "total_frames": 9, "label": [3, 4]},
        {"filename": "c.mp4", "label": 0},
    ]
    rows = parse_list(json.dumps(entries), "x.json", split="train").rows
    assert [(row.id, row.labels, row.num_frames) for row in rows] == [
        ("a b", ("3", "4"), 9),
        ("c.mp4", ("0",), None),
    ]


def test_comment_lines_are_listed_as_ignored() -> None:
    annotations = parse_list("# made by hand\na.mp4 0\n", "x.txt", split="val")
    assert [(row.where, row.reason) for row in annotations.ignored] == [
        ("line 1 of x.txt", "a comment")
    ]


@pytest.mark.parametrize(
    ("text", "layout", "problem"),
    [
        ("a.mp4 0\nb.mp4\n", "auto", r"line 2 of x\.txt is 'b\.mp4'; expected is `path/video\.mp4"),
        ("a.mp4 0\n\nb.mp4 run\n", "auto", "line 3 .*the label a number"),
        ("a.mp4 0\nb.mp4 -1\n", "auto", "line 2 .*'b.mp4 -1'"),
        ("a 120 0\nb 120\n", "auto", "line 2 .*`path/folder number_of_frames label`"),
        ("a 120 0\n", "frames-offset", "line 1 .*first_frame number_of_frames label"),
        ("a 120 0\nmy b 7 120 3\n", "auto", "line 2 .*not clear which numbers"),
        ("a.mp4 20 0\nb.mp4 20 1\n", "auto", "'a.mp4 20 0'.*--layout videos .*videos-start"),
        ("a.mp4 20 0\nb.mp4 20 1 2\n", "auto", "every line has 2 numbers or more"),
        ("a 2 6 0\na 10 8 1\n", "auto", "'a 2 6 0'.*--layout frames .*frames-offset"),
        ('[{"frame_dir": "a", "label": 1, "fps": 3}]', "auto", "not be used: fps.*columns fps"),
        ('[{"frame_dir": "a", "filename": "a", "label": 1}]', "auto", "not be used: frame_dir"),
        ('[{"frame_dir": "a"}]', "auto", r"entry 1 of x\.txt .*\"label\": number"),
        ('[{"frame_dir": "a", "label": true}]', "auto", "entry 1"),
        ('[{"frame_dir": "a",\n "label"]', "auto", r"line 2 of x\.txt is not JSON"),
    ],
)
def test_mmaction_line_of_another_form_is_refused(
    text: str, layout: ListLayout, problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        parse_list(text, "x.txt", split="val", layout=layout)


def test_one_line_with_a_single_label_shows_that_the_others_are_labels() -> None:
    rows = parse_list("a.mp4 3 17\nb.mp4 3\n", "x.txt", split="val").rows
    assert [row.labels for row in rows] == [("3", "17"), ("3",)]
    rows = parse_list("a 120 3 17\nb 90 3\n", "x.txt", split="val").rows
    assert [(row.num_frames, row.labels) for row in rows] == [(120, ("3", "17")), (90, ("3",))]


def test_first_frames_are_left_out_where_the_user_says_so() -> None:
    text = "a.mp4 17 3\n"
    rows = parse_list(
        text, "x.txt", split="val", layout="videos-start", ignored_columns={"start"}
    ).rows
    assert [(row.labels, row.start_frame) for row in rows] == [(("3",), None)]
    with pytest.raises(DataError, match=r"names start; the unused columns of x\.txt are none"):
        parse_list(text, "x.txt", split="val", layout="videos-frames", ignored_columns={"start"})


KINETICS = (
    "label,youtube_id,time_start,time_end,split,is_cc\n"
    "abseiling,-3B32lodo2M,59,69,val,0\n"
    '"massaging person\'s head, seated",_dbcJuKJQNs,40,50,validate,0\n'
    "\n"
    '"say ""hi""",--nQbRBEz2s,0,10,train,0\n'
)


def test_kinetics_table_is_read_with_quotes_and_times() -> None:
    annotations = parse_kinetics(KINETICS, "k.csv", split=None)
    assert [(row.id, row.labels, row.split) for row in annotations.rows] == [
        ("-3B32lodo2M_000059_000069", ("abseiling",), "val"),
        ("_dbcJuKJQNs_000040_000050", ("massaging person's head, seated",), "val"),
        ("--nQbRBEz2s_000000_000010", ('say "hi"',), "train"),
    ]
    assert annotations.rows[0].files == ("-3B32lodo2M_000059_000069", "-3B32lodo2M")
    assert annotations.rows[0].anywhere
    assert annotations.rows[2].where == "line 5 of k.csv"


def test_kinetics_test_table_without_labels_is_ignored() -> None:
    text = "youtube_id,time_start,time_end,split\n-0aphbqvDqI,25,35,test\n"
    annotations = parse_kinetics(text, "k.csv", split=None)
    assert annotations.rows == ()
    assert [row.reason for row in annotations.ignored] == ["no label (test set)"]


def test_kinetics_given_split_wins_and_ids_choose() -> None:
    annotations = parse_kinetics(KINETICS, "k.csv", split="test", only_ids={"_dbcJuKJQNs"})
    assert [(row.files[1], row.split) for row in annotations.rows] == [("_dbcJuKJQNs", "test")]
    assert len(annotations.ignored) == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "k.csv is empty"),
        ("a,b\n", r"line 1 of k\.csv is the header and has no column youtube_id, .*is 'a,b'"),
        (KINETICS + "run,x,ten,20,val,0\n", "line 6 .*'ten' in column time_start"),
        (KINETICS + "run,x,1.5,20,val,0\n", "line 6 .*whole seconds"),
        (KINETICS + "run, fast,x,1,20,val,0\n", "line 6 .*7 fields and the header 6.*quotes"),
        (KINETICS + "run,,1,20,val,0\n", "line 6 .*no youtube_id"),
        (KINETICS + "run,x,1,20,,0\n", "line 6 .*no split"),
        (KINETICS + 'run,"x,1,20,val,0\n', "line [67] .*not CSV"),
    ],
)
def test_kinetics_table_of_another_form_is_refused(text: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        parse_kinetics(text, "k.csv", split=None)


def test_sthv2_template_loses_its_brackets() -> None:
    entries = [
        {"id": "74225", "label": "spinning cube", "template": "Spinning [something] that [is] x"},
        {"id": "7"},
    ]
    annotations = parse_videos(json.dumps(entries), "train.json", split="train")
    (row,) = annotations.rows
    assert (row.id, row.files, row.labels) == (
        "74225",
        ("74225",),
        ("Spinning something that is x",),
    )
    assert [row.where for row in annotations.ignored] == ["entry 2 of train.json"]


def test_sthv2_answers_of_the_test_set_are_read() -> None:
    (row,) = parse_videos("1420;Holding something\r\n", "test-answers.csv", split="test").rows
    assert (row.id, row.labels) == ("1420", ("Holding something",))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[{"template": "x"}]', 'entry 1 .*object with "id"'),
        ('[{"id": "1", "template": 5}]', "entry 1 .*template 5"),
        ("1420,Holding\n", r"line 1 .*`id;template`"),
    ],
)
def test_sthv2_file_of_another_form_is_refused(text: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        parse_videos(text, "x.json", split="train")


def activitynet(**videos: object) -> str:
    return json.dumps({"database": videos, "taxonomy": [], "version": "VERSION 1.3"})


def segment(label: str) -> dict[str, object]:
    return {"label": label, "segment": [1.5, 20.25]}


def test_activitynet_labels_are_distinct_in_order_of_occurrence() -> None:
    text = activitynet(
        a={
            "subset": "training",
            "annotations": [segment(name) for name in ("Surf", "Ski", "Surf")],
        },
        b={"subset": "validation", "annotations": [segment("Ski")]},
        c={"subset": "testing", "annotations": []},
        d={"subset": "training", "annotations": []},
    )
    annotations = parse_activitynet(text, "a.json", split=None)
    assert [(row.id, row.files, row.labels, row.split) for row in annotations.rows] == [
        ("a", ("v_a", "a"), ("Surf", "Ski"), "train"),
        ("b", ("v_b", "b"), ("Ski",), "val"),
    ]
    assert [row.reason for row in annotations.ignored] == ["no label (test set)", "no annotation"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"results": {}}', 'no object "database"'),
        (activitynet(a={"annotations": []}), 'video a of a.json has no text "subset"'),
        (
            activitynet(a={"subset": "training", "annotations": [{}]}),
            'video a .*without a text "lab',
        ),
        (activitynet(a={"subset": "x", "annotations": [segment("y")]}), "subset 'x'; known are"),
    ],
)
def test_activitynet_file_of_another_form_is_refused(text: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        parse_activitynet(text, "a.json", split=None)


NAMES = "making cake/a 1.mp4 train\r\npanda/b.mp4 test\r\npanda/c.mp4 test\r\n"
MATRIX = "0 1 0\n1.0 0.0 1.000e+00\n0 0 0\n"


def test_fcvid_official_files_are_joined_by_line() -> None:
    annotations = parse_fcvid(NAMES, "n.txt", MATRIX, "l.txt")
    assert [(row.id, row.labels, row.split) for row in annotations.rows] == [
        ("making cake/a 1.mp4", ("1",), "train"),
        ("panda/b.mp4", ("0", "2"), "test"),
    ]
    assert [row.where for row in annotations.ignored] == ["line 3 of n.txt"]


def test_fcvid_files_are_told_apart_by_content() -> None:
    assert (is_label_matrix(MATRIX), is_split_list(MATRIX)) == (True, False)
    assert (is_label_matrix(NAMES), is_split_list(NAMES)) == (False, True)
    assert (is_label_matrix("a/b,120,1\n"), is_split_list("a/b,120,1\n")) == (False, False)


@pytest.mark.parametrize(
    ("matrix", "problem"),
    [
        ("0 1\n", "names 3 videos and l.txt has labels of 1"),
        ("0 1\n0 2\n1 0\n", "line 2 of l.txt has '2' among its zeros and ones"),
    ],
)
def test_fcvid_files_that_do_not_fit_are_refused(matrix: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        parse_fcvid(NAMES, "n.txt", matrix, "l.txt")


CLASSES = ("ApplyEyeMakeup", "Archery")


def test_ucf101_lists_with_and_without_labels_are_read() -> None:
    text = "Archery/v_Archery_g01_c01.avi 2\r\nArchery/v_Archery_g01_c02.avi\r\n"
    rows = parse_ucf101(text, "trainlist01.txt", split="train", classes=CLASSES).rows
    assert [(row.id, row.labels) for row in rows] == [
        ("Archery/v_Archery_g01_c01.avi", ("Archery",)),
        ("Archery/v_Archery_g01_c02.avi", ("Archery",)),
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("v_Archery_g01_c01.avi 2", "line 1 .*expected is `Class/video.avi`"),
        ("Biking/v.avi", "line 1 .*folder 'Biking', which is not a class"),
        ("Archery/v.avi 1", "label 1, which is 'ApplyEyeMakeup' .*lies in folder 'Archery'"),
        ("Archery/v.avi 0", "label 0; there are 2, from 1"),
    ],
)
def test_ucf101_line_that_contradicts_itself_is_refused(line: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        parse_ucf101(line, "trainlist01.txt", split="train", classes=CLASSES)


def test_hmdb51_file_is_divided_and_its_zeros_are_ignored() -> None:
    text = "#20_Rhythm_clap_u_goo_0.avi 1 \nA [b]; c_clap_1.avi 2 \nx_clap_2.avi 0 \n"
    annotations = parse_hmdb51(text, "clap_test_split1.txt", class_name="clap")
    assert [(row.files[0], row.split) for row in annotations.rows] == [
        ("clap/#20_Rhythm_clap_u_goo_0.avi", "train"),
        ("clap/A [b]; c_clap_1.avi", "test"),
    ]
    assert len(annotations.ignored) == 1


def test_hmdb51_names_and_lines_of_another_form_are_refused() -> None:
    assert class_and_fold("brush_hair_test_split3.txt") == ("brush_hair", 3)
    with pytest.raises(DataError, match="not called like a split of HMDB51"):
        class_and_fold("brush_hair.txt")
    with pytest.raises(DataError, match=r"line 2 .*1 .train., 2 .test. or 0"):
        parse_hmdb51("a.avi 1\nb.avi 3\n", "x", class_name="clap")


def source(split: str | None = None) -> Source:
    return Source(path=Path("t.csv"), split=split)


def test_table_of_ones_own_is_read() -> None:
    text = 'Split,path,LABEL\nval,"run, jump/ä b.mp4",jump; run;jump\ntraining,c.mp4,run\n'
    annotations = parse_table(text, source())
    assert [(row.id, row.labels, row.split) for row in annotations.rows] == [
        ("run, jump/ä b.mp4", ("jump", "run"), "val"),
        ("c.mp4", ("run",), "train"),
    ]
    assert not annotations.numbered
    assert parse_table("path,label\na.mp4,1;2\n", source("val")).numbered


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "path,split\na,b\n",
            r"line 1 of t\.csv is the header and has no column label; it is 'path,split'",
        ),
        ("path,label,split\na.mp4,,val\n", "line 2 .*empty field in column label"),
        ("path,label,split\n,run,val\n", "line 2 .*empty field in column path"),
        ("path,label,split\na.mp4,run;,val\n", "line 2 .*column label"),
        ("path,label,split\na.mp4,run,\n", "line 2 .*column split"),
        ("path,label\na.mp4,run\n", "which split is t.csv"),
    ],
)
def test_table_of_another_form_is_refused(text: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        parse_table(text, source())


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("run\r\njump high\r\n\r\n", ("run", "jump high")),
        ("1 ApplyEyeMakeup\n2 Archery\n", ("ApplyEyeMakeup", "Archery")),
        ("1,b\n0,a\n", ("a", "b")),
        ('id,name\n0,a b\n1,"c, d"\n', ("a b", "c, d")),
        ("2 hands\n3 hands\n", ("2 hands", "3 hands")),
        ("1 hand\nrun\n", ("1 hand", "run")),
        ('{"b": "1", "a": "0"}', ("a", "b")),
    ],
)
def test_class_list_is_read_in_order_of_labels(text: str, names: tuple[str, ...]) -> None:
    assert parse_class_list(text, "c.txt") == names


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (" \n", "holds no class names"),
        ("a\nb\na\n", "names class 'a' twice"),
        ('{"a": "0", "b": "2"}', "2 classes and none with the number 1"),
        ('{"a": "0", "b": "x"}', "gives class 'b' the number 'x'"),
    ],
)
def test_class_list_of_another_form_is_refused(text: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        parse_class_list(text, "c.txt")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_mark_of_the_encoding_is_no_part_of_the_text(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("läuft.mp4 0\r\n".encode(encoding))
    assert read_text(path) == "läuft.mp4 0\r\n"


def test_name_that_is_no_utf8_survives(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"l\xe4uft.mp4 0\n")
    (row,) = parse_list(read_text(path), "x.txt", split="val").rows
    assert row.id == "l\udce4uft.mp4"


def test_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no annotation file .*x\.txt"):
        read_text(tmp_path / "x.txt")


def test_numbers_in_one_file_and_names_in_another_are_refused() -> None:
    parts: list[Annotations] = [
        parse_table(f"path,label\na.mp4,{label}\n", source("val")) for label in ("1", "run")
    ]
    with pytest.raises(DataError, match=r"numbers in one file .* and names in another"):
        merged(parts)


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (
            "path,label,start,end",
            r"used: start, end\. start, end may say which part.*ffmpeg",
        ),
        ("path,label,note", "not be used: note. To leave them out give --ignore-columns note"),
        (",path,label", "not be used: #1"),
        ("path,label,label", "names column label twice"),
    ],
)
def test_table_with_columns_that_would_not_be_used_is_refused(header: str, problem: str) -> None:
    row = ",".join("1" for _ in header.split(","))
    with pytest.raises(DataError, match=problem):
        parse_table(f"{header}\n{row}\n", source("val"))


def test_columns_that_the_user_names_are_left_out() -> None:
    text = "#1,path,label,split,start\n1,a.mp4,run,train,0.5\n"
    ignored = {"#1", "start", "split"}
    (row,) = parse_table(text, source("val"), ignored_columns=ignored).rows
    assert (row.id, row.split) == ("a.mp4", "val")
    with pytest.raises(DataError, match=r"names stop; the unused columns of t.csv are #1, start"):
        parse_table(text, source(), ignored_columns={"stop"})
    with pytest.raises(DataError, match="'train', and val= was given"):
        parse_table(text, source("val"), ignored_columns={"#1", "start"})


def test_kinetics_table_with_an_unknown_column_is_refused() -> None:
    text = "label,youtube_id,time_start,time_end,split,url\nrun,x,1,2,val,u\n"
    with pytest.raises(DataError, match="--ignore-columns url"):
        parse_kinetics(text, "k.csv", split=None)
    assert len(parse_kinetics(text, "k.csv", split=None, ignored_columns={"url"}).rows) == 1


@pytest.mark.parametrize("label", ["-1", "3.0"])
def test_table_with_labels_that_are_no_whole_numbers_is_refused(label: str) -> None:
    with pytest.raises(DataError, match=f"line 3 of t.csv has label '{label}'"):
        parse_table(f"path,label\na.mp4,0\nb.mp4,{label}\n", source("val"))
