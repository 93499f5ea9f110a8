"""nat-cache: what nat keeps of your text, and how to be rid of it."""

from __future__ import annotations

from typing import Any

from nat.cli.main import Command, run_command

HELP = """nat-cache: list or clear what nat keeps of the text that it has read: pairs, token ids, tokenizers.

usage: nat-cache [clear=KIND|[KIND,...]] OVERRIDES

  nat-cache
  nat-cache clear=all
  nat-cache clear=[text,tokens] unused_days=30
  nat-cache cache=/scratch/nat

Nothing in the cache is more than a copy: what is missing is made anew, from the same files. The pieces of a build that
was killed stay for a day, so that the same command goes on with them; what is being built is never removed.
"""


def work(config: dict[str, Any]) -> int:
    from nat.config import parse
    from nat.data.cache_contents import CacheConfig, list_or_clear

    clear = config.get("clear")
    print(list_or_clear(parse(CacheConfig, config | ({"clear": [clear]} if isinstance(clear, str) else {}))), end="")
    return 0


def main(arguments: list[str] | None = None) -> None:
    run_command(Command("cache", HELP, work, reads_runs=False), arguments)


if __name__ == "__main__":
    main()
