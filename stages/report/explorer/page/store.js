// The page's data: columns unpacked when they are first asked for, the search, and what the ledger would answer.
const Store = (() => {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const order = new Order(facts.order);
  const ramp = new Ramp(facts.ramp);
  const MOST_COUNTED = 10000;
  const waiting = new Map();

  async function bytes(name) {
    const node = document.getElementById(`column-${name}`);
    const text = node.textContent.trim();
    node.remove(); // the text is not needed again
    let packed;
    if (Uint8Array.fromBase64) {
      packed = Uint8Array.fromBase64(text);
    } else {
      const binary = atob(text);
      packed = new Uint8Array(binary.length);
      for (let place = 0; place < binary.length; place += 1) packed[place] = binary.charCodeAt(place);
    }
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  const once = (name, make) => {
    if (!waiting.has(name)) waiting.set(name, make());
    return waiting.get(name);
  };
  const text = (name) => once(name, async () => new TextDecoder().decode(await bytes(name)));
  const parsed = (name) => once(`${name} parsed`, async () => JSON.parse(await text(name)));

  /** A column of numbers; see stages/report/explorer/columns.py. */
  const numbers = (name) =>
    once(name, async () => {
      const [length, planes, differences] = facts.columns[name];
      const raw = await bytes(name);
      const found = planes > 4 ? new Float64Array(length) : new Uint32Array(length);
      for (let plane = 0; plane < planes; plane += 1) {
        const unit = 2 ** (8 * plane), start = plane * length;
        for (let place = 0; place < length; place += 1) found[place] += raw[start + place] * unit;
      }
      let before = 0;
      for (let place = 0; differences && place < length; place += 1) {
        before += found[place] % 2 ? -(found[place] + 1) / 2 : found[place] / 2;
        found[place] = before;
      }
      return found;
    });

  /** Lines of text that can be searched. */
  class Lines {
    constructor(whole) {
      const small = whole.toLowerCase();
      this.text = whole;
      this.small = small.length === whole.length ? small : whole.replace(/[A-Z]+/g, (part) => part.toLowerCase());
      let count = whole === "" ? 0 : 1;
      for (let at = whole.indexOf("\n"); at >= 0; at = whole.indexOf("\n", at + 1)) count += 1;
      this.starts = new Uint32Array(count);
      for (let at = 0, line = 1; line < count; line += 1) this.starts[line] = at = whole.indexOf("\n", at) + 1;
      this.length = this.starts.length;
    }

    at(place) {
      const end = place + 1 < this.length ? this.starts[place + 1] - 1 : this.text.length;
      return this.text.slice(this.starts[place], end);
    }

    line(offset) {
      let low = 0, high = this.length;
      while (high - low > 1) {
        const middle = (low + high) >> 1;
        if (this.starts[middle] <= offset) low = middle;
        else high = middle;
      }
      return low;
    }

    /** Numbers of the lines that hold `wanted` (in small letters), at most `most`. */
    find(wanted, most) {
      const found = [];
      let at = this.small.indexOf(wanted);
      while (at >= 0 && found.length < most) {
        const line = this.line(at);
        found.push(line);
        at = line + 1 < this.length ? this.small.indexOf(wanted, this.starts[line + 1]) : -1;
      }
      return found;
    }

    /** The line that is `wanted`, or -1. */
    exact(wanted) {
      if (this.length && this.at(0) === wanted) return 0;
      const at = this.text.indexOf(`\n${wanted}\n`);
      if (at >= 0) return this.line(at + 1);
      return this.length && this.at(this.length - 1) === wanted ? this.length - 1 : -1;
    }
  }

  const lines = (name) => once(`${name} lines`, async () => new Lines(await text(name)));

  const urls = () =>
    once("url of each document", async () => {
      const [held, owner] = [await lines("urls"), await numbers("url_document")];
      const of = new Int32Array(facts.documents).fill(-1);
      owner.forEach((place, number) => (of[place] = number));
      return { held, owner, of };
    });

  /** Documents whose id, title or address holds the words; ids first, an exact one before all. */
  async function search(words) {
    const wanted = words.trim().toLowerCase();
    if (wanted === "") return { found: [], more: false };
    const [ids, titles, { held, owner }] = [await lines("ids"), await lines("titles"), await urls()];
    const hits = [ids.find(wanted, MOST_COUNTED), titles.find(wanted, MOST_COUNTED)];
    hits.push(held.find(wanted, MOST_COUNTED).map((line) => owner[line]));
    const all = new Set(hits.flat());
    const exact = ids.exact(words.trim());
    const found = exact >= 0 ? [exact, ...[...all].filter((place) => place !== exact)] : [...all];
    return { found, more: hits.some((part) => part.length === MOST_COUNTED) };
  }

  async function place(id) {
    return (await lines("ids")).exact(id);
  }

  async function describe(number) {
    const [ids, titles, address] = [await lines("ids"), await lines("titles"), await urls()];
    const [origin, length, fate] = [await numbers("origin"), await numbers("length"), await numbers("fate")];
    const [source, lang, licence] = facts.origins[origin[number]];
    const url = address.of[number] >= 0 ? address.held.at(address.of[number]) : "";
    const entry = { number, id: ids.at(number), title: titles.length ? titles.at(number) : "", url, source, lang, licence };
    if (number < length.length) return { ...entry, trained: true, length: length[number] };
    const rest = number - length.length;
    const other = (await numbers("other"))[rest];
    const said = { reason: facts.reasons[fate[rest]], detail: (await lines("detail")).at(rest) };
    return { ...entry, trained: false, ...said, other: other ? ids.at(other - 1) : "" };
  }

  /** Where the pieces of each packed sample and of each document stand. */
  const pieces = () =>
    once("pieces by document", async () => {
      const [count, document, tokens] = [await numbers("pieces"), await numbers("piece_document"), await numbers("piece_tokens")];
      const start = new Uint32Array(count.length + 1);
      const sample = new Uint32Array(document.length);
      for (let row = 0; row < count.length; row += 1) {
        start[row + 1] = start[row] + count[row];
        sample.fill(row, start[row], start[row + 1]);
      }
      const first = new Uint32Array(facts.documents + 1);
      for (const number of document) first[number + 1] += 1;
      for (let number = 0; number < facts.documents; number += 1) first[number + 1] += first[number];
      const next = first.slice();
      const of = new Uint32Array(document.length);
      for (let piece = 0; piece < document.length; piece += 1) {
        of[next[document[piece]]] = piece;
        next[document[piece]] += 1;
      }
      return { document, tokens, start, sample, first, of };
    });

  const within = (index, ranges) => ranges.some(([first, end]) => first <= index && index < end);
  const until = Math.max(0, ...facts.segments.map((segment) => ramp.consumed(segment.last + 1)));

  /** Segments that made a segment's checkpoint, first to last. */
  function path(number) {
    const found = [];
    for (let at = number; at !== null; at = facts.segments[at].parent) found.unshift(at);
    return found;
  }

  /** What the plan showed of a document, and what each segment's checkpoint saw of it. */
  async function seen(number) {
    const { tokens, sample, first, of } = await pieces();
    const held = new Map();
    for (let place = first[number]; place < first[number + 1]; place += 1) {
      const piece = of[place];
      held.set(sample[piece], (held.get(sample[piece]) || 0) + tokens[piece]);
    }
    const exposures = [...held].flatMap(([row, size]) => order.consumptions(row, until).map((index) => ({ index, row, tokens: size })));
    exposures.sort((a, b) => a.index - b.index);
    for (const one of exposures) {
      one.step = ramp.step(one.index);
      one.segments = facts.segments.flatMap((segment, at) => (within(one.index, segment.samples) ? [at] : []));
    }
    const sightings = facts.segments.map((segment, at) => {
      const made = new Set(segment.checkpoint ? path(at) : [at]);
      const shown = exposures.filter((one) => one.segments.some((part) => made.has(part)));
      return { segment, exposures: shown.length, tokens: shown.reduce((sum, one) => sum + one.tokens, 0), steps: [...new Set(shown.map((one) => one.step))] };
    });
    return { exposures, sightings };
  }

  /** The documents of a step, in the order of consumption. */
  async function step(number) {
    const { document, tokens, start } = await pieces();
    const found = [];
    for (let index = ramp.consumed(number); index < ramp.consumed(number + 1); index += 1) {
      const row = order.row(index);
      const held = [];
      for (let piece = start[row]; piece < start[row + 1]; piece += 1) held.push({ document: document[piece], tokens: tokens[piece] });
      found.push({ index, row, held });
    }
    return found;
  }

  /** Of a segment's checkpoint: by origin exposures, tokens and documents, and tokens by bin of steps, along its path. */
  async function diet(number) {
    const [series, shown, reached] = [await numbers("series"), await numbers("shown"), await numbers("reached")];
    const kinds = facts.origins.length;
    const starts = [];
    facts.segments.reduce((at, segment, index) => (starts[index] = at) + segment.bins[1] * kinds, 0);
    const made = facts.segments[number].checkpoint ? path(number) : [number];
    const bins = Array.from({ length: Math.ceil(facts.steps / facts.width) }, () => new Float64Array(kinds));
    const exposures = new Float64Array(kinds), tokens = new Float64Array(kinds);
    for (const index of made) {
      const [first, count] = facts.segments[index].bins;
      for (let bin = 0; bin < count; bin += 1) {
        for (let kind = 0; kind < kinds; kind += 1) {
          const value = series[starts[index] + bin * kinds + kind];
          bins[first + bin][kind] += value;
          tokens[kind] += value;
        }
      }
      for (let kind = 0; kind < kinds; kind += 1) exposures[kind] += shown[index * kinds + kind];
    }
    return { bins, exposures, tokens, documents: reached.subarray(number * kinds, (number + 1) * kinds), made };
  }

  return { facts, order, ramp, search, place, describe, seen, step, diet, path, samples: () => parsed("samples"), stages: () => parsed("stages") };
})();
