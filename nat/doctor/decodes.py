"""What the checks see of translations: a quick decode, again with other limits of passes; or a report of nat-decode."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nat.data.lines import read_lines
from nat.doctor.facts import DecodeFacts, Trial
from nat.errors import ConfigError, DataError
from nat.evaluation.inputs import Text
from nat.evaluation.results import Translations, results, translate
from nat.evaluation.system import System
from nat.files import check_kinds, read_json
from nat.scoring.claims import Claim, examine
from nat.scoring.scores import repetition_rate, unknown_rate

NUMBERS = (
    "num_sentences",
    "num_empty",
    "num_empty_translations",
    "num_truncated",
    "passes",
    "repetition_rate",
    "unknown_rate",
)
NEEDED = {"run_dir": str, "model": str, "text": str, "passes_by_length": list, "decoding": dict} | dict.fromkeys(
    NUMBERS, float
)
SCORES = dict.fromkeys(("bleu", "chrf", "length_ratio"), float)  # null without references
SHOWN = ("text", "num_sentences", *SCORES, "repetition_rate", "unknown_rate", "passes", "decoding")
GROUP = dict.fromkeys(("length", "sentences", "passes"), float)


def decode_now(system: System, text: Text) -> DecodeFacts:
    """Translate, score, and do so again with twice and with half the passes where the method has a limit of them."""
    assert text.references is not None
    translations = translate(system, text.sentences)
    filled = [reference for source, reference in zip(text.sources, text.references, strict=True) if source]
    tokenizers = system.translator.tokenizers
    return DecodeFacts(
        report=results(system, text, translations, alone=[]),
        common_output=commonest([item.best for item in translations.filled]),
        common_reference=commonest(filled),
        reference_repetition=repetition_rate(text.references),
        source_unknown=unknown_rate(tokenizers.source.encode(text.sources)),
        reference_unknown=unknown_rate(tokenizers.target.encode(text.references)),
        trials=trials(system, text, translations),
        calls_per_pass=system.decoding.calls_per_pass,
    )


def commonest(lines: Sequence[str]) -> float:
    """Share of the line that occurs most often."""
    return max(Counter(lines).values()) / len(lines) if lines else 0.0


def trials(system: System, text: Text, before: Translations) -> list[Trial]:
    """With half of what the slowest sentence took, and with twice, if it was the limit that ended its work."""
    fields = {field.name for field in dataclasses.fields(system.decoding)}
    calls = max((item.passes for item in before.filled), default=0)
    if "max_passes" not in fields or not calls:
        return []
    allowed = getattr(system.decoding, "max_passes", None)
    tried = []
    for limit in other_limits(calls, allowed, calls_per_pass=system.decoding.calls_per_pass):
        try:
            other = dataclasses.replace(system.decoding, max_passes=limit)  # type: ignore[call-arg]
        except ConfigError:  # another option sets the passes
            return []
        again = translate(dataclasses.replace(system, decoding=other), text.sentences, name=f"in {limit} passes")
        tried.append(trial_of(limit, text, before, again))
    return tried


def other_limits(calls: int, allowed: int | None, *, calls_per_pass: int) -> list[int]:
    """Limits of passes to try. calls: decoder calls of the slowest sentence. allowed: max_passes, None: no number."""
    most = -(-calls // calls_per_pass)
    return ([most // 2] if most > 1 else []) + ([2 * most] if allowed is None or most >= allowed else [])


def trial_of(limit: int, text: Text, before: Translations, again: Translations) -> Trial:
    assert text.references is not None
    outputs = {"before": before.best, "again": again.best}
    outcome = examine(Claim("again", "before"), outputs, text.references, tokenizer=text.tokenizer)
    return Trial(limit, again.mean_passes, outcome.better, outcome.p_value)


def read_decode(path: Path, *, folder: Path, calls_per_pass: int) -> DecodeFacts:
    """A report of nat-decode, OUTPUT.json, and the translations beside it, OUTPUT. Raises DataError for another file,
    ConfigError for a report of another run."""
    report = read_json(path)
    missing = [name for name in NEEDED if not isinstance(report, dict) or name not in report]
    if missing:
        raise DataError(f"decode={path}: not a report of nat-decode (it has no {', '.join(missing[:3])})")
    check_kinds(report, NEEDED, path)
    check_kinds({name: value for name, value in report.items() if value is not None}, SCORES, path)
    for group in report["passes_by_length"]:
        check_kinds(dict.fromkeys(GROUP) | group if isinstance(group, dict) else {"length": group}, GROUP, path)
    if Path(report["run_dir"]).resolve().name != folder.resolve().name:
        raise ConfigError(f"decode={path}: is a report of {report['run_dir']}, not of {folder}")
    outputs = path.with_suffix("")
    lines = [line for line in read_lines(outputs) if line] if path.suffix == ".json" and outputs.is_file() else []
    common = commonest(lines) if lines else None
    return DecodeFacts(report, common_output=common, calls_per_pass=calls_per_pass)


def describe_decode(facts: DecodeFacts) -> dict[str, Any]:
    """What a reader of the findings wants to know of it."""
    plain = {name: facts.report.get(name) for name in SHOWN}
    return plain | {"tokens_per_pass": facts.tokens_per_pass, "trials": [dataclasses.asdict(t) for t in facts.trials]}
