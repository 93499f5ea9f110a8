"""CTranslate2 as the engine of an autoregressive run: the strong baseline that a speed-up is measured against.

https://opennmt.net/CTranslate2 is an inference engine in C++; Helcl et al. 2022, https://arxiv.org/abs/2205.01966,
show how much of a claimed speed-up is left against such a one. The run's translator searches there, with the same
weights, tokens, limits of length and choice among hypotheses.

In float32 greedy search finds the translations of `nat.search.beam.greedy`, as far as rounding allows. Beam search
differs where a limit of length ends a hypothesis (ours then pays for EOS, theirs goes on and is cut here), and with
length_penalty=0 it may stop earlier.

In int8 weights are rounded to 8 bits with a scale for each output, and what they are multiplied with to 8 bits with a
scale for each token, so that no token's rounding depends on another's; normalisation, softmax and attention stay in
float32. The last bit of those depends on padding, and where it tips a rounding to 8 bits another token may be written:
so a batch holds sentences of one length, see `nat.engines.base.WorkerTranslator`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from nat.data.vocabulary import NUM_SYMBOLS, SYMBOL_TEXT
from nat.decoding.batched import Decoded
from nat.decoding.translator import Translator
from nat.engines.base import ComputeType, WorkerTranslator
from nat.errors import ConfigError
from nat.models.autoregressive import Autoregressive
from nat.models.contract import TranslationModel
from nat.models.options import DecodingOptions
from nat.nn.attention.full import FullAttention
from nat.nn.embedding import Positions, TokenEmbedding
from nat.nn.transformer import Decoder, Encoder, Layer
from nat.search.beam import EOS, length_penalty

if TYPE_CHECKING:
    import ctranslate2

PACKAGE = FOLDER = "ctranslate2"
PACKAGES = (PACKAGE,)  # that a folder is made and computed with
QUANTIZATION = {ComputeType.FP32: "float32", ComputeType.INT8: "int8"}  # the engine's names
BATCHES_AHEAD = 2  # that a worker of the engine finds ready
FORBIDDEN = -1e9  # instead of -inf, which would become NaN where the engine multiplies it by zero
SYMBOL_IDS = {text: number for number, text in enumerate(SYMBOL_TEXT)}
POSITIONS = 4096  # sinusoids written out for the engine, whose own ones begin at another position


class CTranslate2Translator(WorkerTranslator):
    """A translator whose search runs in CTranslate2."""

    engine = package = PACKAGE

    def __init__(self, translator: Translator, kind: ComputeType, engine: ctranslate2.Translator) -> None:
        super().__init__(translator, kind, longest=longest_source(translator.model))
        self._engine = engine

    def decoding(self, options: dict[str, Any]) -> DecodingOptions:
        """As `Translator.decoding`. Raises ConfigError for a history, and for samples: the engine's random numbers
        depend on the batch."""
        decoding = super().decoding(options)
        if decoding.temperature is not None:
            raise ConfigError(f"decoding.temperature={decoding.temperature}: {PACKAGE} cannot sample, engine=torch can")
        if decoding.history:
            raise ConfigError(f"decoding.history=true: {PACKAGE} keeps none, engine=torch does")
        return decoding

    def computed(self, batches: list[list[list[int]]], decoding: DecodingOptions) -> Iterator[list[Decoded]]:
        """As `WorkerTranslator.computed`. The engine's queue is short, and handing over to a full one waits."""
        started: deque[Callable[[], list[Decoded]]] = deque()
        for rows in batches:
            started.append(self._start(rows, decoding))
            if len(started) > BATCHES_AHEAD * self._engine.num_translators:
                yield started.popleft()()
        while started:
            yield started.popleft()()

    def _start(self, rows: list[list[int]], decoding: DecodingOptions) -> Callable[[], list[Decoded]]:
        """Hand a batch to the engine; what it gives back waits for the translations.

        The engine knows one limit for a batch, so it gets the longest sentence's. The score of a translation that its
        own limit cut is the engine's: that of the tokens it went on with, not of an end there.
        """
        assert isinstance(decoding, Autoregressive.Decoding)
        limits = [self._limit(len(row), decoding) for row in rows]
        answers = self._engine.translate_batch(
            [[token_name(i) for i in row] for row in rows],
            asynchronous=True,
            beam_size=decoding.beam_size,
            num_hypotheses=decoding.beam_size,
            length_penalty=alpha_of(decoding),
            max_input_length=0,  # no silent cutting
            max_decoding_length=max(limits) + 1,  # EOS after the last token: without it, the limit cut the translation
            min_decoding_length=0,
            disable_unk=not decoding.allow_unknown,
            return_scores=True,
            return_end_token=True,
        )
        pairs = list(zip(answers, limits, strict=True))
        return lambda: [unpack(answer.result(), limit=limit, decoding=decoding) for answer, limit in pairs]

    def _limit(self, length: int, decoding: Autoregressive.Decoding) -> int:
        """Tokens of a translation, at most; the model's own rule."""
        assert self.longest is not None
        limit = int(length * decoding.max_length_factor) + decoding.max_length_offset
        return min(limit, self.longest - 1)


def alpha_of(decoding: Autoregressive.Decoding) -> float:
    """The exponent of the length penalty that the model's own search would use."""
    if decoding.beam_size == 1:
        return 0.0
    return 0.6 if decoding.length_penalty is None else decoding.length_penalty


def unpack(answer: Any, *, limit: int, decoding: Autoregressive.Decoding) -> Decoded:
    """The engine's hypotheses, cut at the sentence's own limit, in the order of our length penalty.

    The engine divides log-probabilities by length^alpha, which is undone here.
    """
    alpha = alpha_of(decoding)
    found, hypotheses = answer.hypotheses, []  # each look at an answer's attribute copies it
    for names, score in zip(found, answer.scores, strict=True):
        tokens = [token_id(name) for name in names]
        log_prob = score * len(tokens) ** alpha
        rank = log_prob / length_penalty(len(tokens), alpha)
        ended = tokens[-1:] == [EOS]
        tokens = tokens[:-1] if ended else tokens
        hypotheses.append((rank, tokens[:limit], log_prob, not ended or len(tokens) > limit))
    hypotheses = sorted(hypotheses, key=lambda item: -item[0])[: decoding.num_candidates]
    steps = min(max(len(names) for names in found), limit + 1)  # the last to end ended the search
    _, tokens_of, scores, truncated = zip(*hypotheses, strict=True)
    return Decoded(list(tokens_of), list(scores), steps, truncated[0])


def token_name(index: int) -> str:
    """A token's name in the engine, which speaks of names only: pieces could be confused with special symbols."""
    return SYMBOL_TEXT[index] if index < NUM_SYMBOLS else str(index)


def token_id(name: str) -> int:
    number = SYMBOL_IDS.get(name)
    return int(name) if number is None else number


# --- a run in a folder of the engine ------------------------------------------------------------------


def check(translator: Translator) -> None:
    """Raises ConfigError where the package is missing, and where the run's model cannot be served."""
    import_package()
    model, where = translator.model, f"engine={PACKAGE}: {translator.folder}"
    if not isinstance(model, Autoregressive):
        raise ConfigError(f"{where} holds a {type(model).__name__} model; only Autoregressive ones work")
    if model.net.copying is not None:
        raise ConfigError(f"{where} has model.copying.enabled=true, which it cannot do")
    if not isinstance(model.net.embeddings.source, TokenEmbedding):
        raise ConfigError(f"engine={PACKAGE}: cannot read points, only text")
    for layer in layers_of(model.net.encoder):
        family = type(layer.self_attention)
        if family is not FullAttention:
            raise ConfigError(f"engine={PACKAGE}: cannot do {family.__name__} in the encoder, only FullAttention")


def write(translator: Translator, folder: Path, kind: ComputeType) -> None:
    """The engine's model of a run that `check` takes."""
    assert isinstance(translator.model, Autoregressive)
    (folder / FOLDER).mkdir()
    convert(translator.model, kind).save(str(folder / FOLDER))


def open_written(translator: Translator, folder: Path, kind: ComputeType) -> CTranslate2Translator:
    """What `write` wrote of the translator's model. Raises ConfigError as `open_engine`."""
    return CTranslate2Translator(translator, kind, open_engine(translator, folder, kind))


def open_engine(translator: Translator, folder: Path, kind: ComputeType) -> ctranslate2.Translator:
    """Raises ConfigError where the package is missing, or cannot serve the translator's device."""
    try:
        return import_package().Translator(  # type: ignore[no-any-return]
            str(folder / FOLDER),
            device=translator.device.type,
            device_index=translator.device.index or 0,
            compute_type=QUANTIZATION[kind],
            inter_threads=torch.get_num_threads() if translator.device.type == "cpu" else 1,
            intra_threads=1,
        )
    except (RuntimeError, ValueError) as error:  # for example, built for another CUDA
        raise ConfigError(f"engine={PACKAGE}: {' '.join(str(error).split())}") from None


def longest_source(model: TranslationModel) -> int:
    """The most tokens of a sentence."""
    return model.max_source_length or POSITIONS


def import_package() -> Any:
    """Raises ConfigError where it is missing."""
    use_wide_vectors()
    try:
        import ctranslate2
    except ImportError as error:
        raise ConfigError(
            f"engine={PACKAGE}: it cannot be imported ({error}); pip install 'nat-translation[{PACKAGE}]'"
        ) from None
    return ctranslate2


def use_wide_vectors() -> None:
    """CTranslate2 takes 512 bits at a time only where it is told to, before it is imported: an eighth of the time."""
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        os.environ.setdefault("CT2_FORCE_CPU_ISA", "AVX512")


# --- conversion ------------------------------------------------------------------------------------


def convert(model: Autoregressive, kind: ComputeType = ComputeType.FP32) -> Any:
    """A `ctranslate2.specs.TransformerSpec` with the model's weights."""
    from ctranslate2.specs import TransformerSpec

    encoder, decoder, words = model.net.encoder, model.net.decoder, model.net.embeddings.source
    first = layers_of(decoder)[0]
    assert isinstance(words, TokenEmbedding)
    assert first.cross_attention is not None
    spec = TransformerSpec.from_config(
        (len(encoder.layers), len(decoder.layers)), first.cross_attention.num_heads, pre_norm=first.self_residual.pre
    )
    spec.config.layer_norm_epsilon = first.self_residual.norm.eps
    spec.config.add_source_bos = spec.config.add_source_eos = False
    set_stack(spec.encoder, encoder)
    set_stack(spec.decoder, decoder)
    # both scale embeddings by sqrt(D)
    spec.encoder.embeddings[0].weight = array(words.weight)
    spec.decoder.embeddings.weight = array(model.net.embeddings.target.weight)
    spec.encoder.position_encodings.encodings = positions(model.net.source_positions)
    spec.decoder.position_encodings.encodings = positions(model.net.target_positions)
    spec.decoder.projection.weight = array(model.net.embeddings.target.weight)
    spec.decoder.projection.bias = array(model.net.output.bias.clamp(min=FORBIDDEN))
    spec.register_source_vocabulary([token_name(i) for i in range(words.num_embeddings)])
    spec.register_target_vocabulary([token_name(i) for i in range(model.net.embeddings.target.num_embeddings)])
    spec.validate()
    spec.optimize(quantization=QUANTIZATION[kind])
    return spec


def layers_of(stack: Encoder | Decoder) -> list[Layer]:
    return [layer for layer in stack.layers if isinstance(layer, Layer)]


def set_stack(spec: Any, stack: Encoder | Decoder) -> None:
    for part, layer in zip(spec.layer, layers_of(stack), strict=True):
        set_layer(part, layer)
    if isinstance(stack.norm, nn.LayerNorm):
        set_norm(spec.layer_norm, stack.norm)


def set_layer(spec: Any, layer: Layer) -> None:
    """The engine keeps a sub-layer's normalisation with the sub-layer, whether it comes before or after."""
    attention = layer.self_attention
    assert isinstance(attention, FullAttention)
    set_linear(spec.self_attention.linear[0], attention.project_in.weight, attention.project_in.bias)
    set_linear(spec.self_attention.linear[1], attention.project_out.weight, attention.project_out.bias)
    set_norm(spec.self_attention.layer_norm, layer.self_residual.norm)
    if layer.cross_attention is not None and layer.cross_residual is not None:
        cross = layer.cross_attention
        dim = cross.project_out.out_features
        weight, bias = cross.project_in.weight, cross.project_in.bias
        set_linear(spec.attention.linear[0], weight[:dim], bias[:dim])  # queries
        set_linear(spec.attention.linear[1], weight[dim:], bias[dim:])  # keys, values
        set_linear(spec.attention.linear[2], cross.project_out.weight, cross.project_out.bias)
        set_norm(spec.attention.layer_norm, layer.cross_residual.norm)
    widen, narrow = layer.feed_forward.widen, layer.feed_forward.narrow
    set_linear(spec.ffn.linear_0, widen.weight, widen.bias)
    set_linear(spec.ffn.linear_1, narrow.weight, narrow.bias)
    set_norm(spec.ffn.layer_norm, layer.feed_forward_residual.norm)


def set_linear(spec: Any, weight: Tensor, bias: Tensor) -> None:
    spec.weight, spec.bias = array(weight), array(bias)


def set_norm(spec: Any, norm: nn.LayerNorm) -> None:
    spec.gamma, spec.beta = array(norm.weight), array(norm.bias)


def positions(module: Positions) -> np.ndarray:
    """The table itself: a learned one as it is, of sinusoids the first POSITIONS."""
    return array(module(module.max_length or POSITIONS))


def array(tensor: Tensor) -> np.ndarray:
    """A copy, for the engine rounds in place."""
    return np.array(tensor.detach().cpu().float().numpy())
