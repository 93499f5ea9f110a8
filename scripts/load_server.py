"""nat-serve under load: requests of many clients at once, beside one client's, one after the other.

python scripts/load_server.py URL SOURCE TARGET FILE [--clients 200] [--seconds 60]

FILE: a sentence a line. Each is first translated alone, by one client; then every client asks for them in an order of
its own, on a connection of its own. Every answer must be the one that was given alone. Prints median and 95th
percentile of the time to an answer, and answers a second, of both; ends with 1 where an answer was lost or differs.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import statistics
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from nat.table import markdown_table

HEADERS = {"content-type": "application/json"}


class Client:
    """times: seconds to each answer. wrong: faults, in words."""

    def __init__(self, url: str, source: str, target: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=120)
        self.fixed = {"source": source, "target": target, "format": "text"}
        self.times: list[float] = []
        self.wrong: list[str] = []

    def ask(self, text: str) -> str:
        began = time.perf_counter()
        self.connection.request("POST", "/translate", json.dumps({"q": text} | self.fixed), HEADERS)
        response = self.connection.getresponse()
        answer = json.loads(response.read())
        self.times.append(time.perf_counter() - began)
        if response.status != 200:
            raise ValueError(f"status {response.status}: {answer}")
        return str(answer["translatedText"])

    def work(self, alone: dict[str, str], end: float, seed: int) -> None:
        """Ask until the end, in an order of one's own."""
        order, number = random.Random(seed), 0
        texts = list(alone)
        while time.monotonic() < end:
            text = order.choice(texts)
            number += 1
            try:
                if self.ask(text) != alone[text]:
                    self.wrong.append(f"another answer than alone: {text}")
            except (OSError, ValueError, http.client.HTTPException) as error:
                self.wrong.append(f"request {number}: {error!r}")
                self.connection.close()


def row(name: str, times: list[float], seconds: float) -> list[str]:
    cuts = statistics.quantiles(times, n=20)
    return [name, str(len(times)), f"{1000 * cuts[9]:.1f}", f"{1000 * cuts[18]:.1f}", f"{len(times) / seconds:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in ("url", "source", "target"):
        parser.add_argument(name, metavar=name.upper())
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    texts = list(dict.fromkeys(line for line in given.file.read_text(encoding="utf-8").splitlines() if line.strip()))
    single = Client(given.url, given.source, given.target)
    began = time.monotonic()
    alone = {text: single.ask(text) for text in texts}
    rows = [row("1, one after the other", single.times, time.monotonic() - began)]
    clients = [Client(given.url, given.source, given.target) for _ in range(given.clients)]
    began = time.monotonic()
    end = began + given.seconds
    threads = [
        threading.Thread(target=client.work, args=(alone, end, seed)) for seed, client in enumerate(clients, start=1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times = [seconds for client in clients for seconds in client.times]
    rows.append(row(f"{given.clients} at once", times, time.monotonic() - began))
    print(markdown_table(["clients", "requests", "ms p50", "ms p95", "requests/s"], rows))
    wrong = [fault for client in clients for fault in client.wrong]
    print(f"lost or other answers: {len(wrong)}")
    print(*wrong[:5], sep="\n", end="\n" if wrong else "")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
