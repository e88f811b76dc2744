"""Style sheet and table script of the HTML pages; both are embedded in each page."""

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1c2430; --muted: #5d6878; --paper: #ffffff; --panel: #f5f7fa; --line: #d6dce4;
  --accent: #1f5fa8; --good: #1c7a47; --bad: #b3261e; --heat: 31, 95, 168; --heat-bad: 179, 38, 30;
  --series-0: #1f5fa8; --series-1: #c2571a; --series-2: #1c7a47; --series-3: #8e3f8c;
  --series-4: #977000; --series-5: #b3261e; --series-6: #0b7d80; --series-7: #616b78;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e4e9f0; --muted: #9aa6b6; --paper: #12161c; --panel: #1b212a; --line: #343d4a;
    --accent: #7cb2f2; --good: #63c78f; --bad: #f28b82;
    --heat: 124, 178, 242; --heat-bad: 242, 139, 130;
    --series-0: #7cb2f2; --series-1: #f2a065; --series-2: #63c78f; --series-3: #d393d1;
    --series-4: #d8b64a; --series-5: #f28b82; --series-6: #57c4c7; --series-7: #a9b3c0;
  }
}
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 1rem; max-width: 76rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  overflow-wrap: anywhere;
}
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0 .25rem; }
h2 { font-size: 1.2rem; margin: 0 0 .75rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
a { color: var(--accent); }
p { max-width: 46rem; margin: .5rem 0; }
.subtitle, .note, caption, figcaption { color: var(--muted); }
.note { font-size: .875rem; }
.warning { border-left: 4px solid var(--bad); background: var(--panel); padding: .5rem .75rem; }
nav ol { list-style: none; padding: 0; margin: .75rem 0; display: flex; flex-wrap: wrap;
  gap: .25rem 1rem; }
section { border-top: 1px solid var(--line); padding: 1.25rem 0; min-width: 0; }
.scroll { overflow: auto; max-width: 100%; max-height: 36rem; margin: .5rem 0; }
.scroll:focus-visible, button:focus-visible, a:focus-visible, select:focus-visible {
  outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .875rem; overflow-wrap: normal; }
caption { text-align: left; padding: 0 0 .5rem; }
th, td { padding: .3rem .65rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
td { max-width: 34rem; overflow-wrap: break-word; }
td.long { min-width: 15rem; }
thead th { position: sticky; top: 0; background: var(--paper); white-space: nowrap; z-index: 1; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0;
  padding: 0; cursor: pointer; }
th button::after { content: " \\2195"; color: var(--muted); font-weight: 400; }
th[aria-sort=ascending] button::after { content: " \\2191"; color: var(--accent); }
th[aria-sort=descending] button::after { content: " \\2193"; color: var(--accent); }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 6px;
  padding: .6rem .75rem; overflow-x: auto; font-size: .8125rem; margin: .5rem 0; }
code { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: .9em; }
pre code { font-size: inherit; }
svg { max-width: 100%; height: auto; }
img { max-width: 100%; }
figure { margin: 0; min-width: 0; }
.grid { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
.figures { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr));
  margin: .5rem 0 1rem; padding: 0; }
.figures div { background: var(--panel); border-radius: 6px; padding: .6rem .75rem; }
.figures dt { color: var(--muted); font-size: .8125rem; }
.figures dd { margin: 0; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.figures small { display: block; font-size: .75rem; color: var(--muted); }
.sheet { display: grid; gap: 1rem .75rem; padding: 0; list-style: none;
  grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr)); }
.sheet img { width: 49%; image-rendering: auto; background: var(--panel); vertical-align: top; }
.sheet figcaption { font-size: .8125rem; line-height: 1.35; margin-top: .25rem; }
.sheet b { color: var(--ink); font-weight: 600; }
.controls { display: flex; flex-wrap: wrap; gap: .5rem 1.25rem; align-items: center; }
.controls label { display: inline-flex; gap: .5rem; align-items: center; }
select { font: inherit; color: inherit; background: var(--panel); border: 1px solid var(--line);
  border-radius: 4px; padding: .15rem .3rem; }
input[type=range] { accent-color: var(--accent); width: 9rem; }
.confusion table { --cell: 30px; border-collapse: separate; border-spacing: 0; }
.confusion td { width: var(--cell); min-width: var(--cell); max-width: var(--cell);
  height: var(--cell); padding: 0; border: 0; box-shadow: inset 0 0 0 .5px var(--line);
  text-align: center; vertical-align: middle; overflow: hidden; cursor: default;
  font-size: min(.8125rem, calc(var(--cell) * .4)); font-variant-numeric: tabular-nums;
  background: rgba(var(--heat-bad), var(--s, 0)); }
.confusion td.right { background: rgba(var(--heat), var(--s, 0)); }
.confusion th { font-weight: 400; font-size: .75rem; padding: .1rem .4rem; border: 0;
  background: var(--paper); }
.confusion tbody th { position: sticky; left: 0; text-align: right; vertical-align: middle;
  white-space: nowrap; max-width: 9rem; overflow: hidden; text-overflow: ellipsis; z-index: 1; }
.confusion thead th { vertical-align: bottom; height: 6rem; }
.confusion thead th:first-child { left: 0; z-index: 2; color: var(--muted); text-align: right; }
.confusion thead th span { writing-mode: vertical-rl; transform: rotate(180deg);
  max-height: 9rem; overflow: hidden; text-overflow: ellipsis; }
.confusion thead th:not(:first-child) { width: var(--cell); max-width: var(--cell);
  padding: .25rem 0; text-align: center; overflow: hidden; }
.confusion table.small td { color: transparent !important; }
.confusion table.small th { font-size: max(6px, min(.75rem, calc(var(--cell) * .8)));
  line-height: 1; padding-block: 0; }
@media (max-width: 30rem) {
  .confusion tbody th { max-width: 6rem; }
  body { padding: .75rem; }
  th, td { padding: .3rem .45rem; }
  .sheet { grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); }
}
@media print { nav, th button::after { display: none; } .scroll { max-height: none; } }
""".strip()
"""The style sheet, with the colours of both schemes as custom properties."""

SORT = """
"use strict";
for (const button of document.querySelectorAll("th > button.sort")) {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const body = head.closest("table").tBodies[0];
    const up = head.getAttribute("aria-sort") === "none"
      ? button.dataset.first !== "descending" : head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentElement.children) {
      if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    }
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => {
      const cell = row.cells[head.cellIndex];
      const value = cell.dataset.value;
      return value === undefined ? cell.textContent.trim() : value === "" ? NaN : Number(value);
    };
    const compare = (a, b) => {
      const [absent, other] = [Number.isNaN(a), Number.isNaN(b)];
      if (absent || other) return absent - other;
      const order = typeof a === "number" && typeof b === "number" ? a - b
        : String(a).localeCompare(String(b), "en", { numeric: true });
      return up ? order : -order;
    };
    const rows = Array.from(body.rows, (row) => [key(row), row]);
    rows.sort((a, b) => compare(a[0], b[0]));
    body.append(...rows.map((pair) => pair[1]));
  });
}
""".strip()
"""Script that sorts a table by the column whose header is pressed; empty values stay last."""
