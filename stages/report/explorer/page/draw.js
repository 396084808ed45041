// Elements, numbers in words, and the pictures that more than one section draws.
const count = (number) => number.toLocaleString("en-US");
const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;
const share = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : "");
const compact = (number) => (number >= 1e9 ? `${(number / 1e9).toFixed(2)} G` : number >= 1e6 ? `${(number / 1e6).toFixed(2)} M` : count(number));
const $ = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}
const h = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
const s = (name, attributes, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

const address = (key, value) => `#${key}=${encodeURIComponent(value)}`;
const link = (key, value, words, style) => h("a", { href: address(key, value), class: style }, words === undefined ? String(value) : words);
const spoken = (lang) => Store.facts.languages[lang] || lang;

function picture(width, height, title, ...parts) {
  return s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "picture", role: "img", "aria-label": title }, parts);
}

function definition(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function tiles(pairs) {
  return h("dl", { class: "tiles" }, pairs.map(([value, name, note]) => h("div", {}, h("dt", {}, name), h("dd", { class: "value" }, value), note ? h("dd", { class: "note" }, note) : null)));
}

function table(caption, heads, rows) {
  const cell = (content, place) => h(place ? "td" : "th", { class: typeof content === "object" ? content.class : null, scope: place ? null : "row" }, content.words ?? content);
  return h("div", { class: "scroller", role: "region", tabindex: "0", "aria-label": caption },
    h("table", {}, h("caption", {}, caption),
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col", class: head.endsWith("#") ? "n" : null }, head.replace(/#$/, ""))))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map(cell))))));
}
const n = (number) => ({ class: "n", words: typeof number === "number" ? count(number) : number });

/** Steps from 0 to `end` on `width` units: a scale, and its axis with round numbers. */
function stepAxis(end, left, right, y) {
  const scale = (step) => left + ((right - left) * step) / Math.max(1, end);
  const rough = end / Math.max(2, Math.floor((right - left) / 110));
  const unit = 10 ** Math.floor(Math.log10(Math.max(1, rough)));
  const pace = Math.max(1, [1, 2, 5, 10].map((factor) => factor * unit).find((value) => value >= rough));
  const parts = [s("line", { x1: left, x2: right, y1: y, y2: y, class: "axis" })];
  for (let step = 0; step <= end; step += pace) {
    parts.push(s("line", { x1: scale(step), x2: scale(step), y1: y, y2: y + 4, class: "axis" }), s("text", { x: scale(step), y: y + 17, class: "tick", "text-anchor": "middle" }, count(step)));
  }
  return { scale, parts };
}

/** Groups ordered by size, each with a colour; those beyond the palette are one group. */
function groupsOf(names, sizes, palette) {
  const total = new Map();
  names.forEach((name, kind) => total.set(name, (total.get(name) || 0) + sizes[kind]));
  const sorted = [...total].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
  const limit = sorted.length > palette.length ? palette.length - 1 : sorted.length;
  const place = new Map(sorted.map(([name], index) => [name, Math.min(index, limit)]));
  const groups = sorted.slice(0, limit).map(([name, size], index) => ({ name, size, style: palette[index] }));
  const rest = sorted.slice(limit);
  if (rest.length) groups.push({ name: `${rest.length} others`, size: rest.reduce((sum, [, size]) => sum + size, 0), style: "c-rest" });
  return { groups, of: names.map((name) => place.get(name)), sorted };
}

/** Shares of every group in each bin of steps, one on the other. */
function stacked(bins, grouped, facts, width) {
  const height = 236, left = 38, right = width - 2, top = 10, bottom = height - 26;
  const { scale, parts } = stepAxis(facts.steps, left, right, bottom);
  for (const [value, y] of [[1, top], [0.5, (top + bottom) / 2]]) {
    parts.push(s("text", { x: left - 7, y: y + 4, class: "tick", "text-anchor": "end" }, `${100 * value} %`));
  }
  const bars = [];
  bins.forEach((bin, place) => {
    const sizes = grouped.groups.map(() => 0);
    bin.forEach((value, kind) => (sizes[grouped.of[kind]] += value));
    const total = sizes.reduce((sum, value) => sum + value, 0);
    const x = scale(place * facts.width), end = scale(Math.min(facts.steps, (place + 1) * facts.width));
    let y = bottom;
    sizes.forEach((size, group) => {
      if (!size) return;
      const tall = ((bottom - top) * size) / total;
      y -= tall;
      const said = `${grouped.groups[group].name}: ${share(size, total)} of ${count(total)} tokens, steps ${count(place * facts.width)} to ${count(Math.min(facts.steps, (place + 1) * facts.width) - 1)}`;
      bars.push(s("rect", { x, y, width: Math.max(0.4, end - x - (end - x > 4 ? 0.6 : 0)), height: tall, class: `bar ${grouped.groups[group].style}` }, s("title", {}, said)));
    });
  });
  return picture(width, height, "Share of the tokens of each group over the steps of the training", bars, parts);
}
