// The page: a list of rows of which only those in sight are fetched, filters, keyboard, and the row that is being read.
import { draw, make } from "./blocks.js";
import { showCurves } from "./curves.js";

const HEIGHT = 58, PAGE = 100, POLL = 2500;
const LISTED = 500000;  // browsers draw no element that is higher than some 30 million pixels
const at = (id) => document.getElementById(id);
const list = at("list"), space = at("space"), detail = at("detail");
const state = { sources: [], source: null, words: {}, low: "", high: "", number: "", text: "", order: "", total: 0, matched: 0, changes: -1,
  pages: new Map(), chosen: -1, place: -1, ask: 0, busy: false };

const kind = () => (state.sources.find((one) => one.name === state.source) || {}).kind;
const grouped = (number) => number.toLocaleString("en");
const size = (bytes) => (bytes > 2 ** 20 ? `${(bytes / 2 ** 20).toFixed(1)} MB` : `${Math.ceil(bytes / 1024)} kB`);

const fetchJson = async (path, query) => {
  const answer = await fetch(`${path}?${query}`);
  if (!(answer.headers.get("Content-Type") || "").startsWith("application/json")) throw new Error((await answer.text()).slice(0, 300));
  return answer.json();
};

const query = (more) => {
  const asked = new URLSearchParams({ source: state.source, ...more });
  for (const [name, words] of Object.entries(state.words)) for (const word of words) asked.append(`is.${name}`, word);
  if (state.number && state.low !== "") asked.set(`min.${state.number}`, state.low);
  if (state.number && state.high !== "") asked.set(`max.${state.number}`, state.high);
  if (state.text) asked.set("text", state.text);
  if (state.order) asked.set("order", state.order);
  return asked;
};

// The address holds what is shown, so that a link shows the same.
const remember = () => {
  const asked = query({});
  if (state.chosen >= 0) asked.set("n", state.chosen);
  history.replaceState(null, "", `#${asked}`);
};
const recall = () => {
  const given = new URLSearchParams(location.hash.slice(1));
  Object.assign(state, { words: {}, low: "", high: "", number: "" });
  for (const [name, value] of given) {
    if (name.startsWith("is.")) (state.words[name.slice(3)] ||= []).push(value);
    if (name.startsWith("min.")) [state.number, state.low] = [name.slice(4), value];
    if (name.startsWith("max.")) [state.number, state.high] = [name.slice(4), value];
  }
  state.text = given.get("text") || "";
  state.order = given.get("order") || "";
  at("text").value = state.text;
  return { source: given.get("source"), row: given.has("n") ? Number(given.get("n")) : -1 };
};

// The list

const drawList = () => {
  space.style.height = `${state.matched * HEIGHT}px`;
  const first = Math.max(0, Math.floor(list.scrollTop / HEIGHT) - 5);
  const last = Math.min(state.matched, Math.ceil((list.scrollTop + list.clientHeight) / HEIGHT) + 5);
  const items = [];
  for (let place = first; place < last; place++) {
    const page = state.pages.get(Math.floor(place / PAGE));
    if (!page) { fetchPage(Math.floor(place / PAGE)); continue; }
    const row = page[place % PAGE];
    if (row) items.push(drawItem(row, place));
  }
  space.replaceChildren(...items);
};

const drawItem = (row, place) => {
  const item = make("div", { class: "item", role: "option", id: `item-${place}`, "aria-selected": String(row.n === state.chosen), "data-n": row.n, onclick: () => choose(place, true) },
    make("div", { class: "title" }, row.title || "…"),
    row.badge ? make("span", { class: `badge ${["good", "bad"].includes(row.tone) ? row.tone : ""}` }, row.badge) : make("span"),
    make("div", { class: "sub" }, row.sub || ""),
    make("div", { class: "number" }, row.number || ""));
  item.style.top = `${place * HEIGHT}px`;
  return item;
};

const wanted = new Set();
const fetchPage = async (page) => {
  const ask = state.ask;
  if (wanted.has(`${ask}/${page}`)) return;
  wanted.add(`${ask}/${page}`);
  try {
    const answer = await fetchJson("api/rows", query({ first: page * PAGE, count: PAGE }));
    if (ask !== state.ask || answer.error) return;
    state.pages.set(page, answer.rows);
    drawList();
  } finally { wanted.delete(`${ask}/${page}`); }
};

// Asks again until all is read and searched, then only where the files have changed.
const reload = async (fresh) => {
  const ask = ++state.ask;
  state.busy = true;
  if (fresh) { list.scrollTop = 0; state.place = -1; }
  if (fresh && state.text) at("count").textContent = "searching …";
  for (;;) {
    const page = Math.floor(Math.max(0, list.scrollTop) / HEIGHT / PAGE);
    let answer;
    try { answer = await fetchJson("api/rows", query({ first: page * PAGE, count: PAGE, filters: 1 })); }
    catch (error) { at("count").textContent = "The page's server does not answer: is it still running?"; break; }
    if (ask !== state.ask) return;
    if (answer.error) { at("count").textContent = answer.error; break; }
    Object.assign(state, { total: answer.total, matched: Math.min(answer.matched, LISTED), changes: answer.changes });
    state.pages = new Map([[page, answer.rows]]);
    drawFilters(answer);
    drawList();
    const parts = [`${grouped(answer.matched)} of ${grouped(answer.total)} rows`];
    if (answer.matched > LISTED) parts.push(`the first ${grouped(LISTED)} are listed`);
    if (answer.read < 1) parts.push(`reading ${Math.floor(answer.read * 100)}%`);
    else if (answer.searched < 1) parts.push(`searched ${Math.floor(answer.searched * 100)}%`);
    at("count").textContent = parts.join(" · ");
    if (answer.read >= 1 && answer.searched >= 1) break;
  }
  state.busy = false;
  if (ask === state.ask) { list.dataset.ready = String(ask); drawSources(); if (kind() === "curves") drawCurves(); }
};

const choose = async (place, read) => {
  if (place < 0 || place >= state.matched) return;
  const page = Math.floor(place / PAGE);
  if (!state.pages.get(page)) await fetchPage(page);
  const row = (state.pages.get(page) || [])[place % PAGE];
  if (!row) return;
  state.place = place;
  const top = place * HEIGHT;
  if (top < list.scrollTop) list.scrollTop = top;
  if (top + HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + HEIGHT - list.clientHeight;
  list.setAttribute("aria-activedescendant", `item-${place}`);
  await show(row.n);
  if (read) document.body.classList.add("reading");
};

// The row

const show = async (number) => {
  state.chosen = number;
  drawList();
  remember();
  const named = { source: state.source, n: number };
  let answer;
  try { answer = await fetchJson("api/row", new URLSearchParams(named)); } catch (error) { answer = { title: "", blocks: [{ kind: "note", text: String(error.message), tone: "bad" }] }; }
  if (number !== state.chosen || named.source !== state.source) return;
  const open = {
    image: (place) => `image?${new URLSearchParams({ ...named, i: place })}`,
    replies: () => fetchJson("api/replies", new URLSearchParams(named)),
    row: (other) => show(other),
  };
  const back = make("button", { id: "back", type: "button", onclick: leave }, "← Rows");
  detail.replaceChildren(back, make("h2", {}, answer.title || ""), ...draw(answer.blocks || [{ kind: "note", text: answer.error || "", tone: "bad" }], open));
  detail.dataset.n = String(number);
  detail.scrollTop = 0;
};
const leave = () => { document.body.classList.remove("reading"); list.focus(); };

// Filters

const CHIPS = 7;
const drawFilters = (answer) => {
  if (at("facets").contains(document.activeElement) && document.activeElement.tagName === "SELECT") return;  // it is open
  const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.chip : null;
  const names = Object.keys(answer.facets).filter((name) => Object.keys(answer.facets[name]).length > 1 || state.words[name]);
  const order = ["row", "status", "mode", "family"];
  names.sort((a, b) => (order.indexOf(a) + 1 || 99) - (order.indexOf(b) + 1 || 99));
  at("facets").replaceChildren(...names.map((name, place) => drawFacet(name, answer.facets[name], place)));
  if (focused) { const again = [...at("facets").querySelectorAll("[data-chip]")].find((one) => one.dataset.chip === focused); if (again) again.focus(); }
  fill(at("range-name"), [["", "number …"], ...Object.keys(answer.ranges).map((name) => [name, name])], state.number);
  at("range").hidden = !Object.keys(answer.ranges).length || kind() === "curves";
  const bounds = answer.ranges[state.number];
  const rounded = (value) => String(Number(value.toPrecision(4)));
  at("range-min").placeholder = bounds ? rounded(bounds[0]) : "from";
  at("range-max").placeholder = bounds ? rounded(bounds[1]) : "to";
  for (const [id, key] of [["range-min", "low"], ["range-max", "high"]]) if (document.activeElement !== at(id)) at(id).value = state[key];
  const sorts = Object.keys(answer.ranges).flatMap((name) => [[name, `${name} ↑`], [`-${name}`, `${name} ↓`]]);
  fill(at("order"), [["", "order of the file"], ["-", "last first"], ...sorts], state.order);
  at("clear").hidden = !filtered();
};
const filtered = () => Boolean(state.text || state.low !== "" || state.high !== "" || Object.keys(state.words).length);

const drawFacet = (name, words, place) => {
  const shown = Object.entries(words).filter(([word, n]) => (n && word) || (state.words[name] || []).includes(word));
  if (place < 2 && shown.length <= CHIPS) {
    return make("span", { class: "chips", role: "group", "aria-label": name }, ...shown.map(([word, n]) => make(
      "button", { type: "button", class: "chip", "data-chip": `${name}=${word}`, "aria-pressed": String((state.words[name] || []).includes(word)), onclick: () => toggle(name, word) },
      `${word.replaceAll("_", " ")} `, make("small", {}, grouped(n)))));
  }
  const select = make("select", { "aria-label": name, "data-chip": name, onchange: (event) => { const word = event.target.value; event.target.blur(); setWords(name, word ? [word] : []); } });
  fill(select, [["", `${name} …`], ...shown.map(([word, n]) => [word, `${word.replaceAll("_", " ")} (${grouped(n)})`])], (state.words[name] || [""])[0]);
  return select;
};
const fill = (select, options, value) => {
  if (document.activeElement === select) return;
  select.replaceChildren(...options.map(([key, label]) => make("option", { value: key }, label)));
  select.value = value;
};
const toggle = (name, word) => {
  const words = state.words[name] || [];
  setWords(name, words.includes(word) ? words.filter((one) => one !== word) : [...words, word]);
};
const setWords = (name, words) => {
  if (words.length) state.words[name] = words; else delete state.words[name];
  remember(); reload(true);
};
const clear = () => {
  Object.assign(state, { words: {}, low: "", high: "", number: "", text: "" });
  at("text").value = "";
  if (document.activeElement !== document.body) document.activeElement.blur();
  remember(); reload(true);
};

let waiting = null;
const soon = (change) => { clearTimeout(waiting); waiting = setTimeout(() => { change(); remember(); reload(true); }, 150); };
at("filters").addEventListener("submit", (event) => event.preventDefault());
at("text").addEventListener("input", () => soon(() => { state.text = at("text").value.trim(); }));
for (const [id, key] of [["range-min", "low"], ["range-max", "high"]]) {
  at(id).addEventListener("input", () => soon(() => { state[key] = at(id).validity.valid ? at(id).value : ""; }));
}
at("range-name").addEventListener("change", () => {
  Object.assign(state, { number: at("range-name").value, low: "", high: "" });
  at("range-min").value = at("range-max").value = "";
  at("range-name").blur(); remember(); reload(true);
});
at("order").addEventListener("change", () => { state.order = at("order").value; at("order").blur(); remember(); reload(true); });
at("more-open").addEventListener("click", () => at("more-open").setAttribute("aria-expanded", String(at("filters").classList.toggle("open"))));
at("clear").addEventListener("click", clear);
list.addEventListener("scroll", drawList, { passive: true });
new ResizeObserver(drawList).observe(list);

// Files

const label = (one) => {
  const parts = one.name.split("/");
  const named = parts.slice(0, one.kind === "completions" ? undefined : -1).filter((part) => part !== "completions").slice(-2).join("/");
  return named || parts.at(-1);
};
const drawSources = () => {
  at("sources").replaceChildren(...state.sources.map((one) => make(
    "button", { type: "button", title: `${one.name}, ${size(one.bytes)}`, "data-name": one.name, "aria-current": String(one.name === state.source), onclick: () => openSource(one.name) },
    one.kind === "rows" ? one.name.split("/").at(-1) : one.title, make("small", {}, ` ${label(one)}`),
  )));
};
const openSource = (name, keep) => {
  if (!keep) Object.assign(state, { words: {}, low: "", high: "", number: "", order: "", text: "" });
  Object.assign(state, { source: name, chosen: -1, place: -1, total: 0, matched: 0, pages: new Map() });
  if (!keep) at("text").value = "";
  document.body.classList.remove("reading");
  detail.replaceChildren(make("p", { class: "hint" }, "Choose a row: click, or j and k."));
  delete detail.dataset.n;
  const curves = kind() === "curves";
  at("curves").hidden = !curves;
  list.hidden = detail.hidden = curves;
  at("order").hidden = curves;
  at("text").placeholder = curves ? "Choose the curves by name  ( / )" : "Search the rows  ( / )";
  drawSources();
  const current = at("sources").querySelector("[aria-current='true']");
  if (current) current.scrollIntoView({ block: "nearest", inline: "nearest" });
  remember();
  return reload(true);
};
const drawCurves = () => showCurves(at("curves"), () => fetchJson("api/curves", new URLSearchParams({ source: state.source })), state.text);

const look = async () => {
  let answer;
  try { answer = await fetchJson("api/state", ""); } catch (error) { return; }
  const names = (sources) => sources.map((one) => one.name).join("\n");
  const changed = names(answer.sources) !== names(state.sources);
  state.sources = answer.sources;
  at("folder").textContent = answer.folder;
  at("folder").title = answer.path;
  at("home").hidden = !answer.home;
  at("home").href = answer.home || "";
  document.title = `${answer.folder} · traces and rollouts`;
  if (changed) drawSources();
};
const poll = async () => {
  if (!document.hidden && !state.busy && state.source) {
    await look();
    const answer = await fetchJson("api/rows", query({ count: 0 })).catch(() => null);
    if (answer && !answer.error && !state.busy && answer.changes !== state.changes) await reload(false);
  }
  setTimeout(poll, POLL);
};

// Keyboard

const step = (by) => choose(state.place < 0 ? (by > 0 ? 0 : state.matched - 1) : Math.max(0, Math.min(state.matched - 1, state.place + by)), document.body.classList.contains("reading"));
const neighbour = (by) => {
  const names = state.sources.map((one) => one.name);
  openSource(names[(names.indexOf(state.source) + by + names.length) % names.length]);
};
const keys = {
  j: () => step(1), ArrowDown: () => step(1), k: () => step(-1), ArrowUp: () => step(-1),
  g: () => choose(0), Home: () => choose(0), G: () => choose(state.matched - 1), End: () => choose(state.matched - 1),
  Enter: () => { if (state.place >= 0) document.body.classList.add("reading"); },
  "/": () => { leave(); at("text").focus(); at("text").select(); },
  "[": () => neighbour(-1), "]": () => neighbour(1), c: clear, "?": () => at("help").showModal(),
  Escape: () => { if (document.body.classList.contains("reading")) leave(); else if (state.text) { at("text").value = state.text = ""; remember(); reload(true); } },
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || at("help").open) return;
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName);
  if (typing && event.key === "Escape") { event.target.blur(); return; }
  if (typing && event.key === "Enter" && event.target === at("text")) { event.target.blur(); step(1); return; }
  const inDetail = detail.contains(event.target) && event.target !== detail;
  if (typing || (event.key === "Enter" && event.target.tagName === "BUTTON") || (inDetail && event.key.startsWith("Arrow"))) return;
  const act = keys[event.key];
  if (!act || (kind() === "curves" && !["/", "[", "]", "?", "c", "Escape"].includes(event.key))) return;
  event.preventDefault();
  act();
});
at("help-open").addEventListener("click", () => at("help").showModal());
addEventListener("hashchange", () => start());

const start = async () => {
  const given = recall();
  await look();
  if (!state.sources.length) return;
  const known = state.sources.some((one) => one.name === given.source);
  await openSource(known ? given.source : state.sources[0].name, known);
  if (known && given.row >= 0) show(given.row);
};
start().then(() => setTimeout(poll, POLL));
