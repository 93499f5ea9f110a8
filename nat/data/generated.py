"""Tasks whose pairs are made from a seed, not read: task:NAME?OPTION=VALUE&OPTION=VALUE as a location."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from nat.config import nearest
from nat.data import tasks
from nat.data.listops import ListOps
from nat.data.recall import Recall
from nat.errors import ConfigError


class Generated(Protocol):
    """Pairs of a task. Row i depends on the options and on i alone."""

    def rows(self, first: int = 0) -> Iterator[dict[str, Any]]:
        """Rows {source, target, line}, see `nat.data.readers`, from number `first` (of 0, 1, ...) on."""
        ...

    def fingerprint(self) -> str:
        """A key of all that the rows depend on."""
        ...


TASKS: dict[str, Callable[[str], Generated]] = {
    "listops": ListOps.parse,
    "recall": Recall.parse,
    **dict.fromkeys(tasks.TASKS, tasks.Task.parse),
}


def parse_task(text: str) -> Generated:
    """What stands after "task:". Raises ConfigError (without the key's name)."""
    name = text.partition("?")[0]
    if name not in TASKS:
        raise ConfigError(f"there is no task '{name}', {nearest(name, list(TASKS))}")
    return TASKS[name](text)
