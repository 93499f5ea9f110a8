"""What is asked of a translation, from text to tensors."""

from __future__ import annotations

import pytest

from nat.data.batch import Source
from nat.data.tokenizer import Kind, Tokenizer, TokenizerConfig, Tokenizers
from nat.decoding.requests import GAP, NOTHING_WANTED, Request, attach, encode_known, encode_request
from nat.errors import DataError

TEXT = ["Klicken Sie auf OK.", "Die Datei (neu) wird geöffnet.", "Wählen Sie die Objektgruppe aus."] * 4


@pytest.fixture(scope="module", params=[Kind.BPE, Kind.UNIGRAM])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizers.train(TokenizerConfig(vocabulary_size=70, kind=request.param), TEXT, TEXT).target


@pytest.mark.parametrize(
    ("text", "words", "gaps"),
    [
        ("Klicken Sie auf ___.", "Klicken Sie auf.", ["Klicken Sie auf"]),
        ("___ Sie ___", "Sie", ["", "Sie"]),
        ("___", "", [""]),
        ("Die ______ neu", "Die neu", ["Die"]),
        ("Die (___) wird", "Die () wird", ["Die ("]),
    ],
)
def test_gaps_stand_where_the_text_has_them(tokenizer: Tokenizer, text: str, words: str, gaps: list[str]) -> None:
    ids, closed = encode_known(text, tokenizer, "x")
    assert tokenizer.decode([ids])[0].replace(" ", "") == words.replace(" ", "")
    open_at = [gap for gap, shut in enumerate(closed) if not shut]
    assert len(closed) == len(ids) + 1
    assert [tokenizer.decode([ids[:gap]])[0] for gap in open_at] == gaps


def test_words_around_a_gap_have_the_pieces_of_the_whole_sentence(tokenizer: Tokenizer) -> None:
    (whole,) = tokenizer.encode(["Klicken Sie auf OK."])
    (answer,) = tokenizer.encode(["OK"])
    ids, closed = encode_known("Klicken Sie auf ___.", tokenizer, "x")
    gap = closed.index(False)
    assert [*ids[:gap], *answer, *ids[gap:]] == whole


def test_requests_become_rows_of_a_batch(tokenizer: Tokenizer) -> None:
    requests = [
        Request("a", draft="Die Datei"),
        "b",
        Request("c", known=f"Sie {GAP}"),
        Request("d", constraints=("Datei", "Klicken Sie")),
    ]
    wanted = [encode_request(request, tokenizer, "x") for request in requests]
    assert wanted[1] is NOTHING_WANTED
    source = attach(Source.from_lists([[9]] * 4), wanted)
    assert source.draft is not None
    assert source.phrases is not None
    draft, known, phrases = tokenizer.encode(["Die Datei"])[0], tokenizer.encode(["Sie"])[0], source.phrases
    assert source.draft.to_lists() == [draft, [], known, []]
    assert source.draft.fixed.any(dim=1).tolist() == [False, False, True, False]
    assert source.draft.closed[2].tolist()[: len(known) + 1] == [True] * len(known) + [False]
    assert not source.draft.closed[[0, 1, 3]].any()
    assert phrases.valid.sum(dim=(1, 2)).tolist()[:3] == [0, 0, 0]
    found = [ids[real].tolist() for ids, real in zip(phrases.tokens[3], phrases.valid[3], strict=True)]
    assert found == tokenizer.encode(["Datei", "Klicken Sie"])


def test_nothing_asked_adds_nothing() -> None:
    source = attach(Source.from_lists([[9], [9]]), [NOTHING_WANTED] * 2)
    assert source.draft is None
    assert source.phrases is None


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        (Request("a", draft="x", known=f"y {GAP}"), "line 7: a draft and known words exclude each other"),
        (Request("a", known="Datei"), "line 7: the known words 'Datei' have no gap, ___"),
        (Request("a", known=f"漢字 {GAP}"), "line 7: the known text '漢字  ' has characters that the run's vocabulary"),
        (Request("a", constraints=("漢字",)), "line 7: the constraint '漢字' has characters that the run's vocabulary"),
    ],
)
def test_what_cannot_be_kept_is_refused(tokenizer: Tokenizer, request_: Request, line: str) -> None:
    with pytest.raises(DataError, match=line):
        encode_request(request_, tokenizer, "line 7")
