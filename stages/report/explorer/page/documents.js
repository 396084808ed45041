// The search, and the panel that tells what became of a document and which steps and checkpoints saw it.
const Documents = (() => {
  const { facts } = Store;
  const MOST_ROWS = 40;
  const MOST_STEPS = 240;
  let at = -1;
  let asked = 0;

  const fate = (entry) => (entry.trained ? `trained on, ${plural(entry.length, "token")}` : entry.reason);

  async function ask() {
    const turn = (asked += 1);
    const started = performance.now();
    const words = $("query").value;
    const { found, more } = await Store.search(words);
    const entries = await Promise.all(found.slice(0, MOST_ROWS).map(Store.describe));
    if (turn !== asked) return; // somebody typed on
    at = -1;
    const list = $("found");
    list.hidden = entries.length === 0;
    $("query").setAttribute("aria-expanded", String(entries.length > 0));
    $("query").removeAttribute("aria-activedescendant");
    list.replaceChildren(...entries.map((entry, place) => option(entry, place, words)));
    const rest = found.length > entries.length ? `; the first ${entries.length} are listed` : "";
    const number = more ? `More than ${count(found.length)} documents` : plural(found.length, "document");
    const took = Math.max(1, Math.round(performance.now() - started));
    $("answer").textContent = words.trim() === "" ? "" : `${number} in ${count(took)} ms${rest}.`;
    document.documentElement.dataset.answered = Math.round(performance.now());
  }

  function option(entry, place, words) {
    const choose = (event) => { event.preventDefault(); go(entry.id); };
    return h("li", { role: "option", id: `option-${place}`, "aria-selected": "false", onmousedown: choose },
      h("span", { class: "id" }, marked(entry.id, words)),
      h("span", { class: "words" }, marked(entry.url || entry.title, words)),
      h("span", { class: `what ${entry.trained ? Journal.languageStyle(entry.lang) : "c-rest"}` }, fate(entry)));
  }

  function marked(text, words) {
    const wanted = words.trim().toLowerCase();
    const place = wanted === "" ? -1 : text.toLowerCase().indexOf(wanted);
    if (place < 0) return text;
    return [text.slice(0, place), h("mark", {}, text.slice(place, place + wanted.length)), text.slice(place + wanted.length)];
  }

  function go(id) {
    close();
    if (location.hash === address("doc", id)) show(id);
    else location.hash = address("doc", id);
  }

  function close() {
    $("found").hidden = true;
    $("query").setAttribute("aria-expanded", "false");
  }

  function move(by) {
    const options = [...$("found").children];
    if (options.length === 0) return;
    $("found").hidden = false;
    if (at >= 0) options[at].setAttribute("aria-selected", "false");
    at = (at + by + options.length + (at < 0 && by < 0 ? 1 : 0)) % options.length;
    options[at].setAttribute("aria-selected", "true");
    options[at].scrollIntoView({ block: "nearest" });
    $("query").setAttribute("aria-activedescendant", options[at].id);
  }

  function key(event) {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      move(event.key === "ArrowDown" ? 1 : -1);
    } else if (event.key === "Enter") {
      event.preventDefault();
      const chosen = $("found").children[Math.max(0, at)];
      if (chosen && !$("found").hidden) go(chosen.querySelector(".id").textContent);
    } else if (event.key === "Escape") {
      if ($("found").hidden) $("query").value = "";
      close();
    }
  }

  async function show(id) {
    const node = $("document");
    const number = await Store.place(id);
    node.hidden = false;
    if (number < 0) {
      node.replaceChildren(h("p", {}, `This page knows no document `, h("code", {}, id), ". ", facts.all > facts.documents ? "It holds a part of them; ask " : "Ask ", h("code", {}, "glm lineage seen --doc"), "."));
      return;
    }
    const entry = await Store.describe(number);
    const head = [h("header", {}, h("p", { class: "eyebrow" }, "Document"), h("h3", { class: "id" }, entry.id), entry.title ? h("p", { class: "title" }, entry.title) : null)];
    const about = [["address", entry.url && h("code", {}, entry.url)], ["source", entry.source], ["language", spoken(entry.lang)], ["licence", entry.licence]];
    if (entry.trained) {
      const seen = await Store.seen(number);
      node.replaceChildren(...head, definition([...about, ["length", plural(entry.length, "token")]]), ...exposures(seen));
      strip(node.querySelector(".strip"), seen);
    } else {
      node.replaceChildren(...head, h("p", { class: "verdict" }, "No checkpoint of this build was trained on it: ", h("b", {}, entry.reason), entry.detail ? ` (${entry.detail})` : "", "."), entry.other ? h("p", {}, entry.reason.includes("duplicate") ? "The copy that stayed: " : "The other text: ", link("doc", entry.other)) : "", definition(about));
    }
  }

  function exposures({ exposures: all, sightings }) {
    const trained = all.filter((one) => one.segments.length);
    if (trained.length === 0) {
      return [h("p", { class: "verdict" }, "In the training set, but ", h("b", {}, "no checkpoint saw it"), all.length ? ": the steps that would have read it were passed over." : ": training ended before its turn."), h("div", { class: "strip" })];
    }
    const steps = [...new Set(trained.map((one) => one.step))];
    const saw = sightings.filter((sighting) => sighting.exposures);
    const rows = sightings.map(({ segment, exposures: times, tokens, steps: own }) => [
      { words: link("checkpoint", segment.checkpoint || facts.segments.indexOf(segment), Journal.title(segment)) },
      { words: h("span", { class: `badge ${Journal.STYLES[segment.status]}` }, segment.status) },
      n(times), n(tokens), n(times ? count(own[0]) : ""), n(times ? count(own.at(-1)) : ""),
    ]);
    const chips = steps.slice(0, MOST_STEPS).map((step) => link("step", step, count(step), "chip"));
    return [
      h("p", { class: "verdict" }, "Seen ", h("b", {}, trained.length === 1 ? "once" : `${count(trained.length)} times`), `, in ${plural(steps.length, "step")}, by `, h("b", {}, saw.length === sightings.length ? "every checkpoint" : `${saw.length} of ${sightings.length}`), saw.length === sightings.length ? "." : " checkpoints and branches."),
      h("div", { class: "strip" }),
      h("h4", {}, "Steps that read it"), h("p", { class: "chips" }, chips, steps.length > MOST_STEPS ? ` and ${count(steps.length - MOST_STEPS)} more` : ""),
      table("By checkpoint", ["checkpoint", "status", "exposures#", "tokens#", "first step#", "last step#"], rows),
    ];
  }

  /** Where in the training it stood: one mark an exposure, a line a branch. */
  function strip(node, { exposures: all }) {
    const lane = Journal.lanes(), rows = 1 + Math.max(0, ...lane), gap = 22;
    const width = Math.max(280, node.clientWidth), bottom = 14 + rows * gap;
    const { scale, parts } = stepAxis(facts.steps, 8, width - 12, bottom);
    const wires = facts.segments.map((segment, number) => s("line", { x1: scale(segment.first), x2: scale(segment.last + 1), y1: 16 + lane[number] * gap, y2: 16 + lane[number] * gap, class: `wire ${Journal.STYLES[segment.status]}` }));
    const marks = all.flatMap((one) => one.segments.map((number) => {
      const x = scale(one.step + 0.5), y = 16 + lane[number] * gap;
      return s("line", { x1: x, x2: x, y1: y - 9, y2: y + 9, class: "sighting" }, s("title", {}, `step ${count(one.step)}: row ${count(one.row)}, ${plural(one.tokens, "token")}`));
    }));
    node.replaceChildren(picture(width, bottom + 24, "Steps that read the document, by branch of the training", wires, marks, parts));
  }

  function start() {
    examples();
    const query = $("query");
    query.addEventListener("input", ask);
    query.addEventListener("keydown", key);
    query.addEventListener("blur", close);
    query.addEventListener("focus", () => { if ($("found").children.length && query.value.trim()) $("found").hidden = false; });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "/" || event.ctrlKey || event.metaKey || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
      event.preventDefault();
      query.focus();
      query.select();
      query.scrollIntoView({ block: "center" });
    });
  }

  async function find(words) {
    $("query").value = words;
    await ask();
  }

  function examples() {
    const parts = facts.examples.map(([id, words], place) => [place ? ", or " : "Try ", link("doc", id), ` (${words})`]);
    $("examples").replaceChildren(...parts.flat(), ".");
    $("query").placeholder = facts.examples[0]?.[0] || "";
    $("examples").hidden = facts.examples.length === 0;
  }

  return { start, show, find };
})();
