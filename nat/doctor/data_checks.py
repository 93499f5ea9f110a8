"""What the text of a run shows: where its targets are from, what is left out of it, what it shares with the test."""

from __future__ import annotations

from nat.doctor.facts import Facts, Origin
from nat.doctor.finding import Check, Finding, Severity, Threshold, percent

PARALLEL = Threshold(
    1.5,
    "target tokens a pass: those of one pass are chosen without regard to each other, so that right translations are "
    "mixed; distilled targets are worth 0.7 to 6.1 BLEU to the single-pass systems of docs/results/systems.md (Gu "
    "et al. 2018; Zhou et al. 2020, arxiv.org/abs/1911.02727)",
)
SINGLE_PASS = 5.0  # tokens a pass: from here on the finding is severe
MANY_DIFFERING = Threshold(0.05, "a teacher gives one source one translation")
MANY_REPEATED = 20  # sources that occur several times: fewer prove nothing
SHARED = Threshold(
    0.01, "share of a held-out split: of the embedded corpora, 0 and 0.1 % of the sentences are also training sources"
)
LEAST_SHARED = 3  # sentences
SHORT_CANVAS = Threshold(
    0.02,
    "the usual 2 slots a source token (Saharia et al. 2020, arxiv.org/abs/2004.07437; Libovicky & Helcl 2018 take 3) "
    "leave out 0.8 to 1.1 % of the embedded text",
)
UNLEARNABLE = Threshold(0.01, "what is left out should be exceptions")
DROPPED = Threshold(0.1, "of clean text the filters take a few in a thousand: 9 of 38679 pairs of the embedded corpus")
RARE = Threshold(
    10,
    "uses of the median piece: Gowda & May 2020 (arxiv.org/abs/2004.02334) advise the largest vocabulary of which "
    "95 % of the pieces occur 100 times; where half of them have not a tenth of that, it is too large by far",
)
LIMITS = {"max_offset": "model.length.max_offset", "model.max_fertility": "model.max_fertility"}  # by a part of why
BROKEN_LINES = Threshold(
    0.02, "of the embedded corpus 0.1 % of the teacher's translations are empty or cut at the limit"
)


def not_distilled(facts: Facts) -> Finding | None:
    """A decoder that writes several tokens at once learnt from the corpus's own translations."""
    if facts.decode is None or facts.decode.tokens_per_pass <= PARALLEL.value:
        return None
    origin = origin_of(facts)
    if origin.distilled is not False:
        return None
    rate = facts.decode.tokens_per_pass
    severity = Severity.SEVERE if rate > SINGLE_PASS else Severity.COSTLY
    what = f"The model writes {rate:.1f} tokens a pass, but its training text is not distilled: {origin.told}."
    advice = "Train an autoregressive teacher, let it translate the training text (nat-distill), and learn from that."
    return Finding(severity, what, rate, PARALLEL, advice, "nat-train data.train=DISTILLED/train.jsonl")


def origin_of(facts: Facts) -> Origin:
    """Where manifests do not tell: sources that have several translations are no teacher's."""
    text = facts.training
    if facts.origin.distilled is not None or text is None or text.num_repeated < MANY_REPEATED:
        return facts.origin
    share = text.num_differing / text.num_repeated
    if share <= MANY_DIFFERING.value:
        return facts.origin
    told = (
        f"{facts.origin.told}; but {text.num_differing} of the {text.num_repeated} sources that occur several times "
        "have different translations, and a teacher gives one source one translation"
    )
    return Origin(False, told)


def broken_distillation(facts: Facts) -> Finding | None:
    """A teacher whose translations end at the limit, or are empty."""
    manifest = facts.origin.manifest
    if manifest is None or not manifest.get("num_lines"):
        return None
    broken = manifest.get("num_truncated", 0) + manifest.get("num_empty", 0)
    share = broken / manifest["num_lines"]
    if share <= BROKEN_LINES.value:
        return None
    what = (
        f"{percent(share)} of the distilled translations are broken: {manifest.get('num_truncated', 0)} cut at the "
        f"length limit, {manifest.get('num_empty', 0)} empty, of {manifest['num_lines']}."
    )
    advice = "Look at the teacher first: it does not end its sentences. Train it longer, or use a beam."
    return Finding(Severity.COSTLY, what, share, BROKEN_LINES, advice, "nat-distill decoding.beam_size=4")


def overlap(facts: Facts) -> Finding | None:
    """Sentences that are tested were learnt by heart."""
    shared = [
        part
        for part in facts.overlaps
        if part.num_shared >= LEAST_SHARED and part.num_shared > SHARED.value * part.num_sentences
    ]
    if not shared:
        return None
    worst = max(shared, key=lambda part: part.num_shared / part.num_sentences)
    told = ", ".join(f"{part.num_shared} of the {part.num_sentences} of split {part.split}" for part in shared)
    what = f"Training and held-out text overlap: {told} are training sources, too, so that the scores are too high."
    share = worst.num_shared / worst.num_sentences
    advice = "Take these sentences out of the training text, or hold out others."
    return Finding(Severity.SEVERE, what, share, SHARED, advice, "nat-train data.train=FILE_WITHOUT_THEM")


def short_canvas(facts: Facts) -> Finding | None:
    """The canvas follows from the source and is too small for its translation."""
    text, slots = facts.training, facts.run.option("model.upsampling")
    if text is None or text.num_short is None or slots is None:
        return None
    share = text.num_short / max(1, text.num_looked_at)
    if share <= SHORT_CANVAS.value:
        return None
    what = (
        f"The canvas is too short for {percent(share)} of the training pairs: they have no alignment and are left out."
    )
    what += f" It has {slots} slots a source token."
    override = f"nat-train model.upsampling={text.enough}"
    severity = Severity.SEVERE if share > 10 * SHORT_CANVAS.value else Severity.COSTLY
    advice = f"Make it larger: {text.enough} slots a source token hold 99.5 % of the pairs."
    return Finding(severity, what, share, SHORT_CANVAS, advice, override)


def unlearnable(facts: Facts) -> Finding | None:
    """The method cannot learn from many pairs, for another reason than its canvas."""
    text = facts.training
    if text is None:
        return None
    share = text.num_unlearnable / max(1, text.num_looked_at)
    if share <= UNLEARNABLE.value:
        return None
    what = f"{percent(share)} of the training pairs cannot be learnt by this method: {text.why_unlearnable}."
    limit = next((name for part, name in LIMITS.items() if part in text.why_unlearnable), "model.positions.max_length")
    now = facts.run.option(limit)
    override = f"nat-train {limit}={2 * now if isinstance(now, int) else 'N'}"
    return Finding(Severity.COSTLY, what, share, UNLEARNABLE, "Raise the limit.", override)


def many_dropped(facts: Facts) -> Finding | None:
    """The filters took what they were not meant to take, or the text is not clean."""
    text = facts.training
    if text is None or not text.num_read:
        return None
    reasons = {name: count for name, count in text.reasons.items() if not is_wanted(name)}
    share = sum(reasons.values()) / text.num_read
    if share <= DROPPED.value:
        return None
    told = ", ".join(f"{count} {name}" for name, count in sorted(reasons.items(), key=lambda item: -item[1]))
    what = f"The filters dropped {percent(share)} of the {text.num_read} training pairs: {told}."
    advice = (
        "Look at the lines that nat-train names: the sides may be shifted, or another language; or widen data.filters."
    )
    ratio = facts.run.option("data.filters.max_ratio")
    override = f"nat-train data.filters.max_ratio={2 * ratio:g}" if ratio else "nat-train data.filters.max_tokens=500"
    return Finding(Severity.COSTLY, what, share, DROPPED, advice, override)


def is_wanted(reason: str) -> bool:
    """A limit on the words or the number of pairs, which nobody sets without knowing."""
    return reason.startswith("beyond the first") or reason.endswith(" words")


def large_vocabulary(facts: Facts) -> Finding | None:
    """Pieces that are too rare to be learnt."""
    text = facts.training
    if text is None or text.median_count >= RARE.value:
        return None
    what = (
        f"The vocabulary of {text.vocabulary_size} pieces is too large for the text: half of them occur "
        f"{text.median_count:.0f} times or less in all {text.num_pairs} pairs."
    )
    override = f"nat-train data.tokenizer.vocabulary_size={max(200, text.vocabulary_size // 2)}"
    return Finding(Severity.COSTLY, what, text.median_count, RARE, "Make it smaller.", override)


CHECKS: tuple[Check, ...] = (
    overlap,
    not_distilled,
    short_canvas,
    broken_distillation,
    unlearnable,
    many_dropped,
    large_vocabulary,
)
