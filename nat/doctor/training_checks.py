"""What the curves and the options of a run show of its training."""

from __future__ import annotations

import math

from nat.doctor.facts import Facts
from nat.doctor.finding import Check, Finding, Severity, Threshold, percent

FEW_TOKENS = Threshold(
    256, "half of 512, the smallest update that nat's own recipes were measured with (docs/results/systems.md)"
)
MANY_UPDATES = Threshold(
    8000,
    "an epoch of WMT14 English-German has about 2000 updates of the field's 64k target tokens, on which published "
    "scores depend (github.com/facebookresearch/fairseq/issues/2187); four times as many are let pass",
)
LONG_WARM_UP = Threshold(
    0.5,
    "recipes warm up for 3 to 10 % of the updates (10,000 of 300,000 for WMT14); past a half there is no decay left",
)
NO_WARM_UP = Threshold(
    1, "post-norm Transformers need warm-up, pre-norm ones do not (Xiong et al. 2020, arxiv.org/abs/2002.04745)"
)
FAST_GAIN = Threshold(
    0.2,
    "gain for each doubling of the updates, as a share of the score, over the last third: a learning rate that decays "
    "to 0 makes 6 to 15 % even where twice the updates gave 3 % (CTC on the embedded text)",
)
FALL = Threshold(
    0.1,
    "validations of one run lie 1 to 2 BLEU apart by chance; a tenth of the best score, and 2 BLEU, is more than that",
)
MANY_SKIPPED = Threshold(0.01, "fp16 skips a handful while it finds its scale; more are updates that taught nothing")
MANY_SPLITS = Threshold(0.05, "each halving repeats the work of its update")
FEW_VALIDATIONS = Threshold(2, "the best of one is no choice")
FEW_SENTENCES = Threshold(
    100,
    "two runs of one recipe differ by 0.9 BLEU on 602 sentences (docs/results/systems.md), chance that grows with "
    "the inverse square root of their number: 2.2 BLEU on 100",
)
ONE_CHECKPOINT = Threshold(2, "Vaswani et al. 2017 (section 6.1) and its successors average the last or best 5 or more")
LEAST_GAIN = 1.0  # BLEU: a smaller rise, however steep, is within chance
LEAST_FALL = 2.0  # BLEU


def few_tokens_per_update(facts: Facts) -> Finding | None:
    """Too small an update to learn from, in itself or for so large a corpus."""
    run = facts.run
    tokens = run.summary.get("tokens", 0) / max(1, run.summary.get("update", 0))
    if tokens <= 0:
        return None
    if tokens < FEW_TOKENS.value:
        what = f"An update sees {tokens:.0f} target tokens: its gradient is mostly noise."
        override = f"nat-train trainer.tokens_per_update={2 * FEW_TOKENS.value:.0f}"
        return Finding(Severity.SEVERE, what, tokens, FEW_TOKENS, "Make the updates larger.", override)
    updates = 0.0 if facts.training is None else facts.training.num_target_tokens / tokens
    if updates <= MANY_UPDATES.value:
        return None
    what = (
        f"An update sees {tokens:,.0f} target tokens, 1/{updates:,.0f} of the training text: too few for so much text."
    )
    enough = round(facts.training.num_target_tokens / 2000) if facts.training else 0
    override = f"nat-train trainer.tokens_per_update={enough}"
    advice = "Make the updates larger; memory does not limit them, the trainer accumulates."
    return Finding(Severity.COSTLY, what, updates, MANY_UPDATES, advice, override)


def never_warmed_up(facts: Facts) -> Finding | None:
    """The learning rate was still rising for most of the run."""
    run = facts.run
    warmup = run.option("schedule.warmup")
    if warmup is None or not run.ended or not run.updates:
        return None
    share = min(warmup, run.updates) / run.updates
    if share <= LONG_WARM_UP.value:
        return None
    what = f"The learning rate was still warming up for {percent(share)} of the run: {warmup} of {run.updates} updates."
    override = f"nat-train schedule.warmup={max(1, run.updates // 10)}"
    return Finding(
        Severity.SEVERE, what, share, LONG_WARM_UP, "Warm up for a tenth of the run, or train longer.", override
    )


def no_warm_up(facts: Facts) -> Finding | None:
    """Post-norm from the first update at the full learning rate."""
    if facts.run.option("schedule.warmup") != 0 or facts.run.option("model.size.norm") != "post":
        return None
    what = "The learning rate has no warm-up (schedule.warmup=0), but the layers normalise after the sum (norm=post)."
    override = f"nat-train schedule.warmup={max(1, facts.run.updates // 10)}"
    return Finding(Severity.COSTLY, what, 0, NO_WARM_UP, "Warm up, or use model.size.norm=pre.", override)


def still_improving(facts: Facts) -> Finding | None:
    """The end of the budget came while the score was climbing."""
    validations = facts.run.validations
    if not facts.run.ended or not validations:
        return None
    last = validations[-1]
    before = [line for line in validations if 0 < line["update"] <= last["update"] * 2 / 3]
    if not before or last["bleu"] <= 0:
        return None
    gain = last["bleu"] - before[-1]["bleu"]
    rate = gain / math.log2(last["update"] / before[-1]["update"]) / last["bleu"]
    if gain < LEAST_GAIN or rate < FAST_GAIN.value:
        return None
    what = (
        f"Training stopped while the score was still climbing: BLEU {before[-1]['bleu']:.1f} at update "
        f"{before[-1]['update']}, {last['bleu']:.1f} at {last['update']}, {percent(rate)} of it for each doubling."
    )
    override = f"nat-train trainer.max_updates={2 * last['update']}"
    return Finding(Severity.COSTLY, what, rate, FAST_GAIN, "Train longer, in a new run folder.", override)


def fell_after_best(facts: Facts) -> Finding | None:
    """Overfitting, or divergence."""
    validations = facts.run.validations
    if len(validations) < 2:
        return None
    best, last = max(validations, key=lambda line: float(line["bleu"])), validations[-1]
    fall = best["bleu"] - last["bleu"]
    if fall < LEAST_FALL or fall < FALL.value * best["bleu"]:
        return None
    what = f"The score fell from BLEU {best['bleu']:.1f} at update {best['update']} to {last['bleu']:.1f} at the end."
    share = fall / best["bleu"]
    peak = facts.run.option("schedule.peak")
    if share > 0.5 and peak is not None:
        advice, override = "This is divergence: lower the learning rate.", f"nat-train schedule.peak={peak / 2:g}"
    else:
        advice = "This is overfitting: stop earlier, raise model.size.dropout, or give more text."
        override = "nat-train validation.patience=5"
    return Finding(Severity.COSTLY, what, share, FALL, advice, override)


def many_skipped(facts: Facts) -> Finding | None:
    """Updates without effect, for their gradient was not finite."""
    run = facts.run
    skipped = run.summary.get("skipped", 0)
    share = skipped / max(1, run.updates)
    if share <= MANY_SKIPPED.value:
        return None
    what = f"{skipped} of {run.updates} updates ({percent(share)}) were skipped: their gradient was not finite."
    fp16 = run.option("trainer.precision") == "fp16"
    override = "trainer.precision=fp32" if fp16 else f"schedule.peak={run.option('schedule.peak', 1e-3) / 2:g}"
    advice = "Use another precision." if fp16 else "Lower the learning rate."
    return Finding(Severity.COSTLY, what, share, MANY_SKIPPED, advice, f"nat-train {override}")


def many_memory_splits(facts: Facts) -> Finding | None:
    """Time lost to running out of memory again and again."""
    run = facts.run
    splits = run.summary.get("memory_splits", 0)
    share = splits / max(1, run.updates)
    if share <= MANY_SPLITS.value:
        return None
    what = (
        f"Memory ran out {splits} times in {run.updates} updates, whose micro-batches were then halved and done again."
    )
    override = f"nat-train trainer.max_tokens={max(1, run.option('trainer.max_tokens', 2) // 2)}"
    return Finding(
        Severity.MINOR, what, share, MANY_SPLITS, "Make the micro-batches smaller; results do not change.", override
    )


def not_finished(facts: Facts) -> Finding | None:
    """The run was stopped, or killed, or is still at work."""
    run = facts.run
    most = run.option("trainer.max_updates")
    if run.ended or most is None:
        return None
    what = f"The run has not come to its end: {run.updates} of {most} updates are done."
    threshold = Threshold(most, "trainer.max_updates of this run")
    return Finding(
        Severity.COSTLY, what, run.updates, threshold, "The same command again resumes it.", "nat-train (as before)"
    )


def chosen_by_loss(facts: Facts) -> Finding | None:
    """The best checkpoint is not that of the best translations."""
    if facts.run.option("validation.metric") != "loss":
        return None
    validations = facts.run.validations
    what = "The checkpoint was chosen by validation loss, not by BLEU."
    lost = 0.0
    losses = [line for line in validations if line.get("loss") is not None]
    if losses:
        chosen = min(losses, key=lambda line: float(line["loss"]))
        lost = max(float(line["bleu"]) for line in validations) - chosen["bleu"]
        what = what[:-1] + f": its BLEU is {chosen['bleu']:.1f}, {lost:.1f} below the best validation."
    threshold = Threshold(
        0,
        "the loss of a parallel decoder falls or rises without its translations doing the same: choose by what is read",
    )
    severity = Severity.COSTLY if lost >= LEAST_GAIN else Severity.MINOR
    return Finding(severity, what, lost, threshold, "Choose by BLEU.", "nat-train validation.metric=bleu")


def few_validations(facts: Facts) -> Finding | None:
    """Nothing to choose the checkpoint from."""
    number = len(facts.run.validations)
    if not facts.run.ended or number >= FEW_VALIDATIONS.value:
        return None
    what = f"The run was validated {'once' if number == 1 else 'never'}: there was no best checkpoint to choose."
    override = f"nat-train validation.every={max(1, facts.run.updates // 6)}"
    return Finding(Severity.MINOR, what, number, FEW_VALIDATIONS, "Validate more often.", override)


def few_validation_sentences(facts: Facts) -> Finding | None:
    """The score that chooses is mostly chance."""
    known = [n for n in (facts.run.option("validation.max_sentences"), facts.num_validated) if n is not None]
    if not known or min(known) >= FEW_SENTENCES.value:
        return None
    what = f"Checkpoints are chosen by the BLEU of {min(known)} sentences, which is mostly chance."
    enough = facts.num_validated is None or facts.num_validated >= FEW_SENTENCES.value
    advice = "Decode more of the validation text." if enough else "Give more validation text."
    override = "nat-train validation.max_sentences=300" if enough else "nat-train data.valid=FILE"
    return Finding(Severity.MINOR, what, min(known), FEW_SENTENCES, advice, override)


def single_checkpoint(facts: Facts) -> Finding | None:
    """No average was tried. One that was tried and is worse is no fault."""
    run = facts.run
    number = len(run.validations)
    if not run.ended or number < 2 or run.option("trainer.moving_average"):
        return None
    if any(line.get("kind") == "valid_average" for line in run.curves):
        return None
    if run.option("trainer.average_best") is False:
        why, override = "trainer.average_best=false", "trainer.average_best=true"
    elif run.option("validation.keep_best") == 1:
        why, override = "validation.keep_best=1", "validation.keep_best=5"
    else:
        return None
    what = f"The weights are those of a single checkpoint of {number}; no average of the best was tried ({why})."
    return Finding(Severity.MINOR, what, 1, ONE_CHECKPOINT, "Average the best.", f"nat-train {override}")


CHECKS: tuple[Check, ...] = (
    few_tokens_per_update,
    never_warmed_up,
    still_improving,
    fell_after_best,
    no_warm_up,
    many_skipped,
    not_finished,
    chosen_by_loss,
    few_validations,
    few_validation_sentences,
    single_checkpoint,
    many_memory_splits,
)
