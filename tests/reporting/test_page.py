"""The page of a report, as a file and in a browser."""

from __future__ import annotations

import html
import itertools
import json
import math
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Page, chromium

from nat.cli.report import main
from nat.decoding.history import CandidateHistory, Pass, SentenceHistory, read_history
from nat.reporting import page as work
from nat.reporting.page import render
from nat.search.canvas import Fate

pytestmark = pytest.mark.timeout(900)  # the first to ask for runs, and for a browser, waits for them
METHODS = {
    "autoregressive": "beam_size=3&num_candidates=3&name=teacher",
    "ctc": "beam_size=3&num_candidates=3&name=CTC",
    "mask_predict": "max_passes=4&length_beam=2&num_candidates=2&name=<b>Mask</b> $x$",
    "imputer": "max_passes=3&name=Imputer",
    "levenshtein": "max_passes=4&max_length_offset=2&name=Levenshtein",
    "dag": "name=DAG",
}
PUBLISHED = Path(__file__).parents[2] / "docs" / "results" / "page.html"
NAMES = [options.rpartition("name=")[2] for options in METHODS.values()]


@pytest.fixture(scope="module")
def folder(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run of each method, with a teacher's scores; the runs have learnt next to nothing."""
    from builders import command

    runs = tmp_path_factory.mktemp("methods")
    for method in METHODS:
        assert command(*small, f"model={method}", f"run_dir={runs / method}", "trainer.max_updates=4") == 0
    entries = [f"{runs / method}?{options}" for method, options in METHODS.items()]
    entries[1] += f"&choose=teacher&teacher={runs / 'autoregressive'}"
    found = tmp_path_factory.mktemp("report")
    with pytest.raises(SystemExit) as stop:
        main(
            [
                f"run_dirs=[{','.join(entries)}]", f"output={found}", "samples=3", "speed_sentences=2", "device=cpu",
                "max_sentences=5",
            ]
        )  # fmt: skip
    assert not stop.value.code
    return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


def data_of(text: str) -> list[dict[str, Any]]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    return json.loads(found)


# --- the file ---------------------------------------------------------------------------------------


def test_the_page_is_one_small_file_that_names_no_host(folder: Path) -> None:
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert len(text.encode()) < 5_000_000
    outside = [link for link in re.findall(r'(?:src|href|action)="([^"]*)"', text) if not link.startswith("#")]
    assert outside == ["data:,"]
    assert set(re.findall(r"https?://[^\s\"'<)]+", text)) <= {
        "http://www.w3.org/2000/svg",  # names, not addresses
        "http://www.w3.org/1999/xlink",
    }


def test_names_and_text_stay_text(folder: Path) -> None:
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert "<b>Mask" not in text
    assert "&lt;b&gt;Mask&lt;/b&gt; $x$" in text
    hostile = "</script><script>alert(1)</script>"
    rows = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    rows[0]["name"] = hostile
    histories = {
        name: [
            SentenceHistory(0, hostile, None, 0, 1, False, [CandidateHistory(hostile, [], -1.0, -1.0, None, None, [])])
        ]
        for name in (hostile, *NAMES[1:])
    }
    text = render(rows, [], None, histories, text=hostile, command=hostile)
    assert hostile not in text
    assert data_of(text)[0]["sentences"][0]["source"] == hostile
    assert "pip install" in text  # nothing was drawn


def test_what_the_page_shows_is_in_the_files_beside_it(folder: Path) -> None:
    text = (folder / "index.html").read_text(encoding="utf-8")
    rows = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in rows] == NAMES
    for row in rows:
        assert row["text"] == "split test, 5 of 150 sentences"
        for shown in (f"{row['bleu']:.2f}", f"{row['ms_per_sentence_p95']:.1f}", f"{row['training_tokens'] / 1e6:.2f}"):
            assert f"<td>{shown}</td>" in text
        assert row["bleu_signature"] in text and row["machine"] in text and row["run_dir"] in text
        groups = row["bleu_by_source_words"]
        assert sum(group["sentences"] for group in groups) == row["num_sentences"] == 5
    charts = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    for chart in charts:
        assert f'<figure id="{chart["name"]}"' in text
        assert (folder / "figures" / f"{chart['name']}.png").read_bytes().startswith(b"\x89PNG")
    assert {"training_loss", "validation_bleu", "passes_by_length"} <= {chart["name"] for chart in charts}
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_the_viewer_has_the_histories(folder: Path) -> None:
    data = data_of((folder / "index.html").read_text(encoding="utf-8"))
    assert [system["name"] for system in data] == NAMES
    for system, file in zip(data, ["teacher", "CTC", "_b_Mask_b_x_", "Imputer", "Levenshtein", "DAG"], strict=True):
        histories = read_history(folder / "histories" / f"{file}.jsonl")
        lines = (folder / "outputs" / f"{file}.txt").read_text(encoding="utf-8").split("\n")
        assert [item["index"] for item in system["sentences"]] == [0, 1, 3]
        for item, history in zip(system["sentences"], histories, strict=True):
            assert item["candidates"][item["chosen"]]["text"] == history.translation.text == lines[item["index"]]
            for shown, candidate in zip(item["candidates"], history.candidates, strict=True):
                assert [each["t"] for each in shown["passes"]] == [each.tokens for each in candidate.passes]
                assert (shown["teacher_score"] is None) == (system["name"] != "CTC")
    assert any(item["collapsed"] for item in (c for s in data[1]["sentences"] for c in s["candidates"]))
    assert len(data[0]["sentences"][0]["candidates"]) == 3


def test_a_page_with_much_to_view_stays_small(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = json.loads((folder / "results.json").read_text(encoding="utf-8"))[:1]
    one = Pass(["x"], [-1.0], [Fate.WRITTEN])
    candidates = [CandidateHistory(str(k), ["x"], -1.0, -1.0, None, None, [one]) for k in range(20)]
    histories = {NAMES[0]: [SentenceHistory(i, "s", "r", 12, 1, False, candidates) for i in range(9)]}
    data, left_out = work.viewer_data(rows, histories)
    assert (len(data[0]["sentences"]), left_out) == (9, 0)
    with_passes = [k for k, each in enumerate(data[0]["sentences"][0]["candidates"]) if each["passes"]]
    assert with_passes == [0, 1, 2, 3, 4, 5, 6, 12]  # the chosen one among them
    monkeypatch.setattr(work, "MOST_VIEWED", len(json.dumps(data, ensure_ascii=False)) // 2)
    data, left_out = work.viewer_data(rows, histories)
    assert 0 < len(data[0]["sentences"]) < 9
    assert len(data[0]["sentences"]) + left_out == 9


def test_the_command_is_as_it_was_typed(folder: Path) -> None:
    text = (folder / "index.html").read_text(encoding="utf-8")
    (command,) = re.findall(r"<pre[^>]*>(nat-report .*?)</pre>", text, flags=re.DOTALL)
    words = shlex.split(html.unescape(command))
    assert words[1].startswith("run_dirs=[/") and "'" not in words[1]
    assert words[-4:] == ["samples=3", "speed_sentences=2", "device=cpu", "max_sentences=5"]


def test_what_is_no_number_is_null() -> None:
    """Of a model that has diverged; NaN is no JSON, and the viewer would not start."""
    shown = work.viewed_pass(Pass(["x", "y"], [math.nan, -math.inf], [Fate.WRITTEN, Fate.KEPT]))
    assert shown == {"t": ["x", "y"], "p": [None, 0.0], "f": "wk"}


def test_systems_of_either_front_are_marked() -> None:
    def row(bleu: float | None, alone: float, together: float) -> dict[str, float | None]:
        return {"bleu": bleu, "ms_per_sentence_p50": alone, "sentences_per_second": together}

    rows = [
        row(30.0, 20.0, 50.0),
        row(20.0, 5.0, 40.0),
        row(19.0, 6.0, 45.0),
        row(10.0, 9.0, 99.0),
        row(None, 1.0, 1e3),
    ]
    assert work.front(rows) == (1, 2, 4)


def test_another_engine_and_another_precision_are_named(folder: Path) -> None:
    row = json.loads((folder / "results.json").read_text(encoding="utf-8"))[0]
    how = [("torch", "fp32"), ("torch", "bf16"), ("ctranslate2", "fp32"), ("ctranslate2", "int8")]
    rows = [row | {"engine": engine, "precision": precision} for engine, precision in how]
    shown = [work.table_row(1, row, ())["model"].removeprefix(row["model"]) for row in rows]
    assert shown == ["", " (bf16)", " (ctranslate2)", " (ctranslate2 int8)"]


# --- in a browser -----------------------------------------------------------------------------------

ROWS = "[...document.querySelectorAll('#passes li')]"
VISIBLE = f"{ROWS}.filter(row => getComputedStyle(row).visibility === 'visible').length"
NOW = f"{ROWS}.findIndex(row => row.classList.contains('now')) + 1"


def choose(page: Page, selector: str, value: int) -> None:
    page.run(
        f"(box => {{ box.value = '{value}'; box.dispatchEvent(new Event('change')); }})"
        f"(document.querySelector('{selector}'))"
    )


def test_the_browser_sees_errors_and_requests(browser: Page, tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text(
        "<img src='http://127.0.0.1:9/x.png'><script>console.error('no'); lost()</script>"
    )
    browser.open(f"file://{tmp_path}/bad.html")
    assert "http://127.0.0.1:9/x.png" in browser.requests
    assert len(browser.errors) >= 2


@pytest.mark.parametrize("of_the_repository", [False, True])
def test_the_page_works_offline_and_the_slider_moves_the_passes(
    browser: Page, folder: Path, of_the_repository: bool
) -> None:
    page = PUBLISHED if of_the_repository else folder / "index.html"
    browser.errors.clear()
    browser.requests.clear()
    browser.size(1280, 900)
    browser.open(f"file://{page}")
    passes = int(browser.run("document.querySelector('#slider').max"))
    assert passes > 1  # it begins with a system of several passes, and with all of them
    assert browser.run(VISIBLE) == browser.run(NOW) == passes
    browser.click("#slider", across=0.01)
    assert browser.run(VISIBLE) == browser.run(NOW) == 1
    assert browser.run("document.querySelector('#position').textContent") == f"pass 1 of {passes}"
    browser.press("ArrowRight")  # the slider has the focus
    assert browser.run(NOW) == 2
    browser.click("#back")
    assert browser.run(NOW) == 1
    browser.click("#passes li.now .token")
    assert "probability" in browser.run("document.querySelector('#detail').textContent")
    assert browser.errors == []
    assert browser.requests == [f"file://{page}"]


def test_every_system_and_sentence_can_be_seen(browser: Page, folder: Path) -> None:
    data = data_of((folder / "index.html").read_text(encoding="utf-8"))
    browser.errors.clear()
    browser.open(f"file://{folder}/index.html")
    for number, system in enumerate(data):
        choose(browser, "#system", number)
        for i, sentence in enumerate(system["sentences"]):
            choose(browser, "#sentence", i)
            candidate = sentence["candidates"][sentence["chosen"]]
            extra = 1 if candidate["collapsed"] is not None or not candidate["passes"] else 0
            assert browser.run(f"{ROWS}.length") == len(candidate["passes"]) + extra
            marks = browser.run("[...document.querySelectorAll('#passes .token.deleted .mark')].length")
            assert marks == sum(each["f"].count("d") for each in candidate["passes"])
            assert browser.run("document.querySelectorAll('#candidates tbody tr').length") == len(
                sentence["candidates"]
            )
            assert browser.run("document.querySelector('#reference').textContent") == sentence["reference"]
    choose(browser, "#system", 2)
    browser.click("#candidates tbody tr:nth-child(2) button")
    assert browser.run("document.querySelector('#candidates tr.shown td').textContent").startswith("2")
    assert browser.errors == []


def test_the_graph_of_a_dag_is_drawn_with_the_path_taken(browser: Page, folder: Path) -> None:
    system = data_of((folder / "index.html").read_text(encoding="utf-8"))[NAMES.index("DAG")]
    browser.errors.clear()
    browser.open(f"file://{folder}/index.html")
    choose(browser, "#system", NAMES.index("DAG"))
    for i, sentence in enumerate(system["sentences"]):
        choose(browser, "#sentence", i)
        (one,) = sentence["candidates"][sentence["chosen"]]["passes"]
        path = [0, *(k for k, fate in enumerate(one["f"], start=1) if fate == "w"), len(one["f"]) + 1]
        steps = {(origin, goal) for origin, goal, _ in one["l"]} | set(itertools.pairwise(path))
        for part, count in (
            (".step", len(steps)),
            (".step.taken", len(path) - 1),
            (".vertex", len(one["f"]) + 2),
            (".vertex.visited", len(path)),
            ("text", len(path) - 2),
        ):
            assert browser.run(f"document.querySelectorAll('#passes .graph {part}').length") == count, part
    choose(browser, "#system", 1)
    assert browser.run("document.querySelectorAll('.graph').length") == 0
    assert browser.errors == []


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("of_the_repository", [False, True])
def test_nothing_is_wider_than_the_screen(browser: Page, folder: Path, width: int, of_the_repository: bool) -> None:
    page = PUBLISHED if of_the_repository else folder / "index.html"
    browser.size(width, 844)
    browser.open(f"file://{page}")
    for number in range(len(METHODS)):
        choose(browser, "#system", number)
        assert browser.run("document.documentElement.scrollWidth") <= width
