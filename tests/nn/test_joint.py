"""The one stack over two segments."""

from __future__ import annotations

import pytest
import torch
from builders import make_model
from torch import Tensor

from nat.data.batch import Target
from nat.data.vocabulary import NUM_SYMBOLS, Vocabularies
from nat.errors import DataError
from nat.models.kermit import Kermit
from nat.nn.joint import JointNet, Segment, Side

SEPARATE = Vocabularies(NUM_SYMBOLS + 9, NUM_SYMBOLS + 12, shared=False)


def net(**options: object) -> JointNet:
    model = make_model("kermit", dtype=torch.float64, **options)
    assert isinstance(model, Kermit)
    return model.net


def segment(rows: list[list[int]], present: list[bool] | None = None, *, wider: int = 0) -> Segment:
    side = Target.from_lists([row + [0] * wider for row in rows])
    valid = torch.arange(side.tokens.size(1)) < torch.tensor([len(row) for row in rows])[:, None]
    return Segment(side.tokens, valid, torch.tensor(present or [True] * len(rows)))


@torch.no_grad()
def log_probs(part: JointNet, source: Segment, target: Segment) -> tuple[Tensor, Tensor]:
    slots = part(source, target)
    source_slots, target_slots = (part.logits(slots[side], side).log_softmax(dim=2) for side in Side)
    return source_slots, target_slots


def test_padding_between_the_segments_is_not_on_the_canvas() -> None:
    part, sources, targets = net(), [[7, 8, 9], [8]], [[9], [10, 11]]
    plain = log_probs(part, segment(sources), segment(targets))
    padded = log_probs(part, segment(sources, wider=3), segment(targets, wider=2))
    for row, lengths in enumerate(zip(sources, targets, strict=True)):
        alone = log_probs(part, segment([sources[row]]), segment([targets[row]]))
        for side in Side:
            real = slice(len(lengths[side]) + 1)
            assert torch.allclose(plain[side][row, real], padded[side][row, real], rtol=0, atol=1e-12)
            assert torch.allclose(plain[side][row, real], alone[side][0, real], rtol=0, atol=1e-12)


def test_both_sides_see_each_other_and_an_absent_one_is_not_seen() -> None:
    part = net()
    first, other = (log_probs(part, segment([[7, 8]]), segment([rest])) for rest in ([9, 10], [11, 10]))
    assert not torch.allclose(first[0], other[0])
    here, nothing = segment([[7, 8]]), [False]
    first, other = (log_probs(part, here, segment([rest], nothing)) for rest in ([9, 10], [11, 10]))
    assert torch.equal(first[0], other[0])
    first, other = (log_probs(part, segment([rest], nothing), here) for rest in ([9, 10, 11], [7]))
    assert torch.allclose(first[1], other[1], rtol=0, atol=1e-12)
    empty = log_probs(part, here, segment([[]]))[0]  # an empty target is there, with its two ends
    assert not torch.allclose(empty, log_probs(part, here, segment([[]], nothing))[0])


def test_a_slot_knows_both_its_neighbours_and_its_segment() -> None:
    part = net()
    same = log_probs(part, segment([[7, 8]]), segment([[7, 8]]))
    assert not torch.allclose(same[0], same[1])  # with one vocabulary, the segment tells the sides apart
    states = torch.randn(1, 4, 16, dtype=torch.float64)
    slots = part.slots(states, torch.tensor([[1]]), 3)
    assert slots.shape == (1, 2, 16)
    assert torch.allclose(slots[0, 1], part.slot(torch.cat((states[0, 2], states[0, 3]))))


def test_each_side_predicts_in_its_own_vocabulary() -> None:
    part = net(vocabularies=SEPARATE)
    source, target = log_probs(part, segment([[7, 8]]), segment([[15]]))
    assert source.shape == (1, 3, SEPARATE.source_size)
    assert target.shape == (1, 2, SEPARATE.target_size)
    for found in (source, target):
        assert torch.isinf(found).all(dim=1).sum() == len(part.forbidden) == NUM_SYMBOLS - 2


def test_positions_begin_again_so_that_the_limit_is_that_of_one_side() -> None:
    part = net(positions={"kind": "learned", "max_length": 6})
    assert part.max_length == 4
    assert part.max_total_length is None
    log_probs(part, segment([[7] * 4]), segment([[8] * 4]))
    with pytest.raises(DataError, match="a sequence of 7 positions exceeds"):
        log_probs(part, segment([[7] * 5]), segment([[8]]))
