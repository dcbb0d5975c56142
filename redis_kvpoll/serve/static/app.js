// Keeps the page current by server-sent events, and adds the keys. Without it the page is a snapshot.

import { apply } from "./view.js";

const { root, build, events } = document.body.dataset;
const connection = document.querySelector("#connection");
const pause = document.querySelector("#pause");
let source = null;
let isPaused = false;
let lost = 0;

function say(state, text) {
  document.body.dataset.connection = state;
  if (connection.textContent !== text) connection.textContent = text;
}

function connect() {
  source?.close();
  source = new EventSource(events);
  source.onmessage = (event) => {
    const view = JSON.parse(event.data);
    if (view.build !== build) {
      location.reload();
      return;
    }
    clearTimeout(lost);
    lost = 0;
    say("live", "Live");
    apply(view);
  };
  source.onerror = () => {
    // A restart of kvpoll serve takes a moment; only what lasts is worth a word.
    lost ||= setTimeout(() => say("lost", "Connection to kvpoll serve lost: the page is out of date. Trying again …"), 1500);
    // The browser tries again by itself unless the answer was an error.
    if (source.readyState === EventSource.CLOSED) setTimeout(reconnect, 3000);
  };
}

async function reconnect() {
  if (isPaused) return;
  try {
    const answer = await fetch(`${root}/api/session`, { cache: "no-store" });
    if (answer.status === 401) {
      location.reload(); // to the login
      return;
    }
  } catch {
    // It is still away.
  }
  connect();
}

function setPaused(paused) {
  isPaused = paused;
  pause.setAttribute("aria-pressed", String(paused));
  if (paused) {
    source?.close();
    clearTimeout(lost);
    lost = 0;
    say("paused", "Paused");
  } else {
    say("live", "Connecting …");
    connect();
  }
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, dialog[open]")) return;
  const tab = document.querySelector(`[data-key-of="${CSS.escape(event.key)}"]`);
  if (tab) tab.click();
  else if (event.key === "/") document.querySelector("#find").focus();
  else if (event.key === "p") setPaused(!isPaused);
  else if (event.key === "?") document.querySelector("#keys").showModal();
  else return;
  event.preventDefault();
}

// The values of a chart at the pointer, from the rows behind it.
function hover(figure) {
  const plot = figure.querySelector(".plot");
  const hint = figure.querySelector(".hint");
  plot.addEventListener("pointermove", (event) => {
    const rows = figure.rows ?? [];
    const box = plot.getBoundingClientRect();
    const fraction = 1 - (event.clientX - box.left) / box.width;
    const row = rows[Math.round(fraction * (Number(figure.dataset.rows) - 1))];
    if (!row) {
      hint.hidden = true;
      return;
    }
    const names = [...figure.querySelectorAll("[data-name]")].map((name) => name.dataset.name);
    hint.textContent = [row[0], ...names.map((name, number) => `${name} ${row[number + 1]}`)].join("\n");
    hint.hidden = false;
    hint.dataset.side = fraction < 0.5 ? "left" : "right";
  });
  plot.addEventListener("pointerleave", () => (hint.hidden = true));
}

pause.hidden = false;
pause.addEventListener("click", () => setPaused(!isPaused));
document.addEventListener("keydown", press);
document.querySelectorAll("[data-chart]:has(.hint)").forEach(hover);
document.querySelectorAll("button.copy").forEach((button) => {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", () => navigator.clipboard.writeText(button.dataset.text));
});
// A page that nobody sees costs nothing.
document.addEventListener("visibilitychange", () => {
  if (isPaused) return;
  if (document.hidden) source?.close();
  else connect();
});
if (events) connect();
