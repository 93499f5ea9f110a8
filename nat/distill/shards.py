"""Work in shards of consecutive items: each is done by one rank and written whole or not at all, so that what was
killed goes on with the shards that are missing, and the result depends on neither kills nor ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nat.errors import ConfigError
from nat.files import read_object, write_json, write_text
from nat.progress import Progress
from nat.runs.lock import LOCK
from nat.training.distributed import Ranks

JOB, PARTS = "job.json", "parts"  # of the folder of such work: what it is, and the folder of its shards
COPIED_AT_ONCE = 1 << 20  # bytes
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

    def pieces(self, shard: int) -> Iterator[bytes]:
        """A shard's bytes."""
        with open(self.path(shard), "rb") as file:
            yield from iter(partial(file.read, COPIED_AT_ONCE), b"")

    def copy(self, out: Path) -> None:
        """All shards as one file."""
        with open(out, "wb") as file:
            for shard in range(len(self)):
                file.writelines(self.pieces(shard))

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


def claim(folder: Path, identity: dict[str, Any], *, kind: str, option: str) -> bool:
    """Mark a folder, which exists, as that of this work: whether it was so already. identity: all that the result
    depends on. kind, option: what messages call such work, and the folder. Raises ConfigError if it holds other work,
    DataError if it cannot be written to."""
    if (folder / JOB).is_file():
        earlier = read_object(folder / JOB)
        differing = [key for key in earlier | identity if earlier.get(key) != identity.get(key)]
        if differing:
            raise ConfigError(
                f"{option}: holds {kind} with other {', '.join(differing)}; choose another output, or delete it"
            )
        return True
    if {path.name for path in folder.iterdir()} - {LOCK}:
        raise ConfigError(f"{option}: is not empty and holds no {kind.split()[-1]}; choose another output")
    write_json(folder / JOB, identity)
    return False
