"""Progress of long work on standard error: a live line on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm


class Progress:
    """Counts units of work, with rate and time left.

    total: units in all, None if not known. start: units done by an earlier run, left out of the rate.
    """

    def __init__(self, name: str, *, total: int | None, unit: str, start: int = 0, interval: float = 15.0) -> None:
        self.name, self.unit, self.total, self.done, self.start = name, unit, total, start, start
        self.interval = interval
        self.began = self.shown = time.monotonic()
        self.live = sys.stderr.isatty()
        self.bar = (
            tqdm(desc=name, total=total, initial=start, unit=unit, dynamic_ncols=True, file=sys.stderr, leave=False)
            if self.live
            else None
        )

    def advance(self, units: int = 1, note: str = "") -> None:
        """`units` more are done; `note` (loss, tokens/s ...) stands behind the bar."""
        self.done += units
        if self.bar is not None:
            if note:
                self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(units)
        elif time.monotonic() - self.shown >= self.interval:
            self.shown = time.monotonic()
            self._print(note)

    def say(self, text: str) -> None:
        """A line of its own that does not disturb the bar."""
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def _print(self, note: str) -> None:
        elapsed = self.shown - self.began
        rate = (self.done - self.start) / elapsed if elapsed else 0.0
        of, left = "", ""
        if self.total is not None:
            of = f"/{self.total}"
            left = f", {tqdm.format_interval((self.total - self.done) / rate)} left" if rate else ""
        text = f"{self.name} {self.done}{of} {self.unit}, {rate:.3g} {self.unit}/s{left}"
        print(text + (f", {note}" if note else ""), file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()
