"""The report of an evaluation: what it says, what it escapes, and what a browser makes of it."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reskd.common.cli.main import main
from reskd.common.dataset.index import read_index, write_index
from reskd.common.experiment.load import experiment_tree, load_experiment
from reskd.common.models.checkpoint import save_checkpoint
from reskd.common.models.registry import build_model
from reskd.student_train.report.caches import caches_section
from reskd.student_train.report.page import render
from reskd.student_train.report.plots import Plot, Series, accuracy_against_cost, curves
from reskd.student_train.report.records import TrainingLog, number
from reskd.student_train.report.sections import confused_pairs, shown_classes
from reskd.teacher_cache.read.reader import CacheReader
from tests.tiny_experiment import TinyCache, cut_off, make_tiny_cache, make_tiny_experiment

SCRIPT = "<script>alert(1)</script>"
SHOWN = (SCRIPT, "a \"b\" & 'c'", "\u05e9\u05dc\u05d5\u05dd")
CLASSES = (*SHOWN, *(f"class {number}" for number in range(21)))
"""Three have videos; the others make the matrix wider than a phone."""
FILE = "v\"1\" & <b>'2'.mp4"
RUN = 'stu"dent <i>&'
VOID = {"meta", "img"}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a teacher and two students; names are awkward, one video is unreadable."""
    folder = tmp_path_factory.mktemp("report")
    experiment_file = make_tiny_experiment(folder)
    make_tiny_cache(experiment_file, folder / "cache")
    index = read_index(folder / "index.jsonl")
    videos = [*index.videos]
    first = next(number for number, video in enumerate(videos) if video.split == "train")
    path = index.path_of(videos[first])
    path.rename(path.with_name(FILE))
    own = videos[first].path.rpartition("/")[0] + "/" + FILE
    videos[first] = replace(videos[first], id=own, path=own)
    write_index(folder / "index.jsonl", replace(index, classes=CLASSES, videos=tuple(videos)))
    cut_off(index.path_of(index.split("train")[-1]))
    runs = [folder / "teacher", folder / RUN, folder / "other"]
    for seed, run in enumerate(runs):
        _save_network(experiment_file, run, seed)
    _write_log(runs[1])
    (runs[2] / "events.jsonl").write_text("no event\n")
    options = ["--split", "train", "--device", "cpu", "--cache", str(folder / "cache")]
    options += ["--max-bad", "0.2"]
    page = folder / "report & more"
    assert main(["evaluate", *map(str, runs), *options, "--report", str(page)]) == 0
    assert [path.name for path in page.iterdir()] == ["index.html"]
    return page / "index.html"


def _save_network(experiment_file: Path, run: Path, seed: int) -> None:
    experiment = load_experiment(str(experiment_file))
    torch.manual_seed(seed)
    model = build_model(experiment.teacher.model, num_classes=len(CLASSES))
    save_checkpoint(
        run,
        model,
        role="student" if seed else "teacher",
        spec=experiment.teacher.model,
        size=24 if seed else 48,
        classes=CLASSES,
        experiment=experiment_tree(experiment),
    )


def _start(folder: Path, **other: Any) -> dict[str, Any]:
    """The line of a run that was started with awkward names, from a cache that is there."""
    facts = {
        "command": ["reskd", "train-student", SCRIPT, "--run", FILE, "a \udcff b"],
        "folder": "/home/<b>",
        "learned_from": "cache",
        "cache": str(folder),
        "fingerprint": CacheReader(folder).manifest.fingerprint,
        "teacher_sha256": "5a5a",
        "device": "cuda:0, GPU <i>",
        "processes": 2,
        "threads": 3,
        "versions": {"python": "2.7 &c"},
    }
    return {"event": "start", "epoch": 0, "step": 0, **facts, **other}


def _log_of(run: Path, *lines: dict[str, Any]) -> None:
    (run / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _write_log(run: Path) -> None:
    lines: list[dict[str, Any]] = [
        {"event": "epoch", "epoch": n, "step": n, "cross_entropy": 1 / (n + 1), "train_top1": n / 9}
        for n in range(4)
    ]
    lines.append({"event": "validation", "epoch": 3, "step": 4, "top1": 0.5, "which": "last"})
    _log_of(run, *lines)


class _Outline(HTMLParser):
    """Elements with their attributes and the text inside, and whether every one is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, wanted: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == wanted]


def test_names_are_shown_as_they_are_and_do_nothing(report: Path) -> None:
    text = report.read_text()
    outline = _Outline(text)
    assert outline.open == []
    assert not outline.all("script")
    assert not outline.all("i")
    assert not outline.all("b")
    assert SCRIPT not in text
    for shown in (*SHOWN, FILE, RUN):
        assert any(shown in part for part in outline.texts), shown
    assert not [key for _, attributes in outline.elements for key in attributes if key[:2] == "on"]


def test_page_loads_nothing_from_elsewhere(report: Path) -> None:
    text = report.read_text()
    outline = _Outline(text)
    policies = [each for each in outline.all("meta") if "http-equiv" in each]
    assert policies[0]["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert not outline.all("link")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    sources = [str(image["src"]) for image in outline.all("img")]
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,/9j/") for source in sources)
    links = [each for _, each in outline.elements if "href" in each]
    assert all(str(link["href"]).startswith("#") for link in links)


def test_page_can_be_read_aloud_and_walked_by_keyboard(report: Path) -> None:
    outline = _Outline(report.read_text())
    assert outline.all("html")[0]["lang"] == "en"
    for landmark in ("header", "nav", "main", "footer", "h1"):
        assert len(outline.all(landmark)) == 1, landmark
    first_link = outline.all("a")[0]
    assert (first_link["class"], first_link["href"]) == ("skip", "#main")
    ids = [attributes["id"] for _, attributes in outline.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [each for _, each in outline.elements if "href" in each]
    assert {str(link["href"])[1:] for link in links} <= set(ids)
    assert len(outline.all("caption")) == len(outline.all("table"))
    assert {cell.get("scope") for cell in outline.all("th")} == {"col", "row"}
    assert all(image["alt"] for image in outline.all("img"))
    assert all(drawing["role"] == "img" for drawing in outline.all("svg"))
    assert all(drawing["aria-label"] for drawing in outline.all("svg"))
    regions = [each for each in outline.all("div") if each.get("class") == "wide"]
    assert regions
    assert all(each["tabindex"] == "0" and each["aria-label"] for each in regions)
    assert f"Confusion matrix of {RUN}" in [each["aria-label"] for each in regions]


def test_page_says_what_was_measured_and_how_to_repeat_it(report: Path) -> None:
    text = "".join(_Outline(report.read_text()).texts)
    assert "3 networks on 9 videos, 24 classes" in text
    assert "1 of 1 videos that could not be read" in text
    assert "probabilities (softmax) averaged" in text
    assert "reskd evaluate " in text
    repeated = f"--max-bad 0.2 --report '{report.parent}' --cache {report.parents[1]}"
    assert f"--split train {repeated}" in text
    assert "fingerprint" in text
    assert "backbone: test_resnet" in text
    assert re.search(r"torch2\.\d+", text)
    assert "damaged" in text  # the log of one run
    shown = [int(found) for found in re.findall(r"(\d+) of \d+ videos predicted wrongly", text)]
    assert len(shown) == 2  # of the students
    assert sum(shown) * 2 == len(_Outline(report.read_text()).all("img"))


def test_page_says_how_runs_were_trained_and_shows_their_cache_unasked(
    report: Path, tmp_path: Path
) -> None:
    folder = report.parents[1]
    runs = [tmp_path / run for run in ("recorded", "recorded/best", "odd", "python")]
    for run in runs:
        shutil.copytree(folder / "other", run, ignore=shutil.ignore_patterns("events.jsonl"))
    first, second = _start(folder / "cache"), _start(folder / "cache", epoch=1, step=7)
    _log_of(runs[0], {**first, "command": ["the", "first"]}, second)
    figures = {"cross_entropy": 10**400, "train_top1": "high", "clips": None}
    odd = {"event": "epoch", "epoch": 10**400, "step": 1, **figures}
    _log_of(runs[2], {**first, "command": "reskd"}, odd, {**odd, "cross_entropy": float("nan")})
    _log_of(runs[3], {**first, "command": [], "learned_from": "labels", "cache": None})
    options = ["--split", "train", "--device", "cpu", "--report", str(tmp_path / "page")]
    options += ["--max-bad", "0.2"]
    assert main(["evaluate", *map(str, runs), *options]) == 0
    page = (tmp_path / "page" / "index.html").read_text()
    outline = _Outline(page)
    assert SCRIPT not in page
    assert not outline.all("i")
    text = "".join(outline.texts)
    command = f"reskd train-student '{SCRIPT}' --run "
    assert text.count(command) == 2  # of the run and of its best network
    assert "the first" not in text
    assert text.count("in /home/<b>") == 2
    assert text.count("cuda:0, GPU <i>") == 3
    assert text.count("2, threads in each: 3") == 3
    assert text.count("python 2.7 &c") == 3
    assert text.count("2 times, the last time after 7 steps") == 2
    assert text.count("Its command was not recorded") == 1
    assert text.count("Python code trained it") == 1
    assert text.count("reskd train-student experiment.yaml --run RUN") == 2
    assert text.count("labels alone") >= 1
    assert "recorded, best learned from it" in text
    assert len([each for _, each in outline.elements if each.get("id") == "cache"]) == 1


def test_cache_of_runs_is_shown_once_or_it_is_said_why_not(
    tiny_cache: TinyCache, tmp_path: Path
) -> None:
    cache = tiny_cache.cache
    logs = {
        "a": TrainingLog([_start(cache)], "read"),
        "b": TrainingLog([_start(cache, cache=str(tmp_path / "former")), _start(cache)], "read"),
        "gone": TrainingLog([_start(cache, cache="/<gone>", fingerprint="f0")], "read"),
        "replaced": TrainingLog([_start(cache, fingerprint="f1")], "read"),
        "labels": TrainingLog(
            [_start(cache, fingerprint="not shown", learned_from="labels")], "read"
        ),
        "odd": TrainingLog([_start(cache, fingerprint="f3", cache="\x00")], "read"),
        "old": TrainingLog([], "read"),
    }
    text = _text_of(logs, None)
    assert text.count("readable") == 1
    assert "a, b learned from it." in text
    assert "gone learned from the cache with fingerprint f0. It is not shown: /<gone> is" in text
    own = CacheReader(cache).manifest.fingerprint
    assert f"{cache} is another cache now, with fingerprint {own}. Where it has moved" in text
    assert "fingerprint not shown" not in text
    (cache / "cache.json").write_text("{")
    assert f"a, b learned from the cache with fingerprint {own}. It is not" in _text_of(logs, None)
    assert caches_section({"labels": logs["labels"], "old": logs["old"]}, None) is None


def test_cache_named_with_the_option_is_compared_with_what_the_runs_recorded(
    tiny_cache: TinyCache, tmp_path: Path
) -> None:
    start = _start(tiny_cache.cache)
    moved = tiny_cache.cache.rename(tmp_path / "moved")
    text = _text_of({"a": TrainingLog([start], "read")}, moved)
    assert text.count("readable") == 1
    assert "a learned from it." in text
    assert "is not shown" not in text
    assert "No run here" not in text
    text = _text_of({"a": TrainingLog([{**start, "fingerprint": "f0"}], "read")}, moved)
    assert f"No run here learned from {moved}, named with --cache" in text
    assert text.count("readable") == 1
    assert "a learned from the cache with fingerprint f0. It is not shown" in text
    assert "No run here" not in _text_of({"old": TrainingLog([], "there is none")}, moved)


def _text_of(logs: dict[str, TrainingLog], given: Path | None) -> str:
    section = caches_section(logs, given)
    assert section is not None
    return "".join(_Outline(section).texts)


@pytest.mark.parametrize("value", [None, "1", [], float("nan"), float("inf"), -(10**400), 1e16])
def test_figure_that_cannot_be_drawn_is_none(value: Any) -> None:
    assert number({"loss": value}, "loss") is None
    assert number({"loss": 3}, "loss") == 3.0


def test_images_stop_at_their_limit(
    report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reskd.student_train.report.clips.IMAGE_BYTES", 0)
    folder = report.parents[1]
    arguments = ["evaluate", str(folder / "other"), "--split", "train", "--device", "cpu"]
    assert main([*arguments, "--report", str(tmp_path), "--max-bad", "0.2"]) == 0
    outline = _Outline((tmp_path / "index.html").read_text())
    assert not outline.all("img")
    assert re.search(r"0 of [1-8] videos predicted wrongly", "".join(outline.texts))


def test_texts_that_are_no_text_are_escaped_and_replaced() -> None:
    made = render("unreadable.html", shown=[('<"&\x00\udcff\ud800', "</td>")], total=1)
    assert "<bdi>&lt;&#34;&amp;\\x00\ufffd\ufffd</bdi></th><td>&lt;/td&gt;</td>" in made


def test_matrix_of_many_classes_shows_those_of_the_worst_confusions() -> None:
    confusion = np.zeros((400, 401), np.int64)
    np.fill_diagonal(confusion, 5)
    confusion[[7, 300, 12], [8, 12, 300]] = 9, 4, 2
    confusion[5, 400] = 50  # unreadable: no confusion
    assert confused_pairs(confusion) == [(7, 8, 9), (300, 12, 4), (12, 300, 2)]
    assert shown_classes(confusion) == [7, 8, 12, 300]
    assert shown_classes(confusion, limit=3) == [7, 8]
    assert shown_classes(confusion[:9, :10]) == list(range(9))


def _plots(names: list[str]) -> Iterator[Plot]:
    """Points of one cost, lines, and lines of zeros that end where they begin."""
    series = [
        Series(name=name, points=[(0.01, number / 40)], interval=(0, number / 30))
        for number, name in enumerate(names)
    ]
    yield accuracy_against_cost(series, title="t", y_label="y")
    lines = [replace(one, points=[(1, 0.5), (3, 2.0 + number)], interval=None)
             for number, one in enumerate(series)]  # fmt: skip
    yield curves(lines, title="t", x_label="x", y_label="y")
    flat = [replace(one, points=[(1, 0.0)], interval=None) for one in series]
    yield curves(flat, title="t", x_label="x", y_label="y")


@pytest.mark.parametrize("count", [1, 2, 9, 30])
def test_plots_stay_within_their_drawing_and_tell_their_values(count: int) -> None:
    names = [f"run <{number}>" for number in range(count)]
    for plot in _plots(names):
        outline = _Outline(plot.drawing)
        assert outline.open == []
        assert [text for text in outline.texts if text in names] == names  # of the legend
        assert plot.values.count("run <") == count
        assert "nan" not in plot.drawing
        placed = [each for each in outline.all("text") + outline.all("use") if "x" in each]
        assert len(placed) >= 2 * count  # the names, and the marks of points or ends
        for each in placed:
            assert 0 <= float(each["x"] or -1) <= plot.width
            assert 0 <= float(each["y"] or -1) <= plot.height


@pytest.mark.parametrize("costs", [[3.0], [7, 8], [0.5, 4], [0.01, 0.8], [1e-3, 1, 2e3]])
def test_costs_of_any_range_are_named_by_round_numbers(costs: list[float]) -> None:
    series = [Series(name="a", points=[(cost, 0.5)]) for cost in costs]
    drawn = accuracy_against_cost(series, title="t", y_label="y").drawing
    texts = [text for text in _Outline(drawn).texts if text.strip()]
    named = [float(text) for text in texts[: texts.index("GMACs per video, log scale")]]
    assert 2 <= len(named) <= 8
    assert all(min(costs) / 1.7 <= cost <= max(costs) * 1.7 for cost in named)


@pytest.mark.parametrize("value", [5e-324, 1e15, -1e15, -0.0])
def test_lines_of_extreme_figures_can_be_drawn(value: float) -> None:
    line = Series(name="a", points=[(value, value)])
    assert "nan" not in curves([line], title="t", x_label="x", y_label="y").drawing


def test_plots_are_equal_for_equal_figures_and_follow_the_colours_of_the_page() -> None:
    assert [*_plots(["a", "b"])] == [*_plots(["a", "b"])]
    for plot in _plots(["a", "b"]):
        assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", plot.drawing)) <= {
            *("none", "var(--s0)", "var(--s1)", "var(--paper)", "var(--edge)", "#000000"),
        }


def test_plots_show_names_of_any_script_and_markup_as_they_are() -> None:
    long = "folder/" * 9 + "end"
    for plot in _plots(["_a $x_1$ & <b>", "\u8dd1 \U0001f600", "bad \udcff\x00", "", long]):
        texts = _Outline(plot.drawing).texts
        assert {"_a $x_1$ & <b>", "\u8dd1 \U0001f600", "bad \ufffd\\x00"} <= {*texts}
        assert [text for text in texts if text.startswith("\u2026") and text.endswith("/end")]
        assert long in plot.values


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no chromium")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_browser_shows_the_page_whole_and_asks_for_nothing(
    report: Path, browser: Any, width: int, scheme: str
) -> None:
    messages, requests = [], []
    context = browser.new_context(
        viewport={"width": width, "height": 740}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("dialog", lambda dialog: messages.append(dialog.message))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    assert messages == []
    assert [url for url in requests if not url.startswith("data:")] == [report.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for kind in ("svg", "img"):
        sizes = page.evaluate(
            "kind => [...document.querySelectorAll(kind)].map(each => {"
            " const box = each.getBoundingClientRect();"
            " return [box.left, box.right, box.height, each.complete ? each.naturalWidth : 1] })",
            kind,
        )
        assert sizes
        for left, right, height, loaded in sizes:
            assert 0 <= left < right <= width
            assert height > 20
            assert loaded != 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    style = "getComputedStyle(document.body)"
    ink, paper = page.evaluate(f"[{style}.color, {style}.backgroundColor]")
    light, dark = ((sum(map(int, re.findall(r"\d+", each)))) for each in (paper, ink))
    assert (light > dark) == (scheme == "light")
    context.close()
