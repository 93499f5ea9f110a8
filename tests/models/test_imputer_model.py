"""The Imputer against its CTC parent, the enumeration of alignments, and oracles that know the answer."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import VOCABULARIES, Literal, command, make_batch, make_model
from oracles import collapse_path, rows_of
from torch import Tensor

from nat.config import parse
from nat.data.batch import Batch, Source, Target
from nat.data.vocabulary import NUM_SYMBOLS, Symbol, Vocabularies
from nat.errors import ConfigError
from nat.models.contract import Translation
from nat.models.ctc import CTC
from nat.models.imputer import Imputer, Schedule
from nat.nn.rng import RowRandom
from nat.nn.slots import Slots
from nat.search.canvas import Fate

BLANK, MASK = int(Symbol.BLANK), int(Symbol.MASK)
A, B = NUM_SYMBOLS, NUM_SYMBOLS + 1
LENGTHS = [(5, 4), (1, 1), (7, 5), (3, 3), (4, 2)]
VARIANTS: list[dict[str, Any]] = [
    {},
    {"alignment": "sample", "masking": "bernoulli"},
    {"training": "imitation", "masking": "block", "mask_block": 3},
    {"training": "imitation", "alignment": "sample", "masking": "bernoulli", "mask_probability": 0.4},
]
SCHEDULES: list[dict[str, Any]] = [
    {"max_passes": 1},
    {"max_passes": 3},
    {"schedule": "block", "block_size": 3},
    {"max_passes": 3, "temperature": 0.7, "num_candidates": 3},
    {"schedule": "block", "temperature": 2.0, "num_candidates": 2, "seed": 5},
]


def log_probs_of(model: Imputer, slots: Slots, memory: Memory, tokens: Tensor, is_known: Tensor) -> Tensor:
    return model.net.head(memory).full(model.states(slots, memory, tokens, is_known))


def imputer(**options: Any) -> Imputer:
    model = make_model("imputer", dtype=torch.float64, **options)
    assert isinstance(model, Imputer)
    return model


def options(**given: Any) -> Imputer.Decoding:
    return parse(Imputer.Decoding, given)


def decoded(model: Imputer, source: Source, **given: Any) -> Translation:
    with torch.no_grad():
        return model.decode(source, decoding=options(**given))


def texts(found: Translation) -> list[list[list[int]]]:
    rows = zip(found.tokens, found.valid, strict=True)
    return [[ids[keep].tolist() for ids, keep in zip(*row, strict=True)] for row in rows]


def canvas(model: Imputer, batch: Batch) -> tuple[Slots, Any]:
    memory = model.net.encode(batch.source)
    return model.split(memory), memory


def masked_log_probs(model: Imputer, batch: Batch) -> Tensor:
    """Of every slot, nothing known."""
    slots, memory = canvas(model, batch)
    return model.net.head(memory).full(model.masked_states(slots, memory))


# --- the CTC parent -----------------------------------------------------------------------------------


@pytest.mark.parametrize("upsampling", [2, 3])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("fast", [False, True])
def test_with_ctc_weights_and_everything_masked_it_is_the_ctc_model(upsampling: int, shared: bool, fast: bool) -> None:
    vocabularies = VOCABULARIES if shared else Vocabularies(NUM_SYMBOLS + 9, NUM_SYMBOLS + 12, False)
    given: dict[str, Any] = {"upsampling": upsampling, "vocabularies": vocabularies, "factored_blank": fast}
    given["decoder"] = {"cross_attention": not fast}
    parent = make_model("ctc", dtype=torch.float64, seed=1, **given)
    assert isinstance(parent, CTC)
    model = imputer(seed=2, **given)
    model.load_state_dict(parent.state_dict())  # strict: every name and shape
    batch = make_batch(LENGTHS, vocabularies=vocabularies)
    with torch.no_grad():
        head, states, _ = parent.states(batch.source)
        expected = head.full(states)
        assert torch.equal(masked_log_probs(model, batch), expected)
        assert torch.equal(model.score(batch), parent.score(batch))
        path = parent.decode(batch.source, decoding=CTC.Decoding())
    found = decoded(model, batch.source, max_passes=1)
    assert torch.equal(found.tokens, path.tokens) and torch.equal(found.valid, path.valid)
    torch.testing.assert_close(found.scores, path.scores)
    assert found.passes.tolist() == [1] * len(batch)


def test_a_run_starts_from_a_ctc_run_in_one_override(small: list[str], tmp_path: Path) -> None:
    parent, folder = tmp_path / "ctc", tmp_path / "imputer"
    quick = [*small, "trainer.max_updates=1", "validation.max_sentences=1"]
    assert command(*quick, "model=ctc", f"run_dir={parent}") == 0
    assert command(*quick, "model=imputer", f"run_dir={folder}", f"init_from={parent}") == 0
    import nat

    translator = nat.load(str(folder))
    assert isinstance(translator.model, Imputer)
    assert len(translator.translate(["Save the file.", ""], max_passes=2)) == 2


@torch.no_grad()
def test_a_known_slot_tells_the_others_and_a_masked_one_tells_nothing() -> None:
    model, batch = imputer(), make_batch([(4, 3)])
    slots, memory = canvas(model, batch)
    nothing = masked_log_probs(model, batch)
    tokens = torch.full((1, 8), BLANK)
    assert torch.equal(log_probs_of(model, slots, memory, tokens, torch.zeros(1, 8).bool()), nothing)
    one = F.one_hot(torch.tensor([2]), 8).bool()
    seen = [log_probs_of(model, slots, memory, tokens.masked_fill(one, token), one) for token in (BLANK, A)]
    for x, y in itertools.combinations([nothing, *seen], 2):
        assert ((x.exp() - y.exp()).abs().amax(2) > 1e-6).all()


# --- training -----------------------------------------------------------------------------------------


def shown(model: Imputer, batch: Batch, update: int) -> tuple[Slots, Tensor, Tensor, Tensor]:
    """Slots, the alignment, what is masked of it, and the log-probabilities: what `loss` works on."""
    source, target = batch.source, batch.target
    slots, memory = canvas(model, batch)
    random = RowRandom.of((source.tokens, source.valid), (target.tokens, target.valid), seed=update)
    alignment = model.expert(slots, memory, target, random.fork(0))
    masked = model.masks(slots, random.fork(1), random.fork(2))
    return slots, alignment, masked, log_probs_of(model, slots, memory, alignment, slots.valid & ~masked)


ROWS = [([A, B, A], [B, A]), ([B], [A, B]), ([A, A], [A]), ([B, A], []), ([A, B], [A, A, B])]


def pairs(*rows: tuple[list[int], list[int]]) -> Batch:
    return Batch(Source.from_lists([s for s, _ in rows]), Target.from_lists([t for _, t in rows]))


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_loss_is_brute_force_over_the_alignments_that_agree(variant: dict[str, Any]) -> None:
    model, batch = imputer(**variant), pairs(*ROWS)
    for update in range(1, 6):
        slots, alignment, masked, log_probs = shown(model, batch, update)
        expected = 0.0
        for b, (_, target) in enumerate(ROWS):
            length, mine = int(slots.lengths[b]), masked[b].tolist()
            path = alignment[b, :length].tolist()
            assert collapse_path(path, BLANK) == target
            total = 0.0
            for other in itertools.product({BLANK, *target}, repeat=length):
                agrees = all(mine[t] or other[t] == path[t] for t in range(length))
                if agrees and collapse_path(other, BLANK) == target:
                    if model.config.training.value == "imitation" and list(other) != path:
                        continue
                    total += math.exp(sum(log_probs[b, t, other[t]].item() for t in range(length) if mine[t]))
            expected -= math.log(total)
        terms = model.loss(batch, update=update)
        name = "imitation" if model.config.training.value == "imitation" else "imputation"
        assert set(terms) == {name, "nll", "unalignable"}
        assert terms[name].total.item() == pytest.approx(expected, abs=1e-9)
        assert terms[name].count.item() == terms["nll"].count.item() == masked.sum().item()
        assert terms["nll"].total.item() == pytest.approx(expected, abs=1e-9) and terms["nll"].weight == 0


def test_masking_everything_is_the_ctc_loss() -> None:
    parent, batch = make_model("ctc", dtype=torch.float64), make_batch(LENGTHS)
    model = imputer(masking="bernoulli", mask_probability=1.0)
    model.load_state_dict(parent.state_dict())
    terms, wanted = model.loss(batch, update=1), parent.loss(batch, update=1)
    torch.testing.assert_close(terms["imputation"].total, wanted["ctc"].total)
    terms["imputation"].total.backward()
    wanted["ctc"].total.backward()
    twins = dict(parent.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, twins[name].grad)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_only_masked_slots_learn(variant: dict[str, Any], smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = imputer(label_smoothing=smoothing, **variant)
    batch = Batch(
        *(type(t).from_lists(t.to_lists() + [[A]]) for t in (make_batch(LENGTHS).source, make_batch(LENGTHS).target))
    )
    too_long = Batch(batch.source, Target.from_lists(batch.target.to_lists()[:-1] + [[A] * 3]))
    leaves = []
    plain = model.states

    def watched(*given: Any) -> Tensor:
        states = plain(*given)
        if states.requires_grad:
            states.retain_grad()
            leaves.append(states)
        return states

    monkeypatch.setattr(model, "states", watched)
    _, alignment, masked, _ = shown(model, too_long, 2)
    leaves.clear()
    model.loss(too_long, update=2)["imitation" if "training" in variant else "imputation"].total.backward()
    (leaf,) = leaves  # the posterior's own pass has no gradient
    assert leaf.grad is not None
    learnt = leaf.grad.abs().sum(2) > 0
    masked[-1] = False  # the pair without an alignment
    assert masked.any() and not masked[:-1].all()
    assert torch.equal(learnt, masked)
    if not smoothing and "training" in variant:
        probabilities = model.net.head_for(None).full(leaf.detach()).exp()
        error = (probabilities - F.one_hot(alignment, probabilities.size(2))) * masked[:, :, None]
        assert torch.allclose(leaf.grad, error @ model.net.embeddings.target.weight, rtol=0, atol=1e-12)


def test_pairs_without_an_alignment_are_counted_and_not_learnable() -> None:
    for variant in VARIANTS:
        model = imputer(**variant)
        batch = pairs(([A, B], [A, B]), ([A], [A, A]), ([B], [A, B, A]))
        assert model.learnable(batch).tolist() == [True, False, False]
        terms, alone = model.loss(batch, update=1), model.loss(pairs(([A, B], [A, B])), update=1)
        assert (terms["unalignable"].total.item(), terms["unalignable"].count.item()) == (2, 3)
        for name in terms.keys() - {"unalignable"}:
            torch.testing.assert_close(terms[name].total, alone[name].total)
            assert terms[name].count == alone[name].count
        sum(term.total for term in terms.values() if term.weight).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        with torch.no_grad():
            assert (model.score(batch) > -torch.inf).tolist() == [True, False, False]


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_of_a_batch_is_the_sum_over_its_rows_with_padding_and_smoothing(variant: dict[str, Any]) -> None:
    model, batch = imputer(label_smoothing=0.1, **variant), make_batch(LENGTHS)
    with torch.no_grad():
        together, alone = model.loss(batch, update=3), [model.loss(row, update=3) for row in rows_of(batch)]
    for name, term in together.items():
        assert term.total.item() == pytest.approx(sum(row[name].total.item() for row in alone), abs=1e-9)
        assert term.count.item() == sum(row[name].count.item() for row in alone)


@torch.no_grad()
def test_smoothing_moves_the_loss_towards_uniform() -> None:
    batch = make_batch(LENGTHS)
    terms = [imputer(label_smoothing=x).loss(batch, update=1)["imputation"].total.item() for x in (0.0, 0.2)]
    model = imputer()
    _, _, masked, log_probs = shown(model, batch, 1)
    allowed = [i for i in range(log_probs.size(2)) if i not in model.net.output.forbidden]
    uniform = -log_probs[:, :, allowed].mean(2)[masked].sum().item()
    assert terms[1] == pytest.approx(0.8 * terms[0] + 0.2 * uniform, abs=1e-9)


def many_masks(num_rows: int, num_slots: int, **given: Any) -> Tensor:
    """The masks (N, A) of as many canvases of this length."""
    slots = Slots(torch.zeros(num_rows, num_slots, 1), torch.ones(num_rows, num_slots, dtype=torch.bool))
    random = RowRandom(torch.arange(num_rows))
    return imputer(**given).masks(slots, random.fork(1), random.fork(2))


def test_masks_follow_their_options() -> None:
    numbers = Counter(many_masks(3000, 6).sum(1).tolist())
    assert set(numbers) == set(range(1, 7)) and min(numbers.values()) > 400
    blocks = many_masks(300, 12, masking="block", mask_block=4).view(-1, 3, 4).sum(2)
    assert (blocks == blocks[:, :1]).all() and blocks.unique().tolist() == [1, 2, 3, 4]
    assert many_masks(50, 24, masking="block").view(-1, 3, 8).sum(2).unique().numel() > 4
    shares = [many_masks(300, 40, masking="bernoulli", **p).double().mean(1) for p in ({"mask_probability": 0.3}, {})]
    assert abs(shares[0].mean() - 0.3) < 0.02 and shares[0].std() < 0.1
    assert abs(shares[1].mean() - 0.5) < 0.05 and shares[1].std() > 0.25


@torch.no_grad()
def test_the_shown_alignment_is_the_best_or_a_sample() -> None:
    batch = make_batch(LENGTHS)
    best, drawn = ([shown(imputer(**p), batch, u)[1].tolist() for u in (1, 2)] for p in ({}, {"alignment": "sample"}))
    assert best[0] == best[1] and drawn[0] != drawn[1] != best[1]


# --- decoding -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [1, 2, 3, 5, 8, None])
def test_blocks_of_b_never_need_more_than_b_passes(block_size: int | None) -> None:
    model, lengths = imputer(upsampling=3), [1, 2, 3, 4, 6, 9, 13]
    given = {} if block_size is None else {"block_size": block_size}
    found = decoded(model, make_batch([(n, 1) for n in lengths]).source, schedule="block", history=True, **given)
    size = block_size or 8
    assert found.passes.tolist() == [min(size, 3 * n) for n in lengths]
    (history,) = found.history
    for b, n in enumerate(lengths):
        for p in range(found.passes[b]):
            written = (history.fate[b, p] == int(Fate.WRITTEN)).nonzero().squeeze(1)
            assert (written < 3 * n).all()
            per_block = Counter((written // size).tolist())
            sizes = {block: min(size, 3 * n - block * size) for block in range(-(-3 * n // size))}
            assert per_block == {block: 1 for block, slots in sizes.items() if p < slots}
        assert (history.fate[b, found.passes[b] :] == int(Fate.NONE)).all()


@pytest.mark.parametrize("max_passes", [1, 2, 3, 4, 8, None])
def test_k_passes_decode_any_length(max_passes: int | None) -> None:
    model, lengths = imputer(), [1, 2, 3, 5, 8, 14, 28, 29]
    given = {} if max_passes is None else {"max_passes": max_passes}
    found = decoded(model, make_batch([(n, 1) for n in lengths]).source, history=True, **given)
    passes = max_passes or 4
    shares = [math.ceil(2 * n / passes) for n in lengths]
    assert found.passes.tolist() == [math.ceil(2 * n / share) for n, share in zip(lengths, shares, strict=True)]
    assert found.passes.max() <= passes
    assert all(
        p == passes for p, n in zip(found.passes.tolist(), lengths, strict=True) if 2 * n >= passes * (passes - 1)
    )
    written = (found.history[0].fate == int(Fate.WRITTEN)).sum(2)
    for row, n, share in zip(written.tolist(), lengths, shares, strict=True):
        assert sum(row) == 2 * n and max(row) == share
    assert not found.truncated.any()


def oracle(model: Imputer, answers: dict[int, list[int]], *, in_order: bool) -> None:
    """Make the model know the alignment of each canvas length. in_order: of a slot it knows the token, and is sure of
    it, only once the slot before is filled; until then it guesses UNK, less sure."""

    def log_probs(slots: Slots, memory: Any, tokens: Tensor, is_known: Tensor) -> Tensor:
        probs = torch.full((*tokens.shape, VOCABULARIES.target_size), 1e-4, dtype=torch.double)
        for b, length in enumerate(slots.lengths.tolist()):
            for t, token in enumerate(answers[length]):
                sure = not in_order or t == 0 or bool(is_known[b, t - 1])
                probs[b, t, token if sure else int(Symbol.UNK)] = 0.9 if sure else 0.5
        return (probs / probs.sum(2, keepdim=True)).log()

    model.states = log_probs  # type: ignore[method-assign, assignment]
    model.net.head = lambda memory: Literal()  # type: ignore[method-assign, assignment]


ANSWERS = {2: [A, BLANK], 4: [A, A, BLANK, A], 6: [BLANK, A, B, B, BLANK, B], 8: [BLANK] * 8}


@pytest.mark.parametrize("given", [given for given in SCHEDULES if "temperature" not in given])
def test_an_oracle_is_followed_under_every_schedule(given: dict[str, Any]) -> None:
    model = imputer()
    oracle(model, ANSWERS, in_order=False)
    source = make_batch([(1, 1), (3, 1), (4, 1), (2, 1)]).source
    found = decoded(model, source, **given)
    assert texts(found) == [[[A]], [[A, B, B]], [[]], [[A, A]]]


def test_the_most_confident_slots_are_committed_first() -> None:
    model = imputer()
    oracle(model, ANSWERS, in_order=True)
    source = make_batch([(1, 1), (3, 1), (4, 1), (2, 1)]).source
    right = [[[A]], [[A, B, B]], [[]], [[A, A]]]
    assert texts(decoded(model, source, max_passes=8)) == right
    assert texts(decoded(model, source, schedule="block", block_size=8)) == right
    assert texts(decoded(model, source, max_passes=1)) != right


@pytest.mark.parametrize("given", SCHEDULES)
def test_scores_are_the_log_probabilities_that_were_committed(given: dict[str, Any]) -> None:
    model, source = imputer(seed=4), make_batch(LENGTHS).source
    found = decoded(model, source, history=True, **given)
    assert len(found.history) == found.tokens.size(1) == given.get("num_candidates", 1)
    with torch.no_grad():
        slots, memory = canvas(model, make_batch(LENGTHS))
        for n, history in enumerate(found.history):
            total, before = torch.zeros(len(source), dtype=torch.double), torch.full(slots.valid.shape, MASK)
            for p in range(history.tokens.size(1)):
                log_probs = log_probs_of(model, slots, memory, before, slots.valid & (before != MASK))
                written = history.fate[:, p] == int(Fate.WRITTEN)
                before = history.tokens[:, p].where(written, before)
                chosen = log_probs.gather(2, before[:, :, None]).squeeze(2)
                total += chosen.masked_fill(~written, 0.0).sum(1)
            torch.testing.assert_close(found.scores[:, n].double(), total, rtol=1e-6, atol=1e-6)
            for b, length in enumerate(slots.lengths.tolist()):
                assert texts(found)[b][n] == collapse_path(before[b, :length].tolist(), BLANK)


@pytest.mark.parametrize("given", SCHEDULES)
def test_a_row_does_not_depend_on_batch_or_padding(given: dict[str, Any]) -> None:
    model, source = imputer(seed=3), make_batch([*LENGTHS, (9, 1)]).source
    together = decoded(model, source, **given)
    wider = Source(F.pad(source.tokens, (3, 2), value=A), F.pad(source.valid, (3, 2)))
    for found, rows in ((decoded(model, wider, **given), slice(None)), *(
        (decoded(model, Source.from_lists([row]), **given), slice(b, b + 1)) for b, row in enumerate(source.to_lists())
    )):  # fmt: skip
        assert texts(found) == texts(together)[rows]
        torch.testing.assert_close(found.scores, together.scores[rows])
        assert torch.equal(found.passes, together.passes[rows])


def test_samples_follow_the_temperature_and_the_seed() -> None:
    model, source = imputer(seed=3), make_batch([(1, 1)]).source
    with torch.no_grad():
        log_probs = masked_log_probs(model, make_batch([(1, 1)]))[0]
    for temperature in (0.5, 1.5):
        given = {"max_passes": 1, "temperature": temperature, "num_candidates": 1000}
        found = decoded(model, source, history=True, **given)
        drawn = torch.stack([history.tokens[0, 0] for history in found.history])  # (N, A)
        shares = F.one_hot(drawn, log_probs.size(1)).double().mean(0)
        expected = (log_probs / temperature).softmax(1)
        assert ((shares - expected).abs() <= 5 * (expected * (1 - expected) / 1000).sqrt() + 1e-12).all()
    few = {"max_passes": 3, "temperature": 2.0, "num_candidates": 4}
    long = make_batch([(6, 1)]).source
    first, again, other = (texts(decoded(model, long, seed=seed, **few)) for seed in (1, 1, 2))
    assert first == again != other
    assert len({tuple(candidate) for candidate in first[0]}) > 1


# --- refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"block_size": 4}, "block_size=4: has no effect without schedule=block"),
        ({"schedule": "block", "max_passes": 3}, "max_passes=3: has no effect with schedule=block"),
        ({"num_candidates": 2}, "num_candidates=2: needs temperature"),
        ({"max_passes": 0}, "max_passes=0: must be at least 1"),
        ({"schedule": "blocks"}, "schedule=blocks: allowed are top_k, block"),
        ({"beam_size": 2}, "beam_size: no such option"),
    ],
)
def test_decoding_options_that_make_no_sense_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        options(**given)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mask_probability": 0.5}, "mask_probability=0.5: has no effect without masking=bernoulli"),
        ({"masking": "block", "mask_probability": 0.5}, "mask_probability=0.5: has no effect"),
        ({"mask_block": 4}, "mask_block=4: has no effect without masking=block"),
        ({"masking": "bernoulli", "mask_probability": 0.0}, "mask_probability=0.0: must be more than 0"),
        ({"training": "ctc"}, "training=ctc: allowed are marginal, imitation"),
    ],
)
def test_model_options_that_make_no_sense_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        imputer(**given)
    assert message in str(error.value)


def test_passes_of_the_defaults() -> None:
    assert (options().schedule, options().passes) == (Schedule.TOP_K, 4)
    assert options(schedule="block").passes == 8
    assert options(schedule="block", block_size=5).passes == 5


def test_the_canvas_limits_the_source() -> None:
    model = imputer(upsampling=3, positions={"kind": "learned", "max_length": 10})
    assert model.max_source_length == 3 and imputer().max_source_length is None
    assert model.learnable(make_batch([(3, 2), (4, 2)])).tolist() == [True, False]
