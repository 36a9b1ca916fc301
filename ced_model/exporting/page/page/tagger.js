// Copyright 2026 The ced_model authors.
// SPDX-License-Identifier: Apache-2.0
// Runs a model with ONNX Runtime Web: windows of audio → scores. The front end is part of the graph.

import { fetchWhole } from "./download.js";

const RUNTIMES = {
  wasm: ["ort.wasm.min.mjs", "ort-wasm-simd-threaded"],
  webgpu: ["ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify"],
};
const MOST_THREADS = 4;

export class Tagger {
  /**
   * Loads an export of the format web or onnx.
   *
   * `folder` is the address of the export, `metadata` its metadata.json, `device` "wasm" or "webgpu", and `onProgress`
   * is called with the number of new bytes.
   */
  static async load({ folder, metadata, device, onProgress }) {
    const [loader, program] = RUNTIMES[device];
    const runtime = new URL("../runtime/", import.meta.url);
    const paths = ["mjs", "wasm"].map((ending) => new URL(`${program}.${ending}`, runtime).href);
    const weights = metadata.weights || [];
    const [ort, wasmBinary, graph, ...data] = await Promise.all([
      import(new URL(loader, runtime).href),
      ...[paths[1], ...["model.onnx", ...weights].map((name) => new URL(name, folder).href)].map((url) =>
        fetchWhole(url, onProgress),
      ),
    ]);
    const threads = self.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1) : 1;
    Object.assign(ort.env.wasm, { wasmPaths: { mjs: paths[0], wasm: paths[1] }, wasmBinary, numThreads: threads });
    ort.env.logLevel = "error";
    const session = await ort.InferenceSession.create(new Uint8Array(graph), {
      executionProviders: [device],
      externalData: weights.map((path, index) => ({ path, data: new Uint8Array(data[index]) })),
    });
    return new Tagger(ort, session, metadata, threads);
  }

  constructor(ort, session, metadata, threads) {
    Object.assign(this, { ort, session, metadata, threads });
  }

  /** Scores of one window, a Float32Array with one for each class. */
  async run(samples) {
    if (samples.length < this.metadata.min_samples) {
      const padded = new Float32Array(this.metadata.min_samples);
      padded.set(samples);
      samples = padded;
    }
    const waveform = new this.ort.Tensor("float32", samples, [1, samples.length]);
    const { probabilities } = await this.session.run({ waveform }, ["probabilities"]);
    const scores = Float32Array.from(await probabilities.getData());
    probabilities.dispose();
    return scores;
  }
}
