// Small charts of every number of log.jsonl, which are drawn again while the run goes on.
import { make } from "./blocks.js";

const W = 300, H = 100;
const svg = (tag, properties) => {
  const one = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(properties)) one.setAttribute(name, value);
  return one;
};
const shown = (value) => (value === null ? "–" : Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(2) : String(Number(value.toPrecision(4))));

export const showCurves = async (into, ask, wanted) => {
  let answer;
  try { answer = await ask(); } catch (error) { return; }
  if (answer.error) { into.replaceChildren(make("p", { class: "hint" }, answer.error)); return; }
  const words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
  const names = Object.keys(answer.curves).filter((name) => words.every((word) => name.toLowerCase().includes(word)));
  const top = into.scrollTop;
  into.replaceChildren(
    make("p", { class: "hint" }, `${answer.rows.toLocaleString("en")} rows, last step ${shown(answer.last)}${answer.finished ? "; the run is finished" : "; drawn again while the run goes on"}`),
    make("div", { class: "charts" }, ...names.map((name) => chart(name, answer.curves[name]))),
  );
  if (!names.length) into.append(make("p", { class: "hint" }, "No curve has such a name."));
  into.scrollTop = top;
};

const chart = (name, { steps, values, last }) => {
  const finite = values.filter((value) => value !== null);
  const low = Math.min(...finite), high = Math.max(...finite), first = steps[0], end = steps[steps.length - 1];
  const x = (step) => (end > first ? ((step - first) / (end - first)) * W : W / 2);
  const y = (value) => (high > low ? H - 4 - ((value - low) / (high - low)) * (H - 8) : H / 2);
  const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", role: "img", "aria-label": `${name}: from ${shown(finite[0] ?? null)} to ${shown(last)}` });
  let run = [];
  const flush = () => {
    if (run.length) picture.append(svg("polyline", { points: (run.length > 1 ? run : [run[0], run[0]]).join(" ") }));
    run = [];
  };
  values.forEach((value, place) => { if (value === null) flush(); else run.push(`${x(steps[place]).toFixed(1)},${y(value).toFixed(1)}`); });
  flush();
  const cursor = svg("line", { y1: 0, y2: H, x1: -9, x2: -9 });
  picture.append(cursor);
  const now = make("output", {}, shown(last));
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const step = first + ((event.clientX - box.left) / box.width) * (end - first);
    let near = 0;
    steps.forEach((one, place) => { if (Math.abs(one - step) < Math.abs(steps[near] - step)) near = place; });
    now.textContent = `step ${steps[near]}: ${shown(values[near])}`;
    cursor.setAttribute("x1", x(steps[near])); cursor.setAttribute("x2", x(steps[near]));
  });
  picture.addEventListener("pointerleave", () => { now.textContent = shown(last); cursor.setAttribute("x1", -9); cursor.setAttribute("x2", -9); });
  return make("div", { class: "chart", "data-name": name }, make("h3", {}, make("span", {}, name), now), picture,
    make("div", { class: "axis" }, make("span", {}, `${shown(low)} to ${shown(high)}`), make("span", {}, `step ${first} to ${end}`)));
};
