"""The teacher against itself recomputed from scratch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from builders import VOCABULARIES, make_batch, make_model
from oracles import all_sequences, penalised, plain_beam_search, uncached_greedy, uncached_next

from nat.data.batch import Batch, Source, Target
from nat.data.vocabulary import NUM_SYMBOLS, Symbol, Vocabularies
from nat.errors import ConfigError, DataError
from nat.models.autoregressive import Autoregressive
from nat.models.contract import Translation

VARIANTS: list[dict[str, Any]] = [{}, {"size": {"norm": "post"}}, {"positions": {"kind": "learned", "max_length": 40}}]
LENGTHS = [(4, 1), (1, 1), (6, 1), (3, 1)]


def teacher(**options: Any) -> Autoregressive:
    """Weights larger than at initialisation, so that translations differ and end at different steps."""
    model = make_model("autoregressive", dtype=torch.float64, **options)
    assert isinstance(model, Autoregressive)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "positions" not in name:
                parameter.mul_(1.7)
    return model


def options(**given: Any) -> Any:
    return Autoregressive.Decoding(**({"max_length_factor": 1.0, "max_length_offset": 3} | given))


@torch.no_grad()
def decode(model: Autoregressive, source: Source, **given: Any) -> Translation:
    return model.decode(source, decoding=options(**given))


def hypotheses(found: Translation, row: int) -> list[tuple[tuple[int, ...], float]]:
    listed = zip(found.tokens[row], found.valid[row], found.scores[row].tolist(), strict=True)
    return [(tuple(ids[keep].tolist()), score) for ids, keep, score in listed if score > -torch.inf]


def same(first: list[tuple[tuple[int, ...], float]], second: list[tuple[tuple[int, ...], float]]) -> None:
    assert [tokens for tokens, _ in first] == [tokens for tokens, _ in second]
    assert [score for _, score in first] == pytest.approx([score for _, score in second], abs=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_cached_greedy_is_uncached_token_by_token(variant: dict[str, Any]) -> None:
    lengths = set()
    for seed in range(4):
        model, source = teacher(seed=seed, **variant), make_batch(LENGTHS, seed=seed).source
        found = decode(model, source)
        for row, ids in enumerate(source.to_lists()):
            tokens, score, truncated = uncached_greedy(model, ids, len(ids) + 3)
            same(hypotheses(found, row), [(tuple(tokens), score)])
            assert found.truncated[row].item() == truncated
            assert found.passes[row].item() == len(tokens) + 1
            lengths.add(len(tokens) - len(ids))
    assert len(lengths) > 2  # else finishing at different steps was not tried


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_cached_beam_is_uncached_beam(variant: dict[str, Any], alpha: float) -> None:
    for seed in range(2):
        model, source = teacher(seed=seed, **variant), make_batch(LENGTHS, seed=seed).source
        found = decode(model, source, beam_size=3, num_candidates=3, length_penalty=alpha)
        for row, ids in enumerate(source.to_lists()):
            expected = plain_beam_search(uncached_next(model, ids), len(ids) + 3, beam_size=3, alpha=alpha)
            same(hypotheses(found, row), expected)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"beam_size": 4, "num_candidates": 4},
        {"beam_size": 3, "length_penalty": 0.0},
        {"temperature": 0.7, "num_candidates": 4},
    ],
)
def test_score_is_what_search_reports(given: dict[str, Any]) -> None:
    truncated = 0
    for seed in range(3):
        model, source = teacher(seed=seed), make_batch(LENGTHS, seed=seed).source
        found = decode(model, source, **given)
        truncated += int(found.truncated.sum())
        for row, ids in enumerate(source.to_lists()):
            listed = hypotheses(found, row)
            batch = Batch(Source.from_lists([ids] * len(listed)), Target.from_lists([list(t) for t, _ in listed]))
            with torch.no_grad():
                assert model.score(batch).tolist() == pytest.approx([score for _, score in listed], abs=1e-9)
    assert truncated, "no truncated hypothesis was seen: the test has lost its point"


def test_score_is_the_sum_of_step_by_step_log_probabilities() -> None:
    model, batch = teacher(), make_batch([(4, 3), (2, 0), (5, 6)])
    with torch.no_grad():
        scores = model.score(batch).tolist()
    for source, target, score in zip(batch.source.to_lists(), batch.target.to_lists(), scores, strict=True):
        following, total = uncached_next(model, source), 0.0
        for position, token in enumerate([*target, int(Symbol.EOS)]):
            total += following(tuple(target[:position]))[token].item()
        assert score == pytest.approx(total, abs=1e-9)


def test_score_is_minus_the_plain_loss() -> None:
    model, batch = teacher(label_smoothing=0.1), make_batch([(4, 3), (2, 1)])
    with torch.no_grad():
        terms = model.loss(batch, update=1)
        assert terms["nll"].total.item() == pytest.approx(-model.score(batch).sum().item(), abs=1e-9)
    assert terms["nll"].weight == 0
    assert terms["cross_entropy"].count.item() == 3 + 1 + 2  # every sentence's end is predicted, too


def test_probabilities_of_all_targets_sum_to_one() -> None:
    tiny = Vocabularies(NUM_SYMBOLS + 1, NUM_SYMBOLS + 1, True)  # UNK, EOS and one token
    model = teacher(vocabularies=tiny)
    following = uncached_next(model, [NUM_SYMBOLS, 1])
    everything = list(all_sequences(following, 3))
    unfinished = sum(
        2.718281828459045 ** (score - following(tokens)[int(Symbol.EOS)].item())
        * (1 - following(tokens)[int(Symbol.EOS)].exp().item())
        for tokens, score in everything
        if len(tokens) == 3
    )
    assert sum(2.718281828459045**score for _, score in everything) + unfinished == pytest.approx(1.0)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.5])
def test_a_huge_beam_finds_the_best_of_all_translations(alpha: float) -> None:
    tiny = Vocabularies(NUM_SYMBOLS + 2, NUM_SYMBOLS + 2, True)
    for seed in range(3):
        model = teacher(vocabularies=tiny, seed=seed)
        ids = [NUM_SYMBOLS, NUM_SYMBOLS + 1]
        everything = all_sequences(uncached_next(model, ids), 3)
        best = sorted(everything, key=lambda item: -penalised(item[1], len(item[0]), alpha))[:4]
        found = decode(model, Source.from_lists([ids]), beam_size=4**4, num_candidates=4, length_penalty=alpha,
                       max_length_factor=0.0)  # fmt: skip
        same(hypotheses(found, 0), best)


def test_beam_search_beats_greedy_in_total() -> None:
    total = 0.0
    for seed in range(4):
        model, source = teacher(seed=seed), make_batch(LENGTHS, seed=seed).source
        wide = decode(model, source, beam_size=8, length_penalty=0.0)
        total += (wide.scores[:, 0] - decode(model, source).scores[:, 0]).sum().item()
    assert total > 0


def test_decoding_refuses_options_without_effect() -> None:
    with pytest.raises(ConfigError, match="num_candidates=3: must be at most beam_size=2"):
        Autoregressive.Decoding(beam_size=2, num_candidates=3)
    with pytest.raises(ConfigError, match="beam_size=2: has no effect with temperature"):
        Autoregressive.Decoding(beam_size=2, temperature=0.5)
    with pytest.raises(ConfigError, match="seed=3: has no effect without temperature"):
        Autoregressive.Decoding(seed=3)
    with pytest.raises(ConfigError, match=r"length_penalty=0\.6: has no effect with beam_size=1"):
        Autoregressive.Decoding(length_penalty=0.6)


def test_learned_positions_refuse_what_is_too_long_in_words() -> None:
    model = teacher(positions={"kind": "learned", "max_length": 5})
    with pytest.raises(DataError, match=r"6 positions exceeds positions\.max_length=5"):
        model.net.encode(make_batch([(6, 1)]).source)


def test_sinusoidal_positions_have_no_limit() -> None:
    model = teacher()
    with torch.no_grad():
        assert torch.isfinite(model.score(make_batch([(700, 600)], vocabularies=VOCABULARIES))).all()


def test_label_smoothing_changes_the_loss_but_not_the_likelihood() -> None:
    batch = make_batch([(4, 3), (2, 1)])
    plain, smooth = (
        teacher(label_smoothing=0.0).loss(batch, update=1),
        teacher(label_smoothing=0.3).loss(batch, update=1),
    )
    assert plain["cross_entropy"].total.item() == pytest.approx(plain["nll"].total.item())
    assert smooth["nll"].total.item() == pytest.approx(plain["nll"].total.item())
    assert smooth["cross_entropy"].total.item() != pytest.approx(plain["nll"].total.item())


# --- cross-attention -------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layer", [None, 1, 2])
def test_cross_attention_is_what_scoring_mixes_by(variant: dict[str, Any], layer: int | None) -> None:
    model, batch = teacher(**variant), make_batch([(4, 3), (1, 5), (6, 1)])
    attention = model.net.decoder.stack[-1 if layer is None else layer - 1].cross_attention
    assert attention is not None
    seen: list[tuple[torch.Tensor, ...]] = []
    attend = attention.attend

    def watched(*parts: torch.Tensor) -> torch.Tensor:
        seen.append(parts)
        return attend(*parts)

    attention.attend = watched  # type: ignore[method-assign, assignment]
    model.score(batch)
    ((queries, keys, _, valid),) = seen
    scores = torch.einsum("bhte,bhse->bhts", queries, keys) / queries.size(-1) ** 0.5
    expected = scores.masked_fill(~valid[:, None, None], -torch.inf).softmax(dim=-1).mean(dim=1)
    found = model.cross_attention(batch, layer=layer)
    assert found.shape == (3, 5, 6)
    torch.testing.assert_close(found, expected[:, :-1])  # the last input predicts EOS


@torch.no_grad()
def test_cross_attention_of_a_token_sees_no_later_one_and_no_other_row() -> None:
    model, batch = teacher(), make_batch([(4, 3), (2, 5), (6, 4)])
    whole = model.cross_attention(batch)
    for row, (source, target) in enumerate(zip(batch.source.to_lists(), batch.target.to_lists(), strict=True)):
        for length in range(1, len(target) + 1):
            alone = Batch(Source.from_lists([source]), Target.from_lists([target[:length]]))
            torch.testing.assert_close(model.cross_attention(alone)[0], whole[row, :length, : len(source)])


@pytest.mark.parametrize("layer", [0, 3, -1])
def test_a_layer_that_is_not_there_is_refused(layer: int) -> None:
    with pytest.raises(ConfigError, match=f"attention_layer={layer}: must be one of the decoder's layers, 1 to 2"):
        teacher().cross_attention(make_batch([(2, 2)]), layer=layer)
