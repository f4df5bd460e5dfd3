"use strict";
// Two-alternative forced choice: two samples of the same seed, one of each of two ways, left and right by chance.
(() => {
  const by = (id) => document.getElementById(id);
  const ways = [...document.querySelectorAll("#ways [data-name]")].map((one) => one.dataset.name);
  const count = Number(by("store").dataset.count);
  const key = `zoo-blind-${by("store").dataset.key}`;
  let picks = [];
  let queue = [];
  let trial = null;

  const below = (most) => Math.floor(Math.random() * most);
  const sample = (way, at) => document.querySelector(`#store [data-way="${way}"][data-at="${at}"]`);

  function shuffled(items) {
    for (let at = items.length - 1; at > 0; at--) {
      const other = below(at + 1);
      [items[at], items[other]] = [items[other], items[at]];
    }
    return items;
  }

  function pairs() {
    const value = by("pair").value;
    if (value !== "all") return [value.split("-").map(Number)];
    return ways.flatMap((_, a) => ways.slice(a + 1).map((_, b) => [a, a + 1 + b]));
  }

  function next() {
    if (!queue.length) {
      queue = shuffled(pairs().flatMap((pair) => Array.from({ length: count }, (_, at) => ({ pair, at }))));
    }
    const { pair, at } = queue.pop();
    const [left, right] = below(2) ? pair : [pair[1], pair[0]];
    trial = { pair, at, left, right, since: Date.now() };
    for (const [side, way] of [["left", left], ["right", right]]) {
      by(side).replaceChildren(...[...sample(way, at).childNodes].map((node) => node.cloneNode(true)));
    }
    by("count").textContent = `${picks.length} picked`;
  }

  function pick(side) {
    const way = trial[side];
    picks.push({
      ways: trial.pair.map((one) => ways[one]),
      sample: trial.at,
      left: ways[trial.left],
      picked: ways[way],
      seconds: (Date.now() - trial.since) / 1000,
    });
    try { localStorage.setItem(key, JSON.stringify(picks)); } catch (error) { /* a file may have no storage */ }
    if (!by("results").hidden) show();
    next();
  }

  // Wilson's 95 % interval of a share.
  function wilson(wins, n) {
    const z = 1.959963984540054;
    const middle = (wins / n + (z * z) / (2 * n)) / (1 + (z * z) / n);
    const half = (z / (1 + (z * z) / n)) * Math.sqrt((wins / n) * (1 - wins / n) / n + (z * z) / (4 * n * n));
    return [Math.max(0, middle - half), Math.min(1, middle + half)];
  }

  function results() {
    const found = new Map();
    for (const one of picks) {
      const name = JSON.stringify(one.ways);
      const row = found.get(name) || { ways: one.ways, picks: 0, first: 0 };
      row.picks += 1;
      row.first += one.picked === one.ways[0] ? 1 : 0;
      found.set(name, row);
    }
    return [...found.values()].map((row) => ({ ...row, share: row.first / row.picks, interval: wilson(row.first, row.picks) }));
  }

  function show() {
    const percent = (value) => `${(100 * value).toFixed(1)} %`;
    const rows = results().map((row) => {
      const line = document.createElement("tr");
      const cells = [`“${row.ways[0]}” rather than “${row.ways[1]}”`, `${row.first} of ${row.picks}`, percent(row.share),
        `${percent(row.interval[0])} to ${percent(row.interval[1])}`];
      line.append(...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
      return line;
    });
    by("rows").replaceChildren(...rows);
    by("results").hidden = false;
  }

  function save() {
    const content = { title: document.title, level: 0.95, results: results(), picks };
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 2)], { type: "application/json" }));
    link.download = "picks.json";
    link.click();
  }

  for (const side of ["left", "right"]) {
    by(side).addEventListener("click", () => pick(side));
    by(side).addEventListener("keydown", (event) => { if (event.key === "Enter") pick(side); });
  }
  document.addEventListener("keydown", (event) => {
    if (event.target.tagName === "SELECT") return;
    if (event.key === "ArrowLeft") pick("left");
    if (event.key === "ArrowRight") pick("right");
  });
  by("pair").addEventListener("change", () => { queue = []; next(); });
  by("show").addEventListener("click", show);
  by("save").addEventListener("click", save);
  by("again").addEventListener("click", () => {
    picks = [];
    queue = [];
    by("results").hidden = true;
    try { localStorage.removeItem(key); } catch (error) { /* as above */ }
    next();
  });
  try { picks = JSON.parse(localStorage.getItem(key)) || []; } catch (error) { picks = []; }
  next();
})();
