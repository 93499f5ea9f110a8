"""What torchrun would set, and what is left of it."""

from __future__ import annotations

import pytest
import torch
import workers

from nat.errors import ConfigError
from nat.runs.device import choose_device
from nat.training.distributed import Ranks


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"WORLD_SIZE": "2"},
            "WORLD_SIZE=2: RANK, MASTER_ADDR, MASTER_PORT is not set; start several",
        ),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1"}, "WORLD_SIZE=2: MASTER_PORT is not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two: this variable is the number of a rank"),
        (workers.rank_environment(2, 2, "1"), "RANK=2: WORLD_SIZE=2 ranks are 0 to 1"),
        (workers.rank_environment(1, 2, "x"), "WORLD_SIZE=2: no process group ("),
    ],
)
def test_a_description_that_is_not_whole_is_one_line(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as error:
        Ranks.from_environment(torch.device("cpu"))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_the_number_of_a_gpu_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "x")
    with pytest.raises(ConfigError, match="LOCAL_RANK=x: "):
        choose_device("auto")
