// Text to the ids of a model and back, as SentencePiece does it, from the file that nat-export wrote of its model.

import { Bpe } from "./bpe.js";
import { Normalizer, PrefixMatcher, SPACE } from "./normalizer.js";
import { characters, toBytes } from "./text.js";
import { Unigram } from "./unigram.js";

const TYPES = { N: "normal", "?": "unknown", C: "control", U: "user_defined", B: "byte", X: "unused" };
const FOUND_IN_TEXT = new Set(["normal", "user_defined", "unused"]);
const BLANK = /^[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*$/; // what Python calls space
const byteName = (byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;

/** The pieces of a model by number and by text. */
class Vocabulary {
  constructor(data) {
    this.pieces = data.pieces;
    this.scores = data.scores.map(Math.fround);
    this.types = [...data.types].map((letter) => TYPES[letter]);
    this.unknown = this.types.indexOf("unknown");
    const all = this.pieces.map((piece, id) => [piece, id]);
    this.ids = new Map(all.filter(([, id]) => FOUND_IN_TEXT.has(this.types[id])));
    this.reserved = new Map(all.filter(([, id]) => !FOUND_IN_TEXT.has(this.types[id])));
    this.userDefined = new PrefixMatcher(this.pieces.filter((_, id) => this.types[id] === "user_defined"));
  }

  idOf(piece) {
    return this.reserved.get(piece) ?? this.ids.get(piece) ?? this.unknown;
  }
}

export class Tokenizer {
  /** data: of a file tokenizer/*.json. symbols: { unk, first_piece } of nat's ids, whose first ones are special. */
  constructor(data, symbols) {
    this.data = data;
    this.symbols = symbols;
    this.vocabulary = new Vocabulary(data);
    this.normalizer = new Normalizer(data, this.vocabulary.userDefined);
    this.model = data.kind === "bpe" ? new Bpe(this.vocabulary) : new Unigram(this.vocabulary);
    const isOrdinary = (type) => !["control", "unknown", "unused"].includes(type);
    this.ordinary = this.vocabulary.types.flatMap((type, id) => (isOrdinary(type) ? [id] : []));
    this.natIds = new Map(this.ordinary.map((id, i) => [id, symbols.first_piece + i]));
  }

  /** nat's ids of a text; a blank one has none. */
  encode(text) {
    if (BLANK.test(text)) return [];
    return this.pieceIds(text).map((id) => this.natIds.get(id) ?? this.symbols.unk);
  }

  /** SentencePiece's ids: a run of unknown pieces is one, or is spelt in bytes. */
  pieceIds(text) {
    const { unknown } = this.vocabulary;
    const found = [];
    for (const [piece, id] of this.model.segment(this.normalizer.normalize(text))) {
      if (id !== unknown) found.push(id);
      else if (this.data.byte_fallback) found.push(...this.byteIds(piece));
      else if (found.at(-1) !== unknown) found.push(unknown);
    }
    return found;
  }

  byteIds(piece) {
    return Array.from(toBytes(piece), (byte) => this.vocabulary.idOf(byteName(byte)));
  }

  /** The piece of one of nat's ids, for people to look at. */
  piece(id) {
    return this.vocabulary.pieces[this.pieceId(id)];
  }

  pieceId(id) {
    return this.ordinary[id - this.symbols.first_piece] ?? this.vocabulary.unknown;
  }

  /** What each of nat's ids writes; together they are the text. */
  surfaces(ids) {
    const { types, pieces } = this.vocabulary;
    const numbers = ids.map((id) => this.pieceId(id));
    const found = numbers.map(() => "");
    let isFirst = true; // a space is left out
    for (let place = 0; place < numbers.length; place++) {
      let end = place;
      while (end < numbers.length && types[numbers[end]] === "byte") end++;
      const bytes = Uint8Array.from(numbers.slice(place, end), (id) => parseInt(pieces[id].slice(3, 5), 16));
      for (const character of characters(bytes)) found[place + character.end - 1] = character.text;
      isFirst &&= end === place;
      place = end;
      if (place === numbers.length) break;
      const [surface, hasSpace] = this.surface(numbers[place], isFirst);
      found[place] = surface;
      if (surface || hasSpace) isFirst = false;
    }
    return found;
  }

  /** What a piece that is no byte writes, and whether it has lost the one space that a prefix is. */
  surface(id, isFirst) {
    if (id === this.vocabulary.unknown) return [this.data.unknown_surface, false];
    const { dummy_prefix: dummyPrefix, collapse_spaces: collapseSpaces } = this.data.normalizer;
    const piece = this.vocabulary.pieces[id];
    const loses = isFirst && (dummyPrefix || collapseSpaces) && piece.startsWith(SPACE);
    return [(loses ? piece.slice(1) : piece).replaceAll(SPACE, " "), loses && !collapseSpaces];
  }

  decode(ids) {
    return this.surfaces(ids).join("");
  }
}
