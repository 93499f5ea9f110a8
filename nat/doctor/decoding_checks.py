"""What translations show: of the references, where they are there, or by themselves."""

from __future__ import annotations

import math

from nat.doctor.facts import Facts
from nat.doctor.finding import Check, Finding, Severity, Threshold, percent

NOTHING = Threshold(
    3.0, "BLEU of lines that have nothing to do with their references is 0 to 1, of copied sources 2 or 3"
)
REPETITION = Threshold(
    0.03,
    "share of words equal to the word before, above that of the references: converged models stay below 1 %, "
    "single-pass ones without distillation reach 15 % (docs/results/systems.md; Ghazvininejad et al. 2019)",
)
SHORT = Threshold(
    0.85, "words over those of the references: BLEU's brevity penalty alone takes a sixth, exp(1 - 1/0.85) = 0.84"
)
LONG = Threshold(1.15, "words over those of the references: one word in eight can match nothing")
UNKNOWN = Threshold(0.005, "one token in 200 is one sentence in ten; text that the vocabulary covers has none")
EMPTY = Threshold(0.02, "of sentences that are not empty; a converged model leaves none")
SAME = Threshold(
    0.05, "share of sentences with one and the same translation, above that of the references: the source is not heeded"
)
CUT = Threshold(0.05, "of the sentences end at a limit, not by themselves; of a converged model a few in a thousand do")
MORE_PASSES = Threshold(
    0.5, "BLEU on the same sentences with twice the passes, where paired bootstrap resampling gives p < 0.05"
)
FEWER_PASSES = Threshold(0.1, "BLEU that is lost on the same sentences with half the passes allowed")
SURE = 0.05  # p below which a difference is none of chance
FASTER = 0.75  # halving the limit must save a quarter of the calls to be worth a word
LEAST_SENTENCES = 20  # rates of fewer sentences say nothing


def learnt_nothing(facts: Facts) -> Finding | None:
    """Translations that have nothing to do with the references."""
    decode = facts.decode
    if decode is None or decode.num_sentences < LEAST_SENTENCES or decode.report.get("bleu") is None:
        return None
    bleu = decode.report["bleu"]
    if bleu >= NOTHING.value:
        return None
    what = f"Hardly anything was learnt: BLEU {bleu:.2f} after {facts.run.updates} updates."
    advice = "Train longer; where the training loss does not fall, with another learning rate, and look at the text."
    return Finding(Severity.SEVERE, what, bleu, NOTHING, advice, "nat-train trainer.max_updates=N schedule.peak=X")


def repetition(facts: Facts) -> Finding | None:
    """The mark of mixed translations."""
    decode = facts.decode
    if decode is None or decode.num_sentences < LEAST_SENTENCES:
        return None
    above = decode.report["repetition_rate"] - (decode.reference_repetition or 0.0)
    if above <= REPETITION.value:
        return None
    what = f"{percent(decode.report['repetition_rate'])} of the words repeat the word before them"
    if decode.reference_repetition is not None:
        what += f" ({percent(decode.reference_repetition)} in the references)"
    passes = decode.report["decoding"].get("max_passes")
    advice = "Several translations are mixed, or too little was learnt: distil, train longer"
    advice += ", or take a method with latent alignments." if passes is None else ", or decode in more passes."
    override = "nat-train model=ctc" if passes is None else f"nat-decode decoding.max_passes={2 * passes}"
    severity = Severity.SEVERE if above > 3 * REPETITION.value else Severity.COSTLY
    return Finding(severity, what + ".", above, REPETITION, advice, override)


def wrong_length(facts: Facts) -> Finding | None:
    """Translations that are too short or too long."""
    decode = facts.decode
    if decode is None or decode.num_sentences < LEAST_SENTENCES or decode.report.get("length_ratio") is None:
        return None
    ratio = decode.report["length_ratio"]
    if SHORT.value <= ratio <= LONG.value:
        return None
    threshold, how = (SHORT, "short") if ratio < SHORT.value else (LONG, "long")
    what = f"Translations are too {how}: they have {ratio:.2f} times the words of the references."
    if ratio < SHORT.value:
        what += f" BLEU's brevity penalty leaves {percent(math.exp(1 - 1 / max(ratio, 0.01)))}."
    advice, override = length_advice(decode.report["decoding"], short=ratio < SHORT.value)
    severity = Severity.SEVERE if not 0.5 <= ratio <= 2 else Severity.COSTLY
    return Finding(severity, what, ratio, threshold, advice, override)


def length_advice(decoding: dict[str, object], *, short: bool) -> tuple[str, str]:
    """By the options that the method has."""
    if "length_beam" in decoding:
        return "Try several lengths.", "nat-decode decoding.length_beam=5"
    if "length_bonus" in decoding and short:
        advice = "Train longer, or add a bonus for each token, in a beam search with a language model (nat-lm)."
        return advice, "nat-decode decoding.beam_size=10 decoding.language_model=lm.arpa"
    if "end_penalty" in decoding and short:
        return "Let the end cost something.", "nat-decode decoding.end_penalty=1"
    if "length_penalty" in decoding:
        override = "nat-decode decoding.beam_size=4 decoding.length_penalty=" + ("1.2" if short else "0")
        return "Weigh the hypotheses of a beam by their length.", override
    return "The model does not know the length yet: train longer.", "nat-train trainer.max_updates=N"


def unknown_tokens(facts: Facts) -> Finding | None:
    """What the vocabulary cannot spell, in what is read or written."""
    decode = facts.decode
    if decode is None:
        return None
    rates = {
        "the translations": decode.report["unknown_rate"],
        "the sources": decode.source_unknown,
        "the references": decode.reference_unknown,
    }
    high = {name: rate for name, rate in rates.items() if rate is not None and rate > UNKNOWN.value}
    if not high:
        return None
    told = ", ".join(f"{percent(rate)} of the tokens of {name}" for name, rate in high.items())
    what = f"Unknown tokens, <unk>, which the vocabulary cannot spell: {told}."
    advice = "Cover all characters of the text, or spell unknown ones in bytes; and check that all splits are alike."
    override = "nat-train data.tokenizer.character_coverage=1.0 data.tokenizer.byte_fallback=true"
    return Finding(Severity.COSTLY, what, max(high.values()), UNKNOWN, advice, override)


def empty_translations(facts: Facts) -> Finding | None:
    """Nothing is said where something was to be translated."""
    decode = facts.decode
    if decode is None or decode.num_sentences < LEAST_SENTENCES:
        return None
    share = decode.report["num_empty_translations"] / decode.num_sentences
    if share <= EMPTY.value:
        return None
    number = decode.report["num_empty_translations"]
    what = f"{number} of {decode.num_sentences} translations ({percent(share)}) are empty."
    advice = "Too little was learnt, or the learning rate is wrong: train longer."
    severity = Severity.SEVERE if share > 0.5 else Severity.COSTLY
    return Finding(severity, what, share, EMPTY, advice, "nat-train trainer.max_updates=N schedule.peak=X")


def same_translation(facts: Facts) -> Finding | None:
    """The model says one thing whatever it reads."""
    decode = facts.decode
    if decode is None or decode.common_output is None or decode.num_sentences < LEAST_SENTENCES:
        return None
    above = decode.common_output - (decode.common_reference or 0.0)
    if above <= SAME.value:
        return None
    what = f"{percent(decode.common_output)} of the sentences have one and the same translation, whatever their source."
    advice = "Too little was learnt, or it diverged: train longer, or with another learning rate; see the curves."
    return Finding(Severity.SEVERE, what, above, SAME, advice, "nat-train trainer.max_updates=N schedule.peak=X")


def cut_short(facts: Facts) -> Finding | None:
    """A limit of length or passes ends the work."""
    decode = facts.decode
    if decode is None or decode.num_sentences < LEAST_SENTENCES:
        return None
    share = decode.report["num_truncated"] / decode.num_sentences
    if share <= CUT.value:
        return None
    number = decode.report["num_truncated"]
    what = f"{number} of {decode.num_sentences} translations ({percent(share)}) were cut at a limit."
    options = decode.report["decoding"]
    most = (options.get("max_passes") or 0) * decode.calls_per_pass
    if most and decode.report["passes"] > FASTER * most:
        advice, override = "Allow more passes.", f"nat-decode decoding.max_passes={2 * options['max_passes']}"
    else:
        advice = "Where sentences repeat without end, train longer; else allow longer ones."
        override = f"nat-decode decoding.max_length_factor={2 * options.get('max_length_factor', 2):g}"
    return Finding(Severity.COSTLY, what, share, CUT, advice, override)


def too_few_passes(facts: Facts) -> Finding | None:
    """More passes give better translations of the same sentences."""
    decode = facts.decode
    if decode is None or decode.report.get("bleu") is None:
        return None
    now = decode.report["bleu"]
    better = [
        trial
        for trial in decode.trials
        if trial.passes > decode.report["passes"] and trial.p_value < SURE and trial.bleu - now >= MORE_PASSES.value
    ]
    if not better:
        return None
    best = max(better, key=lambda trial: trial.bleu)
    what = (
        f"Too few passes: {decode.report['passes']:.1f} passes give BLEU {now:.1f} on these sentences, "
        f"{best.passes:.1f} give {best.bleu:.1f} (p {best.p_value:.3f})."
    )
    override = f"nat-decode decoding.max_passes={best.max_passes}"
    return Finding(
        Severity.COSTLY, what, best.bleu - now, MORE_PASSES, "Allow more passes, if there is time.", override
    )


def pointless_passes(facts: Facts) -> Finding | None:
    """Fewer passes do as well."""
    decode = facts.decode
    if decode is None or decode.report.get("bleu") is None or decode.report["bleu"] < NOTHING.value:
        return None
    now = decode.report["bleu"]
    fewer = [
        trial
        for trial in decode.trials
        if trial.passes < FASTER * decode.report["passes"] and now - trial.bleu <= FEWER_PASSES.value
    ]
    if not fewer:
        return None
    best = min(fewer, key=lambda trial: trial.passes)
    what = (
        f"Pointless passes: {decode.report['passes']:.1f} passes give BLEU {now:.1f} on these sentences, "
        f"{best.passes:.1f} give {best.bleu:.1f}."
    )
    override = f"nat-decode decoding.max_passes={best.max_passes}"
    return Finding(
        Severity.MINOR, what, now - best.bleu, FEWER_PASSES, "Allow fewer passes: as good, and faster.", override
    )


CHECKS: tuple[Check, ...] = (
    learnt_nothing,
    same_translation,
    empty_translations,
    repetition,
    wrong_length,
    unknown_tokens,
    too_few_passes,
    cut_short,
    pointless_passes,
)
