// The order of training as ledger/order.py and ledger/schedule.py define it. 64-bit words are pairs of 32-bit halves.
const Feistel = (() => {
  const ROUNDS = 8;
  const GOLDEN = [0x9e3779b9, 0x7f4a7c15];
  const FIRST = [0xbf58476d, 0x1ce4e5b9];
  const SECOND = [0x94d049bb, 0x133111eb];
  const WORD = 2 ** 32;
  let hi = 0; // the result of `multiply` and `mix`: a pair would cost an allocation each
  let lo = 0;

  function multiply(ah, al, [bh, bl]) {
    const a0 = al & 0xffff, a1 = al >>> 16, b0 = bl & 0xffff, b1 = bl >>> 16;
    const low = a0 * b0;
    const middle = a0 * b1 + a1 * b0 + (low >>> 16);
    lo = ((middle & 0xffff) << 16) | (low & 0xffff);
    hi = (a1 * b1 + Math.floor(middle / 65536) + Math.imul(ah, bl) + Math.imul(al, bh)) | 0;
  }

  function mix(h, l) {
    multiply(h ^ (h >>> 30), l ^ ((l >>> 30) | (h << 2)), FIRST);
    multiply(hi ^ (hi >>> 27), lo ^ ((lo >>> 27) | (hi << 5)), SECOND);
    lo ^= (lo >>> 31) | (hi << 1);
    hi ^= hi >>> 31;
  }

  function draw(h, l, number) {
    multiply(Math.floor(number / WORD) | 0, number | 0, GOLDEN);
    const sum = (l >>> 0) + (lo >>> 0);
    mix((h + hi + (sum >= WORD ? 1 : 0)) | 0, sum | 0);
    return [hi, lo];
  }

  return class {
    /** The keyed bijection of [0, samples) of every epoch; `seed` is [high half, low half]. */
    constructor(seed, samples) {
      let bits = 0;
      while (2 ** bits < samples) bits += 1;
      this.samples = samples;
      this.half = Math.max(1, Math.ceil(bits / 2));
      this.base = 2 ** this.half;
      this.root = draw(seed[0] | 0, seed[1] | 0, 1);
      this.keys = new Map();
    }

    permute(epoch, index) {
      const keys = this.epochKeys(epoch);
      do {
        let left = Math.floor(index / this.base), right = index % this.base;
        for (let round = 0; round < ROUNDS; round += 1) {
          [left, right] = [right, left ^ this.round(right, keys[2 * round], keys[2 * round + 1])];
        }
        index = left * this.base + right;
      } while (index >= this.samples);
      return index;
    }

    unpermute(epoch, index) {
      const keys = this.epochKeys(epoch);
      do {
        let left = Math.floor(index / this.base), right = index % this.base;
        for (let round = ROUNDS - 1; round >= 0; round -= 1) {
          [left, right] = [right ^ this.round(left, keys[2 * round], keys[2 * round + 1]), left];
        }
        index = left * this.base + right;
      } while (index >= this.samples);
      return index;
    }

    round(value, high, low) {
      const sum = value + (low >>> 0);
      mix((high + (sum >= WORD ? 1 : 0)) | 0, sum | 0);
      return lo & (this.base - 1);
    }

    epochKeys(epoch) {
      let keys = this.keys.get(epoch);
      if (!keys) {
        const [h, l] = draw(this.root[0], this.root[1], epoch + 1);
        keys = Int32Array.from({ length: 2 * ROUNDS }, (_, place) => draw(h, l, (place >> 1) + 1)[place & 1]);
        this.keys.set(epoch, keys);
      }
      return keys;
    }
  };
})();

/** Consumption index -> row of the packed samples, and back. */
class Order {
  constructor({ seed, samples, epochs }) {
    this.samples = samples;
    this.epochs = epochs;
    this.feistel = new Feistel(seed, samples);
  }

  row(consumption) {
    const epoch = Math.floor(consumption / this.samples);
    return (epoch % this.epochs) * this.samples + this.feistel.permute(epoch, consumption % this.samples);
  }

  /** Every consumption index of a row below `until`, ascending. */
  consumptions(row, until) {
    const found = [];
    const place = row % this.samples;
    for (let epoch = Math.floor(row / this.samples); epoch * this.samples < until; epoch += this.epochs) {
      const index = epoch * this.samples + this.feistel.unpermute(epoch, place);
      if (index < until) found.push(index);
    }
    return found;
  }
}

/** Step -> first consumption index, and consumption index -> step, on the plateaus of the batch ramp. */
class Ramp {
  constructor({ start, end, increment, ramp_samples: over }) {
    const increments = start === end ? 0 : (end - start) / increment;
    const size = (consumed) => start + (increments && increment * Math.min(Math.floor((consumed * increments) / over), increments));
    this.plateaus = [{ step: 0, sample: 0, size: size(0) }];
    for (let last = this.plateaus[0]; last.size !== end; last = this.plateaus.at(-1)) {
      const reached = (last.size - start) / increment;
      const count = Math.ceil((Math.ceil(((reached + 1) * over) / increments) - last.sample) / last.size);
      const sample = last.sample + count * last.size;
      this.plateaus.push({ step: last.step + count, sample, size: size(sample) });
    }
  }

  consumed(step) {
    const at = this.plateaus.findLast((plateau) => plateau.step <= step);
    return at.sample + (step - at.step) * at.size;
  }

  step(consumption) {
    const at = this.plateaus.findLast((plateau) => plateau.sample <= consumption);
    return at.step + Math.floor((consumption - at.sample) / at.size);
  }
}
