"""NAT-CRF: its probabilities against an enumeration, its beam, its transitions."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from builders import make_batch, make_model

from nat.config import parse
from nat.data.batch import Batch, Source, Target
from nat.data.vocabulary import NUM_SYMBOLS, Vocabularies
from nat.models.crf import CRF
from nat.nn.token_transitions import TokenTransitions
from nat.training.objective import objective

A, B = NUM_SYMBOLS, NUM_SYMBOLS + 1
TINY = Vocabularies(NUM_SYMBOLS + 2, NUM_SYMBOLS + 2, True)  # UNK and two tokens
BATCH = make_batch([(5, 4), (1, 1), (7, 5), (3, 3), (4, 3)])
EACH_KIND = pytest.mark.parametrize("kind", ["static", "dynamic"])


def crf(kind: str = "static", **options: Any) -> CRF:
    model = make_model("crf", dtype=torch.float64, **({"transitions": {"kind": kind, "rank": 4}} | options))
    assert isinstance(model, CRF)
    with torch.no_grad():  # as if it had learnt something: transitions of several nats
        model.transitions.before.mul_(3)
        model.net.embeddings.target.weight.mul_(2)
    return model


def every_target(length: int) -> list[list[int]]:
    return [list(target) for target in itertools.product([1, A, B], repeat=length)]


def of_source(source: list[int], targets: list[list[int]]) -> Batch:
    return Batch(Source.from_lists([source] * len(targets)), Target.from_lists(targets))


@EACH_KIND
@pytest.mark.parametrize("length", [1, 3])
def test_scores_of_all_targets_of_a_length_sum_to_its_probability(kind: str, length: int) -> None:
    model = crf(kind, vocabularies=TINY)
    batch = of_source([A, B], every_target(length))
    with torch.no_grad():
        scores = model.score(batch)
        _, lengths = model.length.encode(model.net, batch.source)
    assert scores.exp().sum().item() == pytest.approx(lengths[0, 256 + length - 2].exp().item())
    loss = model.loss(batch, update=1)
    given_length = scores - lengths[:, 256 + length - 2]
    assert loss["nll"].total.item() == pytest.approx(-given_length.sum().item())


@EACH_KIND
def test_decoding_finds_the_best_of_all_targets_of_each_length(kind: str) -> None:
    model = crf(kind, vocabularies=TINY, seed=2, length={"max_offset": 2})
    source, beam = [A, B, A], 4
    with torch.no_grad():
        decoding = CRF.Decoding(length_beam=beam, num_candidates=beam)
        found = model.decode(Source.from_lists([source]), decoding=decoding)
        assert sorted(found.valid[0].sum(dim=1).tolist()) != [3] * beam
        for tokens, valid, score in zip(found.tokens[0], found.valid[0], found.scores[0].tolist(), strict=True):
            targets = every_target(int(valid.sum()))
            scores = model.score(of_source(source, targets))
            assert tokens[valid].tolist() == targets[int(scores.argmax())]
            assert score == pytest.approx(scores.max().item())


def test_neighbours_matter() -> None:
    """The best sequence is not that of the best tokens, each on its own."""
    model, source = crf(), make_batch([(6, 1), (8, 1), (7, 1)]).source
    with torch.no_grad():
        found = model.decode(source, decoding=CRF.Decoding())
        before = found.tokens.clone()
        model.transitions.before.zero_()
        assert not torch.equal(model.decode(source, decoding=CRF.Decoding()).tokens, before)


def test_a_narrow_beam_has_the_reference_and_a_smaller_normaliser() -> None:
    wide, narrow = crf(), crf(beam=3)
    with torch.no_grad():
        exact, high = wide.score(BATCH), narrow.score(BATCH)
        assert torch.isfinite(high).all()
        assert (high >= exact).all()
        assert (high > exact + 1e-6).any()
        source = make_batch([(6, 1), (8, 1)]).source
        found = narrow.decode(source, decoding=CRF.Decoding())
        again = narrow.score(Batch(source, Target(found.tokens[:, 0], found.valid[:, 0])))
    assert torch.allclose(found.scores[:, 0], again)  # what is decoded lies in the beam anyway


def test_the_reference_is_a_candidate_however_improbable() -> None:
    model, batch = crf(beam=2), make_batch([(5, 1), (3, 1), (6, 1)])
    with torch.no_grad():
        memory, lengths = model.length.encode(model.net, batch.source)
        log_probs = model.net.head(memory).full(model.states(batch.source, batch.target.lengths, memory))[:, 0]
        found = model.score(batch) - model.length.log_prob(lengths, batch.source.lengths, batch.target.lengths)
    own = log_probs.gather(1, batch.target.tokens)
    others = log_probs.scatter(1, batch.target.tokens, -torch.inf).amax(dim=1, keepdim=True)
    assert (own < log_probs.topk(2).values[:, 1:]).all()
    assert torch.allclose(found[:, None], own - torch.cat((own, others), dim=1).logsumexp(dim=1, keepdim=True))


def test_samples_have_the_score_of_their_text() -> None:
    model, source = crf(), make_batch([(4, 1), (6, 1)]).source
    with torch.no_grad():
        found = model.decode(source, decoding=CRF.Decoding(temperature=1.5, num_candidates=3))
        for n in range(3):
            again = model.score(Batch(source, Target(found.tokens[:, n], found.valid[:, n])))
            assert torch.allclose(found.scores[:, n], again)


def test_the_objective_is_the_likelihood_and_half_the_word_loss() -> None:
    model = crf(label_smoothing=0.0)
    terms = model.loss(BATCH, update=1)
    with torch.no_grad():
        memory, length_log_probs = model.length.encode(model.net, BATCH.source)
        log_probs = model.net.head(memory).full(model.states(BATCH.source, BATCH.target.lengths, memory))
    words = -log_probs.gather(2, BATCH.target.tokens[:, :, None]).squeeze(2)[BATCH.target.valid].sum()
    assert terms["cross_entropy"].total.item() == pytest.approx(words.item())
    lengths, _ = model.length.loss(length_log_probs, BATCH)
    wanted = (terms["crf"].total + 0.5 * words + 0.1 * lengths) / 16
    assert objective(terms, 16).item() == pytest.approx(wanted.item())
    assert terms["crf"].count == terms["cross_entropy"].count == 16


def test_transitions_are_the_products_of_the_paper() -> None:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(9, (2, 3, 5), generator=generator)
    states = torch.randn(2, 3, 6, generator=generator)
    for kind in ("static", "dynamic"):
        part = TokenTransitions(parse(TokenTransitions.Config, {"kind": kind, "rank": 4}), size=9, dim=6)
        found = part(tokens, states)
        assert found.shape == (2, 2, 5, 5)
        for row, i, k, m in itertools.product(range(2), range(2), range(5), range(5)):
            left, right = part.before[tokens[row, i, k]], part.after[tokens[row, i + 1, m]]
            if part.mix is not None:
                left = left @ part.mix(torch.cat((states[row, i], states[row, i + 1]))).view(4, 4)
            assert found[row, i, k, m].item() == pytest.approx((left @ right).item(), abs=1e-5)
