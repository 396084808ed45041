// One sample on its way from the fetched page to the row that the model reads.
const Sample = (() => {
  const { facts } = Store;
  const KINDS = { gmask: "[gMASK]", mask: "[MASK]", instruction: "instruction" };
  const SAID = {
    gmask: "The model reads the context in both directions and continues it at the end, where [gMASK] stands.",
    mask: "Short spans were cut out. The model reads what is left in both directions and fills the blanks, in the order in which the spans stand.",
    instruction: "Several prompts share the row and do not see each other. Each ends in a blank; the answer fills it.",
  };
  let samples = [];

  const chip = (token, place, extra) => {
    const [shown, kind] = token;
    const style = { t: `p${place % 4}`, b: "byte", l: "line", s: "special" }[kind];
    return h("span", { class: `token ${style}`, title: extra || null }, shown);
  };

  function stage(number, name, note, ...content) {
    return h("section", { class: "station" }, h("h3", {}, h("i", {}, String(number)), name), note ? h("p", { class: "note" }, note) : null, content);
  }

  function compared(runs, side) {
    return runs.filter(([code]) => code % 3 === 0 || code === side).map(([code, words]) => (code === 0 ? words : code === 3 ? h("span", { class: "beyond" }, words) : h(side === 1 ? "del" : "ins", {}, words.trim() === "" ? words.replaceAll("\n", "↵\n").replaceAll(" ", "␣") : words)));
  }

  function origin(part) {
    const where = part.worded ? `worded into ${plural(part.tokens, "token")} of the row` : `tokens ${count(part.offset)} to ${count(part.offset + part.tokens - 1)} of ${count(part.of)}`;
    return h("p", { class: "from" }, link("doc", part.id), h("span", {}, `${part.source}, ${part.licence}; ${where}`), part.raw ? h("span", { title: part.raw }, "SHA-256 of the record ", h("code", {}, part.raw.slice(0, 12))) : null);
  }

  function pages(sample) {
    const texts = sample.parts.filter((part) => part.text?.length);
    const rest = sample.more ? h("p", { class: "note" }, `and ${plural(sample.more, "document")} more in this row`) : null;
    if (texts.length === 0) {
      return [stage(1, "Labelled rows", "The prompts of this row were worded from rows of labelled data sets; no page is quoted in them.", sample.parts.map(origin), rest)];
    }
    const changed = texts.some((part) => part.text.some(([code]) => code % 3));
    const worded = sample.kind === "instruction";
    const around = worded ? "Pale: what stands around the passage that the prompt quotes." : "Pale: what stands around the part in this row.";
    return [
      stage(1, "The page, as fetched", changed ? `Struck out: what cleaning took away or replaced. ${around}` : around, sample.parts.map((part) => h("article", {}, origin(part), part.text?.length ? h("blockquote", { lang: part.lang }, compared(part.text, 1)) : null)), rest),
      stage(2, "The text, as trained on", changed ? "Underlined: what cleaning put there." : "Here cleaning changed nothing; the text goes on as it was fetched.", changed ? texts.map((part) => h("blockquote", { lang: part.lang }, compared(part.text, 2))) : null),
      worded ? null : stage(3, "Its tokens", `The part that stands in this row: ${texts.map((part) => count(part.tokens)).join(" + ")} tokens.`, texts.map((part) => h("p", { class: "tokens", lang: part.lang }, part.pieces.map((token, place) => chip(token, place, `token ${count(part.offset + place)}`))))),
    ].filter((part) => part !== null);
  }

  function context(block) {
    return block.context.map((token, place) => (token[3] ? h("span", { class: "token blank", title: `position ${token[2]}` }, `${token[0]} `, h("sub", {}, token[3])) : chip(token, place, `position ${token[2]}`)));
  }

  function spans(block) {
    return block.spans.map((span) => {
      const [first, last] = [span.tokens[0][2], span.tokens.at(-1)[2]];
      const where = first === last ? `all at position ${first}` : `positions ${first} to ${last}`;
      return h("div", { class: "span" }, h("span", { class: "token blank" }, span.blank), h("p", { class: "tokens" }, span.tokens.map((token, place) => chip(token, place, `position ${token[2]}`))), h("small", {}, where));
    });
  }

  /** Position ids along the row: context in grey, what is learnt in colour. */
  function positions(sample, width) {
    const height = 132, left = 34, bottom = height - 22, top = 8;
    const x = (place) => left + ((width - left - 6) * place) / sample.length;
    const most = Math.max(1, ...sample.positions);
    const y = (value) => bottom - ((bottom - top) * value) / most;
    const dots = sample.positions.map((value, place) => s("rect", { x: x(place), y: y(value) - 1.6, width: Math.max(1, x(1) - x(0)), height: 3.2, class: sample.learnt[place] ? "learnt" : "read" }));
    const axis = [s("line", { x1: left, x2: width - 6, y1: bottom + 3, y2: bottom + 3, class: "axis" }), s("text", { x: left, y: height - 4, class: "tick" }, "place in the row: 0"), s("text", { x: width - 6, y: height - 4, class: "tick", "text-anchor": "end" }, count(sample.length - 1)), s("text", { x: left - 6, y: bottom + 2, class: "tick", "text-anchor": "end" }, "0"), s("text", { x: left - 6, y: top + 8, class: "tick", "text-anchor": "end" }, most)];
    return picture(width, height, "Position of every token of the row; blue ones are learnt", dots, axis);
  }

  function show(row) {
    const place = Math.max(0, samples.findIndex((sample) => sample.row === row));
    const sample = samples[place];
    [...$("choice").children].forEach((button, index) => {
      button.setAttribute("aria-checked", String(index === place));
      button.tabIndex = index === place ? 0 : -1;
    });
    const learnt = sample.learnt.reduce((sum, value) => sum + value, 0);
    const several = sample.blocks.length > 1;
    const before = pages(sample);
    const node = $("sample");
    const width = Math.max(260, node.clientWidth - 60);
    const blocks = sample.blocks.map((block, number) => h("div", { class: "block" }, several ? h("h4", {}, `Block ${number + 1}`) : null, h("p", { class: "tokens" }, context(block)), spans(block)));
    node.replaceChildren(
      ...before,
      stage(before.length + 1, "The row that the model reads", SAID[sample.kind], blocks),
      stage(before.length + 2, "Positions", `${count(sample.positions.length)} of ${count(sample.length)} places are used; ${count(learnt)} (coloured) have a target. Rising: read from left to right. Level: a span that stands where its blank does.`, positions(sample, width)),
      stage(before.length + 3, "The step", "", h("p", {}, "Row ", h("b", {}, count(sample.row)), ` is sample ${count(sample.consumption)} of the order: `, link("step", sample.step, `step ${count(sample.step)}`), " read it. ", h("code", {}, `glm replay --sample ${sample.row}`), " makes it again from tokens and key.")));
  }

  async function start() {
    samples = await Store.samples();
    $("choice").replaceChildren(...samples.map((sample) => h("button", { type: "button", role: "radio", onclick: () => (location.hash = address("sample", sample.row)) }, h("b", {}, KINDS[sample.kind]), ` ${spoken(sample.lang)} `, h("small", {}, `row ${count(sample.row)}`))));
    $("choice").addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!by) return;
      event.preventDefault();
      const buttons = [...$("choice").children];
      const next = buttons[(buttons.indexOf(document.activeElement) + by + buttons.length) % buttons.length];
      next.focus();
      next.click();
    });
    $("samples").hidden = samples.length === 0;
    if (samples.length) show(samples[0].row);
  }

  return { start, show };
})();
