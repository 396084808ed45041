// What stands behind the page's addresses, the stages' panel, and the start.
(async () => {
  const { facts } = Store;

  async function stage(name) {
    const held = (await Store.stages())[name];
    const node = $("stage");
    node.hidden = false;
    for (const box of document.querySelectorAll("svg a[href^='#stage=']")) box.classList.toggle("chosen", box.getAttribute("href") === address("stage", name));
    const head = h("header", {}, h("p", { class: "eyebrow" }, "Stage"), h("h3", {}, name));
    if (!held) {
      node.replaceChildren(head, h("p", {}, name === "report" ? "It wrote this page." : "No manifest of this stage stands in the page."));
      return;
    }
    const files = held.files.map(([file, bytes, digest]) => [{ words: h("code", {}, file) }, n(bytes), { words: h("code", { class: "digest" }, digest.slice(0, 16)) }]);
    node.replaceChildren(head,
      definition([["manifest", h("code", {}, held.digest)], ["output", `${plural(held.number, "file")}, ${count(held.bytes)} bytes`], ["made from", Object.keys(held.inputs).map((input) => [link("stage", input.replace("data/", ""), input.replace("data/", ""), "chip"), " "])]]),
      h("details", { open: true }, h("summary", {}, "What it counted"), tree(held.counts)),
      h("details", {}, h("summary", {}, "Parameters"), tree(held.params)),
      h("details", {}, h("summary", {}, "Files"), table(`data/${name}`, ["file", "bytes#", "SHA-256"], files), held.number > files.length ? h("p", { class: "note" }, `and ${count(held.number - files.length)} more`) : null));
  }

  function tree(value) {
    const pairs = [];
    const walk = (part, name) => {
      if (part !== null && typeof part === "object" && Object.keys(part).length) Object.entries(part).forEach(([key, inner]) => walk(inner, name ? `${name}.${key}` : key));
      else pairs.push([name, part === null ? "none" : typeof part === "number" && Number.isInteger(part) && Math.abs(part) > 9999 ? count(part) : typeof part === "object" ? "none" : String(part)]);
    };
    walk(value, "");
    return h("div", { class: "scroller tall", role: "region", tabindex: "0", "aria-label": "Values" }, definition(pairs));
  }

  const routes = {
    doc: ["document", Documents.show],
    find: ["documents", Documents.find],
    checkpoint: ["checkpoints", Journal.show],
    step: ["steps", (words) => Journal.batch(Number(words))],
    sample: ["samples", (words) => Sample.show(Number(words))],
    stage: ["stage", stage],
  };

  /** Open what the address names; at the start, what needs least first. */
  async function follow(keys = Object.keys(routes)) {
    const [, key, value] = /^#(\w+)=(.*)$/s.exec(location.hash) || [];
    if (!keys.includes(key)) return;
    const [section, open] = routes[key];
    let words = value;
    try {
      words = decodeURIComponent(value);
    } catch {
      // typed by hand, with a bare per cent sign
    }
    await open(words);
    $(section).scrollIntoView();
    document.documentElement.dataset.followed = location.hash;
    document.documentElement.dataset.answered ||= Math.round(performance.now());
  }

  function lede() {
    const kept = facts.segments.filter((segment) => segment.checkpoint && segment.status === "kept").length;
    const given = facts.segments.filter((segment) => segment.status !== "kept").length;
    const branches = given ? ` and ${plural(given, "branch").replace("branchs", "branches")} that training gave up or left behind` : "";
    $("lede").textContent = `${count(facts.documents)} documents, ${plural(facts.steps, "step")}, ${plural(kept, "checkpoint")}${branches}. Ask for a document: this page computes which steps read it.`;
    $("proof").replaceChildren("Head of the journal ", h("code", {}, facts.head), "; data plan ", h("code", {}, facts.plan), ".");
  }

  let width = innerWidth;
  let waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      if (innerWidth !== width) Journal.redraw();
      width = innerWidth;
    }, 120);
  });
  addEventListener("hashchange", () => follow());
  lede();
  Documents.start();
  Journal.start();
  document.documentElement.dataset.ready = Math.round(performance.now());
  await follow(["doc", "find"]);
  await Sample.start();
  const last = facts.segments.findLastIndex((segment) => segment.status === "kept");
  if (last >= 0 && $("checkpoint").hidden) await Journal.show(facts.segments[last].checkpoint);
  if ($("document").hidden && facts.examples.length) await Documents.show(facts.examples[0][0]);
  if (!$("batch").hasChildNodes()) await Journal.batch(0);
  await follow(["checkpoint", "step", "sample", "stage"]);
  document.documentElement.dataset.done = Math.round(performance.now());
})();
