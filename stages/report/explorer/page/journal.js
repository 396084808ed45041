// The tree of segments, what a checkpoint was fed, and what one step read.
const Journal = (() => {
  const { facts } = Store;
  const STYLES = { kept: "kept", abandoned: "abandoned", "left behind": "behind" };
  const PALETTE = ["c-1", "c-3", "c-2", "c-4", "c-5", "c-6", "c-7", "c-8"];
  const LANGUAGES = { en: "c-en", zh: "c-zh" };
  let chosen = null;
  let facet = "source";

  /** A lane for each segment: the way to the newest kept checkpoint is lane 0, what left it lies below. */
  function lanes() {
    const kept = facts.segments.findLastIndex((segment) => segment.status === "kept");
    const main = new Set(kept >= 0 ? Store.path(kept) : []);
    const free = [];
    return facts.segments.map((segment, number) => {
      if (main.has(number)) return 0;
      let lane = 1;
      const parent = segment.parent;
      while (free[lane]?.some((held) => held.number !== parent && held.first <= segment.last && segment.first <= held.last)) lane += 1;
      (free[lane] ||= []).push({ number, first: segment.first, last: segment.last });
      return lane;
    });
  }

  const title = (segment) => segment.checkpoint || `${segment.status} branch, steps ${count(segment.first)} to ${count(segment.last)}`;

  function tree() {
    const box = $("tree");
    const width = Math.max(300, box.clientWidth);
    const lane = lanes(), rows = 1 + Math.max(0, ...lane);
    const gap = 54, top = 34, bottom = top + (rows - 1) * gap + 30;
    const { scale, parts } = stepAxis(facts.steps, 10, width - 14, bottom);
    const y = (number) => top + lane[number] * gap;
    const made = new Set(chosen === null ? [] : facts.segments[chosen].checkpoint ? Store.path(chosen) : [chosen]);
    const wires = [], nodes = [];
    const spoken = labelled(lane, scale);
    facts.segments.forEach((segment, number) => {
      const style = `${STYLES[segment.status]}${made.has(number) ? " on" : ""}`;
      const x1 = scale(segment.first), x2 = scale(segment.last + 1), at = y(number);
      const from = segment.parent === null ? at : y(segment.parent);
      const bend = Math.min(26, Math.max(2, (x2 - x1) / 2));
      wires.push(s("path", { d: from === at ? `M${x1},${at}H${x2}` : `M${x1},${from}C${x1 + bend},${from} ${x1},${at} ${x1 + bend},${at}H${x2}`, class: `wire ${style}` }));
      for (const [first, last] of segment.skipped) {
        const wide = Math.max(3, scale(last + 1) - scale(first));
        wires.push(s("rect", { x: scale(first), y: at - 7, width: wide, height: 14, class: "skipped" }, s("title", {}, `Steps ${count(first)} to ${count(last)} were passed over`)));
      }
      nodes.push(node(segment, number, x2, at, style, spoken.has(number)));
    });
    box.replaceChildren(picture(width, bottom + 24, "The journal: segments of training by step", parts, wires, nodes));
  }

  /** Segments whose names have room: the last of each lane, and those before it that are clear of the next. */
  function labelled(lane, scale) {
    const next = [], found = new Set();
    for (let number = lane.length - 1; number >= 0; number -= 1) {
      const x = scale(facts.segments[number].last + 1);
      if (Math.abs((next[lane[number]] ?? Infinity) - x) < 64) continue;
      next[lane[number]] = x;
      found.add(number);
    }
    return found;
  }

  function node(segment, number, x, y, style, labelled) {
    const inner = segment.checkpoint
      ? [s("circle", { cx: x, cy: y, r: 7 })]
      : [s("path", { d: `M${x - 5},${y - 5}l10,10m0,-10l-10,10`, class: "cross" })];
    const words = segment.checkpoint ? segment.checkpoint.replace(/^step-0*/, "") : segment.settings.cause || "given up";
    const side = x > $("tree").clientWidth - 60 ? "end" : "middle";
    const label = labelled ? [s("text", { x: side === "end" ? x + 8 : x, y: y - 15, class: "name", "text-anchor": side }, words)] : [];
    const said = `${title(segment)} (${segment.status})`;
    return s("a", { href: address("checkpoint", segment.checkpoint && latest(segment, number) ? segment.checkpoint : number), class: `node ${style}`, "aria-label": said },
      s("title", {}, said), s("circle", { cx: x, cy: y, r: 16, class: "reach" }), inner, label);
  }

  /** Whether a name still means this segment: training that went back may use it again. */
  const latest = (segment, number) => facts.segments.findLastIndex((other) => other.checkpoint === segment.checkpoint) === number;

  function find(name) {
    const named = facts.segments.findLastIndex((segment) => segment.checkpoint === name);
    const number = named >= 0 ? named : /^\d+$/.test(name) ? Number(name) : -1;
    return number >= 0 && number < facts.segments.length ? number : null;
  }

  async function show(name) {
    const number = find(name);
    if (number === null) {
      $("checkpoint").hidden = false;
      $("checkpoint").replaceChildren(h("p", {}, `The journal has no checkpoint ${name}.`));
      return;
    }
    chosen = number;
    tree();
    await panel();
  }

  async function panel() {
    const segment = facts.segments[chosen];
    const diet = await Store.diet(chosen);
    const sum = (values) => values.reduce((total, value) => total + value, 0);
    const skipped = diet.made.flatMap((index) => facts.segments[index].skipped);
    const samples = sum(diet.made.flatMap((index) => facts.segments[index].samples.map(([first, end]) => end - first)));
    const heads = { source: 0, language: 1, licence: 2 };
    const names = facts.origins.map((origin) => (facet === "language" ? spoken(origin[1]) : origin[heads[facet]]));
    const palette = facet === "language" ? languagePalette(names, diet.tokens) : PALETTE;
    const grouped = groupsOf(names, diet.tokens, palette);
    const buttons = Object.keys(heads).map((name) => h("button", { type: "button", "aria-pressed": String(name === facet), onclick: () => { facet = name; panel(); } }, name));
    const node = $("checkpoint");
    node.hidden = false;
    node.replaceChildren(
      h("header", {}, h("p", { class: "eyebrow" }, segment.checkpoint ? "Checkpoint" : "Segment without a checkpoint", " ", h("span", { class: `badge ${STYLES[segment.status]}` }, segment.status)), h("h3", {}, title(segment))),
      tiles([[count(segment.last + 1), "steps behind it", skipped.length ? `${skipped.map(([a, b]) => `${count(a)}–${count(b)}`).join(", ")} passed over` : ""], [compact(samples), "samples"], [compact(sum(diet.documents)), "documents seen"], [compact(sum(diet.tokens)), "tokens of text"]]),
      h("div", { class: "toggle", role: "group", "aria-label": "Group by" }, h("span", {}, "What it was fed, by"), buttons),
      stacked(diet.bins, grouped, facts, Math.max(280, node.clientWidth - 2 * parseFloat(getComputedStyle(node).paddingLeft))),
      h("ul", { class: "legend" }, grouped.groups.map((group) => h("li", { class: group.style }, group.name, " ", h("b", {}, share(group.size, sum(diet.tokens)))))),
      h("details", {}, h("summary", {}, `Every ${facet}, and the segment's line in the journal`), rows(names, diet, grouped), line(segment)));
  }

  function languagePalette(names, sizes) {
    const { sorted } = groupsOf(names, sizes, names);
    const code = Object.fromEntries(Object.entries(facts.languages).map(([lang, word]) => [word, lang]));
    let next = 0;
    return sorted.map(([name]) => LANGUAGES[code[name]] || PALETTE[2 + (next++ % 6)]);
  }

  function rows(names, diet, grouped) {
    return table(`By ${facet}`, [facet, "documents seen#", "exposures#", "tokens#", "share#"], grouped.sorted.filter(([, size]) => size).map(([name, size]) => {
      const of = (values) => names.reduce((total, other, kind) => total + (other === name ? values[kind] : 0), 0);
      return [name, n(of(diet.documents)), n(of(diet.exposures)), n(size), n(share(size, diet.tokens.reduce((a, b) => a + b, 0)))];
    }));
  }

  function line(segment) {
    const settings = Object.entries(segment.settings).map(([name, value]) => `${name.replaceAll("_", " ")} ${JSON.stringify(value)}`).join(", ");
    return definition([
      ["started from", segment.parent === null ? "nothing" : link("checkpoint", facts.segments[segment.parent].checkpoint || segment.parent)],
      ["own steps", `${count(segment.first)} to ${count(segment.last)}`], ["settings", settings],
      ["weights", segment.weights && h("code", {}, segment.weights)], ["line's hash", h("code", {}, segment.hash)],
    ]);
  }

  async function batch(step) {
    const asked = Math.min(Math.max(0, Math.floor(step) || 0), facts.steps - 1);
    $("step").value = $("slide").value = asked;
    const read = await Store.step(asked);
    const over = facts.segments.filter((segment) => segment.first <= asked && asked <= segment.last);
    const skips = (segment) => segment.skipped.some(([first, last]) => first <= asked && asked <= last);
    const runs = over.map((segment) => `${title(segment)}: ${skips(segment) ? "passed over" : "trained"}${segment.status === "kept" ? "" : `, ${segment.status}`}`);
    const known = new Set(read.flatMap((sample) => sample.held.map((part) => part.document)));
    const entries = new Map(await Promise.all([...known].map(async (number) => [number, await Store.describe(number)])));
    const list = read.map((sample) => {
      const held = new Map();
      for (const part of sample.held) held.set(part.document, (held.get(part.document) || 0) + part.tokens);
      const parts = [...held].map(([number, tokens]) => {
        const entry = entries.get(number);
        return h("span", {}, link("doc", entry.id, entry.id, `origin ${languageStyle(entry.lang)}`), h("small", {}, ` ${count(tokens)}`));
      });
      return h("li", {}, h("span", { class: "place" }, `row ${count(sample.row)}`), h("span", { class: "held" }, parts));
    });
    $("batch").replaceChildren(
      h("p", {}, h("b", {}, `Step ${count(asked)}`), ` reads samples ${count(read[0].index)} to ${count(read.at(-1).index)} of the order: ${plural(read.length, "row")} with parts of ${plural(known.size, "document")}. The number beside a document is its tokens in the row.`),
      h("p", { class: "note" }, runs.join("; ")), h("ol", { class: "rows" }, list));
  }

  const languageStyle = (lang) => LANGUAGES[lang] || "c-5";

  function start() {
    const some = (status) => facts.segments.some((segment) => segment.status === status);
    const keys = [["kept", "kept", some("kept")], ["abandoned", "abandoned: training went back behind it", some("abandoned")], ["behind", "left behind by a later return", some("left behind")], ["over", "steps passed over", facts.segments.some((segment) => segment.skipped.length)]];
    $("keys").replaceChildren(...keys.filter(([, , there]) => there).map(([style, words]) => h("span", { class: style }, words)));
    $("slide").max = $("step").max = facts.steps - 1;
    const ask = (event) => { event.preventDefault(); batch(Number(event.target.value ?? $("step").value)); };
    $("slide").addEventListener("input", ask);
    $("step").addEventListener("change", ask);
    $("ask-step").addEventListener("submit", (event) => { event.preventDefault(); batch(Number($("step").value)); });
    tree();
  }

  function redraw() {
    tree();
    if (chosen !== null) panel();
  }

  return { start, show, tree, batch, redraw, lanes, languageStyle, STYLES, title };
})();
