"""What nat-serve serves, and the bounds of what it takes. Knows no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nat.config import option
from nat.errors import ConfigError

PAIR = re.compile(r"([A-Za-z0-9_]+)-([A-Za-z0-9_]+)=(.+)")  # a model, by its languages


@dataclass(frozen=True)
class ServedModel:
    source: str
    target: str
    folder: str

    @property
    def name(self) -> str:
        return f"{self.source}-{self.target}"


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Everything that `configs/serve.yaml` holds."""

    models: list[str] = option(help="SOURCE-TARGET=FOLDER of each: a run, an export, or embedded:NAME")
    host: str = option("127.0.0.1", "address that is listened on; 0.0.0.0: every one of this machine")
    port: int = option(5000, "port; 0: any that is free", minimum=0, maximum=65535)
    max_batch: int = option(64, "lines that a model translates together, at most", minimum=1, maximum=100_000)
    wait_ms: float = option(
        3.0, "milliseconds that an idle model waits for more lines after the first", minimum=0, maximum=10_000
    )
    max_waiting: int = option(
        4096, "lines of a model that wait, at most; more are answered 503", minimum=1, maximum=10_000_000
    )
    max_texts: int = option(256, "texts of a request, at most", minimum=1, maximum=1_000_000)
    max_characters: int = option(10_000, "of a text, at most", minimum=1, maximum=100_000_000)
    max_body: int = option(1_000_000, "bytes of a request, at most", minimum=100, maximum=1_000_000_000)
    read_seconds: float = option(10.0, "in which a request must have come", above=0, maximum=86_400)
    max_connections: int = option(1024, "open at once; more are answered 503", minimum=1, maximum=1_000_000)
    num_threads: int = option(1, "sentences that a model works on at once", minimum=1, maximum=1024)

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("models=[]: at least one is needed, for example models=[en-de=embedded:en-de]")
        names = [model.name for model in self.served]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"models: {name} is there twice")

    @property
    def served(self) -> list[ServedModel]:
        """Raises ConfigError for one that is not SOURCE-TARGET=FOLDER."""
        found = []
        for text in self.models:
            match = PAIR.fullmatch(text)
            if match is None:
                raise ConfigError(f"models={text}: SOURCE-TARGET=FOLDER is needed, for example en-de=embedded:en-de")
            found.append(ServedModel(*match.groups()))
        return found
