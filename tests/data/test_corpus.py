from __future__ import annotations

import gzip
import json
import os
import pwd
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from nat.config import load_yaml, parse
from nat.data import lines
from nat.data.corpus import DataConfig, embedded_directory, read_corpus
from nat.data.readers import Reader
from nat.errors import ConfigError, DataError

PAIRS = [("a cat", "eine Katze"), ("", "leer"), ("naïve \u2028 café", "naiv"), ("end", "  Ende ")]
ROWS = [{"source": en, "target": de, "line": n} for n, (en, de) in enumerate(PAIRS, 1)]
TSV = "".join(f"{en}\t{de}\n" for en, de in PAIRS)


def write(path: Path, text: str | bytes) -> str:
    raw = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return str(path)


def rows(config: DataConfig, split: str = "train") -> list[dict]:
    return list(read_corpus(config, split))


def refusal(config: DataConfig, split: str = "train") -> str:
    with pytest.raises(DataError) as caught:
        rows(config, split)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None, (
        "the user would see a library's traceback"
    )
    return str(caught.value)


# --- formats ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.tsv", "t.txt", "t.tsv.gz"])
@pytest.mark.parametrize("streaming", [False, True])
def test_tsv_without_header(tmp_path, data, name, streaming):
    path = write(tmp_path / name, TSV)
    assert rows(data(train=path, columns=["en", "de"], streaming=streaming)) == ROWS


def test_tsv_with_header_counts_it_as_line_1(tmp_path, data):
    path = write(tmp_path / "t.tsv", "de\tfr\ten\n" + "".join(f"{de}\tx\t{en}\n" for en, de in PAIRS))
    assert rows(data(train=path)) == [row | {"line": row["line"] + 1} for row in ROWS]


@pytest.mark.parametrize("end", ["", ".gz"])
def test_line_aligned_files(tmp_path, data, end):
    files = [write(tmp_path / f"t.{side}{end}", "".join(p[i] + "\n" for p in PAIRS)) for i, side in enumerate("sd")]
    assert rows(data(train=files)) == ROWS


@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "t.jsonl.gz"])
@pytest.mark.parametrize("nested", [False, True])
def test_json_lines(tmp_path, data, name, nested):
    objects = [{"en": en, "de": de, "id": 1} for en, de in PAIRS]
    objects = [{"translation": item} for item in objects] if nested else objects
    path = write(tmp_path / name, "".join(json.dumps(item) + "\n" for item in objects))
    assert rows(data(train=path)) == ROWS


@pytest.mark.parametrize("nested", [False, True])
def test_parquet(tmp_path, data, nested):
    objects = [{"en": en, "de": de} for en, de in PAIRS]
    table = pa.table({"translation": objects}) if nested else pa.Table.from_pylist(objects)
    pq.write_table(table, tmp_path / "t.parquet")
    assert rows(data(train=str(tmp_path / "t.parquet"))) == ROWS


@pytest.mark.parametrize("streaming", [False, True])
def test_a_local_folder_serves_as_hub_dataset(tmp_path, data, streaming):
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("train", "validation"):
        lines = (json.dumps({"translation": {"en": en, "de": de}}) + "\n" for en, de in PAIRS)
        write(folder / f"{name}.jsonl", "".join(lines))
    config = data(train=f"hub:{folder}", valid=f"hub:{folder}", test=f"hub:{folder}", streaming=streaming)
    assert rows(config) == rows(config, "valid") == ROWS
    assert f"hub:{folder}: the test split cannot be loaded" in refusal(config, "test")
    date = os.stat(folder / "train.jsonl")
    write(folder / "train.jsonl", json.dumps({"translation": {"en": "new", "de": "neu"}}) + "\n")
    os.utime(folder / "train.jsonl", ns=(date.st_atime_ns, date.st_mtime_ns))
    assert [row["source"] for row in rows(config)] == ["new"]


@pytest.mark.parametrize("streaming", [False, True])
def test_what_is_wrong_with_a_hub_folder_is_said(tmp_path, data, streaming):
    write(tmp_path / "train.csv", "en,de\na,b\na,b,c,d\n")
    message = refusal(data(train=f"hub:{tmp_path}", streaming=streaming))
    assert message.startswith(f"hub:{tmp_path}: the train split cannot be loaded (")
    assert "Expected 2 fields in line 3, saw 4" in message


def test_large_files_of_a_hub_folder_are_read_in_pieces(tmp_path):
    from nat.data.hub import folder_digest

    with open(tmp_path / "large", "wb") as file:
        file.truncate(1 << 25)
    tracemalloc.start()
    try:
        folder_digest(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_columns_of_the_result(tmp_path, data):
    corpus = read_corpus(data(train=write(tmp_path / "t.tsv", TSV), columns=["en", "de"]), "train")
    assert {name: feature.dtype for name, feature in corpus.features.items()} == {
        "source": "string",
        "target": "string",
        "line": "int64",
    }
    assert corpus.cache_files, "the corpus must be memory-mapped"


def test_byte_order_mark_and_crlf_are_not_text(tmp_path, data):
    path = write(tmp_path / "t.tsv", b"\xef\xbb\xbfen\tde\r\na\tb\r\n")
    assert rows(data(train=path)) == [{"source": "a", "target": "b", "line": 2}]


OWN_DEFAULTS = {
    "pages": {"filters": {"max_tokens": 2048}},
    "titles": {"filters": {"max_tokens": 512, "max_ratio": None}},
}  # where a corpus needs others than DataConfig's
EMBEDDED = [
    ("lohelp", (38679, 1053, 1088)),
    ("lohelp4", (31492, 886, 841)),
    ("lohelp4_multitarget", (94476, 2658, 2523)),
    ("lohelp4_tagged", (94476, 2658, 2523)),
    ("pages", (2177, 81, 68)),
    ("titles", (2177, 81, 68)),
]


@pytest.mark.parametrize(("name", "counts"), EMBEDDED)
def test_embedded_corpora_and_their_yaml(name, counts):
    node = load_yaml(embedded_directory().parent / "configs" / "data" / f"{name}.yaml")
    config = parse(DataConfig, node, "data")
    assert len(read_corpus(config, "valid")) == counts[1]
    assert len(read_corpus(config, "test")) == counts[2]


@pytest.mark.parametrize("name", [name for name, _ in EMBEDDED] + ["files"])
def test_yaml_lists_every_option_with_a_comment(name):
    from nat.config import to_plain

    path = embedded_directory().parent / "configs" / "data" / f"{name}.yaml"
    node, default = load_yaml(path), to_plain(DataConfig())
    assert list(node) == list(default)
    for key in ("tokenizer", "filters"):
        assert node[key] == default[key] | OWN_DEFAULTS.get(name, {}).get(key, {})
    uncommented = [line for line in path.read_text().splitlines() if "#" not in line]
    assert uncommented == ["tokenizer:"]


def test_titles_are_those_of_the_pages_in_each_language():
    node = load_yaml(embedded_directory().parent / "configs" / "data" / "titles.yaml")
    row = read_corpus(parse(DataConfig, node, "data"), "test")[0]
    assert row["source"].startswith("You can call LibreOffice Basic macros from Python scripts")
    assert len(row["source"].split()) == 100
    assert row["target"] == "Calling Basic Macros from Python"
    assert row["cut"]
    french = parse(DataConfig, node | {"source": "fr", "target": "title_fr", "source_words": None}, "data")
    row = read_corpus(french, "test")[0]
    assert row["source"].startswith("Il est possible d'appeler des routines")
    assert len(row["source"].split()) > 300
    assert row["target"] == "Appel de Basic depuis Python"
    assert "cut" not in row


# --- the beginning of each source -------------------------------------------------------------------

LONG = "one  two three\nein\n a b\tc d \nvier\n\nleer\n  a b \nzwei\n"


@pytest.mark.parametrize("streaming", [False, True])
def test_only_the_first_words_of_a_source_are_read(tmp_path, data, streaming):
    lines = LONG.split("\n")
    files = [write(tmp_path / name, "\n".join(lines[i:8:2]) + "\n") for i, name in enumerate(("s.en", "t.de"))]
    found = rows(data(train=files, source_words=2, streaming=streaming))
    assert [row["source"] for row in found] == ["one  two", " a b", "", "  a b "]
    assert [row["target"] for row in found] == ["ein", "vier", "leer", "zwei"]
    assert [row["cut"] for row in found] == [True, True, False, False]
    whole = rows(data(train=files, streaming=streaming))  # kept in the cache under another key
    assert [row["source"] for row in whole] == lines[0:8:2]
    assert not any("cut" in row for row in whole)


def test_fertilities_count_whole_sources(data):
    with pytest.raises(ConfigError, match=r"source_words=5: fertilities=f count whole sources"):
        data(train="t.jsonl", fertilities="f", source_words=5)


# --- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.tsv", "en\tde\na\tb\na\n", "{} line 3: 1 column, but 2 are expected (en, de)"),
        ("t.tsv", "en\tde\na\tb\tc\n", "{} line 2: 3 columns, but 2 are expected (en, de)"),
        (
            "t.tsv",
            "en\tfr\na\tb\n",
            "{} line 1: the header has no column 'de' (it has: en, fr); name the columns with data.columns "
            + "if the file has no header line",
        ),
        ("t.tsv", b"en\tde\na\tb\nc\td\xff\n", "{} line 3: not UTF-8 (byte 0xff at position 4)"),
        ("t.tsv", "", "{}: the file holds no sentence pairs"),
        ("t.tsv", "en\tde\n", "{}: the file holds no sentence pairs"),
        ("t.jsonl", "", "{}: the file holds no sentence pairs"),
        ("t.jsonl", '{"en": "a", "de": "b"}\n{"en": "a", "fr": "b"}\n', "{} line 2: no 'de' (there is: en, fr)"),
        ("t.jsonl", '{"en": "a", "de": 3}\n', "{} line 1: 'de' is int, text is needed"),
        ("t.jsonl", '{"en": null, "de": "b"}\n', "{} line 1: 'en' is null, text is needed"),
        ("t.jsonl", "3\n", "{} line 1: not a JSON object"),
        ("t.jsonl", '{"en": \n', "{} line 1: not a JSON object (Expecting value: line 1 column 8 (char 7))"),
        (
            "t.jsonl",
            '{"en": "\\ud800", "de": "b"}\n',
            "{} line 1: 'en' holds half of a surrogate pair, which is no character",
        ),
        ("t.parquet", "PAR1 no PAR1", "{}: not a Parquet file, or a damaged one ("),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_errors_name_file_and_line(tmp_path, data, name, content, message, streaming):
    path = write(tmp_path / name, content)
    found = refusal(data(train=path, streaming=streaming))
    wanted = message.format(path)
    assert found.startswith(wanted) if wanted.endswith("(") else found == wanted


def test_with_columns_given(tmp_path, data):
    path = write(tmp_path / "t.tsv", "a\tb\na\tb\tc\n")
    assert refusal(data(train=path, columns=["en", "de"])) == f"{path} line 2: 3 columns, but 2 are expected (en, de)"
    path = write(tmp_path / "t.tsv", "en\tde\na\tb\n")
    assert "line 1: this is a header line; leave data.columns null" in refusal(data(train=path, columns=["en", "de"]))


def test_parquet_without_the_column(tmp_path, data):
    pq.write_table(pa.table({"de": ["b"], "fr": ["c"]}), tmp_path / "t.parquet")
    assert f"{tmp_path}/t.parquet row 1: no 'en' (there is: de)" == refusal(data(train=str(tmp_path / "t.parquet")))
    pq.write_table(pa.table({"es": ["b"], "fr": ["c"]}), tmp_path / "t.parquet")
    assert "t.parquet: no column 'en' (columns: es, fr)" in refusal(data(train=str(tmp_path / "t.parquet")))


@pytest.mark.parametrize("lines", [(3, 5), (5, 3)])
def test_unequal_numbers_of_lines(tmp_path, data, lines):
    files = [write(tmp_path / f"t.{n}", "x\n" * n) for n in lines]
    expected = f"{files[0]} has {lines[0]} lines but {files[1]} has {lines[1]}: line-aligned files need equally many"
    assert refusal(data(train=files)) == expected


def test_missing_file_and_folder(tmp_path, data):
    (tmp_path / "folder.tsv").mkdir()
    assert refusal(data(train=f"{tmp_path}/no.tsv")) == f"{tmp_path}/no.tsv: there is no such file"
    assert refusal(data(train=f"{tmp_path}/folder.tsv")) == f"{tmp_path}/folder.tsv: this is a folder, a file is needed"
    assert "no.jsonl: there is no such file" in refusal(data(train=f"{tmp_path}/no.jsonl", streaming=True))


def test_damaged_parquet(tmp_path, data):
    pq.write_table(pa.table({"en": ["a"] * 9, "de": ["b"] * 9}), tmp_path / "t.parquet")
    raw = bytearray((tmp_path / "t.parquet").read_bytes())
    raw[10:40] = b"\xff" * 30
    assert refusal(data(train=write(tmp_path / "t.parquet", bytes(raw)))).startswith(f"{tmp_path}/t.parquet: ")


def test_damaged_gzip(tmp_path, data):
    whole = gzip.compress("".join(f"{n}\t{n * n}\n" for n in range(5000)).encode())
    path = tmp_path / "t.tsv.gz"
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for raw in (whole[:-400], bytes(flipped), b"not gzip at all"):
        path.write_bytes(raw)
        message = refusal(data(train=str(path), columns=["en", "de"]))
        assert message.startswith(f"{path}: the gzip file is damaged or cut short after line ") or (
            raw == bytes(flipped) and message.startswith(f"{path} line ")
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": "a.en"}, "data.train=a.en: cannot tell the format"),
        ({"valid": ["a", "b", "c"]}, "data.valid=['a', 'b', 'c']: 3 files are listed, a source and a target file"),
        ({"columns": ["en", "fr"]}, "data.target=de: data.columns has no such column"),
        ({"train": "x\0y.tsv"}, "data.train='x\\x00y.tsv': no text or path has a NUL character"),
        ({"limit": 0}, "data.limit=0: must be at least 1"),
        ({"treain": "x"}, "data.treain: no such option, did you mean 'train'?"),
    ],
)
def test_impossible_configuration(data, options, message):
    with pytest.raises(ConfigError) as caught:
        data(**options)
    assert message in str(caught.value)


def test_a_split_that_is_not_given(data):
    with pytest.raises(ConfigError, match=r"data.valid: no text is given; a file, hub:NAME or embedded:"):
        read_corpus(data(), "valid")


def test_unwritable_cache(tmp_path, data):
    write(tmp_path / "file", "x")
    config = data(train=write(tmp_path / "t.tsv", "en\tde\na\tb\n"), cache=f"{tmp_path}/file/cache")
    assert refusal(config).startswith(f"the cache folder {tmp_path}/file/cache cannot be written (Not a directory)")
    assert "data.cache" in refusal(config)


def test_full_disk(tmp_path, data, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pa, "record_batch", full)
    config = data(train=write(tmp_path / "t.tsv", "en\tde\na\tb\n"))
    assert "cannot be written (No space left on device): choose another with data.cache" in refusal(config)


# --- lines that cannot be read ----------------------------------------------------------------------

BAD = {
    "t.tsv": b"en\tde\na\tb\nlonely\n\xff\tx\n\nc\td\n\n",
    "t.jsonl": b'{"en": "a", "de": "b"}\n{"en": 3, "de": "b"}\n{"en"\n[]\n{"en": "c", "de": "d"}\n',
    "t.tsv.gz": b"en\tde\na\tb\n\t\t\nc\td\n",
}


@pytest.mark.parametrize(("name", "numbers"), [("t.tsv", [3, 4, 5]), ("t.jsonl", [2, 3, 4]), ("t.tsv.gz", [3])])
@pytest.mark.parametrize("streaming", [False, True])
def test_bad_lines_are_skipped_where_that_is_asked_for(tmp_path, data, name, numbers, streaming):
    path = write(tmp_path / name, BAD[name])
    found = rows(data(train=path, on_bad_line="skip", streaming=streaming))
    assert [(row["source"], row["target"]) for row in found if not row["malformed"]] == [("a", "b"), ("c", "d")]
    assert [row["line"] for row in found if row["malformed"]] == numbers
    assert f"line {numbers[0]}: " in refusal(data(train=path, streaming=streaming))


def test_a_bad_line_of_one_of_two_files_leaves_the_others_aligned(tmp_path, data):
    files = [write(tmp_path / "s", b"a\n\xff\nc\n"), write(tmp_path / "t", b"A\nB\nC\n")]
    found = rows(data(train=files, on_bad_line="skip"))
    assert [row["source"] + row["target"] for row in found] == ["aA", "", "cC"]
    write(tmp_path / "t", b"A\nB\n")
    assert "line-aligned files need equally many" in refusal(data(train=files, on_bad_line="skip"))


def test_the_rest_of_a_line_that_is_too_long_is_not_another_line(tmp_path, data, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 20)
    path = write(tmp_path / "t.tsv", "a\tb\n" + "x\t" * 30 + "y\nc\td\n")
    found = rows(data(train=path, columns=["en", "de"], on_bad_line="skip"))
    assert [(row["line"], row["source"]) for row in found] == [(1, "a"), (2, ""), (3, "c")]


def test_a_header_that_does_not_fit_is_no_bad_line(tmp_path, data):
    path = write(tmp_path / "t.tsv", "en\tfr\na\tb\n")
    assert "the header has no column 'de'" in refusal(data(train=path, on_bad_line="skip"))


# --- cache -----------------------------------------------------------------------------------------


def test_the_cache_is_reused_by_content(tmp_path, data, monkeypatch):
    path = write(tmp_path / "t.tsv", TSV)
    config = data(train=path, columns=["en", "de"])
    first = read_corpus(config, "train")
    moved = data(train=write(tmp_path / "other.tsv", TSV), columns=["en", "de"])
    with monkeypatch.context() as patch:
        patch.setattr(Reader, "rows", lambda self: pytest.fail("read again"))
        assert list(read_corpus(moved, "train")) == ROWS
    date = os.stat(path)
    write(tmp_path / "t.tsv", TSV.replace("cat", "dog"))  # the same name, size and date
    os.utime(path, ns=(date.st_atime_ns, date.st_mtime_ns))
    second = read_corpus(config, "train")
    assert second[0]["source"] == "a dog"
    assert first[0]["source"] == "a cat"
    assert first._fingerprint != second._fingerprint


def test_how_a_file_is_read_is_part_of_the_key(tmp_path, data):
    path = write(tmp_path / "t.tsv", "en\tde\na\tb\n")
    assert rows(data(train=path, source="de", target="en"))[0]["source"] == "b"
    assert rows(data(train=path))[0]["source"] == "a"


SCRIPT = """
import os, sys, itertools
from nat.config import parse
from nat.data import readers
from nat.data import lines
from nat.data.corpus import DataConfig, read_corpus
path, killed = sys.argv[1:]
if killed == "yes":
    read_pairs = readers.Reader._pairs
    def until_killed(self, *paths):
        for number, row in enumerate(read_pairs(self, *paths)):
            if number == 15000:
                os._exit(9)
            yield row
    readers.Reader._pairs = until_killed
print(len(read_corpus(parse(DataConfig, {"train": path, "columns": ["en", "de"]}, "data"), "train")))
"""


def run(path: str, killed: str) -> subprocess.Popen:
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"PYTHONPATH": root}
    command = [sys.executable, "-c", SCRIPT, path, killed]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def unfinished(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_dir() and path.suffix in (".part", ".incomplete")][:1]


def test_the_folder_of_a_live_build_stays(tmp_path, data, cache):
    path = write(tmp_path / "t.tsv", TSV)
    (cache / "text" / ".other.part").mkdir(parents=True)
    with FileLock(cache / "text" / ".other.lock"):
        read_corpus(data(train=path, columns=["en", "de"]), "train")
        assert unfinished(cache) == [cache / "text" / ".other.part"]
    read_corpus(data(train=path, columns=["en", "de"]), "train")
    assert unfinished(cache) == []


def test_a_user_without_a_home_is_told_of_the_cache_option(tmp_path, data, monkeypatch):
    def unknown(user: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("NAT_CACHE")
    message = refusal(data(train=write(tmp_path / "t.tsv", TSV), columns=["en", "de"]))
    assert message == "the cache folder ~/.cache/nat: this user has no home; name another with data.cache or NAT_CACHE"


def test_a_killed_run_leaves_no_half_corpus_and_two_ranks_share_one(tmp_path, data, cache):
    path = write(tmp_path / "t.tsv", "".join(f"{n}\t{n}\n" for n in range(20000)))
    killed = run(path, "yes")
    killed.communicate(timeout=60)
    assert killed.returncode == 9
    assert len(unfinished(cache)) == 1
    read_corpus(data(train=write(tmp_path / "other.tsv", TSV), columns=["en", "de"]), "train")
    assert unfinished(cache) == []
    ranks = [run(path, "no") for _ in range(2)]
    for rank in ranks:
        out, error = rank.communicate(timeout=60)
        assert (out, rank.returncode) == ("20000\n", 0), error
