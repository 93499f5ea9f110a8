// Translations and canvases as elements.

const LEVELS = [["sure", 0.95], ["likely", 0.8], ["doubtful", 0.5], ["unsure", 0]];

const level = (probability) => LEVELS.find(([, least]) => probability >= least)[0];
const percent = (probability) => `${Math.round(100 * probability)} %`;

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

/** A line of the translation: result: { text, tokens } or { error }; undefined while there is none. */
export function lineOf(result) {
  if (result?.error) return element("p", "line error", result.error);
  const line = element("p", "line", result?.tokens ? "" : (result?.text ?? ""));
  (result?.tokens ?? []).forEach((token, number) => line.append(...tokenOf(token, number)));
  return line;
}

/** The space before a token is no part of what is marked. */
function tokenOf({ text, probability }, number) {
  const word = text.trimStart();
  const space = text.slice(0, text.length - word.length);
  if (!word) return [space];
  const marked = element("span", `token ${level(probability)}`, word);
  marked.tabIndex = -1;
  marked.dataset.number = number;
  return [space, marked];
}

/** What is said of a token of a line. */
export function wordsOf(result, number) {
  const { text, probability } = result.tokens[number];
  const places = result.slots.flatMap((slot, place) => (slot.token === number ? [place + 1] : []));
  const slots = places.length > 1 ? `slots ${places[0]} to ${places.at(-1)}` : `slot ${places[0]}`;
  return `“${text.trim()}”: ${percent(probability)}, ${slots} of ${result.slots.length}`;
}

/** The slots of a line. */
export function slotsOf(result) {
  return (result?.slots ?? []).map(({ text, kind, probability, token }) => {
    const slot = element("li", `slot ${kind} ${kind === "blank" ? "" : level(probability)}`, "");
    if (token !== null) slot.dataset.number = token;
    const piece = element("span", "piece", text);
    if (kind === "blank") piece.setAttribute("aria-label", "blank");
    slot.append(piece, element("span", "percent", percent(probability)));
    return slot;
  });
}
