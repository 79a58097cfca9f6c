// Draws the parts of a row. Everything that rows hold goes into the page as text, never as HTML.

export const make = (tag, properties = {}, ...children) => {
  const one = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") one.className = value;
    else if (name.startsWith("on")) one.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) one.setAttribute(name, value);
  }
  one.append(...children.filter((child) => child !== null && child !== undefined));
  return one;
};

const tones = new Set(["plain", "good", "bad"]);
const marks = new Set(["loss", "masked", "corrected", "relook", "answer", "heat", "heat relook", "plain"]);
const tone = (name) => (tones.has(name) ? name : "plain");
const titled = (title, ...children) => make("div", { class: "block" }, title ? make("h3", {}, title) : null, ...children);

const span = ([text, mark, value, hint]) => {
  if (!mark || !marks.has(mark)) return document.createTextNode(text);
  const one = make("mark", { class: mark, title: hint || null }, text);
  if (typeof value === "number") one.style.setProperty("--heat", Math.max(0, Math.min(1, value)));
  if (mark.startsWith("heat") && hint) one.append(make("small", {}, hint.split(" ", 1)[0]));
  return one;
};

const drawn = {
  facts: (block) => make("dl", { class: "facts" }, ...block.items.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
  note: (block) => make("p", { class: `block note ${tone(block.tone)}` }, block.text),
  text: (block) => titled(
    block.title,
    make("div", { class: "text" }, ...block.spans.map(span)),
    block.legend.length ? make("div", { class: "legend" }, ...block.legend.map(([mark, label]) => make("span", {}, span(["  ", mark, 0.6]), ` ${label}`))) : null,
  ),
  round: (block) => make(
    "div", { class: "block round" },
    make("div", { class: "head" }, make("span", {}, block.title), make("span", { class: tone(block.tone) }, block.verdict)),
    ...block.parts.map(([name, text]) => make("div", {}, make("b", {}, name), make("p", {}, text))),
  ),
  table: (block, open) => titled(block.title, make("div", { class: "scroll" }, make(
    "table", {},
    make("thead", {}, make("tr", {}, ...block.head.map((name) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, ...block.rows.map((row, place) => {
      const target = block.links ? block.links[place] : null;
      const line = make("tr", { class: `${place === block.current ? "current" : ""} ${target === null ? "" : "link"}` }, ...row.map((cell) => make("td", {}, String(cell))));
      if (target !== null) line.addEventListener("click", () => open.row(target));
      return line;
    })),
  ))),
  images: (block, open) => {
    if (!block.count) return null;
    return make("div", { class: "block images" }, ...Array.from({ length: block.count }, (_, place) => {
      const figure = make("figure", {});
      const image = make("img", { src: open.image(place), alt: `Image ${place + 1} of the row`, loading: "lazy" });
      image.addEventListener("error", async () => {
        image.remove();
        const answer = await fetch(image.src).then((one) => one.json()).catch(() => ({}));
        figure.append(make("figcaption", {}, answer.error || "The image cannot be shown."));
      });
      figure.append(image);
      return figure;
    }));
  },
  more: (block, open) => {
    const folded = make("details", { class: "block" }, make("summary", {}, block.title));
    folded.addEventListener("toggle", async () => {
      if (folded.dataset.asked || !folded.open) return;
      folded.dataset.asked = "1";
      const answer = await open.replies(block.n);
      folded.append(...draw(answer.blocks || [{ kind: "note", text: answer.error || "There is nothing.", tone: "bad" }], open));
    });
    return folded;
  },
  json: (block) => {
    const folded = make("details", { class: "block" }, make("summary", {}, block.title));
    folded.addEventListener("toggle", () => {
      if (folded.open && folded.children.length === 1) folded.append(make("pre", {}, JSON.stringify(block.content, null, 2)));
    });
    return folded;
  },
};

export const draw = (blocks, open) => blocks.map((block) => (drawn[block.kind] ? drawn[block.kind](block, open) : null)).filter(Boolean);
