"""What the Levenshtein Transformer decides about a canvas: three classifiers on decoder states.

Gu, Wang & Zhao 2019, https://arxiv.org/abs/1905.11006, section 3.1: the classifiers, weight sharing, early exit.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nat.config import option
from nat.data.vocabulary import Symbol
from nat.errors import ConfigError
from nat.nn.seq2seq import ParallelConfig, Seq2Seq
from nat.nn.transformer import Decoder, Memory
from nat.ops.editing import bracket
from nat.ops.precision import at_least_float32


class Policy(Enum):
    DELETION = "deletion"
    PLACEHOLDER = "placeholder"
    TOKEN = "token"


class Sharing(Enum):
    """The heads that use one decoder with the token head."""

    ALL = "all"
    PLACEHOLDER_TOKEN = "placeholder_token"
    DELETION_TOKEN = "deletion_token"
    NONE = "none"

    @property
    def heads(self) -> frozenset[Policy]:
        shared = {
            Sharing.ALL: set(Policy),
            Sharing.PLACEHOLDER_TOKEN: {Policy.PLACEHOLDER, Policy.TOKEN},
            Sharing.DELETION_TOKEN: {Policy.DELETION, Policy.TOKEN},
            Sharing.NONE: {Policy.TOKEN},
        }
        return frozenset(shared[self])


@dataclass(frozen=True)
class Exits:
    """Early exit: the decoder layers that each head needs. A head with a decoder of its own has just these."""

    deletion: int | None = option(None, "decoder layers of the deletion classifier; null: all", minimum=1, maximum=1024)
    placeholder: int | None = option(
        None, "decoder layers of the placeholder classifier; null: all", minimum=1, maximum=1024
    )
    token: int | None = option(None, "decoder layers of the token classifier; null: all", minimum=1, maximum=1024)

    def layers(self, head: Policy, *, all_layers: int) -> int:
        exit_layer: int | None = getattr(self, head.value)
        return all_layers if exit_layer is None else exit_layer

    def check(self, *, all_layers: int, sharing: Sharing) -> None:
        """Raises ConfigError where a head wants more layers than there are, or where no head uses the last ones."""
        for head in Policy:
            if self.layers(head, all_layers=all_layers) > all_layers:
                raise ConfigError(
                    f"exits.{head.value}={getattr(self, head.value)}: must be at most decoder.num_layers={all_layers}"
                )
        used = max(self.layers(head, all_layers=all_layers) for head in sharing.heads)
        if used < all_layers:
            raise ConfigError(
                f"exits.token={self.token}: no classifier would use the decoder's layers above {used}; "
                f"decoder.num_layers={used} is the same with fewer weights"
            )


class EditHeads(nn.Module):
    """Delete or keep each token; how many placeholders each gap gets; the token of each placeholder.

    The decoder reads the canvas between BOS and EOS, about which no head is asked. Heads share the decoder of the net,
    or have one of their own.
    """

    def __init__(self, config: ParallelConfig, *, sharing: Sharing, exits: Exits, max_placeholders: int) -> None:
        super().__init__()
        exits.check(all_layers=config.decoder.num_layers, sharing=sharing)
        self.layers = {head: exits.layers(head, all_layers=config.decoder.num_layers) for head in Policy}
        self.max_placeholders = max_placeholders
        self.keep_or_delete = nn.Linear(config.size.dim, 2)
        self.count = nn.Linear(2 * config.size.dim, max_placeholders + 1)
        for classifier in (self.keep_or_delete, self.count):
            nn.init.normal_(classifier.weight, std=0.02)
            nn.init.zeros_(classifier.bias)
        self.shared = sharing.heads
        own = [head for head in Policy if head not in self.shared]
        self.decoders = nn.ModuleDict({head.value: _decoder(config, self.layers[head]) for head in own})

    def deletion(
        self, net: Seq2Seq, tokens: Int[Tensor, "B L"], valid: Bool[Tensor, "B L"], memory: Memory
    ) -> Float[Tensor, "B L 2"]:
        """Log-probabilities of keeping (0) and deleting (1) each token."""
        states = self._states(Policy.DELETION, net, tokens, valid, memory)[:, 1:-1]
        return F.log_softmax(at_least_float32(self.keep_or_delete(states)), dim=-1)

    def placeholders(
        self, net: Seq2Seq, tokens: Int[Tensor, "B L"], valid: Bool[Tensor, "B L"], memory: Memory
    ) -> Float[Tensor, "B G K"]:
        """Log-probabilities of 0 .. max_placeholders placeholders in each gap, from the states on its two sides."""
        states = self._states(Policy.PLACEHOLDER, net, tokens, valid, memory)
        both = torch.cat((states[:, :-1], states[:, 1:]), dim=-1)
        return F.log_softmax(at_least_float32(self.count(both)), dim=-1)

    def token_states(
        self, net: Seq2Seq, tokens: Int[Tensor, "B L"], valid: Bool[Tensor, "B L"], memory: Memory
    ) -> Float[Tensor, "B L D"]:
        """States of every position, for the net's head."""
        return self._states(Policy.TOKEN, net, tokens, valid, memory)[:, 1:-1]

    def project(self, net: Seq2Seq, memory: Memory) -> Memory:
        """See `Decoder.project`; for every decoder that a head has."""
        for decoder in (net.decoder, *self.decoders.values()):
            assert isinstance(decoder, Decoder)
            memory = decoder.project(memory)
        return memory

    def _states(self, head: Policy, net: Seq2Seq, tokens: Tensor, valid: Tensor, memory: Memory) -> Tensor:
        marked, inside = bracket(tokens, valid, first=int(Symbol.BOS), last=int(Symbol.EOS))
        decoder = net.decoder if head in self.shared else self.decoders[head.value]
        states: Tensor = decoder(net.place(net.embed(marked)), inside, memory, num_layers=self.layers[head])
        return states


def _decoder(config: ParallelConfig, num_layers: int) -> Decoder:
    return Decoder(list(config.attentions(num_layers)), size=config.size)
