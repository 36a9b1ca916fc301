// Copyright 2026 The ced_model authors.
// SPDX-License-Identifier: Apache-2.0
// The AudioWorklet of the microphone: collects samples, at the rate of the sound card, into blocks of 0.1 s.

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.begin();
  }

  begin() {
    this.block = new Float32Array(Math.round(sampleRate / 10));
    this.filled = 0;
  }

  process([channels]) {
    const size = channels.length ? channels[0].length : 0;
    for (let at = 0; at < size; at++) {
      let sum = 0;
      for (const channel of channels) sum += channel[at];
      this.block[this.filled++] = sum / channels.length;
      if (this.filled === this.block.length) {
        this.port.postMessage(this.block, [this.block.buffer]);
        this.begin();
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);
