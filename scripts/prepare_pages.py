"""Whole pages of the LibreOffice help as data/lohelp-pages has them: python scripts/prepare_pages.py FOLDER OUTPUT

FOLDER holds {train,valid,test}.jsonl.gz, a page a line: "page", "title" {en de fr es}, "paragraphs" [{en de fr es}].
OUTPUT gets the same files with plain columns, "page", "en", ..., "title_en", ...: the paragraphs of a page on one line,
with a space between them.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

LANGUAGES = ("en", "de", "fr", "es")

folder, output = map(Path, sys.argv[1:])
output.mkdir(parents=True, exist_ok=True)
for name in ("train.jsonl.gz", "valid.jsonl.gz", "test.jsonl.gz"):
    lines = []
    for line in gzip.decompress((folder / name).read_bytes()).decode("utf-8").splitlines():
        page = json.loads(line)
        texts = {language: " ".join(paragraph[language] for paragraph in page["paragraphs"]) for language in LANGUAGES}
        titles = {f"title_{language}": page["title"][language] for language in LANGUAGES}
        lines.append(json.dumps({"page": page["page"]} | texts | titles, ensure_ascii=False) + "\n")
    (output / name).write_bytes(gzip.compress("".join(lines).encode("utf-8"), mtime=0))
