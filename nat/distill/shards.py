"""Work in shards of consecutive items: each is done by one rank and written whole or not at all, so that what was
killed goes on with the shards that are missing, and the result depends on neither kills nor ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nat.files import write_json, write_text
from nat.progress import Progress
from nat.training.distributed import Ranks

IN_FOLDER = 500  # shards, each of two files: file systems are slow with folders of very many


@dataclass(frozen=True)
class Shards:
    """`total` items in shards of `size`. A shard is FOLDER/000/shard-000123.jsonl, or of another `suffix`, with
    shard-000123.json beside it: what is known of it."""

    folder: Path
    total: int
    size: int
    suffix: str = ".jsonl"

    def __len__(self) -> int:
        return -(-self.total // self.size)

    def items(self, shard: int) -> range:
        """The items of a shard."""
        return range(shard * self.size, min((shard + 1) * self.size, self.total))

    def path(self, shard: int) -> Path:
        return self.folder / f"{shard // IN_FOLDER:03d}" / f"shard-{shard:06d}{self.suffix}"

    def about(self, shard: int) -> Path:
        """The file of what is known of a shard."""
        return self.path(shard).with_suffix(".json")

    @property
    def missing(self) -> list[int]:
        """Shards that are still to be written."""
        return [shard for shard in range(len(self)) if not self.path(shard).is_file()]

    def write(self, shard: int, text: str, about: Any) -> None:
        """about: plain data. The shard last: where it is there, so is what is known of it."""
        write_json(self.about(shard), about)
        write_text(self.path(shard), text)

    def move_into_folders(self) -> None:
        """Shards that an earlier nat wrote into one folder are found where they are looked for."""
        for old in self.folder.glob(f"shard-{'[0-9]' * 6}*{self.suffix}"):
            new = self.path(int(old.stem.removeprefix("shard-")))
            new.parent.mkdir(exist_ok=True)
            old.replace(new)

    def work(self, make: Callable[[int, Progress], None], ranks: Ranks, name: str) -> None:
        """Have the missing shards made, each by the rank that is ready for it first. The main rank shows the progress
        of all."""
        missing = self.missing
        left = sum(len(self.items(shard)) for shard in missing)
        ranks.barrier()  # all have looked before the first one writes
        shown = name if ranks.num_ranks == 1 else f"{name} ({ranks.num_ranks} ranks)"
        with Progress(
            shown, total=self.total, unit="sentences", start=self.total - left, silent=not ranks.is_main
        ) as progress:
            others = 0
            for number in ranks.claims(len(missing)):
                make(missing[number], progress)
                before, others = others, ranks.done_by_others(len(self.items(missing[number])))
                progress.advance(others - before)
        ranks.barrier()
