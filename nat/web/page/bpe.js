// Byte-pair encoding (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909) in the order of SentencePiece: of all
// pairs that are a piece, the one of the highest score is merged first, of equal ones the leftmost.

import { Heap } from "./heap.js";

const isBefore = (one, other) => one.score > other.score || (one.score === other.score && one.left < other.left);

export class Bpe {
  /** vocabulary: see tokenizer.js. */
  constructor(vocabulary) {
    this.vocabulary = vocabulary;
  }

  /** [[text, id]] of a normalised text. */
  segment(text) {
    const symbols = this.symbols(text);
    const halves = new Map(); // of pieces that are merged on the way and are none in the end
    const waiting = new Heap(isBefore);
    const consider = (left, right) => this.consider(symbols, left, right, waiting, halves);
    for (let right = 1; right < symbols.length; right++) consider(right - 1, right);
    for (let pair = waiting.pop(); pair !== undefined; pair = waiting.pop()) {
      const [left, right] = [symbols[pair.left], symbols[pair.right]];
      const isStale = !left.text || !right.text || left.text.length + right.text.length !== pair.length;
      if (isStale) continue;
      left.text += right.text;
      right.text = "";
      left.next = right.next;
      if (right.next >= 0) symbols[right.next].previous = pair.left;
      consider(left.previous, pair.left);
      consider(pair.left, left.next);
    }
    return symbols.filter(({ text }) => text).flatMap(({ text }) => this.split(text, halves));
  }

  /** Characters and, whole, user-defined pieces. */
  symbols(text) {
    const found = [];
    for (let place = 0; place < text.length; ) {
      const own = this.vocabulary.userDefined.at(text, place);
      const part = own || String.fromCodePoint(text.codePointAt(place));
      place += part.length;
      found.push({ text: part, isFrozen: own !== "", previous: found.length - 1, next: found.length + 1 });
    }
    if (found.length > 0) found.at(-1).next = -1;
    return found;
  }

  consider(symbols, left, right, waiting, halves) {
    if (left < 0 || right < 0 || symbols[left].isFrozen || symbols[right].isFrozen) return;
    const piece = symbols[left].text + symbols[right].text;
    const id = this.vocabulary.ids.get(piece);
    if (id === undefined) return;
    waiting.push({ left, right, score: this.vocabulary.scores[id], length: piece.length });
    if (this.vocabulary.types[id] === "unused") halves.set(piece, [symbols[left].text, symbols[right].text]);
  }

  /** A symbol that is no piece of the vocabulary is taken apart again. */
  split(text, halves) {
    const id = this.vocabulary.idOf(text);
    const parts = this.vocabulary.types[id] === "unused" ? halves.get(text) : undefined;
    return parts ? parts.flatMap((part) => this.split(part, halves)) : [[text, id]];
  }
}
