"""Progress of long work on standard error: a live line on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections import deque
from types import TracebackType
from typing import Self

from tqdm import tqdm

RECENT = 60.0  # seconds that a rate is of


class Rate:
    """Units per second in the last RECENT seconds."""

    def __init__(self) -> None:
        self.total = 0
        self._marks = deque([(time.monotonic(), 0)])  # moments, at most two a second, and the total then

    def add(self, units: int) -> None:
        self.total += units
        now = time.monotonic()
        if now - self._marks[-1][0] >= 0.5:
            self._marks.append((now, self.total))
        while len(self._marks) > 2 and now - self._marks[1][0] >= RECENT:
            self._marks.popleft()

    def leave_out(self, seconds: float) -> None:
        """The last `seconds` went into other work."""
        self._marks = deque((moment + seconds, total) for moment, total in self._marks)

    @property
    def per_second(self) -> float:
        began, before = self._marks[0]
        return (self.total - before) / max(1e-9, time.monotonic() - began)


class Progress:
    """Counts units of work, with their recent rate and the time left at that rate.

    total: units in all, None if not known. start: units done by an earlier run. also: another unit that is counted,
    such as tokens, of which the rate alone is told. silent: show nothing.
    """

    def __init__(
        self,
        name: str,
        *,
        total: int | None,
        unit: str,
        start: int = 0,
        interval: float = 15.0,
        also: str = "",
        silent: bool = False,
    ) -> None:
        self.name, self.unit, self.total, self.done, self.also = name, unit, total, start, also
        self.interval, self.silent, self.shown = interval, silent, time.monotonic()
        self.rate, self.other = Rate(), Rate()
        self.bar = (
            tqdm(desc=name, total=total, initial=start, unit=unit, dynamic_ncols=True, file=sys.stderr, leave=False)
            if sys.stderr.isatty() and not silent
            else None
        )

    def advance(self, units: int = 1, note: str = "", *, also: int = 0) -> None:
        """`units` more are done, and of the other unit `also`; `note` (loss ...) stands behind the bar."""
        self.done += units
        self.rate.add(units)
        self.other.add(also)
        if self.bar is not None:
            notes = self._notes(note)
            if notes:
                self.bar.set_postfix_str(notes, refresh=False)
            self.bar.update(units)
        elif not self.silent and time.monotonic() - self.shown >= self.interval:
            self.shown = time.monotonic()
            self._print(note)

    def leave_out(self, seconds: float) -> None:
        """The last `seconds` went into other work: they count for no rate."""
        self.rate.leave_out(seconds)
        self.other.leave_out(seconds)

    def say(self, text: str) -> None:
        """A line of its own that does not disturb the bar."""
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        elif not self.silent:
            print(text, file=sys.stderr, flush=True)

    def _notes(self, note: str) -> str:
        rate = f"{self.other.per_second:,.0f} {self.also}/s" if self.also else ""
        return ", ".join(part for part in (note, rate) if part)

    def _print(self, note: str) -> None:
        rate, of, left = self.rate.per_second, "", ""
        if self.total is not None:
            of = f"/{self.total}"
            left = f", {tqdm.format_interval((self.total - self.done) / rate)} left" if rate else ""
        text = f"{self.name} {self.done}{of} {self.unit}, {rate:.3g} {self.unit}/s{left}"
        print(", ".join(part for part in (text, self._notes(note)) if part), file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()
