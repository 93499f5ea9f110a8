"""What a kind of self-attention with a longest sequence lets a model take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from builders import MODELS, draft_of, make_batch, make_model

from nat.config import Component, parse
from nat.data.batch import Source
from nat.errors import DataError
from nat.models.contract import TranslationModel
from nat.models.kermit import Kermit
from nat.nn.transformer import Encoder, Size

KIND = {"_target_": "nat.nn.attention.linformer.LinformerAttention", "num_keys": 3}
LIMIT = 9  # positions
WHERE = {"encoder": {"encoder"}, "decoder": {"attention"}}
PAIRS = [
    (4, 3),
    (4, 4),
    (4, 5),
    (5, 4),
    (3, 2),
    (2, 3),
    (2, 4),
    (8, 8),
    (9, 7),
    (7, 9),
    (9, 8),
    (8, 9),
    (9, 9),
    (8, 10),
]
PAIRS += [(10, 9), (10, 2), (2, 10), (1, 1)]
Fits = Callable[[int, int], bool]
IN_ENCODER: dict[str, Fits] = dict.fromkeys(MODELS, lambda s, t: s <= LIMIT)
IN_ENCODER["kermit"] = lambda s, t: s + t + 4 <= LIMIT  # both sides and their four ends
IN_DECODER: dict[str, Fits] = {
    "vanilla": lambda s, t: t <= LIMIT,
    "refinement": lambda s, t: t <= LIMIT,
    "mask_predict": lambda s, t: t <= LIMIT,
    "ctc": lambda s, t: 2 * s <= LIMIT,
    "dag": lambda s, t: 4 * s <= LIMIT,
    "imputer": lambda s, t: 2 * s <= LIMIT,
    "insertion": lambda s, t: t + 2 <= LIMIT,
    "levenshtein": lambda s, t: 2 * t + 2 <= LIMIT,  # a draft of the target's length, and all of the target
    "edit_flow": lambda s, t: 2 * t + 2 <= LIMIT,  # the same
}


def limited(name: str, where: str, **overrides: Any) -> TranslationModel:
    kind = KIND | {"max_length": LIMIT}
    given = {"encoder": {"encoder": {"attention": kind}}, "attention": {"attention": kind}}
    for part in WHERE[where]:
        overrides |= given[part] if part == "encoder" or name in IN_DECODER else {}
    return make_model(name, **overrides)


EACH = pytest.mark.parametrize(
    ("name", "where"), [(name, where) for name in MODELS for where in WHERE if where == "encoder" or name in IN_DECODER]
)


@EACH
def test_pairs_that_are_too_long_are_not_learnable_and_all_others_are_learnt(name: str, where: str) -> None:
    model, plain = limited(name, where), make_model(name)
    batch = make_batch(PAIRS, vocabularies=model.vocabularies)
    rules = [rule[name] for rule, part in ((IN_ENCODER, "encoder"), (IN_DECODER, "attention")) if part in WHERE[where]]
    expected = [all(fits(*pair) for fits in rules) for pair in PAIRS]
    found = model.learnable(batch)
    assert found.tolist() == (plain.learnable(batch) & torch.tensor(expected)).tolist()
    assert 0 < found.sum() < len(PAIRS)
    kept = batch.select(found)
    for term in model.train().loss(kept, update=1).values():
        assert torch.isfinite(term.total)


def longest(model: TranslationModel) -> Source:
    """A source that the model just takes, and a short one."""
    assert model.max_source_length is not None
    return make_batch([(model.max_source_length, 1), (1, 1)], vocabularies=model.vocabularies).source


@EACH
def test_what_it_takes_is_translated(name: str, where: str) -> None:
    model = limited(name, where)
    if model.max_source_length is None:
        source = make_batch([(7, 1), (1, 1)], vocabularies=model.vocabularies).source
    else:
        source = longest(model)
    with torch.no_grad():
        found = model.decode(source, decoding=type(model).Decoding())
    limit = LIMIT if model.max_target_length is None else model.max_target_length
    if where != "encoder":
        assert found.valid.sum(dim=2).max() <= limit


@pytest.mark.parametrize("name", ["ctc", "mask_predict"])
def test_the_attention_refuses_in_words(name: str) -> None:
    source = make_batch([(10, 1), (1, 1)]).source
    with pytest.raises(DataError, match=r"10 positions exceeds attention\.max_length=9 of this model; shorten"):
        limited(name, "encoder").net.encode(source)  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("name", ["vanilla", "refinement", "mask_predict"])
def test_the_length_token_needs_a_place_in_the_encoder(name: str) -> None:
    model = limited(name, "encoder", length={"summary": "token"})
    assert model.max_source_length == LIMIT - 1
    assert model.learnable(make_batch([(8, 9), (9, 9)])).tolist() == [True, False]
    with torch.no_grad():
        model.decode(longest(model), decoding=type(model).Decoding())
    learned = make_model(name, length={"summary": "token"}, positions={"kind": "learned", "max_length": 5})
    assert learned.max_source_length == 5  # it has no position


def test_ends_of_a_canvas_count() -> None:
    assert limited("insertion", "decoder").max_target_length == LIMIT - 2
    assert limited("levenshtein", "decoder").max_target_length == LIMIT - 2
    model = limited("levenshtein", "decoder", drafts=0.0)
    assert model.learnable(make_batch([(3, 7), (3, 8)])).tolist() == [True, False]


def test_a_decoder_of_a_heads_own_has_the_limit_of_the_shared_one() -> None:
    model = limited("levenshtein", "decoder", share_decoders="none")
    batch = make_batch(PAIRS)
    kept = batch.select(model.learnable(batch))
    assert torch.isfinite(model.loss(kept, update=1)["deletion"].total)


# --- one stack over both sides ----------------------------------------------------------------------


def test_the_sides_of_a_pair_share_one_stack() -> None:
    model = limited("kermit", "encoder")
    assert (model.max_source_length, model.max_target_length, model.max_total_length) == (4, 4, 5)
    source = make_batch([(4, 1), (1, 1)]).source
    with torch.no_grad():
        found = model.decode(source, decoding=Kermit.Decoding(max_length_offset=50, end_penalty=50.0))
    assert found.valid.sum(dim=2).flatten().tolist() == [1, 4]
    assert found.truncated.all()


def test_a_pair_that_grows_on_both_sides_shares_what_is_left() -> None:
    model = limited("kermit", "encoder")
    assert isinstance(model, Kermit)
    drafts = draft_of([[9], []]), draft_of([[9, 10], []])
    decoding = Kermit.Decoding(max_length_offset=50, end_penalty=50.0)
    with torch.no_grad():
        sides = model.fill(*drafts, decoding=decoding)
    lengths = [side.valid.sum(dim=2).flatten().tolist() for side in sides]
    assert lengths == [[2, 2], [3, 2]]  # of 5: both sides of the first row get one more, those of the second two


# --- whose limit it is ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ({}, "positions.max_length"),
        ({"positions": {"kind": "learned", "max_length": 5}}, "positions.max_length"),
        ({"attention": KIND}, "attention.max_length"),
        ({"encoder": {"attention": KIND}}, "attention.max_length"),
        ({"attention": KIND, "positions": {"kind": "learned"}}, "positions.max_length or attention.max_length"),
    ],
)
def test_what_limits_has_a_name(overrides: dict[str, Any], names: str) -> None:
    assert make_model("vanilla", **overrides).limiting == names


def test_the_tightest_limit_counts() -> None:
    def model(attention: int, positions: int) -> TranslationModel:
        kind = KIND | {"max_length": attention}
        learned = {"kind": "learned", "max_length": positions}
        return make_model("vanilla", attention=kind, encoder={"attention": kind}, positions=learned)

    for found in (model(5, 7), model(7, 5)):
        assert (found.max_source_length, found.max_target_length) == (5, 5)


def test_the_layer_with_the_shortest_sequence_limits() -> None:
    kinds = [KIND | {"max_length": 5}, KIND | {"max_length": 7}]
    mixed = "nat.nn.attention.mixed.MixedAttention"
    heads = {"_target_": mixed, "groups": [{"attention": kind, "num_heads": 1} for kind in kinds]}
    layers = {"_target_": "nat.nn.attention.mixed.LayeredAttention", "layers": [kinds[1], heads]}
    node = {"_target_": "nat.nn.transformer.Encoder", "attention": layers, "num_layers": 2}
    encoder = parse(Component, node).build(size=Size(dim=8, num_heads=2))
    assert isinstance(encoder, Encoder)
    assert encoder.max_length == 5
