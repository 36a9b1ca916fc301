// Copyright 2026 The ced_model authors.
// SPDX-License-Identifier: Apache-2.0
// The worker of the page: loads the model, decodes files and computes scores, on messages from the page.

import { AudioError, NotHere, openAudio } from "./decode.js";
import { Resampler } from "./resample.js";
import { Tagger } from "./tagger.js";
import { ClipCutter, MeanScores, timelineCutter } from "./windows.js";

const LARGEST = Math.sqrt(3.4028235e38); // of a spectrum: its square must still be a float32

let tagger = null;
let job = null; // the current recording; blocks sent by the page wait in its queue
let wake = () => {};

self.onmessage = ({ data }) => {
  if (data.type === "load") load(data);
  else if (data.type === "file") start(data, data.file ? fromFile(data) : fromQueue());
  else if (data.type === "stream") start(data, fromQueue());
  else if (job && data.id === job.id) {
    if (data.type === "block") job.queue.push(data.samples);
    if (data.type === "end") job.queue.push(null);
    if (data.type === "cancel") job.isCancelled = true;
    wake();
  }
};

async function load({ folder, metadata, device }) {
  try {
    let bytes = 0;
    const onProgress = (more) => self.postMessage({ type: "loading", bytes: (bytes += more) });
    tagger = await Tagger.load({ folder, metadata, device, onProgress });
    await tagger.run(new Float32Array(metadata.min_samples));
    self.postMessage({ type: "ready", threads: tagger.threads });
  } catch (error) {
    self.postMessage({ type: "failed", message: oneLine(error) });
  }
}

async function start({ id, type, rate }, source) {
  if (job) job.isCancelled = true;
  const own = (job = { id, type, rate, queue: [], isCancelled: false, waiting: 0 });
  wake();
  try {
    await run(own, source);
  } catch (error) {
    if (error instanceof NotHere) self.postMessage({ type: "undecoded", id });
    else self.postMessage({ type: "error", id, message: oneLine(error), isAudio: error instanceof AudioError });
  }
}

/** Scores the windows of a recording, for its tags and its timeline, as its blocks arrive. */
async function run(own, source) {
  const model = tagger.metadata;
  const { rate, duration_s, blocks } = await source(own);
  const resampler = new Resampler(rate, model.sampling_rate);
  const timeline = timelineCutter(model);
  const clip = own.type === "file" ? new ClipCutter(model) : null;
  const mean = new MeanScores();
  let samples = 0;
  let peak = 0;
  const compute = async (block, isLast) => {
    peak = Math.max(peak, peakOf(block, samples, model));
    samples += block.length;
    for (const window of windowsOf(timeline, block, isLast)) {
      const scores = await tagger.run(window.samples);
      await breathe();
      if (own.isCancelled) return;
      const start_s = window.start / model.sampling_rate;
      const end_s = start_s + window.samples.length / model.sampling_rate;
      self.postMessage({ type: "window", id: own.id, start_s, end_s, scores, duration_s, peak });
    }
    for (const window of clip ? windowsOf(clip, block, isLast) : []) {
      mean.add(await tagger.run(window.samples), window.samples.length);
      await breathe();
      if (own.isCancelled) return;
    }
  };
  for await (const block of blocks) {
    await compute(resampler.add(block), false);
    if (own.isCancelled) break;
  }
  if (!own.isCancelled) await compute(resampler.finish(), true);
  if (!own.isCancelled && samples === 0) throw new AudioError("it holds no audio");
  const scores = mean.weight ? mean.get() : null;
  const done = { type: "done", id: own.id, isCancelled: own.isCancelled, peak };
  self.postMessage({ ...done, scores, duration_s: samples / model.sampling_rate });
}

function* windowsOf(cutter, block, isLast) {
  yield* cutter.add(block);
  if (isLast) yield* cutter.finish();
}

function fromFile({ file }) {
  return () => openAudio(file);
}

/** Blocks that the page sends: of the microphone, or of a file that only the page can decode. */
function fromQueue() {
  return async (own) => ({ rate: own.rate, duration_s: null, blocks: queued(own) });
}

async function* queued(own) {
  for (;;) {
    while (!own.queue.length && !own.isCancelled) await new Promise((resolve) => (wake = resolve));
    if (own.isCancelled) return;
    const block = own.queue.shift();
    if (block === null) return;
    yield block;
  }
}

/** The largest magnitude in a block. Throws an error for a sample that is too large to compute with. */
function peakOf(block, before, model) {
  const most = LARGEST / model.front_end.n_fft;
  let peak = 0;
  for (let at = 0; at < block.length; at++) {
    const size = Math.abs(block[at]);
    if (size > peak) peak = size;
    if (size <= most) continue; // nor NaN
    const at_s = ((before + at) / model.sampling_rate).toFixed(3);
    throw new AudioError(`its sample at ${at_s} s is ${block[at].toPrecision(3)}: scale the audio to [-1, 1]`);
  }
  return peak;
}

const channel = new MessageChannel();

/** Lets the worker handle messages, such as "cancel", between two windows. */
function breathe() {
  return new Promise((resolve) => {
    channel.port1.onmessage = resolve;
    channel.port2.postMessage(null);
  });
}

function oneLine(error) {
  return String(error.message || error).replace(/\s+/g, " ").slice(0, 300);
}
