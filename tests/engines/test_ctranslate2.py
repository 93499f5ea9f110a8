"""CTranslate2 finds what our own search finds, from the same weights; and what it refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from builders import VOCABULARIES

from nat.data.tokenizer import Tokenizers
from nat.data.vocabulary import NUM_SYMBOLS, Symbol, Vocabularies
from nat.decoding.batch_options import BatchOptions
from nat.decoding.batched import Decoded
from nat.decoding.translator import Translator, load
from nat.engines import choice
from nat.engines import ctranslate2 as engine
from nat.engines.base import ComputeType, WorkerTranslator
from nat.engines.ctranslate2 import CTranslate2Translator
from nat.errors import ConfigError, DataError
from nat.evaluation.inputs import Split, read_split
from nat.evaluation.speed import threads
from nat.models.autoregressive import Autoregressive
from nat.nn.attention.full import FullAttention

SENTENCES = ["", "7 8 9", "19", "1 7 1 8 12 13 14", "12 " * 9, "18 17 16 15 14", ""]
SENTENCES += ["7", "8 8", "15 16 17 18", "19 1 19", "10 11", "9 13 17 10 14 18"]


class Numbers:
    """A tokenizer of texts that are token ids."""

    size, model = VOCABULARIES.target_size, b"numbers"

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[int(word) for word in text.split()] for text in texts]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return [" ".join(map(str, row)) for row in rows]


def accelerate(translator: Translator, kind: ComputeType = ComputeType.FP32) -> CTranslate2Translator:
    found = choice.accelerate(translator, choice.Engine.CTRANSLATE2, kind)
    assert isinstance(found, CTranslate2Translator)
    return found


@pytest.fixture
def random_translator(build_model: Callable[..., Any]) -> Callable[..., Translator]:
    """A translator of an autoregressive model whose parameters are all random, norms and biases too. EOS is made
    likelier, so that some translations end by themselves; no two tokens come nearer than 0.01 (log-probability)."""
    pytest.importorskip("ctranslate2")

    def make(**overrides: Any) -> Translator:
        model = build_model("autoregressive", **overrides)
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
            model.net.output.bias[Symbol.EOS] = 3.0
        tokenizers = Tokenizers(cast(Any, Numbers()), cast(Any, Numbers()), True)
        return Translator(model, tokenizers, torch.device("cpu"), config={}, folder=Path("run"))

    return make


@pytest.fixture
def tiny(tiny_runs: dict[str, Path]) -> Translator:
    pytest.importorskip("ctranslate2")
    return load(tiny_runs["autoregressive"], device="cpu")


def decoded(translator: Translator, sentences: Sequence[str], **options: Any) -> list[Decoded]:
    return translator.decode(sentences, decoding=translator.decoding(options), batches=BatchOptions(3))


def test_samples_and_a_history_are_refused(tiny: Translator) -> None:
    with pytest.raises(ConfigError, match=r"^decoding\.temperature=0\.5: ctranslate2 cannot sample"):
        accelerate(tiny).decoding({"temperature": 0.5})
    with pytest.raises(ConfigError, match=r"^decoding\.history=true: ctranslate2 keeps none, engine=torch does"):
        accelerate(tiny).decoding({"history": True})


def assert_same(found: list[Decoded], expected: list[Decoded]) -> None:
    assert [item.tokens for item in found] == [item.tokens for item in expected]
    assert [(item.passes, item.truncated) for item in found] == [(item.passes, item.truncated) for item in expected]
    for mine, theirs in zip(found, expected, strict=True):
        if not mine.truncated:
            assert mine.scores == pytest.approx(theirs.scores, abs=1e-3)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("kind", ["sinusoidal", "learned"])
@pytest.mark.parametrize("shared", [True, False])
def test_greedy_of_any_model_is_ours(
    random_translator: Callable[..., Translator], norm: str, kind: str, shared: bool
) -> None:
    vocabularies = Vocabularies(NUM_SYMBOLS + 13, NUM_SYMBOLS + 13 + (0 if shared else 5), shared)
    positions = {"kind": kind, "max_length": 14}
    translator = random_translator(vocabularies=vocabularies, size={"norm": norm}, positions=positions)
    for options in ({"max_length_offset": 9}, {"max_length_factor": 0.5, "max_length_offset": 1}):
        expected = decoded(translator, SENTENCES, **options)
        assert {item.truncated for item in expected if item.passes} == {True, False}
        assert_same(decoded(accelerate(translator), SENTENCES, **options), expected)


def test_a_deep_encoder_with_a_shallow_decoder(random_translator: Callable[..., Translator]) -> None:
    translator = random_translator(encoder={"num_layers": 5}, decoder={"num_layers": 1})
    expected = decoded(translator, SENTENCES)
    assert len({tuple(item.tokens[0]) for item in expected}) >= 3
    assert_same(decoded(accelerate(translator), SENTENCES), expected)


def test_greedy_of_a_trained_run_is_ours(tiny: Translator) -> None:
    sentences = [*read_split(tiny, Split.TEST, {}).sources[:60], "", "xyz ☃ 4711"]
    for options in ({}, {"max_length_factor": 0.0, "max_length_offset": 4}):
        expected = decoded(tiny, sentences, **options)
        assert_same(decoded(accelerate(tiny), sentences, **options), expected)
        assert tiny.translate(sentences, **options) == accelerate(tiny).translate(sentences, **options)


@pytest.mark.parametrize("length_penalty", [0.3, 1.0])
def test_beam_of_a_trained_run_is_ours(tiny: Translator, length_penalty: float) -> None:
    sentences = read_split(tiny, Split.TEST, {}).sources[:60]
    options = {"beam_size": 4, "num_candidates": 2, "length_penalty": length_penalty}
    expected, found = decoded(tiny, sentences, **options), decoded(accelerate(tiny), sentences, **options)
    pairs = [pair for pair in zip(found, expected, strict=True) if not (pair[0].truncated or pair[1].truncated)]
    same = [pair for pair in pairs if pair[0].tokens[0] == pair[1].tokens[0]]
    assert len(pairs) >= 20
    assert len(same) >= 0.95 * len(pairs)
    for mine, theirs in same:
        assert mine.scores[0] == pytest.approx(theirs.scores[0], abs=1e-3)
    assert sum(mine.passes == theirs.passes for mine, theirs in same) >= 0.9 * len(same)
    assert {len(item.tokens) for item in found} == {2}


@pytest.mark.parametrize("beam_size", [1, 4])
def test_int8_is_near_float32_in_every_batch(tiny: Translator, beam_size: int) -> None:
    sentences = [*read_split(tiny, Split.TEST, {}).sources[:40], "", "xyz ☃ 4711"]
    precise, rounded = accelerate(tiny), accelerate(tiny, ComputeType.INT8)
    assert (precise.computed_in, rounded.computed_in) == ("fp32", "int8")
    decoding = tiny.decoding({"beam_size": beam_size})
    sizes = (1, 7, 64)
    found = [rounded.decode(sentences, decoding=decoding, batches=BatchOptions(size)) for size in sizes]
    for others in found[1:]:  # the last bit of float32 attention may tip a rounding to 8 bits
        equal = [(one, two) for one, two in zip(found[0], others, strict=True) if one.tokens == two.tokens]
        assert len(equal) >= 0.95 * len(sentences)
        assert all(one.scores == pytest.approx(two.scores, abs=0.05) for one, two in equal if not one.truncated)
    pairs = list(zip(found[0], precise.decode(sentences, decoding=decoding, batches=BatchOptions(7)), strict=True))
    same = [(one, other) for one, other in pairs if one.tokens == other.tokens and one.passes and not one.truncated]
    assert len(same) >= 10
    assert all(one.scores == pytest.approx(other.scores, abs=0.5) for one, other in same)
    assert not any(one.scores == other.scores for one, other in same)  # it is not float32


def test_batches_are_cut_by_tokens(random_translator: Callable[..., Translator]) -> None:
    fast, heard = accelerate(random_translator()), list[int]()
    batches = BatchOptions(batch_size=64, max_tokens=9)
    fast.decode(["7 8 9", "7 8 9 10", "7", "8"], decoding=fast.decoding({}), batches=batches, advance=heard.append)
    assert sorted(heard) == [0, 1, 1, 2]


def test_the_models_own_weights_are_not_rounded(random_translator: Callable[..., Translator]) -> None:
    translator = random_translator()
    before = {name: value.clone() for name, value in translator.model.state_dict().items()}
    accelerate(translator, ComputeType.INT8)
    assert all(bool((value == before[name]).all()) for name, value in translator.model.state_dict().items())


def test_weights_of_int8_are_kept_in_8_bits(random_translator: Callable[..., Translator], tmp_path: Path) -> None:
    translator = random_translator(size={"dim": 32, "ffn_dim": 64})
    sizes = []
    for kind in ComputeType:
        (tmp_path / kind.value).mkdir()
        engine.write(translator, tmp_path / kind.value, kind)
        sizes.append((tmp_path / kind.value / engine.FOLDER / "model.bin").stat().st_size)
    tables = 2 * 4 * 32 * engine.POSITIONS  # of sinusoids, in float32
    assert sizes[1] - tables < 0.5 * (sizes[0] - tables)


def test_the_penalty_of_length_is_ours() -> None:
    class Answer:
        hypotheses = (["7", "8", "9", "</s>"], ["7", "</s>"], ["8", "</s>"])
        scores = (-3.0 / 4**0.6, -2.0 / 2**0.6, -9.0 / 2**0.6)  # -1.31 is the highest there

    options = Autoregressive.Decoding(beam_size=3, num_candidates=2)
    found = engine.unpack(Answer(), limit=5, decoding=options)
    assert found.tokens == [[7], [7, 8, 9]]  # -2 / (7/6)^0.6 > -3 / (9/6)^0.6
    assert found.scores == pytest.approx([-2.0, -3.0])
    assert (found.passes, found.truncated) == (4, False)  # the search went on for the longer one


def test_the_limit_is_each_sentences_own() -> None:
    class Answer:
        hypotheses, scores = (["7", "8", "9", "</s>"],), (-1.0,)

    options = Autoregressive.Decoding()
    assert engine.unpack(Answer(), limit=3, decoding=options).truncated is False
    cut = engine.unpack(Answer(), limit=2, decoding=options)
    assert (cut.tokens, cut.passes, cut.truncated) == ([[7, 8]], 3, True)


def test_an_empty_translation_is_possible(random_translator: Callable[..., Translator]) -> None:
    translator = random_translator()
    cast(Autoregressive, translator.model).net.output.bias[Symbol.EOS] = 1e3
    found = decoded(accelerate(translator), ["7 8", "9"])
    assert [(item.tokens, item.passes, item.truncated) for item in found] == [([[]], 1, False)] * 2


def test_every_sentence_advances_the_progress(random_translator: Callable[..., Translator]) -> None:
    fast, heard = accelerate(random_translator()), list[int]()
    fast.decode(SENTENCES, decoding=fast.decoding({}), batches=BatchOptions(3), advance=heard.append)
    assert sorted(heard) == [1, 1, 1, 1, 1, 2, 2, 2, 2]


def test_a_worker_for_each_thread_of_torch(random_translator: Callable[..., Translator]) -> None:
    with threads(2):
        fast = accelerate(random_translator())
    assert fast._engine.num_translators == 2
    assert accelerate(random_translator())._engine.num_translators == 1


def test_too_long_for_the_positions(
    random_translator: Callable[..., Translator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "POSITIONS", 8)
    fast = accelerate(random_translator())
    assert all(len(item.tokens[0]) <= 7 for item in decoded(fast, ["7 8 9 10 11 12 13 14"]))
    with pytest.raises(DataError, match="the input, line 2: 9 tokens, but ctranslate2 takes at most 8"):
        decoded(fast, ["7", "7 8 9 10 11 12 13 14 15"])


def test_only_autoregressive_runs(tiny_runs: dict[str, Path]) -> None:
    pytest.importorskip("ctranslate2")
    with pytest.raises(ConfigError, match=r"^engine=ctranslate2: .* holds a CTC model; only Autoregressive ones work$"):
        accelerate(load(tiny_runs["ctc"], device="cpu"))


def test_copies_are_refused(random_translator: Callable[..., Translator]) -> None:
    with pytest.raises(
        ConfigError, match=r"^engine=ctranslate2: run has model\.copying\.enabled=true, which it cannot"
    ):
        accelerate(random_translator(copying={"enabled": True}))


def test_only_full_attention(random_translator: Callable[..., Translator]) -> None:
    class Windowed(FullAttention):
        pass

    translator = random_translator()
    cast(Any, translator.model).net.encoder.layers[0].self_attention.__class__ = Windowed
    with pytest.raises(ConfigError, match=r"^engine=ctranslate2: cannot do Windowed in the encoder"):
        accelerate(translator)


def test_a_missing_package_is_named_with_its_command(
    tiny_runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(ConfigError, match=r"^engine=ctranslate2: .* pip install 'nat-translation\[ctranslate2\]'$"):
        accelerate(load(tiny_runs["autoregressive"], device="cpu"))


def test_it_is_a_translator(random_translator: Callable[..., Translator]) -> None:
    fast = accelerate(random_translator())
    assert isinstance(fast, WorkerTranslator)
    assert fast.engine == "ctranslate2"
    with pytest.raises(ConfigError, match="no such option"):
        fast.decoding({"beam": 4})
