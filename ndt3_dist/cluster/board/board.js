// Asks the board for what is chosen and puts the answers in their places.
// What comes as HTML was escaped by the server; what the list shows is set as text.
"use strict";

const ROW = 34; // pixels, as the page's style has it
const MOST = 24; // runs that are drawn
const PAUSE = 2000; // ms between two looks
const $ = (id) => document.getElementById(id);
const form = $("how"), list = $("list"), rows = $("rows");

let chosen = []; // ids of runs, in the order of their colours
let tag = ""; // of the view that is shown
let asked = 0; // lists that were asked for
let isFirst = true, isBusy = false, isAgain = false, timer = 0;

function fields() {
  return [...form.elements].filter((field) => field.name);
}

function settings() {
  const value = (f) => (f.type === "checkbox" ? (f.checked ? "1" : "") : f.value);
  return Object.fromEntries(fields().map((field) => [field.name, value(field)]));
}

function restore() {
  const kept = new URLSearchParams(location.hash.slice(1));
  chosen = (kept.get("runs") || "").split(",").filter(Boolean).slice(0, MOST);
  for (const field of fields()) {
    if (!kept.has(field.name)) continue;
    if (field.type === "checkbox") field.checked = kept.get(field.name) === "1";
    else field.value = kept.get(field.name);
  }
  isFirst = !chosen.length;
}

function keep() {
  const kept = new URLSearchParams({ runs: chosen.join(","), ...settings() });
  for (const [key, value] of [...kept]) if (!value) kept.delete(key);
  history.replaceState(null, "", "#" + kept);
}

async function ask(path, values, headers = {}) {
  const query = new URLSearchParams(values);
  const answer = await fetch(`${path}?${query}`, { headers, cache: "no-store" });
  if (answer.status === 304) return null;
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

function text(className, value, tagName = "span") {
  const made = document.createElement(tagName);
  made.className = className;
  made.textContent = value;
  return made;
}

function rowOf(run, index) {
  const row = document.createElement("label"), box = document.createElement("input");
  const at = chosen.indexOf(run.id);
  row.className = "row";
  row.style.top = `${index * ROW}px`;
  row.title = run.name;
  box.type = "checkbox";
  box.value = run.id;
  box.checked = at >= 0;
  row.append(
    box,
    text(at < 0 ? "swatch none" : `swatch k${1 + (at % 6)} d${Math.floor(at / 6)}`, ""),
    text("name", run.name, "code"),
    text(`state ${run.state}`, run.state + (run.problem ? " !" : "")),
    text("n step", run.step),
    text("n loss", run.loss),
    text("n rate", run.rate),
    text("n when", run.when),
  );
  return row;
}

async function showList() {
  const { filter, sort } = settings(), mine = ++asked;
  const from = Math.max(0, Math.floor(list.scrollTop / ROW) - 10);
  const count = Math.ceil(list.clientHeight / ROW) + 20;
  const found = await ask("runs", { filter, sort, from, count });
  if (mine !== asked) return;
  rows.style.height = `${found.matching * ROW}px`;
  rows.replaceChildren(...found.runs.map((run, i) => rowOf(run, found.from + i)));
  $("number").textContent = found.said;
  if (isFirst && found.runs.length) {
    isFirst = false;
    chosen = found.runs.slice(0, 3).map((run) => run.id);
    keep();
    await showList();
  }
}

async function showView() {
  if (!chosen.length) {
    tag = "";
    for (const part of document.querySelectorAll(".part")) part.said = part.innerHTML = "";
    return false;
  }
  const { filter, sort, ...how } = settings();
  const have = tag ? { "If-None-Match": tag } : {};
  const found = await ask("view", { runs: chosen.join(","), ...how }, have);
  if (!found) return false;
  tag = found.tag;
  for (const [name, html] of Object.entries(found.parts)) {
    const part = $(name);
    if (part.said !== html) part.said = part.innerHTML = html;
  }
  return found.reading;
}

async function refresh() {
  clearTimeout(timer);
  isAgain = isBusy;
  if (isBusy) return;
  isBusy = true;
  const began = performance.now();
  let isReading = false;
  try {
    if (!document.hidden) {
      await showList();
      isReading = await showView();
    }
    $("fault").textContent = "";
  } catch (e) {
    $("fault").textContent = `The board does not answer: ${String(e.message || e).slice(0, 300)}`;
  }
  isBusy = false;
  const pause = Math.max(PAUSE, 5 * (performance.now() - began));
  timer = setTimeout(refresh, isAgain || isReading ? 50 : pause);
}

function changed() {
  keep();
  refresh();
}

function wholeLength() {
  form.elements.left.value = form.elements.right.value = "";
}

rows.addEventListener("change", (event) => {
  const id = event.target.value, others = chosen.filter((one) => one !== id);
  chosen = event.target.checked ? [...others, id].slice(-MOST) : others;
  changed();
});
addEventListener("input", (event) => {
  if (event.target.form !== form || !event.target.name) return;
  if (event.target.name === "x") wholeLength();
  if (event.target.name === "filter") list.scrollTop = 0;
  changed();
});
form.addEventListener("submit", (event) => event.preventDefault());
$("none").addEventListener("click", () => {
  chosen = [];
  isFirst = false;
  changed();
});
$("whole").addEventListener("click", () => {
  wholeLength();
  changed();
});
list.addEventListener("scroll", () => showList().catch(() => {}));
document.addEventListener("visibilitychange", () => document.hidden || refresh());

let drag = null; // a stretch of a curve that is being drawn
addEventListener("pointerdown", (event) => {
  const plot = event.target.closest(".zoom .plot");
  drag = plot && { plot, x: event.clientX };
});
addEventListener("pointerup", (event) => {
  const from = drag;
  drag = null;
  if (!from || Math.abs(event.clientX - from.x) < 8) return;
  const box = from.plot.getBoundingClientRect();
  const [low, high] = from.plot.closest(".zoom").dataset.ends.split(" ").map(Number);
  const place = (x) => low + (high - low) * Math.min(1, Math.max(0, (x - box.left) / box.width));
  const [left, right] = [from.x, event.clientX].sort((a, b) => a - b).map(place);
  form.elements.left.value = left;
  form.elements.right.value = right;
  changed();
});

restore();
refresh();
