"""A SentencePiece model as plain data, from which the page's JavaScript tokenises as SentencePiece does.

{"kind": "bpe" | "unigram",
 "pieces": [...], "scores": [...], "types": a letter of TYPES for each,
 "byte_fallback": bool, "unknown_surface": text,
 "normalizer": {"dummy_prefix": bool, "collapse_spaces": bool, "escape_spaces": bool, "charsmap": base64 or null}}
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import numpy as np

from nat.errors import ConfigError

KINDS = {1: "unigram", 2: "bpe"}  # of TrainerSpec.ModelType
TYPES = {1: "N", 2: "?", 3: "C", 4: "U", 5: "X", 6: "B"}  # normal, unknown, control, user-defined, unused, byte


def piece_data(model: bytes, name: str) -> dict[str, Any]:
    """Of the bytes of a model. name: of it, for messages. Raises ConfigError for what the page does not know."""
    from sentencepiece import sentencepiece_model_pb2 as messages

    proto = vars(messages)["ModelProto"].FromString(model)  # protobuf makes the class when it is imported
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    for what, present in (
        ("splits words or characters, not by BPE or a unigram model", trainer.model_type not in KINDS),
        ("was trained with treat_whitespace_as_suffix", trainer.treat_whitespace_as_suffix),
        ("has a denormalizer", bool(proto.denormalizer_spec.precompiled_charsmap)),
    ):
        if present:
            raise ConfigError(f"format=web: {name} {what}, which the page cannot do")
    return {
        "kind": KINDS[trainer.model_type],
        "pieces": [piece.piece for piece in proto.pieces],
        "scores": [shortest(piece.score) for piece in proto.pieces],
        "types": "".join(TYPES[piece.type] for piece in proto.pieces),
        "byte_fallback": trainer.byte_fallback,
        "unknown_surface": trainer.unk_surface,
        "normalizer": {
            "dummy_prefix": normalizer.add_dummy_prefix,
            "collapse_spaces": normalizer.remove_extra_whitespaces,
            "escape_spaces": normalizer.escape_whitespaces,
            "charsmap": b64encode(normalizer.precompiled_charsmap).decode() or None,
        },
    }


def shortest(score: float) -> float:
    """The shortest decimal that rounds to the same float32."""
    return float(str(np.float32(score)))
