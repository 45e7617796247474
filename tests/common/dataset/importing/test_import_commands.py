"""`reskd dataset import FORMAT` on small data sets laid out as the published ones are."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from reskd.common.dataset.importing.class_list import read_class_list
from reskd.common.dataset.importing.formats.mmaction_list import parse_list
from reskd.common.dataset.importing.labels import LabelRules
from reskd.common.dataset.importing.plan import plan_import
from reskd.common.dataset.importing.report import Allowed
from reskd.common.dataset.importing.source_sets import read_sources
from reskd.common.dataset.importing.sources import parse_video_folders
from reskd.common.dataset.index import VideoIndex
from tests.common.dataset.importing.conftest import Import, Videos
from tests.video_files import shared_data

Write = Callable[[str, str], Path]
ReadIndex = Callable[[], VideoIndex]
Captured = pytest.CaptureFixture[str]


def content(index: VideoIndex) -> dict[str, list[tuple[str, str, tuple[int, ...], int]]]:
    return {
        split: [
            (video.id, video.path, video.labels, video.num_frames) for video in index.split(split)
        ]
        for split in index.split_names()
    }


def test_mmaction_lists_of_videos(
    videos: Videos, write: Write, import_: Import, index: ReadIndex, capsys: Captured
) -> None:
    folder = videos("a b/1.mp4", "a b/ü 2.webm", "c/3.MKV")
    # A byte order mark, line ends of Windows, a space in the name, another suffix on disk.
    train = write("my_train.txt", "\ufeffa b/1.mp4 0\r\n\r\nc/3.mp4 2\r\n")
    val = write("my_val.txt", "a b/ü 2.mp4  0\r\n")
    assert import_("mmaction", train, val) == 0
    made = index()
    assert made.root == folder
    assert made.classes == ("0", "1", "2")
    assert content(made) == {
        "train": [("a b/1.mp4", "a b/1.mp4", (0,), 8), ("c/3.mp4", "c/3.MKV", (2,), 8)],
        "val": [("a b/ü 2.mp4", "a b/ü 2.webm", (0,), 8)],
    }
    assert {video.fps for video in made.videos} == {12.0}
    out = capsys.readouterr().out
    assert "train: 2 of 2 annotated videos found" in out
    assert "labels 0 to 2 of 3 classes" in out
    assert "val: 2 classes have no video: 1, 2" in out


def test_mmaction_lists_of_frames_are_counted_and_differences_told(
    frames: Videos, write: Write, import_: Import, index: ReadIndex, capsys: Captured
) -> None:
    frames("v_a", "multiple/x_y/v b")
    train = write("actnet_train_split.txt", "v_a,4,1\nmultiple/x_y/v b,5,0,2\n")
    assert import_("mmaction", train, "--num-classes", 200) == 0
    assert content(index()) == {
        "train": [("multiple/x_y/v b", "multiple/x_y/v b", (0, 2), 4), ("v_a", "v_a", (1,), 4)]
    }
    assert "multiple/x_y/v b: 4 instead of 5" in capsys.readouterr().out


def test_mmaction_list_with_offsets_takes_whole_folders_only(
    frames: Videos, write: Write, import_: Import, index: ReadIndex, capsys: Captured
) -> None:
    frames("a", "b")
    layout = ("--layout", "frames-offset")
    whole = write("train.txt", "a 0 4 0\nb 0 4 1\n")
    assert import_("mmaction", whole, *layout) == 0
    assert [video.num_frames for video in index().videos] == [4, 4]
    for part, message in {
        "a 0 4 0\nb 1 3 0\n": "from image 1 on",
        "a 0 3 0\n": "3 of 4 im",
    }.items():
        assert import_("mmaction", write("train.txt", part), *layout) == 3
        assert message in capsys.readouterr().err


def test_mmaction_with_a_folder_per_split_takes_equal_names_as_different_videos(
    videos: Videos, write: Write, import_: Import, index: ReadIndex
) -> None:
    folder = videos("train/1.mp4", "held out/1.mp4")
    sources = write("train.txt", "1.mp4 0\n"), f"val={write('list.txt', '1.mp4 0')}"
    split_folders = f"train={folder}/train", f"val={folder}/held out"
    options = [text for one in split_folders for text in ("--videos", one)]
    assert import_("mmaction", *sources, *options) == 0
    assert content(index()) == {
        "train": [("train/1.mp4", "train/1.mp4", (0,), 8)],
        "val": [("val/1.mp4", "held out/1.mp4", (0,), 8)],
    }


KINETICS = "label,youtube_id,time_start,time_end,split\n"


def test_kinetics_tables(
    videos: Videos, write: Write, import_: Import, index: ReadIndex, capsys: Captured
) -> None:
    videos(
        "train/riding a bike/-3B32lodo2M_000059_000069.mp4",
        "train/abseiling/--nQbRBEz2s.mp4",
        "val/_dbcJuKJQNs_000040_000050.mkv",
    )
    train = write(
        "kinetics_train.csv",
        KINETICS + '"riding a bike",-3B32lodo2M,59,69,train\nabseiling,--nQbRBEz2s,0,10,train\n',
    )
    val = write("kinetics_val.csv", KINETICS + "abseiling,_dbcJuKJQNs,40,50,validate\n")
    test = write("test.csv", "youtube_id,time_start,time_end,split\n-0aphbqvDqI,25,35,test\n")
    assert import_("kinetics", train, val, test) == 0
    made = index()
    assert made.classes == ("abseiling", "riding a bike")
    assert content(made)["train"] == [
        ("--nQbRBEz2s_000000_000010", "train/abseiling/--nQbRBEz2s.mp4", (0,), 8),
        (
            "-3B32lodo2M_000059_000069",
            "train/riding a bike/-3B32lodo2M_000059_000069.mp4",
            (1,),
            8,
        ),
    ]
    assert [video.labels for video in made.split("val")] == [(0,)]
    assert "1 rows left out: no label (test set)" in capsys.readouterr().out


def test_minikinetics_from_tables_keeps_the_listed_classes_in_their_order(
    videos: Videos, write: Write, import_: Import, index: ReadIndex, capsys: Captured
) -> None:
    videos("a_000000_000010.mp4", "b_000000_000010.mp4", "c_000000_000010.mp4")
    lines = ["yoga,a,0,10,train\n", "archery,b,0,10,train\n", "running,c,0,10,train\n"]
    table = write("train.csv", KINETICS + "".join(lines))
    assert import_("minikinetics", table) == 3
    assert "name the 200 classes of the subset with --classes" in capsys.readouterr().err
    assert import_("minikinetics", table, "--classes", write("c.txt", "yoga\narchery\n")) == 0
    assert index().classes == ("yoga", "archery")
    assert [video.labels for video in index().videos] == [(0,), (1,)]
    assert "1 rows left out: of a class that was not asked for" in capsys.readouterr().out
    ids = write("ids.txt", "b\nc\n")
    assert import_("minikinetics", table, "--ids", ids) == 3
    assert "name 2 classes and --num-classes says 200" in capsys.readouterr().err
    assert import_("minikinetics", table, "--ids", ids, "--num-classes", 2) == 0
    assert index().classes == ("archery", "running")


def test_minikinetics_lists_of_ar_net_have_200_classes(
    frames: Videos, write: Write, import_: Import, index: ReadIndex
) -> None:
    frames("yoga/a_1_2", "arch ery/b_1_2")
    train = write("minik_train_videofolder.txt", "yoga/a_1_2 4 199\narch ery/b_1_2 4 0\n")
    assert import_("minikinetics", train) == 0
    assert len(index().classes) == 200
    assert [video.labels for video in index().videos] == [(0,), (199,)]


def test_sthv2_jsons(
    videos: Videos, write: Write, import_: Import, index: ReadIndex, capsys: Captured
) -> None:
    videos("1.webm", "22.webm")
    labels = write("labels.json", json.dumps({"Holding something": "1", "Approaching x": "0"}))
    entry = {"label": "holding a cup", "placeholders": ["a cup"]}
    train = write(
        "train.json", json.dumps([{"id": "22", "template": "Holding [something]", **entry}])
    )
    val = write(
        "validation.json", json.dumps([{"id": "1", "template": "Approaching [x]", **entry}])
    )
    test = write("test.json", json.dumps([{"id": "3"}]))
    assert import_("sthv2", labels, train, val, test) == 0
    assert index().classes == ("Approaching x", "Holding something")
    assert content(index()) == {
        "train": [("22", "22.webm", (1,), 8)],
        "val": [("1", "1.webm", (0,), 8)],
    }
    assert import_("sthv2", train, val, "--classes", labels) == 0
    wrong = write("train.json", json.dumps([{"id": "22", "template": "Holding [some things]"}]))
    capsys.readouterr()
    assert import_("sthv2", labels, wrong) == 3
    assert "entry 1 of" in (error := capsys.readouterr().err)
    assert "the nearest is 'Holding something'" in error


def test_activitynet_json(
    videos: Videos, frames: Videos, write: Write, import_: Import, index: ReadIndex
) -> None:
    videos("v_-a.mp4", "deep/v_b.webm")
    frames("v_c")
    database = {
        id_: {"subset": subset, "annotations": [{"label": label} for label in labels]}
        for id_, subset, labels in [
            ("-a", "training", ["Surfing", "Archery", "Surfing"]),
            ("b", "validation", ["Archery"]),
            ("c", "training", ["Archery"]),
            ("d", "testing", []),
        ]
    }
    source = write("activity_net.v1-3.min.json", json.dumps({"database": database}))
    assert import_("activitynet", source) == 0
    assert index().classes == ("Archery", "Surfing")
    assert content(index()) == {
        "train": [("-a", "v_-a.mp4", (1, 0), 8), ("c", "v_c", (0,), 4)],
        "val": [("b", "deep/v_b.webm", (0,), 8)],
    }


def test_fcvid_official_files_and_lists(
    videos: Videos, frames: Videos, write: Write, import_: Import, index: ReadIndex
) -> None:
    videos("panda/a.mp4", "panda/b.mp4")
    names = write("FCVID_VideoName_TrainTestSplit.txt", "panda/a.mp4 train\npanda/b.mp4 test\n")
    matrix = "\n".join(
        " ".join("1" if one in ones else "0" for one in range(239)) for ones in ({5}, {5, 238})
    )
    labels = write("FCVID_Label.txt", matrix)
    assert import_("fcvid", labels, names) == 0
    assert content(index()) == {
        "train": [("panda/a.mp4", "panda/a.mp4", (5,), 8)],
        "test": [("panda/b.mp4", "panda/b.mp4", (5, 238), 8)],
    }
    assert import_("fcvid", names) == 3
    frames("panda/c")
    assert import_("fcvid", write("fcvid_val_split.txt", "panda/c,4,0,17\n")) == 0
    assert (len(index().classes), index().split("val")[0].labels) == (239, (0, 17))


def test_ucf101_folder(
    videos: Videos, write: Write, import_: Import, index: ReadIndex, capsys: Captured
) -> None:
    videos("Archery/v_Archery_g08_c01.avi", "Archery/v_Archery_g01_c01.avi", "Biking/v_x.avi")
    classes = write("lists/classInd.txt", "1 Archery\r\n2 Biking\r\n")
    write("lists/trainlist02.txt", "Archery/v_Archery_g08_c01.avi 1\r\nBiking/v_x.avi 2\r\n")
    test = write("lists/testlist02.txt", "Archery/v_Archery_g01_c01.avi\r\n")
    assert import_("ucf101", classes.parent, "--fold", 2) == 0
    assert index().classes == ("Archery", "Biking")
    assert [video.labels for video in index().split("train")] == [(0,), (1,)]
    assert [video.id for video in index().split("test")] == ["Archery/v_Archery_g01_c01.avi"]
    assert import_("ucf101", test) == 3
    assert "add the file classInd.txt" in capsys.readouterr().err
    assert import_("ucf101", test, classes) == 0
    assert import_("ucf101", classes.parent) == 3
    assert "trainlist01.txt" in capsys.readouterr().err


def test_hmdb51_folder(
    videos: Videos, write: Write, import_: Import, index: ReadIndex, capsys: Captured
) -> None:
    videos("clap/#20 [x]_clap_0.avi", "clap/b_clap_1.avi", "brush_hair/c.avi")
    clap = write("s/clap_test_split1.txt", "#20 [x]_clap_0.avi 1 \nb_clap_1.avi 2 \nz.avi 0 \n")
    write("s/brush_hair_test_split1.txt", "c.avi 1 \n")
    other = write("s/clap_test_split2.txt", "absent.avi 1 \n")
    assert import_("hmdb51", clap.parent) == 0
    assert index().classes == ("brush_hair", "clap")
    assert content(index())["test"] == [("clap/b_clap_1.avi", "clap/b_clap_1.avi", (1,), 8)]
    assert "1 rows left out: in neither part of this fold" in capsys.readouterr().out
    assert import_("hmdb51", clap, other) == 3
    assert "folds [1, 2]" in capsys.readouterr().err


def test_csv_of_ones_own(videos: Videos, write: Write, import_: Import, index: ReadIndex) -> None:
    videos("a, b.mp4", "c.mp4")
    table = write("all.csv", 'path,label,split\n"a, b.mp4",run;jump high,train\nc.mp4,run,val\n')
    assert import_("csv", table) == 0
    assert index().classes == ("jump high", "run")
    assert [video.labels for video in index().videos] == [(1, 0), (1,)]


@pytest.mark.parametrize(("name", "counts"), [("fight", (106, 44)), ("gestures", (119, 57))])
def test_trial_lists_are_imported(
    write: Write, import_: Import, index: ReadIndex, name: str, counts: tuple[int, int]
) -> None:
    folder = shared_data() / name
    lists = [folder / "train.txt", folder / "test.txt"]
    classes = folder / "classes.txt"
    annotations = read_sources(
        map(str, lists),
        lambda text, source: parse_list(text, source.name, split=source.split_or_named()),
    )
    plan = plan_import(
        annotations,
        parse_video_folders([str(folder)]),
        rules=LabelRules(classes=read_class_list(classes)),
        quarantine={},
    )
    found = plan.report.found
    assert (found["train"], found["test"]) == counts
    assert plan.report.refusals(Allowed()) == []
    # Opening all of them would take long.
    lines = lists[0].read_text(encoding="utf-8").splitlines(keepends=True)
    short = write("train.txt", "".join(lines[:: len(lines) // 4]))
    assert import_("mmaction", short, "--videos", folder, "--classes", classes) == 0
    assert all(video.num_frames > 0 for video in index().videos)
