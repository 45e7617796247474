"""Weights that cannot be fetched: our own paragraph, and nothing of a library's tries before it."""

import logging
from typing import Never

import pytest

from reskd.common.errors import ExperimentError
from reskd.common.models import frame_backbone


def test_tries_of_a_library_are_not_shown_before_our_own_words(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    library = logging.getLogger("huggingface_hub.utils._http")

    def create_model(*_: object, **__: object) -> Never:
        library.warning("Retrying in 1s [Retry 1/5].")
        raise OSError("no network")

    monkeypatch.setattr("timm.create_model", create_model)
    with pytest.raises(ExperimentError, match=r"no network\s+Where its weights cannot be fetched"):
        frame_backbone.FrameBackbone("resnet18", pretrained=True, args={})
    assert caplog.messages == []
    library.warning("afterwards")
    assert caplog.messages == ["afterwards"]
