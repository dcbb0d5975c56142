// Puts a View (serve/view.py) into the page. Text is set by textContent alone; nothing here makes markup.

const shown = (cell) => (typeof cell === "string" ? [cell, "", ""] : [cell[0], cell[1] ?? "", cell[2] ?? ""]);

export function fill(element, cell) {
  const [text, tone, href] = shown(cell);
  let target = element;
  if (/^(\/|https?:)/.test(href)) {
    target = element.firstElementChild;
    if (target?.tagName !== "A") {
      target = document.createElement("a");
      element.replaceChildren(target);
    }
    if (target.getAttribute("href") !== href) target.setAttribute("href", href);
  } else if (element.firstElementChild) {
    element.replaceChildren();
  }
  if (target.textContent !== text) target.textContent = text;
  if ((element.dataset.tone ?? "") !== tone) element.dataset.tone = tone;
}

// Rows keep their elements by key, so that the focus and a selection of text stay where they are. All others go.
function fillTable(body, rows) {
  const isTable = body.tagName === "TBODY";
  const labels = isTable ? [...body.closest("table").tHead.rows[0].cells].map((cell) => cell.textContent) : [];
  const before = new Map([...body.children].map((row) => [row.dataset.key, row]));
  const placed = new Set();
  let next = body.firstElementChild;
  for (const [key, ...cells] of rows) {
    let row = before.get(key);
    before.delete(key);
    if (!row) {
      row = document.createElement(isTable ? "tr" : "li");
      row.dataset.key = key;
      cells.forEach((_, number) => {
        const cell = document.createElement(isTable ? (number ? "td" : "th") : "span");
        if (isTable && !number) cell.scope = "row";
        if (labels[number]) cell.dataset.label = labels[number];
        row.append(cell);
      });
    }
    cells.forEach((cell, number) => fill(row.children[number], cell));
    placed.add(row);
    if (row === next) next = next.nextElementSibling;
    else body.insertBefore(row, next);
  }
  for (const row of [...body.children]) if (!placed.has(row)) row.remove();
  const empty = document.querySelector(`[data-empty="${body.dataset.table}"]`);
  if (empty) empty.hidden = rows.length > 0;
  const whole = isTable ? body.closest("table") : body;
  whole.hidden = rows.length === 0 && Boolean(empty);
}

function fillChart(figure, [paths, top, latest, rows]) {
  figure.querySelectorAll("path[data-series]").forEach((path, number) => path.setAttribute("d", paths[number] ?? ""));
  const scale = figure.querySelector("[data-top]");
  if (scale) scale.textContent = top;
  figure.querySelectorAll("[data-latest]").forEach((value, number) => (value.textContent = latest[number] ?? ""));
  const body = figure.querySelector("tbody");
  if (body?.closest("details").open) fillTable(body, rows.map(([time, ...values]) => [time, time, ...values]));
  figure.rows = rows;
}

export function apply(view) {
  for (const element of document.querySelectorAll("[data-slot]")) {
    const cell = view.texts[element.dataset.slot];
    if (cell !== undefined) fill(element, cell);
  }
  for (const body of document.querySelectorAll("[data-table]")) {
    const rows = view.tables[body.dataset.table];
    if (rows) fillTable(body, rows);
  }
  for (const figure of document.querySelectorAll("[data-chart]")) {
    const chart = view.charts[figure.dataset.chart];
    if (chart) fillChart(figure, chart);
  }
}
