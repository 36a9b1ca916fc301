// Copyright 2026 The ced_model authors.
// SPDX-License-Identifier: Apache-2.0
// Splits recordings into windows for the model. The rules are those of `ced_model.windows` and `ced_model.scheduling`.

const CLIP_WINDOW_S = 10;
const TIMELINE_WINDOW_S = 2;

/** Splits a waveform, given in blocks, into windows `{start, samples}`; the last one may be shorter. */
export class WindowCutter {
  constructor(window, hop, { min_samples, max_samples }) {
    Object.assign(this, { window, hop, min: min_samples, max: max_samples });
    // A window is yielded only when the rest is long enough for another window.
    this.lookAhead = Math.max(0, min_samples - (window - hop));
    this.blocks = new SampleQueue();
    this.start = this.covered = 0;
  }

  *add(block) {
    this.blocks.add(block);
    while (this.blocks.length >= this.window + this.lookAhead) yield this.take(this.window, this.hop);
  }

  *finish() {
    const end = this.start + this.blocks.length;
    while (this.covered < end) {
      const left = end - this.start;
      let size = this.window;
      let step = this.hop;
      if (left <= this.window || (left - this.hop < this.min && left <= this.max)) {
        size = step = left;
      } else if (left - this.hop < this.min) {
        step = left - this.min;
        size = Math.max(step, this.min);
      }
      yield this.take(size, step);
    }
  }

  take(size, step) {
    const window = { start: this.start, samples: this.blocks.peek(size) };
    this.covered = this.start + size;
    this.start += step;
    this.blocks.drop(step);
    return window;
  }
}

/** The windows of a clip: one if it is short enough for the model, otherwise windows of 10 s. */
export class ClipCutter {
  constructor(model) {
    this.model = model;
    this.beginning = new SampleQueue();
    this.cutter = null;
  }

  *add(block) {
    if (this.cutter) {
      yield* this.cutter.add(block);
      return;
    }
    this.beginning.add(block);
    if (this.beginning.length <= this.model.max_samples) return;
    const window = Math.min(CLIP_WINDOW_S * this.model.sampling_rate, this.model.max_samples);
    this.cutter = new WindowCutter(window, window, this.model);
    yield* this.cutter.add(this.beginning.peek(this.beginning.length));
    this.beginning = null;
  }

  *finish() {
    if (this.cutter) yield* this.cutter.finish();
    else if (this.beginning.length) yield { start: 0, samples: this.beginning.peek(this.beginning.length) };
  }
}

/** Windows of 2 s that start every second. */
export function timelineCutter(model) {
  const window = Math.min(TIMELINE_WINDOW_S * model.sampling_rate, model.max_samples);
  return new WindowCutter(window, Math.floor(window / 2), model);
}

/** The mean of the windows' scores, weighted by their duration. */
export class MeanScores {
  constructor() {
    this.sum = null;
    this.weight = 0;
  }

  add(scores, samples) {
    this.sum = this.sum || new Float64Array(scores.length);
    for (let index = 0; index < scores.length; index++) this.sum[index] += scores[index] * samples;
    this.weight += samples;
  }

  get() {
    return Float32Array.from(this.sum, (value) => value / this.weight);
  }
}

/** A queue of samples. */
class SampleQueue {
  constructor() {
    this.samples = new Float32Array(1 << 16);
    this.first = this.length = 0;
  }

  add(block) {
    if (this.first + this.length + block.length > this.samples.length) {
      const needed = this.length + block.length;
      const kept = this.samples.subarray(this.first, this.first + this.length);
      const room = needed > this.samples.length / 2 ? new Float32Array(2 * needed) : this.samples;
      if (room === this.samples) room.copyWithin(0, this.first, this.first + this.length);
      else room.set(kept);
      this.samples = room;
      this.first = 0;
    }
    this.samples.set(block, this.first + this.length);
    this.length += block.length;
  }

  peek(size) {
    return this.samples.slice(this.first, this.first + Math.min(size, this.length));
  }

  drop(size) {
    size = Math.min(size, this.length);
    this.first += size;
    this.length -= size;
  }
}
