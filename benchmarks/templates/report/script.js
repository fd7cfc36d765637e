"use strict";

const root = document.documentElement;
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const theme = document.getElementById("theme");

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches;
}

function showTheme() {
  theme.setAttribute("aria-pressed", isDark());
}

theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  showTheme();
});
systemDark.addEventListener("change", showTheme);
theme.hidden = false;
showTheme();

for (const button of document.querySelectorAll("button[aria-controls]")) {
  button.addEventListener("click", () => document.getElementById(button.getAttribute("aria-controls")).showModal());
}
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside the panel
  });
}

/* Sorting: a column is of numbers where every cell that holds something starts with one; empty cells are last. */

const NONE = "–";

function key(cell) {
  const text = cell.dataset.value ?? cell.textContent.trim();
  return text === NONE ? "" : text;
}

function sort(table, column, direction) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, key: key(row.cells[column]) }));
  const filled = rows.filter((entry) => entry.key);
  const numeric = filled.every((entry) => /^[+-]?\d/.test(entry.key));
  const sign = direction === "ascending" ? 1 : -1;
  filled.sort((a, b) => sign * (numeric ? parseFloat(a.key) - parseFloat(b.key) : a.key.localeCompare(b.key)));
  body.append(...filled.map((entry) => entry.row), ...rows.filter((entry) => !entry.key).map((entry) => entry.row));
  [...table.tHead.rows[0].cells].forEach((header, k) => {
    if (k === column) header.setAttribute("aria-sort", direction);
    else header.removeAttribute("aria-sort");
  });
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    const label = document.createElement("span");
    label.append(...header.childNodes);
    button.append(label);
    header.append(button);
    button.addEventListener("click", () => {
      const first = column ? "descending" : "ascending";
      const other = column ? "ascending" : "descending";
      sort(table, column, header.getAttribute("aria-sort") === first ? other : first);
    });
  });
}

/* The leaderboard: which rows and columns are shown, and what they are compared with. */

const leaderboard = document.getElementById("leaderboard");
const suiteOrder = [...leaderboard.tBodies[0].rows];
const headers = [...leaderboard.tHead.rows[0].cells];
const choices = document.getElementById("choices");
const boxes = [...choices.querySelectorAll("[name=column]")];
const comparisons = JSON.parse(document.getElementById("comparisons").textContent);

function compare() {
  const reference = choices.elements.reference.value;
  const chosen = comparisons[reference];
  const values = Object.values(chosen).flat().map(([value]) => value ?? 0);
  const widest = Math.max(...values.map(Math.abs));
  const [low, high] = reference ? [-widest, widest] : [Math.min(0, ...values), Math.max(1, ...values)];
  const place = (value) => (value - low) / (high - low || 1);
  for (const row of suiteOrder) {
    row.classList.toggle("against", row.dataset.method === reference);
    chosen[row.dataset.method].forEach(([value, text, seeds, verdict], k) => {
      const cell = row.cells[k + 1];
      const bar = cell.querySelector(".bar");
      cell.dataset.value = value ?? "";
      cell.className = verdict;
      cell.querySelector(".value").textContent = text;
      cell.querySelector(".seeds").textContent = seeds;
      cell.querySelector(".verdict").textContent = verdict;
      if (value === null) return bar.removeAttribute("style");
      bar.style.setProperty("--from", place(Math.min(0, value)));
      bar.style.setProperty("--to", place(Math.max(0, value)));
    });
  }
}

function filter() {
  const wanted = choices.elements.method.value.trim().toLowerCase();
  const kind = choices.elements.kind.value;
  for (const row of suiteOrder) {
    row.hidden = !row.dataset.method.includes(wanted) || (kind && row.dataset.kind !== kind);
  }
  for (const box of boxes) {
    for (const row of leaderboard.rows) row.cells[box.value].hidden = !box.checked;
  }
}

function describe() {
  const rows = suiteOrder.filter((row) => !row.hidden).length;
  const columns = boxes.filter((box) => box.checked).length;
  const reference = choices.elements.reference.value;
  const shown = `${rows} of ${suiteOrder.length} rows, ${columns} of ${boxes.length} meta-environments. `;
  document.getElementById("state").textContent = shown + (reference
    ? `Differences to ${reference}, paired over the seeds in common (n), with 95 % intervals (Student's t); its own row ` +
      "keeps its scores. Better or worse: the interval leaves out 0. Unlike the claims, this is not adjusted for the " +
      "number of comparisons."
    : "Scores: 0 random, 1 expert.") + " Bars start at 0.";
}

function update() {
  compare();
  filter();
  const sorted = headers.findIndex((header) => header.hasAttribute("aria-sort"));
  if (sorted >= 0) sort(leaderboard, sorted, headers[sorted].getAttribute("aria-sort"));
  describe();
}

choices.addEventListener("submit", (event) => event.preventDefault());
choices.addEventListener("input", update);
choices.addEventListener("reset", () => {
  leaderboard.tBodies[0].append(...suiteOrder);
  for (const header of headers) header.removeAttribute("aria-sort");
  setTimeout(update); // after the browser has put the choices back
});
choices.hidden = false;
update();
