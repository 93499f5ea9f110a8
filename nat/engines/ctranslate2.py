"""CTranslate2 as the engine of an autoregressive run: the strong baseline that a speed-up is measured against.

https://opennmt.net/CTranslate2 is an inference engine in C++; Helcl et al. 2022, https://arxiv.org/abs/2205.01966,
show how much of a claimed speed-up is left against such a one. `accelerate` turns a run's translator into one that
searches there, with the same weights, tokens, limits of length and choice among hypotheses.

In float32 greedy search finds the translations of `nat.search.beam.greedy`, as far as rounding allows. Beam search
differs where a limit of length ends a hypothesis (ours then pays for EOS, theirs goes on and is cut here), and with
length_penalty=0 it may stop earlier.

In int8 weights are rounded to 8 bits with a scale for each output, and what they are multiplied with to 8 bits with a
scale for each token, so that no token's rounding depends on another's; normalisation, softmax and attention stay in
float32. The last bit of those depends on the shape of the batch, and where it tips a rounding to 8 bits, the score
moves in its second decimal: between batches of 1 and of 64 about one greedy translation in a hundred changes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from nat.data.vocabulary import NUM_SYMBOLS, SYMBOL_TEXT
from nat.decoding.batch_options import BatchOptions
from nat.decoding.batched import NOTHING, Decoded
from nat.decoding.requests import Sentence, source_of
from nat.decoding.translator import Translator
from nat.errors import ConfigError, DataError
from nat.models.autoregressive import Autoregressive
from nat.models.options import DecodingOptions
from nat.nn.attention.full import FullAttention
from nat.nn.embedding import Positions, TokenEmbedding
from nat.nn.transformer import Decoder, Encoder, Layer
from nat.search.beam import EOS, length_penalty

if TYPE_CHECKING:
    import ctranslate2

PACKAGE = "ctranslate2"
FORBIDDEN = -1e9  # instead of -inf, which would become NaN where the engine multiplies it by zero
POSITIONS = 4096  # sinusoids written out for the engine, whose own ones begin at another position


class ComputeType(Enum):
    """What products are computed in; the values are those of decoding.precision."""

    FP32 = "fp32"
    INT8 = "int8"

    @property
    def quantization(self) -> str:
        """The engine's name of it."""
        return {"fp32": "float32", "int8": "int8"}[self.value]


class EngineTranslator(Translator):
    """A translator whose `decode` runs in CTranslate2; all else is the given one's.

    It has as many workers of one thread as torch has threads when it is made, and a batch belongs to one worker: so a
    sentence alone is translated by one thread, and many batches by all of them. Several threads on one batch
    (`intra_threads`) only make it slower.
    """

    engine = PACKAGE

    def __init__(
        self, translator: Translator, model: Autoregressive, engine: ctranslate2.Translator, kind: ComputeType
    ) -> None:
        super().__init__(
            model,
            translator.tokenizers,
            translator.device,
            config=translator.config,
            folder=translator.folder,
            weights=translator.weights,
        )
        self.longest = model.max_source_length or POSITIONS
        self._kind = kind
        self._engine = engine

    @property
    def computed_in(self) -> str:
        return self._kind.value

    def decoding(self, options: dict[str, Any]) -> DecodingOptions:
        """As `Translator.decoding`. Raises ConfigError for a history, and for samples: the engine's random numbers
        depend on the batch."""
        decoding = super().decoding(options)
        if decoding.temperature is not None:
            raise ConfigError(f"decoding.temperature={decoding.temperature}: {PACKAGE} cannot sample, engine=torch can")
        if decoding.history:
            raise ConfigError(f"decoding.history=true: {PACKAGE} keeps none, engine=torch does")
        return decoding

    def decode(
        self,
        sentences: Sequence[Sentence],
        *,
        decoding: DecodingOptions,
        batches: BatchOptions,
        advance: Callable[[int], None] = lambda sentences: None,
    ) -> list[Decoded]:
        """As `Translator.decode`. The score of a translation that the limit of length cut is the engine's: that of
        the tokens it went on with, not of an end there."""
        assert isinstance(decoding, Autoregressive.Decoding)
        self.wanted(sentences, "the input")
        rows = self.encode([source_of(sentence) for sentence in sentences], "the input")
        results = [NOTHING] * len(rows)
        filled = [i for i, row in enumerate(rows) if row]
        advance(len(rows) - len(filled))
        chosen = [[filled[i] for i in batch] for batch in batches.cut([len(rows[i]) for i in filled])]
        started = [self._start([rows[i] for i in batch], decoding) for batch in chosen]
        for batch, answers in zip(chosen, started, strict=True):
            for i, answer in zip(batch, answers, strict=True):
                results[i] = unpack(answer.result(), limit=self._limit(len(rows[i]), decoding), decoding=decoding)
            advance(len(batch))
        return results

    def encode(
        self,
        sentences: Sequence[str],
        name: str,
        *,
        decoding: DecodingOptions | None = None,
        lines: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """As `Translator.encode`; sinusoids have a limit here."""
        rows = super().encode(sentences, name, decoding=decoding, lines=lines)
        for number, row in zip(lines or range(1, len(rows) + 1), rows, strict=True):
            if len(row) > self.longest:
                raise DataError(f"{name}, line {number}: {len(row)} tokens, but {PACKAGE} takes at most {self.longest}")
        return rows

    def _limit(self, length: int, decoding: Autoregressive.Decoding) -> int:
        """Tokens of a translation, at most; the model's own rule."""
        limit = int(length * decoding.max_length_factor) + decoding.max_length_offset
        return min(limit, self.longest - 1)

    def _start(self, rows: list[list[int]], decoding: Autoregressive.Decoding) -> list[Any]:
        """Hand a batch to a worker. The engine knows one limit for a batch, so it gets the longest sentence's."""
        longest = max(self._limit(len(row), decoding) for row in rows)
        return self._engine.translate_batch(
            [[token_name(i) for i in row] for row in rows],
            asynchronous=True,
            beam_size=decoding.beam_size,
            num_hypotheses=decoding.beam_size,
            length_penalty=alpha_of(decoding),
            max_input_length=0,  # no silent cutting
            max_decoding_length=longest + 1,  # EOS after the last token: without it, the limit cut the translation
            min_decoding_length=0,
            disable_unk=not decoding.allow_unknown,
            return_scores=True,
            return_end_token=True,
        )


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
    hypotheses = []
    for names, score in zip(answer.hypotheses, answer.scores, strict=True):
        tokens = [token_id(name) for name in names]
        log_prob = score * len(tokens) ** alpha
        rank = log_prob / float(length_penalty(torch.tensor(float(len(tokens))), alpha))
        ended = tokens[-1:] == [EOS]
        tokens = tokens[:-1] if ended else tokens
        hypotheses.append((rank, tokens[:limit], log_prob, not ended or len(tokens) > limit))
    hypotheses = sorted(hypotheses, key=lambda item: -item[0])[: decoding.num_candidates]
    steps = min(max(len(names) for names in answer.hypotheses), limit + 1)  # the last to end ended the search
    _, tokens_of, scores, truncated = zip(*hypotheses, strict=True)
    return Decoded(list(tokens_of), list(scores), steps, truncated[0])


def token_name(index: int) -> str:
    """A token's name in the engine, which speaks of names only: pieces could be confused with special symbols."""
    return SYMBOL_TEXT[index] if index < NUM_SYMBOLS else str(index)


def token_id(name: str) -> int:
    return SYMBOL_TEXT.index(name) if name in SYMBOL_TEXT else int(name)


def accelerate(
    translator: Translator, kind: ComputeType = ComputeType.FP32, *, folder: Path | None = None
) -> EngineTranslator:
    """The same run in CTranslate2. folder: where its model is written, and kept; None: nowhere.

    Raises ConfigError if the package is missing, or where the run's model or the device cannot be served.
    """
    try:
        import ctranslate2
    except ImportError as error:
        raise ConfigError(
            f"engine={PACKAGE}: it cannot be imported ({error}); pip install 'nat-translation[{PACKAGE}]'"
        ) from None
    model = translator.model
    if not isinstance(model, Autoregressive):
        raise ConfigError(
            f"engine={PACKAGE}: {translator.folder} holds a {type(model).__name__} model; only Autoregressive ones work"
        )
    if model.net.copying is not None:
        raise ConfigError(f"engine={PACKAGE}: {translator.folder} has model.copying.enabled=true, which it cannot do")
    spec = convert(model, kind)
    with tempfile.TemporaryDirectory(prefix="nat-ctranslate2-") as temporary:
        target = Path(temporary) if folder is None else folder
        target.mkdir(parents=True, exist_ok=True)
        spec.save(str(target))
        try:
            engine = ctranslate2.Translator(
                str(target),
                device=translator.device.type,
                device_index=translator.device.index or 0,
                compute_type=kind.quantization,
                inter_threads=torch.get_num_threads() if translator.device.type == "cpu" else 1,
                intra_threads=1,
            )
        except (RuntimeError, ValueError) as error:  # for example, built for another CUDA
            raise ConfigError(f"engine={PACKAGE}: {' '.join(str(error).split())}") from None
    return EngineTranslator(translator, model, engine, kind)


# --- conversion ------------------------------------------------------------------------------------


def convert(model: Autoregressive, kind: ComputeType = ComputeType.FP32) -> Any:
    """A `ctranslate2.specs.TransformerSpec` with the model's weights. Raises ConfigError for attention that the engine
    does not know."""
    from ctranslate2.specs import TransformerSpec

    encoder, decoder, words = model.net.encoder, model.net.decoder, model.net.embeddings.source
    if not isinstance(words, TokenEmbedding):
        raise ConfigError(f"engine={PACKAGE}: cannot read points, only text")
    for layer in layers_of(encoder):
        family = type(layer.self_attention)
        if family is not FullAttention:
            raise ConfigError(f"engine={PACKAGE}: cannot do {family.__name__} in the encoder, only FullAttention")
    first = layers_of(decoder)[0]
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
    spec.optimize(quantization=kind.quantization)
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
