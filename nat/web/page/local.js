// A model of this folder, computed in this browser: ONNX Runtime Web, one thread, no request to any other host.

import * as runtime from "../runtime/ort.js";
import { Tokenizer } from "./tokenizer.js";

/** A model takes one sentence at a time. */
export const atOnce = 1;

const beside = (name) => new URL(`../${name}`, import.meta.url).href;

/** What the page shows and calls; see `LocalModel`. */
export async function open() {
  Object.assign(runtime.env.wasm, {
    numThreads: 1,
    wasmPaths: { mjs: beside("runtime/ort-wasm.js"), wasm: beside("runtime/ort-wasm.wasm") },
  });
  const about = await read("model.json");
  const sides = await Promise.all(about.tokenizers.map(read));
  const [source, target] = sides.map((data) => new Tokenizer(data, about.symbols));
  const options = { executionProviders: ["wasm"], logSeverityLevel: 3 };
  const session = await runtime.InferenceSession.create(beside("model.onnx"), options);
  const model = new LocalModel(about, source, target, session);
  await model.translate(["."], model.pairs[0]); // the first one is slower than all others
  return model;
}

async function read(name) {
  const answer = await fetch(beside(name));
  if (!answer.ok) throw new Error(`${name} cannot be read (${answer.status})`);
  return answer.json();
}

class LocalModel {
  /** about: of model.json. */
  constructor(about, source, target, session) {
    Object.assign(this, { about, source, target, session });
    this.pairs = about.targets.map((target) => ({ source: about.source, target }));
    const millions = (about.num_parameters / 1e6).toFixed(1);
    const megabytes = (about.graph_bytes / 1e6).toFixed(1);
    this.description =
      `${about.name}: ${about.model}, ${millions} million parameters, ${about.precision}, ` +
      `${megabytes}\u00a0MB. It runs in this browser, and nothing that you type leaves it.`;
    this.canvas =
      "What was written in one pass, for the line with the cursor or with the token that is pointed at. " +
      "Blanks (·) and repetitions (struck through) are left out of the translation.";
  }

  /** [{ text, tokens, slots, milliseconds }] of lines, or [{ error }]. */
  async translate(lines, pair) {
    const found = [];
    for (const line of lines) found.push(await this.translateLine(this.about.tags ? this.tagged(line, pair) : line));
    return found;
  }

  /** A line that says which language is wanted; a blank one stays. */
  tagged(line, pair) {
    return this.source.encode(line).length === 0 ? line : `<${pair.target}> ${line}`;
  }

  async translateLine(line) {
    const began = performance.now();
    const ids = this.source.encode(line);
    const [count, most] = [ids.length, this.about.max_source_tokens];
    if (count > most) return { error: `${count} tokens, but this model takes at most ${most} in a sentence.` };
    if (count === 0) return { text: "", tokens: [], slots: [], milliseconds: 0 };
    const tokens = new runtime.Tensor("int64", BigInt64Array.from(ids, BigInt), [1, count]);
    const { path, log_probs: logProbs } = await this.session.run({ tokens });
    const slots = this.slots(Array.from(path.data, Number), Array.from(logProbs.data, Math.exp));
    return { ...this.written(slots), slots, milliseconds: performance.now() - began };
  }

  /** [{ id, text, kind, probability, token }]: what fills each slot, and the number of the token that it is part of. */
  slots(path, probabilities) {
    const { collapse, symbols } = this.about;
    let token = -1;
    return path.map((id, place) => {
      const isBlank = id === symbols.blank;
      const isRepeat = collapse && !isBlank && place > 0 && path[place - 1] === id;
      if (!isBlank && !isRepeat) token++;
      const kind = isBlank ? "blank" : isRepeat ? "repeat" : "token";
      const text = isBlank ? "·" : this.target.piece(id);
      return { id, text, kind, probability: probabilities[place], token: isBlank ? null : token };
    });
  }

  /** { text, tokens: [{ text, probability }] }: a token is as probable as the most probable of its slots. */
  written(slots) {
    const ids = slots.filter((slot) => slot.kind === "token").map((slot) => slot.id);
    const tokens = this.target.surfaces(ids).map((text) => ({ text, probability: 0 }));
    for (const { token, probability } of slots) {
      if (token !== null) tokens[token].probability = Math.max(tokens[token].probability, probability);
    }
    return { text: tokens.map((token) => token.text).join(""), tokens };
  }
}
