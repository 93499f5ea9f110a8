"""The translating page in a browser, as its reader uses it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from browser import Page

READY = """new Promise((done) => {
  const [text, translation] = ["text", "translation"].map((id) => document.getElementById(id));
  const look = () => !text.disabled && translation.ariaBusy === "false" ? done() : setTimeout(look, 20);
  look();
})"""
TYPED = """(async () => {
  const text = document.getElementById("text");
  text.value = %s;
  text.dispatchEvent(new Event("input"));
  await new Promise((done) => setTimeout(done, 300)); // longer than the page waits for another key
})()"""


def type_lines(page: Page, lines: Sequence[str]) -> list[str]:
    """The lines of the translation, once the page is open and done."""
    page.run(READY)
    page.run(TYPED % json.dumps("\n".join(lines)))
    page.run(READY)
    found: list[str] = page.run("[...document.querySelectorAll('#translation .line')].map((line) => line.textContent)")
    return found
