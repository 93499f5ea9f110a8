"""A cache folder of its own for every test, and one small corpus with its tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nat.config import parse
from nat.data.corpus import DataConfig, read_corpus
from nat.data.lines import read_lines
from nat.data.tokenizer import Tokenizers
from nat.data.tokenizer_training import build_tokenizers


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def configure(**options: Any) -> DataConfig:
    return parse(DataConfig, options, "data")


@pytest.fixture
def data() -> Callable[..., DataConfig]:
    return configure


@pytest.fixture(scope="session")
def small_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 embedded pairs, without header."""
    path = tmp_path_factory.mktemp("text") / "small.tsv"
    embedded = read_lines(_embedded("lohelp/valid.tsv.gz"))
    path.write_text("".join(line + "\n" for line, _ in zip(embedded, range(600), strict=False)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizers(small_text: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizers:
    options = {"train": str(small_text), "columns": ["en", "de"], "tokenizer": {"vocabulary_size": 500}}
    config = configure(cache=str(tmp_path_factory.mktemp("cache")), **options)
    return build_tokenizers(config, read_corpus(config, "train"))


def _embedded(name: str) -> Path:
    from nat.data.corpus import embedded_directory

    return embedded_directory() / name
