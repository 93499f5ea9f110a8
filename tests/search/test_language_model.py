"""ARPA files, the automaton against back-off over a dictionary, and fused decoding against enumeration."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path

import pytest
import torch
from builders import VOCABULARIES, make_batch, make_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import ctc_log_likelihood

from nat.data.batch import Batch, Source, Target
from nat.data.vocabulary import NUM_SYMBOLS, Symbol
from nat.errors import ConfigError, DataError
from nat.models.ctc import CTC
from nat.models.dag import DAG
from nat.models.options import LENGTH_BONUS, LM_WEIGHT
from nat.search.arpa import HEADER, Ngram, read_arpa, write_arpa
from nat.search.language_model import Fusion, NgramModel, check_language_model, open_language_model

BOS, EOS, UNK, BLANK = int(Symbol.BOS), int(Symbol.EOS), int(Symbol.UNK), int(Symbol.BLANK)
CPU = torch.device("cpu")
Table = dict[tuple[int, ...], tuple[float, float]]  # n-gram -> log10 of probability and back-off weight


def random_table(seed: int, *, order: int, num_tokens: int, density: float = 0.5) -> Table:
    """Some n-grams over the ids from NUM_SYMBOLS on, each with its context; ends of contexts may be absent."""
    draw = random.Random(seed)
    ordinary = range(NUM_SYMBOLS, num_tokens)
    table: Table = {(BOS,): (-99.0, draw.uniform(-1, 0.3))}
    table |= {(token,): (draw.uniform(-3, 0), draw.uniform(-1, 0.3)) for token in (UNK, EOS, *ordinary)}
    longest = list(table)
    for _ in range(order - 1):
        grown = [(*ngram, token) for ngram in longest if ngram[-1] != EOS for token in (EOS, *ordinary)]
        longest = [ngram for ngram in grown if draw.random() < density]
        table |= {ngram: (draw.uniform(-3, 0), draw.uniform(-1, 0.3)) for ngram in longest}
    return table


def write(path: Path, table: Table, tokenizer: str = "theirs") -> str:
    longest = max(map(len, table))
    orders: list[list[Ngram]] = [
        [(p, ngram, weight) for ngram, (p, weight) in table.items() if len(ngram) == order]
        for order in range(1, longest + 1)
    ]
    write_arpa(path, tokenizer, orders)
    return str(path)


def backed_off(table: Table, context: tuple[int, ...], token: int) -> float:
    """Natural log of p(token | context): the definition."""
    if (*context, token) in table:
        return table[*context, token][0] * math.log(10)
    if not context:
        return table[UNK,][0] * math.log(10)
    return table.get(context, (0.0, 0.0))[1] * math.log(10) + backed_off(table, context[1:], token)


def whole(table: Table, target: tuple[int, ...]) -> float:
    order = max(map(len, table))
    sentence = (BOS, *target, EOS)
    return sum(backed_off(table, sentence[max(0, i - order + 1) : i], sentence[i]) for i in range(1, len(sentence)))


def opened(path: str, num_tokens: int) -> NgramModel:
    return open_language_model(path, num_tokens=num_tokens, device=CPU)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), order=st.integers(1, 4), density=st.sampled_from([0.2, 0.6, 1.0]))
def test_the_automaton_backs_off_as_defined(tmp_path: Path, seed: int, order: int, density: float) -> None:
    num_tokens = NUM_SYMBOLS + 3
    table = random_table(seed, order=order, num_tokens=num_tokens, density=density)
    model = opened(write(tmp_path / f"{seed}-{order}-{density}.arpa", table), num_tokens)
    order = max(map(len, table))  # where no n-gram of an order was drawn, it is lower
    assert (model.order, model.tokenizer) == (order, "theirs")
    ids = range(NUM_SYMBOLS, num_tokens)
    prefixes = [p for length in range(4) for p in itertools.product(ids, repeat=length)]
    width = 5
    padded = torch.tensor([[[*p, *[-1] * (width - len(p))] for p in prefixes]])  # (1, K, L)
    lengths = torch.tensor([[len(p) for p in prefixes]])
    following = torch.tensor([*ids, EOS, UNK])
    gains = Fusion(model, 0.5, 0.25).extension(padded, lengths, following.expand(1, len(prefixes), -1))
    ends = Fusion(model, 0.5, 0.25).ending(padded, lengths)
    scores = model.score(padded[0], lengths[0])
    for k, prefix in enumerate(prefixes):
        context = (BOS, *prefix)[max(0, len(prefix) + 2 - order) :]
        wanted = [0.5 * backed_off(table, context, token) + 0.25 for token in following.tolist()]
        assert gains[0, k].tolist() == pytest.approx(wanted, abs=1e-5)
        assert ends[0, k].item() == pytest.approx(0.5 * backed_off(table, context, EOS), abs=1e-5)
        assert scores[k].item() == pytest.approx(whole(table, prefix), abs=1e-5)


@pytest.fixture
def table() -> Table:
    return random_table(5, order=3, num_tokens=VOCABULARIES.target_size, density=0.2)


@pytest.fixture
def path(table: Table, tmp_path: Path) -> str:
    return write(tmp_path / "lm.arpa", table)


def ctc(seed: int = 0) -> CTC:
    model = make_model("ctc", dtype=torch.float64, seed=seed)
    assert isinstance(model, CTC)
    return model


@pytest.mark.parametrize(("weight", "bonus"), [(0.7, 0.4), (1.5, 0.0), (0.0, 1.2)])
def test_fused_decoding_finds_the_best_of_all_targets(weight: float, bonus: float, path: str, table: Table) -> None:
    """One source token, two slots: every target can be listed."""
    model = ctc()
    ids = [UNK, *range(NUM_SYMBOLS, VOCABULARIES.target_size)]
    targets = [t for length in range(3) for t in itertools.product(ids, repeat=length)]
    everything = {"beam_size": 400, "token_beam": VOCABULARIES.target_size, "num_candidates": 5}
    options = CTC.Decoding(language_model=path, lm_weight=weight, length_bonus=bonus, **everything)
    for token in ids[:4]:
        source = Source.from_lists([[token]])
        with torch.no_grad():
            head, states, _ = model.states(source)
            log_probs = head.full(states)[0]
            found = model.decode(source, decoding=options)
        fused = {
            t: ctc_log_likelihood(log_probs, t, BLANK) + weight * whole(table, t) + bonus * len(t) for t in targets
        }
        best = sorted(fused, key=lambda t: -fused[t])[:5]
        rows = zip(found.tokens[0].tolist(), found.valid[0].sum(1).tolist(), strict=True)
        assert [tuple(row[:length]) for row, length in rows] == best
        assert found.scores[0].tolist() == pytest.approx([fused[t] for t in best], abs=1e-5)


@pytest.mark.parametrize("penalty", [None, 1.0])
def test_targets_of_a_graph_are_fused_alike(penalty: float | None, path: str, table: Table) -> None:
    """Two vertices; null is no length penalty, for that is what the bonus is for."""
    model = make_model("dag", dtype=torch.float64, upsampling=2)
    ids = [UNK, *range(NUM_SYMBOLS, VOCABULARIES.target_size)]
    targets = [list(t) for length in range(3) for t in itertools.product(ids, repeat=length)]
    options = DAG.Decoding(beam_size=400, num_candidates=5, token_beam=20, language_model=path, length_penalty=penalty)
    source = Source.from_lists([[ids[2]]])
    with torch.no_grad():
        scores = model.score(Batch(source.repeat_rows(len(targets)), Target.from_lists(targets))).tolist()
        found = model.decode(source, decoding=options)
    fused = [
        score + LM_WEIGHT * whole(table, tuple(t)) + LENGTH_BONUS * len(t)
        for t, score in zip(targets, scores, strict=True)
    ]
    ranks = [score / max(1, len(t)) ** (penalty or 0.0) for t, score in zip(targets, fused, strict=True)]
    best = sorted(range(len(targets)), key=lambda i: -ranks[i])[:5]
    rows = zip(found.tokens[0].tolist(), found.valid[0].sum(1).tolist(), strict=True)
    assert [row[:length] for row, length in rows] == [targets[i] for i in best]
    assert found.scores[0].tolist() == pytest.approx([fused[i] for i in best], abs=1e-5)


def test_weights_of_zero_change_no_bit_and_defaults_do(path: str) -> None:
    model, source = ctc(), make_batch([(5, 1), (2, 1), (7, 1)]).source
    options = {"beam_size": 6, "num_candidates": 4}
    plain = model.decode(source, decoding=CTC.Decoding(**options))
    zeros = CTC.Decoding(**options, language_model=path, lm_weight=0.0, length_bonus=0.0)
    same = model.decode(source, decoding=zeros)
    assert torch.equal(plain.tokens, same.tokens) and torch.equal(plain.scores, same.scores)
    fused = model.decode(source, decoding=CTC.Decoding(**options, language_model=path))
    assert fused.tokens.shape != plain.tokens.shape or not torch.equal(fused.tokens, plain.tokens)


def test_a_fused_row_does_not_depend_on_its_batch(path: str) -> None:
    model, batch = ctc(), make_batch([(5, 1), (2, 1), (7, 1)])
    options = CTC.Decoding(beam_size=4, num_candidates=3, language_model=path)
    together = model.decode(batch.source, decoding=options)
    for row, tokens in enumerate(batch.source.to_lists()):
        alone = model.decode(Source.from_lists([tokens]), decoding=options)
        width = alone.tokens.size(2)
        assert torch.equal(alone.tokens[0], together.tokens[row, :, :width])
        assert together.valid[row, :, width:].sum() == 0
        torch.testing.assert_close(alone.scores[0], together.scores[row])


def test_null_tries_twenty_tokens(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(self: Fusion, prefixes: torch.Tensor, lengths: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        seen.append(tokens.size(2))
        return torch.zeros_like(tokens, dtype=torch.double)

    monkeypatch.setattr(Fusion, "extension", spy)
    monkeypatch.setattr("nat.models.options.LM_TOKEN_BEAM", 9)  # of 20 ids
    source = make_batch([(1, 1)]).source
    for options in ({"beam_size": 3}, {"beam_size": 12}, {"beam_size": 12, "token_beam": 4}):
        ctc().decode(source, decoding=CTC.Decoding(language_model=path, **options))
    assert seen[::2] == [10, 14, 5]  # and the blank's place


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language_model": "x"}, "language_model=x: has no effect with beam_size=1"),
        ({"beam_size": 4, "lm_weight": 0.5}, "lm_weight=0.5: has no effect without language_model"),
        ({"beam_size": 4, "length_bonus": 0.0}, "length_bonus=0.0: has no effect without language_model"),
        ({"beam_size": 4, "language_model": "x", "lm_weight": math.inf}, "lm_weight=inf: must be a finite number"),
        ({"beam_size": 4, "language_model": "x", "length_bonus": math.nan}, "length_bonus=nan: must be a finite"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CTC.Decoding(**options)


# --- the file --------------------------------------------------------------------------------------

GOOD = """made by some program

\\data\\
ngram 1=4
ngram 2=2

\\1-grams:
-99 <s> -0.3
-1.0 </s>
-1.0 <unk>
-0.5\t7\t-0.25

\\2-grams:
-0.2 <s> 7
-0.1 7 </s>

\\end\\
"""


def load(folder: Path, text: str) -> NgramModel:
    (folder / "lm.arpa").write_text(text, encoding="utf-8")
    return opened(str(folder / "lm.arpa"), NUM_SYMBOLS + 2)


def test_a_file_of_another_program(tmp_path: Path) -> None:
    """Token 8 has the probability of <unk>. A changed file is read anew."""
    model = load(tmp_path, GOOD)
    log10 = model.score(torch.tensor([[7, -1], [8, 7]]), torch.tensor([1, 2])) / math.log(10)
    assert log10.tolist() == pytest.approx([-0.2 - 0.1, (-0.3 - 1.0) + (-0.5) + (-0.1)])
    assert (model.tokenizer, model.order) == (None, 2)
    assert load(tmp_path, GOOD.replace("-0.2 <s> 7", "-0.25 <s> 7")).score(
        torch.tensor([[7]]), torch.tensor([1])
    ).item() == pytest.approx(-0.35 * math.log(10))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\\data\\\nngram 1=4\nngram 2=2", "", "line 5: not an ARPA language model .no counts"),
        ("\\1-grams", "", "not an ARPA language model .there is no line .1-grams:"),
        ("-0.1 7 </s>\n\n\\end\\\n", "", "1 2-grams and then the end of the file, but 2 and then .end"),
        ("ngram 2=2", "ngram 2=3", "line 17: 2 2-grams and then .end., but 3"),
        ("ngram 2=2", "ngram 2=two", "line 5: 'two' is not a number"),
        ("-0.5\t7", "-0.5\tHaus", "line 11: 'Haus' is not a number .words of the model must be ids"),
        ("-0.5\t7", "-0.5\t7 8 9", "line 11: 1 words are needed"),
        ("-0.5\t7", "x\t7", "line 11: could not convert"),
        ("-0.5\t7", "nan\t7", "of the 1-grams above is not a number"),
        ("-0.5\t7", "-0.5\t9", "has token 9, but the ids are below 9"),
        ("-0.5\t7", "-0.5\t999999999999999999999", "line 11: '9+' is not a number"),
        ("-1.0 <unk>", "-1.0 7", "n-gram of order 1 twice"),
        ("-1.0 <unk>", "-1.0 3", "n-gram of order 1 twice"),
        ("-1.0 </s>", "-1.0 8", "has no </s>"),
        ("-1.0 <unk>", "-1.0 6", "has no probability for token 8, and none for <unk>"),
        ("-0.1 7 </s>", "-0.1 <s> 7", "n-gram of order 2 twice"),
    ],
)
def test_damage_is_named_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert GOOD.count(old) == 1
    with pytest.raises(DataError, match=r"^\S+/lm\.arpa(, line \d+)?: [^\n]+$") as error:
        load(tmp_path, GOOD.replace(old, new))
    error.match(message)


def test_an_ngram_without_its_context_is_named(tmp_path: Path, table: Table) -> None:
    context = next(ngram[:2] for ngram in table if len(ngram) == 3)
    path = write(tmp_path / "cut.arpa", {ngram: values for ngram, values in table.items() if ngram != context})
    with pytest.raises(
        DataError, match=rf"cut\.arpa: has the n-gram {context[0]} {context[1]} \d+ without its context"
    ):
        opened(path, VOCABULARIES.target_size)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.arpa: cannot be read \(No such file"):
        opened(str(tmp_path / "none.arpa"), 20)
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    with pytest.raises(DataError, match=r"binary: not an ARPA language model \(it is not UTF-8"):
        opened(str(tmp_path / "binary"), 20)
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory"):
        opened(str(tmp_path), 20)


def test_the_tokenizer_must_be_the_runs_own(path: str, tmp_path: Path) -> None:
    size = VOCABULARIES.target_size
    check_language_model(path, num_tokens=size, tokenizer="theirs")
    with pytest.raises(DataError, match=r"lm\.arpa: was trained with another tokenizer"):
        check_language_model(path, num_tokens=size, tokenizer="ours")
    bare = tmp_path / "bare.arpa"
    bare.write_text(Path(path).read_text(encoding="utf-8").removeprefix(f"{HEADER}theirs\n"), encoding="utf-8")
    with pytest.raises(DataError, match=r"bare\.arpa: does not say whose token ids.*`# tokenizer: ours`"):
        check_language_model(str(bare), num_tokens=size, tokenizer="ours")
    assert read_arpa(bare).tokenizer is None
