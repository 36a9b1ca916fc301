// Copyright 2026 The ced_model authors.
// SPDX-License-Identifier: Apache-2.0
// Decodes files that only `decodeAudioData` supports. It holds all of their audio in memory.

const MOST_BYTES = 200e6;
const MOST_S = 20 * 60; // 460 MB as 48 kHz stereo

/** A file as mono samples at the model's sampling rate. Messages of errors are one line for the user. */
export async function decodeHere(file, rate) {
  const duration_s = await durationOf(file);
  if (file.size > MOST_BYTES || duration_s > MOST_S)
    throw new Error("it is too long for the decoder of this browser. Convert it to WAV, or split it into parts of up to 20 minutes");
  let buffer;
  try {
    buffer = await new OfflineAudioContext(1, 1, rate).decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new Error("this browser cannot decode it. WAV, MP3, FLAC, M4A, Ogg and WebM usually work");
  }
  const samples = new Float32Array(buffer.length);
  for (let index = 0; index < buffer.numberOfChannels; index++) {
    const channel = buffer.getChannelData(index);
    for (let at = 0; at < samples.length; at++) samples[at] += channel[at] / buffer.numberOfChannels;
  }
  return samples;
}

function durationOf(file) {
  const audio = new Audio();
  const url = URL.createObjectURL(file);
  return new Promise((resolve) => {
    audio.onloadedmetadata = () => resolve(audio.duration);
    audio.onerror = () => resolve(0);
    audio.src = url;
  }).finally(() => URL.revokeObjectURL(url));
}
