"""The wiring of COMET, with a fake package: what is loaded, asked and refused."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nat.errors import ConfigError
from nat.scoring.comet import comet_score, open_comet

SOURCES, REFERENCES = ["a", "b"], ["A", "B"]


class Metric:
    def __init__(self, path: str) -> None:
        self.path = path
        self.asked: list[tuple[Any, dict[str, Any]]] = []

    def requires_references(self) -> bool:
        return "free" not in self.path

    def predict(self, samples: Any, **options: Any) -> SimpleNamespace:
        self.asked.append((samples, options))
        return SimpleNamespace(scores=[0.5, 1.0], system_score=0.75)


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    def download_model(name: str) -> str:
        if name == "unknown":
            raise KeyError("not\nsupported")
        return f"/cache/{name}"

    fake = SimpleNamespace(download_model=download_model, load_from_checkpoint=Metric)
    monkeypatch.setitem(sys.modules, "comet", fake)


def test_a_name_is_downloaded_and_a_path_is_not(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "model.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    assert open_comet("some/model", has_references=True).path == "/cache/some/model"
    assert open_comet(str(tmp_path), has_references=True).path == str(checkpoint)
    assert open_comet(str(checkpoint), has_references=True).path == str(checkpoint)


def test_source_translation_and_reference_of_every_sentence() -> None:
    model = Metric("x")
    assert comet_score(model, SOURCES, ["1", "2"], REFERENCES, on_gpu=False) == 0.75
    ((samples, options),) = model.asked
    assert samples == [{"src": "a", "mt": "1", "ref": "A"}, {"src": "b", "mt": "2", "ref": "B"}]
    assert options["gpus"] == 0
    comet_score(model, SOURCES, ["1", "2"], REFERENCES, on_gpu=True)
    assert model.asked[1][1]["gpus"] == 1


def test_a_reference_free_model_needs_none() -> None:
    model = open_comet("free", has_references=False)
    comet_score(model, SOURCES, ["1", "2"], None, on_gpu=False)
    assert model.asked[0][0] == [{"src": "a", "mt": "1"}, {"src": "b", "mt": "2"}]
    with pytest.raises(ConfigError, match=r"^comet=other: needs reference=FILE"):
        open_comet("other", has_references=False)


def test_a_model_that_cannot_be_had() -> None:
    with pytest.raises(ConfigError) as caught:
        open_comet("unknown", has_references=True)
    assert str(caught.value).startswith("comet=unknown: cannot be loaded (")
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "comet", None)
    with pytest.raises(ConfigError, match=r"^comet=x: it cannot be imported .*'nat-translation\[comet\]'"):
        open_comet("x", has_references=True)
