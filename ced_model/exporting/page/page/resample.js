// Copyright 2026 The ced_model authors.
// SPDX-License-Identifier: Apache-2.0
// Resamples audio to the model's sampling rate, block by block, with a low-pass filter (a Kaiser-windowed sinc).

const BETA = 8; // of the Kaiser window: frequencies above half the rate are attenuated by about 80 dB
const PASSED = 0.9; // share of half the rate that passes without attenuation
const TAPS_PER_HZ = (80 - 7.95) / 14.36; // Kaiser's formula for the number of taps by the width of the transition

export class Resampler {
  constructor(from, to) {
    const divisor = gcd(from, to);
    this.step = from / divisor; // the input advances by `step / phases` samples for each output
    this.phases = to / divisor;
    const cutoff = Math.min(from, to) / 2;
    this.half = Math.ceil((TAPS_PER_HZ * from) / ((1 - PASSED) * cutoff) / 2);
    this.filters = from === to ? null : this.design(from, (cutoff * (1 + PASSED)) / 2);
    this.buffer = new Float32Array(this.half); // silence before the beginning
    this.origin = -this.half; // position of buffer[0] in the input
    this.received = this.given = 0;
  }

  design(from, cutoff) {
    const width = 2 * this.half;
    const filters = [];
    for (let phase = 0; phase < this.phases; phase++) {
      const filter = new Float32Array(width);
      let sum = 0;
      for (let tap = 0; tap < width; tap++) {
        const distance = tap - this.half + 1 - phase / this.phases; // of the tap from the output, in input samples
        const angle = (2 * Math.PI * cutoff * distance) / from;
        const share = distance / this.half;
        const window = Math.abs(share) > 1 ? 0 : bessel(BETA * Math.sqrt(1 - share * share));
        filter[tap] = window * (angle === 0 ? 1 : Math.sin(angle) / angle);
        sum += filter[tap];
      }
      for (let tap = 0; tap < width; tap++) filter[tap] /= sum;
      filters.push(filter);
    }
    return filters;
  }

  /** Adds a block, and returns the samples that are ready. */
  add(block) {
    if (!this.filters) return block;
    this.received += block.length;
    return this.run(block, Infinity);
  }

  /** The remaining samples at the end. */
  finish() {
    if (!this.filters) return new Float32Array(0);
    const total = Math.round((this.received * this.phases) / this.step);
    return this.run(new Float32Array(this.half + 1), total - this.given);
  }

  run(block, most) {
    const buffer = new Float32Array(this.buffer.length + block.length);
    buffer.set(this.buffer);
    buffer.set(block, this.buffer.length);
    const { half, step, phases, origin } = this;
    const end = origin + buffer.length;
    const ready = Math.max(0, Math.ceil(((end - half) * phases) / step) - this.given);
    const output = new Float32Array(Math.max(0, Math.min(ready, most)));
    let position = this.given * step;
    for (let index = 0; index < output.length; index++, position += step) {
      const whole = Math.floor(position / phases);
      const filter = this.filters[position - whole * phases];
      let at = whole - half + 1 - origin;
      let sum = 0;
      for (let tap = 0; tap < filter.length; tap++, at++) sum += filter[tap] * buffer[at];
      output[index] = sum;
    }
    this.given += output.length;
    const keepFrom = Math.max(0, Math.floor((this.given * step) / phases) - half + 1 - origin);
    this.buffer = buffer.slice(keepFrom);
    this.origin = origin + keepFrom;
    return output;
  }
}

function gcd(a, b) {
  return b ? gcd(b, a % b) : a;
}

/** The modified Bessel function of order 0. */
function bessel(x) {
  let sum = 1;
  let term = 1;
  for (let k = 1; term > sum * 1e-12; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}
