"""Translate text with this exported model: python translate.py [--threads N] [FILE ...], standard input without a FILE.

One line in, one line out, whose translation does not depend on the others. Needs the files beside it and three
packages: onnxruntime, sentencepiece, numpy. --threads: sentences that are worked on at once, each by one thread.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import sentencepiece
from onnxruntime import InferenceSession, SessionOptions

UNK, BLANK, FIRST_PIECE, TOKENS = 1, 5, 7, 1024  # ids of special symbols and of the first piece; tokens of a batch


class Model:
    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self.longest, self.collapse = manifest["max_source_tokens"], manifest["collapse"]
        self.tags = tuple(f"<{name}> " for name in manifest["targets"]) or ("",)  # a source begins with one of them
        sides = [path for side in ("source", "target") if (path := folder / "tokenizer" / f"{side}.model").exists()]
        self.source, *_, self.target = [sentencepiece.SentencePieceProcessor(str(path)) for path in sides] * 2
        self.ids = {piece: FIRST_PIECE + i for i, piece in enumerate(ordinary(self.source))}
        self.pieces = [self.target.unk_id()] * FIRST_PIECE + ordinary(self.target)
        self.session = open_session(str(folder / "model.onnx"))

    def encode(self, text: str) -> list[int]:
        return [self.ids.get(piece, UNK) for piece in self.source.encode(text, out_type=int)] if text.strip() else []

    def translate(self, texts: Sequence[str], threads: int = 1) -> list[str]:
        """Raises ValueError for a text that is too long, or without a tag."""
        rows = [self.encode(text) for text in texts]
        for number, (text, row) in enumerate(zip(texts, rows, strict=True), start=1):
            if row and not text.startswith(self.tags):
                raise ValueError(f"line {number}: must begin with {'or '.join(self.tags)}, the language that is wanted")
            if len(row) > self.longest:
                raise ValueError(f"line {number}: {len(row)} tokens, but this model takes at most {self.longest}")
        results, chosen = [""] * len(rows), batches([len(row) for row in rows])
        with ThreadPoolExecutor(threads) as pool:
            answers = pool.map(lambda batch: run(self.session, [rows[i] for i in batch], self.collapse), chosen)
            for batch, answer in zip(chosen, answers, strict=True):
                for i, ids in zip(batch, answer, strict=True):
                    results[i] = self.target.decode([self.pieces[token] for token in ids]) if ids else ""
        return results


def ordinary(model: sentencepiece.SentencePieceProcessor) -> list[int]:
    return [i for i in range(len(model)) if not (model.IsControl(i) or model.IsUnknown(i) or model.IsUnused(i))]


def open_session(graph: str | bytes) -> InferenceSession:
    """graph: its file, or its content. One thread for each call, and none that spins while there is nothing to do."""
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def batches(lengths: Sequence[int]) -> list[list[int]]:
    """The filled rows, the longest first: those of a length together, cut where a batch would have more than TOKENS."""
    found: list[list[int]] = []
    for i in sorted(filter(lengths.__getitem__, range(len(lengths))), key=lengths.__getitem__, reverse=True):
        if not found or lengths[found[-1][0]] != lengths[i] or (len(found[-1]) + 1) * lengths[i] > TOKENS:
            found.append([])
        found[-1].append(i)
    return found


def run(session: InferenceSession, rows: Sequence[Sequence[int]], collapse: bool, **fed: np.ndarray) -> list[list[int]]:
    """What a graph writes for rows of one length, as it knows no padding. collapse: slots (B, A), whose repetitions are
    no tokens; else one sentence at a time. Blanks are no tokens in either. fed: other inputs of the graph."""
    parts = [rows] if collapse else [[row] for row in rows]
    paths = [session.run(["path"], {"tokens": np.array(part, dtype=np.int64), **fed})[0] for part in parts]
    if not collapse:
        return [path[path != BLANK].tolist() for path in paths]
    keep = paths[0] != BLANK
    keep[:, 1:] &= paths[0][:, 1:] != paths[0][:, :-1]
    return [row[kept].tolist() for row, kept in zip(paths[0], keep, strict=True)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    try:
        data = [path.read_bytes() for path in arguments.files] or [sys.stdin.buffer.read()]
        texts = [part.decode("utf-8-sig").removesuffix("\n") for part in data if part]
        lines = [line for text in texts for line in text.split("\n")]
        found = Model(Path(__file__).parent).translate([line.removesuffix("\r") for line in lines], arguments.threads)
    except (OSError, ValueError) as error:
        sys.exit(f"translate.py: {error}")
    sys.stdout.buffer.write("".join(f"{line}\n" for line in found).encode())
