// The models of the server that this page comes from, by its API.

/** Lines of a request. */
export const atOnce = 50;

/** What the page shows and calls; see `ServerModels`. */
export async function open() {
  const answer = await fetch("languages");
  if (!answer.ok) throw new Error(`the server does not tell its languages (${answer.status})`);
  return new ServerModels(await answer.json());
}

class ServerModels {
  /** languages: as /languages answers. */
  constructor(languages) {
    this.pairs = languages.flatMap(({ code, targets }) => targets.map((target) => ({ source: code, target })));
    this.description = "This server translates what you type.";
    this.canvas = null;
  }

  /** [{ text, milliseconds }] of lines, or [{ error }]. */
  async translate(lines, pair) {
    const began = performance.now();
    const body = JSON.stringify({ q: lines, source: pair.source, target: pair.target });
    const headers = { "content-type": "application/json" };
    const answer = await fetch("translate", { method: "POST", headers, body });
    const found = await answer.json();
    if (answer.ok) {
      const milliseconds = (performance.now() - began) / lines.length;
      return found.translatedText.map((text) => ({ text, milliseconds }));
    }
    if (lines.length === 1) return [{ error: found.error }];
    const alone = []; // one line that is refused must not cost the others
    for (const line of lines) alone.push(...(await this.translate([line], pair)));
    return alone;
  }
}
