// The most probable segmentation under a unigram model (Kudo 2018, https://arxiv.org/abs/1804.10959), with the rounding
// and the ties of SentencePiece: sums are in float32, and of equal ones the piece that begins first stays.

import { toBytes } from "./text.js";

const UNKNOWN_PENALTY = 10;
const SMALLEST = 1.1754943508222875e-38; // of float32: where SentencePiece begins to look for the largest score

export class Unigram {
  /** vocabulary: see tokenizer.js. */
  constructor(vocabulary) {
    this.vocabulary = vocabulary;
    const { pieces, scores, types } = vocabulary;
    const normal = scores.filter((_, id) => types[id] === "normal");
    const largest = normal.reduce((one, other) => Math.max(one, other), SMALLEST);
    const smallest = normal.reduce((one, other) => Math.min(one, other), Infinity);
    this.unknownScore = Math.fround(smallest - UNKNOWN_PENALTY);
    const userDefined = (piece) => Math.fround(Math.fround(toBytes(piece).length * largest) - 0.1); // above all others
    this.scores = pieces.map((piece, id) => (types[id] === "user_defined" ? userDefined(piece) : scores[id]));
    this.longest = pieces.reduce((length, piece) => Math.max(length, piece.length), 1);
  }

  /** [[text, id]] of a normalised text. */
  segment(text) {
    const { ids, types, unknown } = this.vocabulary;
    const best = Array.from({ length: text.length + 1 }, () => null); // of the pieces that end at a place
    best[0] = { score: 0 };
    for (let start = 0; start < text.length; ) {
      const single = String.fromCodePoint(text.codePointAt(start)).length;
      const before = best[start].score;
      let isKnown = false;
      for (let length = 1; length <= this.longest && start + length <= text.length; length++) {
        const id = ids.get(text.slice(start, start + length));
        if (id === undefined || types[id] === "unused") continue;
        this.offer(best, start, start + length, before + this.scores[id], id);
        isKnown ||= length === single;
      }
      if (!isKnown) this.offer(best, start, start + single, before + this.unknownScore, unknown);
      start += single;
    }
    return this.trace(text, best);
  }

  offer(best, start, end, sum, id) {
    const score = Math.fround(sum);
    if (best[end] === null || score > best[end].score) best[end] = { score, start, id };
  }

  trace(text, best) {
    const found = [];
    for (let end = text.length; end > 0; end = best[end].start) {
      found.push([text.slice(best[end].start, end), best[end].id]);
    }
    return found.reverse();
  }
}
