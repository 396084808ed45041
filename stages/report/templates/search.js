"use strict";
// Answers "which steps saw this document" from the index that stages/report/lineage.py wrote into the page.
(() => {
  const MOST_ROWS = 50;
  const MOST_STEPS = 60;
  const index = JSON.parse(document.getElementById("documents").textContent);
  const query = document.getElementById("query");
  const answer = document.getElementById("answer");
  const table = document.getElementById("found");
  const body = table.tBodies[0];
  const count = (number) => number.toLocaleString("en-US");

  function decode() {
    const steps = index.steps.split(",");
    const tokens = index.tokens.split(",");
    let before = "";
    let trained = 0;
    return index.ids.split("\n").map((line, place) => {
      before = before.slice(0, parseInt(line[0], 36)) + line.slice(1);
      const entry = { id: before, fate: index.fate[place], steps: [], tokens: 0 };
      if (entry.fate === 0) {
        let step = 0;
        entry.steps = steps[trained] === "" ? [] : steps[trained].split(".").map((part) => (step += parseInt(part, 36)));
        entry.tokens = parseInt(tokens[trained], 36);
        trained += 1;
      }
      return entry;
    });
  }

  function fate(entry) {
    if (entry.fate === 0) {
      return entry.steps.length ? "trained on" : "in the training set, not reached by this checkpoint";
    }
    const [reason, detail, other] = index.fates[entry.fate];
    return reason + (detail ? `: ${detail}` : "") + (other ? ` of ${other}` : "");
  }

  function spoken(steps) {
    const shown = [];
    for (let place = 0; place < steps.length && shown.length < MOST_STEPS; place += 1) {
      let times = 1;
      while (steps[place + 1] === steps[place]) {
        times += 1;
        place += 1;
      }
      shown.push(times > 1 ? `${steps[place]} (×${times})` : `${steps[place]}`);
    }
    const left = new Set(steps).size - shown.length;
    return shown.join(", ") + (left > 0 ? ` and ${count(left)} more` : "");
  }

  function cell(row, text, name, style) {
    const node = document.createElement(name);
    node.textContent = text;
    if (style) {
      node.className = style;
    }
    row.append(node);
    return node;
  }

  function show(entry) {
    const row = document.createElement("tr");
    cell(row, entry.id, "th", "id").scope = "row";
    cell(row, fate(entry), "td");
    cell(row, entry.fate === 0 ? count(entry.steps.length) : "", "td", "n");
    cell(row, entry.fate === 0 ? count(entry.tokens) : "", "td", "n");
    cell(row, spoken(entry.steps), "td", "steps");
    return row;
  }

  let entries = null;

  function ask() {
    const wanted = query.value.trim().toLowerCase();
    body.replaceChildren();
    table.hidden = true;
    if (wanted === "") {
      answer.textContent = "";
      return;
    }
    entries = entries || decode();
    const found = entries.filter((entry) => entry.id.toLowerCase().includes(wanted));
    const exact = found.filter((entry) => entry.id.toLowerCase() === wanted);
    const listed = [...exact, ...found.filter((entry) => !exact.includes(entry))].slice(0, MOST_ROWS);
    const rest = found.length > listed.length ? `, the first ${listed.length} are listed` : "";
    answer.textContent = found.length === 1 ? "1 document." : `${count(found.length)} documents${rest}.`;
    if (found.length) {
      body.append(...listed.map(show));
      table.hidden = false;
    }
  }

  function decoded(text) {
    try {
      return decodeURIComponent(text);
    } catch {
      return text; // typed by hand, with a bare per cent sign
    }
  }

  function follow() {
    if (location.hash.startsWith("#doc=")) {
      query.value = decoded(location.hash.slice(5));
      ask();
      document.getElementById("lineage").scrollIntoView();
      query.focus({ preventScroll: true });
    }
  }

  query.addEventListener("input", ask);
  window.addEventListener("hashchange", follow);
  follow();
})();
