"""Which sources a system takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from nat.errors import DataError
from nat.evaluation.inputs import Text
from nat.evaluation.system import System
from nat.models.options import DecodingOptions


def system(*, trained: object = 250, model: int | None = None, asked: int | None = None) -> System:
    """Each word is a token. trained: data.filters.max_tokens of the run; model: its own limit."""
    fake = SimpleNamespace(
        model=SimpleNamespace(max_source_length=model),
        encode=lambda sentences, name, **options: [line.split() for line in sentences],
        data_option=lambda name, default: {"max_tokens": trained},
    )
    return System("A", cast(Any, fake), DecodingOptions(), max_source_tokens=asked)


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({}, 1000),
        ({"trained": 300}, 1200),
        ({"trained": "many"}, 1000),
        ({"asked": 7}, 7),
        ({"asked": 7000}, 7000),
        ({"model": 510}, 510),
        ({"asked": 7000, "model": 510}, 510),
    ],
)
def test_the_limit_of_a_source(options: dict[str, Any], limit: int) -> None:
    able = system(**options)
    assert able.longest_source == limit
    able.encode(Text("split test", ["word " * limit], None))
    with pytest.raises(DataError, match=rf"^split test, line 9: {limit + 1} tokens, but at most {limit} are"):
        able.encode(Text("split test", ["", "word " * (limit + 1)], None, lines=[4, 9]))
