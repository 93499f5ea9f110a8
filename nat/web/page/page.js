// The page: what is typed is translated line by line, by a model in this browser or by the server.

import { atOnce, open } from "./backend.js";
import { lineOf, slotsOf, wordsOf } from "./drawing.js";

const PAUSE = 150; // milliseconds without a key
const [status, about, text, translation, time, token, slots, pair] = [
  "status", "about", "text", "translation", "time", "token", "slots", "pair",
].map((id) => document.getElementById(id));
const results = new Map(); // of lines, for the chosen languages
const rest = () => new Promise((resolve) => setTimeout(resolve)); // keys are heard between two sentences
let model = null;
let round = 0; // of translating: a newer one ends the older
let waiting = 0;

function languageName(code) {
  try {
    return new Intl.DisplayNames(["en"], { type: "language" }).of(code);
  } catch {
    return code;
  }
}

const nameOf = ({ source, target }) => `${languageName(source)} to ${languageName(target)}`;
const chosen = () => model.pairs[pair.value];
const linesOf = () => text.value.split("\n");

async function start() {
  status.textContent = "Opening the model …";
  try {
    model = await open();
  } catch (error) {
    status.textContent = `The model cannot be opened: ${error.message}`;
    return;
  }
  pair.replaceChildren(...model.pairs.map((each, number) => new Option(nameOf(each), number)));
  document.getElementById("pairs").hidden = model.pairs.length < 2;
  document.getElementById("inside").hidden = model.canvas === null;
  document.getElementById("explained").textContent = model.canvas;
  about.textContent = model.description;
  status.textContent = "";
  text.disabled = false;
  choose();
  text.focus();
}

/** Another pair of languages. */
function choose() {
  const { source, target } = chosen();
  document.title = document.getElementById("title").textContent = nameOf(chosen());
  document.getElementById("source").textContent = languageName(source);
  document.getElementById("target").textContent = languageName(target);
  text.lang = source;
  translation.lang = target;
  results.clear();
  update();
}

async function update() {
  const own = ++round;
  const lines = linesOf();
  const present = new Set(lines.filter((line) => line.trim()));
  for (const line of results.keys()) if (!present.has(line)) results.delete(line);
  const missing = [...present].filter((line) => !results.has(line));
  translation.ariaBusy = "true";
  draw(lines);
  for (let first = 0; first < missing.length; first += atOnce) {
    const part = missing.slice(first, first + atOnce);
    const found = await translated(part);
    if (own !== round) return;
    part.forEach((line, number) => results.set(line, found[number]));
    draw(lines);
    await rest();
    if (own !== round) return;
  }
  translation.ariaBusy = "false";
}

async function translated(lines) {
  try {
    return await model.translate(lines, chosen());
  } catch (error) {
    return lines.map(() => ({ error: `This cannot be translated: ${error.message}` }));
  }
}

/** Lines whose result is another one than before, the time, the canvas. */
function draw(lines) {
  const shown = translation.children;
  while (shown.length > lines.length) translation.lastChild.remove();
  lines.forEach((line, number) => {
    const result = results.get(line);
    if (number < shown.length && shown[number].result === result) return;
    const drawn = Object.assign(lineOf(result), { result });
    if (number < shown.length) shown[number].replaceWith(drawn);
    else translation.append(drawn);
  });
  const first = translation.querySelector(".token");
  if (first && !translation.querySelector('[tabindex="0"]')) first.tabIndex = 0;
  const spent = [...results.values()].flatMap((result) => result.milliseconds ?? []);
  const mean = spent.reduce((sum, each) => sum + each, 0) / spent.length;
  const count = `${spent.length} ${spent.length === 1 ? "sentence" : "sentences"}`;
  time.textContent = spent.length ? `${count}, ${mean.toFixed(1)} ms each` : "";
  drawCanvas(atCursor());
}

/** What stands in the line with the cursor. */
function atCursor() {
  return results.get(linesOf()[text.value.slice(0, text.selectionStart).split("\n").length - 1]);
}

function drawCanvas(result) {
  if (slots.result === result) return;
  slots.result = result;
  slots.replaceChildren(...slotsOf(result));
}

/** A token that is pointed at: its words, and its slots on the canvas. */
function point(marked) {
  const result = marked.closest(".line").result;
  const { number } = marked.dataset;
  token.textContent = wordsOf(result, Number(number));
  drawCanvas(result);
  for (const slot of slots.children) slot.classList.toggle("pointed", slot.dataset.number === number);
}

function walk(event) {
  const marked = [...translation.querySelectorAll(".token")];
  const steps = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
  if (!(event.key in steps) || marked.length === 0) return;
  event.preventDefault();
  const place = marked.indexOf(document.activeElement) + steps[event.key];
  const next = marked[Math.min(Math.max(place, 0), marked.length - 1)];
  for (const each of translation.querySelectorAll('[tabindex="0"]')) each.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

text.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(update, PAUSE);
});
document.addEventListener("selectionchange", () => {
  if (model !== null && document.activeElement === text) drawCanvas(atCursor());
});
pair.addEventListener("change", choose);
translation.addEventListener("keydown", walk);
for (const kind of ["focusin", "mouseover", "click"]) {
  translation.addEventListener(kind, (event) => {
    const marked = event.target.closest(".token");
    if (marked) point(marked);
  });
}
start();
