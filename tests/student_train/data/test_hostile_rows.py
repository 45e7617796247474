"""Rows of a cache from elsewhere, sealed and absurd: refused with 4, by what is wrong with them."""

from pathlib import Path

import pytest

from reskd.common.cli.main import main
from reskd.teacher_cache.read.reader import CacheReader
from tests.teacher_cache.handling import Rows, extend, reseal
from tests.tiny_experiment import TinyCache, make_tiny_cache

VIDEO = 3
TOP_K = "targets.logit_map={top_k: 2}"


def train(cache: TinyCache, *overrides: str) -> int:
    options = [part for override in overrides for part in ("-o", override)]
    run = str(cache.cache.with_name("run"))
    folder = str(cache.cache)
    return main(["train-student", str(cache.experiment), "--cache", folder, "--run", run, *options])


def test_class_numbers_that_no_class_has_are_refused(
    tiny_cache: TinyCache, capsys: pytest.CaptureFixture[str]
) -> None:
    extend(tiny_cache, targets=("logit_map",), overrides=(TOP_K,))

    def change(rows: Rows, reader: CacheReader) -> None:
        rows["logit_map_ids"][...] = 60_000

    reseal(tiny_cache.cache, VIDEO, change, run=2)
    losses = "student.losses={feature_mse: 0, logit_map_kl: 1}"
    assert train(tiny_cache, TOP_K, losses) == 4
    assert "array logit_map_ids names class 60000 of 3" in capsys.readouterr().err


@pytest.mark.parametrize("column", ["frame_height", "top"])
def test_stored_view_of_another_video_is_refused(
    tiny_cache: TinyCache, capsys: pytest.CaptureFixture[str], tmp_path: Path, column: str
) -> None:
    text = tiny_cache.experiment.read_text()
    tiny_cache.experiment.write_text(text + "targets: {frames: null}\n")
    cache = make_tiny_cache(tiny_cache.experiment, tmp_path / "lean")

    def change(rows: Rows, reader: CacheReader) -> None:
        place = reader.manifest.array("views").attributes["columns"].index(column)
        rows["views"][:, place] = 1_000_000

    reseal(cache.cache, VIDEO, change)
    assert train(cache) == 4
    assert "cannot be cut from this video" in capsys.readouterr().err
