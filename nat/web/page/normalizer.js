// SentencePiece's normalisation: its table of replacements, white space, the prefix of a sentence.
// https://github.com/google/sentencepiece, normalizer.cc

import { fromBytes, toBytes } from "./text.js";

export const SPACE = "\u2581"; // what stands for a space in a piece

/** The longest of some texts that bytes begin with. */
export class PrefixMatcher {
  constructor(texts) {
    this.known = new Set(texts);
    this.lengths = [...new Set(texts.map((text) => text.length))].sort((a, b) => b - a);
  }

  /** The longest known text at a place of a string; "" where there is none. */
  at(text, place) {
    for (const length of this.lengths) {
      const part = text.slice(place, place + length);
      if (part.length === length && this.known.has(part)) return part;
    }
    return "";
  }
}

/** The compiled table of a normalisation rule: a double array of UTF-8 prefixes, and what they become.
 *  The array is that of https://github.com/s-yata/darts-clone. */
class Replacements {
  constructor(base64) {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    const size = view.getUint32(0, true);
    this.units = Uint32Array.from({ length: size / 4 }, (_, i) => view.getUint32(4 + 4 * i, true));
    this.texts = bytes.subarray(4 + size); // each ends with a zero
  }

  /** { text, length } of the longest prefix of `bytes` from `start` that is replaced; null where none is. */
  at(bytes, start) {
    const offset = (unit) => (unit >>> 10) << ((unit & 0x200) >>> 6);
    let node = offset(this.units[0]);
    let found = null;
    for (let place = start; place < bytes.length; place++) {
      node ^= bytes[place];
      const unit = this.units[node];
      if (((unit & 0x800000ff) >>> 0) !== bytes[place]) break;
      node ^= offset(unit);
      if ((unit >>> 8) & 1) found = { value: this.units[node] & 0x7fffffff, length: place + 1 - start };
    }
    if (found === null) return null;
    const text = fromBytes(this.texts.subarray(found.value, this.texts.indexOf(0, found.value)));
    return { text, length: found.length };
  }
}

export class Normalizer {
  /** data: of a tokenizer file. userDefined: a matcher of pieces that normalisation leaves alone. */
  constructor(data, userDefined) {
    Object.assign(this, data.normalizer);
    this.userDefined = userDefined;
    this.replacements = data.normalizer.charsmap ? new Replacements(data.normalizer.charsmap) : null;
  }

  /** What the pieces of a text are looked for in. */
  normalize(text) {
    const parts = this.parts(text);
    let first = 0;
    if (this.collapse_spaces) while (parts[first] === " ") first++;
    if (first === parts.length) return "";
    let normalized = this.dummy_prefix ? " " : "";
    let afterSpace = this.collapse_spaces;
    for (let part of parts.slice(first)) {
      if (afterSpace) part = part.replace(/^ +/, "");
      normalized += part;
      if (part) afterSpace = this.collapse_spaces && part.endsWith(" ");
    }
    if (!this.escape_spaces) return this.collapse_spaces ? normalized.replace(/ +$/, "") : normalized;
    normalized = normalized.replaceAll(" ", SPACE);
    return this.collapse_spaces ? normalized.replace(/\u2581+$/, "") : normalized;
  }

  /** The text piece by piece, each replaced or left as it is. */
  parts(text) {
    const bytes = toBytes(text);
    const whole = fromBytes(bytes); // without halves of surrogate pairs
    const found = [];
    for (let place = 0, start = 0; place < whole.length; ) {
      const own = this.userDefined.at(whole, place);
      const rule = own ? null : this.replacements?.at(bytes, start);
      const character = () => String.fromCodePoint(whole.codePointAt(place));
      const taken = own || (rule ? fromBytes(bytes.subarray(start, start + rule.length)) : character());
      found.push(rule ? rule.text : taken);
      start += rule ? rule.length : toBytes(taken).length;
      place += taken.length;
    }
    return found;
  }
}
