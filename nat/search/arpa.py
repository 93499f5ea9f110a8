"""n-gram models in the ARPA format, the text that language model programs exchange.

A back-off model (Katz 1987): log10 p(w | context) of every n-gram that was kept, and for a context the weight with
which an absent n-gram goes to the context without its first word. Words are here the ids of target tokens in
decimal, and <s>, </s> and <unk>; the line `# tokenizer: FINGERPRINT` before \\data\\ says whose ids they are. `nat-lm`
writes such files; those of other programs (KenLM's lmplz, SRILM) serve as well once they have that line.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor

from nat.data.vocabulary import Symbol
from nat.errors import DataError
from nat.files import write_atomically

WORDS = {int(Symbol.BOS): "<s>", int(Symbol.EOS): "</s>", int(Symbol.UNK): "<unk>"}
TOKENS = {word: token for token, word in WORDS.items()}
HEADER = "# tokenizer: "
ZERO = -99.0  # the format's log10 of 0
Ngram = tuple[float, tuple[int, ...], float]  # log10 probability, tokens, log10 back-off weight


@dataclass(frozen=True, eq=False)
class Section:
    """The n-grams of one order. tokens: (N, order). log_probs, backoffs: (N,) natural logarithms."""

    tokens: Tensor
    log_probs: Tensor
    backoffs: Tensor


@dataclass(frozen=True, eq=False)
class Arpa:
    """A file. tokenizer: the fingerprint, None where it has none. sections: of order 1, 2, ..."""

    tokenizer: str | None
    sections: list[Section]


def write_arpa(path: Path, tokenizer: str, orders: Iterable[list[Ngram]]) -> None:
    """Writes the n-grams of order 1, 2, ... Raises DataError if the file cannot be written."""
    sections = list(orders)

    def write(part: Path) -> None:
        with open(part, "w", encoding="utf-8", newline="\n") as file:
            file.write(f"{HEADER}{tokenizer}\n\n\\data\\\n")
            file.writelines(f"ngram {order}={len(ngrams)}\n" for order, ngrams in enumerate(sections, 1))
            for order, ngrams in enumerate(sections, 1):
                file.write(f"\n\\{order}-grams:\n")
                file.writelines(format_ngram(ngram) for ngram in ngrams)
            file.write("\n\\end\\\n")

    write_atomically(path, write)


def format_ngram(ngram: Ngram) -> str:
    log_prob, tokens, backoff = ngram
    words = " ".join(WORDS.get(token, str(token)) for token in tokens)
    return f"{log_prob:.7g}\t{words}" + (f"\t{backoff:.7g}\n" if backoff else "\n")


def read_arpa(path: Path) -> Arpa:
    """Raises DataError naming the line if the file is missing, damaged, or its words are not ids."""
    lines = _Lines()
    try:
        with open(path, encoding="utf-8") as file:
            arpa = _read(lines.of(file))
    except UnicodeDecodeError:
        raise DataError(f"{path}: not an ARPA language model (it is not UTF-8 text)") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise DataError(f"{path}, line {lines.number}: {error}") from None
    return arpa


class _Lines:
    """The lines of a file that are not empty, and the number of the last one."""

    number = 0

    def of(self, file: TextIO) -> Iterator[str]:
        for self.number, line in enumerate(file, 1):
            if line.strip():
                yield line.strip()


def _read(lines: Iterator[str]) -> Arpa:
    tokenizer, counts = None, []
    for line in lines:
        if line.startswith(HEADER):
            tokenizer = line.removeprefix(HEADER)
        elif line.startswith("ngram "):
            counts.append(_number(line.partition("=")[2]))
        elif line == "\\1-grams:":
            break
    else:
        raise ValueError("not an ARPA language model (there is no line \\1-grams:)")
    if not counts:
        raise ValueError("not an ARPA language model (no counts of n-grams before this line)")
    following = [f"\\{order}-grams:" for order in range(2, len(counts) + 1)] + ["\\end\\"]
    return Arpa(
        tokenizer,
        [_section(lines, order, *wanted) for order, wanted in enumerate(zip(counts, following, strict=True), 1)],
    )


def _section(lines: Iterator[str], order: int, count: int, following: str) -> Section:
    """The n-grams up to the line that must follow them."""
    log_probs, backoffs, tokens = [], [], []
    for line in lines:
        if line.startswith("\\"):
            break
        log_prob, *words = line.split()
        backoffs.append(float(words.pop()) if len(words) == order + 1 else 0.0)
        if len(words) != order:
            raise ValueError(f"{order} words are needed between a probability and a back-off weight")
        log_probs.append(float(log_prob))
        tokens.append([TOKENS[word] if word in TOKENS else _number(word) for word in words])
    else:
        line = "the end of the file"
    if line != following or len(tokens) != count:
        raise ValueError(f"{len(tokens)} {order}-grams and then {line}, but {count} and then {following} are announced")
    values = torch.tensor([log_probs, backoffs], dtype=torch.double).clamp(min=ZERO)
    if not values.isfinite().all():
        raise ValueError(f"a probability or back-off weight of the {order}-grams above is not a number")
    return Section(torch.tensor(tokens, dtype=torch.long).view(-1, order), *(values * math.log(10)))


def _number(word: str) -> int:
    if not (word.isascii() and word.isdecimal() and len(word) < 10):
        raise ValueError(f"'{word[:40]}' is not a number (words of the model must be ids of tokens)")
    return int(word)
