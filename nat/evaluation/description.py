"""nat-decode's report for people to read."""

from __future__ import annotations

from typing import Any

from nat.evaluation.editing import describe_edits
from nat.evaluation.results import LONGER
from nat.scoring.polygons import describe_points


def describe(report: dict[str, Any]) -> str:
    """The fields of OUTPUT.json, see `nat.evaluation.results`, in a few lines."""
    lines = [
        *describe_text(report),
        *describe_points(report),
        *describe_scores(report),
        f"repetition {100 * report['repetition_rate']:.2f} %  unknown {100 * report['unknown_rate']:.2f} %  "
        f"copied {100 * report['copied_rate']:.2f} %  passes {shown(report, 'passes')}",
        *describe_candidates(report),
        *describe_edits(report),
    ]
    if "teacher" in report:
        lines.append(f"teacher score {shown(report, 'teacher_score', 3)} ({report['teacher']})")
    if report["sentences_per_second"] is not None:
        lines.append(
            f"alone {shown(report, 'ms_per_sentence_p50', 1)} ms (95 %: {shown(report, 'ms_per_sentence_p95', 1)} ms), "
            f"one thread; batches of {report['batch_size']}: {shown(report, 'sentences_per_second', 1)} sentences/s, "
            f"{report['num_threads']} threads; {report['device']}"
        )
    return "\n".join(lines)


def shown(report: dict[str, Any], name: str, digits: int = 2) -> str:
    """A figure, or a dash where it is not known."""
    value = report.get(name)
    return "-" if value is None else f"{value:.{digits}f}"


def describe_text(report: dict[str, Any]) -> list[str]:
    """What was translated, and what was left out of it."""
    return [
        f"{report['model']} {report['run_dir']} (weights: {report['weights']}), {report['text']}",
        f"sentences {report['num_sentences']}: empty {report['num_empty']}, at the length limit "
        f"{report['num_truncated']}; left out of the text {report['num_dropped']}",
        *([f"  sources cut to data.source_words: {report['num_cut_sources']}"] if report["num_cut_sources"] else []),
        *(f"  left out: {reason}: {count['pairs']}" for reason, count in report["dropped_reasons"].items()),
    ]


def describe_scores(report: dict[str, Any]) -> list[str]:
    """Scores with their signatures; [] without references."""
    lines = []
    if report["bleu"] is not None:
        lines.append(
            f"BLEU {shown(report, 'bleu')}  chrF {shown(report, 'chrf')}  length ratio "
            f"{shown(report, 'length_ratio', 3)}  exact {100 * report['exact_match']:.2f} %"
            + (f"  TER {shown(report, 'ter')}" if "ter" in report else "")
        )
        lines.append(
            f"BLEU {shown(report, f'bleu_{LONGER}plus_words')}  chrF {shown(report, f'chrf_{LONGER}plus_words')}  "
            f"on the {report[f'num_{LONGER}plus_words']} sources of {LONGER} words and more"
        )
        lines += [f"  {report[name]}" for name in report if name.endswith("_signature") and report[name]]
    if "comet" in report:
        lines.append(f"COMET {shown(report, 'comet', 4)}  ({report['comet_model']})")
    return lines


def describe_candidates(report: dict[str, Any]) -> list[str]:
    """How many there were and what the choice did; [] where there was nothing to choose from."""
    if report["decoding"]["num_candidates"] == 1:
        return []
    line = (
        f"candidates {shown(report, 'num_candidates')}, choice: {report['choice']}, not the first one "
        f"{report['num_choice_differs']} times"
    )
    if report["oracle_bleu"] is not None:
        line += f"; the best choice has BLEU {shown(report, 'oracle_bleu')}, or chrF {shown(report, 'oracle_chrf')}"
    return [line]
