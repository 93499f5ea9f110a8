"use strict";
// Shows how a system made a sentence. The data is the page's own; all of it enters the page as text.
(() => {
  const systems = JSON.parse(document.getElementById("data").textContent);
  const by = (id) => document.getElementById(id);
  const FATES = {
    k: ["kept", "", "as it was"],
    w: ["written", "●", "written in this pass"],
    m: ["masked", "↻", "to be predicted again"],
    i: ["inserted", "+", "inserted in this pass"],
    d: ["deleted", "−", "deleted in this pass"],
  };
  const SPECIAL = { "<mask>": "▢", "<blank>": "ε" };
  const LEVELS = [0.3, 0.5, 0.7, 0.9];
  const state = { system: 0, sentence: 0, candidate: 0, pass: 1 };

  const make = (tag, text, name) => {
    const node = document.createElement(tag);
    if (text !== undefined && text !== null) node.textContent = text;
    if (name) node.className = name;
    return node;
  };
  const sentence = () => systems[state.system].sentences[state.sentence];
  const number = (value, digits) => (value === null ? "–" : value.toFixed(digits));

  const display = (token) => SPECIAL[token] || token;
  const describe = (token, p, fate) =>
    `${display(token)}: ${FATES[fate][2]}` + (token === "<mask>" ? "" : `, probability ${number(p, 3)} when written`);

  function tokenNode(token, p, fate, width) {
    const [name, mark, meaning] = FATES[fate];
    const node = make("span", null, `token ${name}`);
    const shown = display(token);
    if (shown !== token) node.classList.add("special");
    if (fate !== "d" && token !== "<mask>") node.dataset.level = LEVELS.filter((level) => p >= level).length;
    if (mark) {
      const sign = make("span", mark, "mark");
      sign.setAttribute("aria-hidden", "true");
      node.append(sign);
    }
    if (shown.startsWith("▁") && shown.length > 1) node.append(make("span", "▁", "begins"), shown.slice(1));
    else node.append(shown);
    if (fate !== "k") node.append(make("span", `, ${meaning}`, "visually-hidden"));
    node.title = node.dataset.detail = describe(token, p, fate);
    if (width) node.style.minWidth = `calc(${width}ch + .9rem)`;
    return node;
  }

  // A canvas whose length never changes gets columns: the same widths in every row break into the same lines.
  function widths(passes) {
    const length = passes[0].t.length;
    if (passes.length < 2 || passes.some((each) => each.t.length !== length || /[id]/.test(each.f))) return [];
    return passes[0].t.map((_, i) => Math.max(...passes.map((each) => display(each.t[i]).length + 1)));
  }

  const counts = (pass) =>
    [["w", "written"], ["m", "to be predicted again"], ["i", "inserted"], ["d", "deleted"], ["k", "kept"]]
      .map(([fate, name]) => [[...pass.f].filter((each) => each === fate).length, name])
      .filter(([count]) => count > 0)
      .map(([count, name]) => `${count} ${name}`)
      .join(", ");

  function rowNode(title, what, tokens, graph) {
    const row = make("li");
    const head = make("div", null, "what");
    head.append(make("b", title), make("span", what));
    const canvas = make("div", null, "canvas");
    canvas.append(...tokens);
    row.append(head, ...(graph ? [graph] : []), canvas);
    return row;
  }

  function drawn(name, attributes, text) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, String(value));
    if (text) node.textContent = text;
    return node;
  }

  // Vertices in a row between begin and end, strong steps as arcs, the path that was taken, and what it wrote.
  function graphNode(pass) {
    const end = pass.t.length + 1;
    const path = [0, ...[...pass.f].flatMap((fate, i) => (fate === "w" ? [i + 1] : [])), end];
    const taken = path.slice(1).map((node, i) => `${path[i]} ${node}`);
    const strong = new Map(pass.l.map(([from, to, p]) => [`${from} ${to}`, p]));
    const others = [...strong.keys()].filter((step) => !taken.includes(step));
    const x = (node) => 20 + 24 * node;
    const line = 90;
    const svg = drawn("svg", { width: x(end) + 60, height: 175, role: "img", "aria-label": "the graph of vertices and the path taken" });
    for (const step of [...others, ...taken]) {
      const p = strong.has(step) ? strong.get(step) : null;
      const [from, to] = step.split(" ").map(Number);
      const height = 2 * Math.min(80, 8 * (to - from));
      const curve = `M${x(from)} ${line} Q${(x(from) + x(to)) / 2} ${line - height} ${x(to)} ${line}`;
      const arc = drawn("path", { d: curve, class: taken.includes(step) ? "step taken" : "step", "stroke-width": 1 + 2 * (p || 0) });
      arc.append(drawn("title", {}, `step of probability ${p === null ? "under 0.02" : number(p, 3)}`));
      svg.append(arc);
    }
    for (let node = 0; node <= end; node++) {
      const inner = node > 0 && node < end;
      const visited = path.includes(node);
      const dot = drawn("circle", { cx: x(node), cy: line, r: visited ? 5 : 3, class: visited ? "vertex visited" : "vertex" });
      const about = inner ? describe(pass.t[node - 1], pass.p[node - 1], pass.f[node - 1]) : node ? "end" : "begin";
      dot.append(drawn("title", {}, about));
      svg.append(dot);
      if (inner && visited)
        svg.append(drawn("text", { transform: `translate(${x(node) - 3} ${line + 16}) rotate(45)` }, display(pass.t[node - 1])));
    }
    const box = make("div", null, "graph");
    box.tabIndex = 0;
    box.append(svg);
    return box;
  }

  function showPasses() {
    const candidate = sentence().candidates[state.candidate];
    const passes = candidate.passes;
    const columns = passes.length ? widths(passes) : [];
    const rows = passes.map((pass, number) =>
      rowNode(
        passes.length > 1 ? `pass ${number + 1}` : sentence().num_passes > 1 ? "what the search ended with" : "one pass",
        counts(pass),
        pass.t.map((token, i) => tokenNode(token, pass.p[i], pass.f[i], columns[i])),
        pass.l ? graphNode(pass) : null,
      ),
    );
    if (candidate.collapsed)
      rows.push(
        rowNode("collapsed", "repeats merged, blanks left out", candidate.collapsed.map((token) => {
          const node = make("span", null, "token kept");
          node.append(token);
          return node;
        })),
      );
    if (!passes.length) rows.push(rowNode("no history", "the passes of this candidate are not in the page", []));
    by("passes").replaceChildren(...rows);
    by("slider").max = String(Math.max(1, passes.length));
    by("slider-box").hidden = passes.length < 2;
    by("slider-box").style.display = passes.length < 2 ? "none" : "";
    moveTo(Math.max(1, passes.length));
  }

  function moveTo(pass) {
    const passes = sentence().candidates[state.candidate].passes.length;
    state.pass = Math.min(Math.max(1, pass), Math.max(1, passes));
    by("slider").value = String(state.pass);
    by("slider").setAttribute("aria-valuetext", `pass ${state.pass} of ${Math.max(1, passes)}`);
    by("position").textContent = `pass ${state.pass} of ${Math.max(1, passes)}`;
    by("back").disabled = state.pass <= 1;
    by("forth").disabled = state.pass >= passes;
    [...by("passes").children].forEach((row, i) => {
      const isCanvas = i < passes;
      row.classList.toggle("now", isCanvas && passes > 1 && i + 1 === state.pass);
      const later = isCanvas ? i + 1 > state.pass : state.pass < passes;
      row.classList.toggle("later", later);
      row.setAttribute("aria-hidden", String(later));
    });
    by("detail").textContent = "";
  }

  function showButton(rank, k) {
    const button = make("button", rank);
    button.type = "button";
    button.setAttribute("aria-pressed", String(k === state.candidate));
    button.setAttribute("aria-label", `show how candidate ${k + 1} was made`);
    button.addEventListener("click", () => {
      state.candidate = k;
      showPasses();
      showCandidates();
      by("candidates").querySelectorAll("tbody tr")[k].querySelector("button").focus({ preventScroll: true });
    });
    return button;
  }

  function showCandidates() {
    const { candidates, chosen } = sentence();
    const table = by("candidates");
    const optional = [["teacher_score", "teacher's score", 2], ["utility", "utility", 2]].filter(([name]) =>
      candidates.some((each) => each[name] !== null),
    );
    const head = make("tr");
    for (const [title, name] of [["#", "rank"], ["translation", "text"], ["own score", ""], ["per token", ""], ...optional.map((each) => [each[1], ""])]) {
      const cell = make("th", title, name);
      cell.scope = "col";
      head.append(cell);
    }
    const body = candidates.map((each, k) => {
      const row = make("tr", null, k === state.candidate ? "shown" : "");
      const rank = `${k + 1}${k === chosen ? " ✓" : ""}`;
      const first = make("td", each.passes.length ? null : rank, "rank");
      if (each.passes.length) first.append(showButton(rank, k));
      row.append(first, make("td", each.text || "(nothing)", "text"));
      row.append(make("td", number(each.score, 2)), make("td", number(each.mean_score, 3)));
      for (const [name, , digits] of optional) row.append(make("td", number(each[name], digits)));
      return row;
    });
    const top = make("thead");
    top.append(head);
    const rest = make("tbody");
    rest.append(...body);
    table.replaceChildren(top, rest);
    by("candidates-note").textContent =
      "✓ is the translation; a number shows above how that candidate was made. Scores are log-probabilities" +
      (optional.some(([name]) => name === "teacher_score") ? ", the teacher's of the whole sentence." : ".");
  }

  function showEveryone() {
    const nodes = [];
    systems.forEach((system, i) => {
      const item = system.sentences[state.sentence];
      const name = i === state.system ? "now" : "";
      nodes.push(make("dt", `${i + 1} ${system.name}`, name));
      nodes.push(make("dd", item.candidates[item.chosen].text || "(nothing)", name));
    });
    by("everyone").replaceChildren(...nodes);
  }

  function show() {
    const item = sentence();
    state.candidate = item.chosen;
    by("source").textContent = item.source;
    by("reference").textContent = item.reference === null ? "(none)" : item.reference;
    const calls = `${item.num_passes} decoder ${item.num_passes === 1 ? "call" : "calls"}`;
    by("translation").replaceChildren(
      make("span", item.candidates[item.chosen].text || "(nothing)"),
      make("div", `${systems[state.system].model}, ${calls}${item.truncated ? ", cut at the length limit" : ""}`, "note"),
    );
    showPasses();
    showCandidates();
    showEveryone();
  }

  by("sentence").append(
    ...systems[0].sentences.map((item, i) => new Option(`${item.index + 1}. ${item.source}`, String(i))),
  );
  by("system").append(...systems.map((system, i) => new Option(`${i + 1} ${system.name}`, String(i))));
  by("sentence").addEventListener("change", (event) => {
    state.sentence = Number(event.target.value);
    show();
  });
  by("system").addEventListener("change", (event) => {
    state.system = Number(event.target.value);
    show();
  });
  by("slider").addEventListener("input", (event) => moveTo(Number(event.target.value)));
  by("back").addEventListener("click", () => moveTo(state.pass - 1));
  by("forth").addEventListener("click", () => moveTo(state.pass + 1));
  by("passes").addEventListener("click", (event) => {
    const token = event.target.closest(".token");
    document.querySelectorAll(".picked").forEach((each) => each.classList.remove("picked"));
    if (!token || !token.dataset.detail) return;
    token.classList.add("picked");
    by("detail").textContent = token.dataset.detail;
  });
  // Begin with a system of several passes, where there is something to move through.
  const several = systems.findIndex((system) => system.sentences[0].candidates.some((each) => each.passes.length > 1));
  state.system = Math.max(0, several);
  by("system").value = String(state.system);
  show();
})();
