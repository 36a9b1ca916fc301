// Copyright 2026 The ced_model authors.
// SPDX-License-Identifier: Apache-2.0
// Decodes a file to mono blocks at its own sampling rate, in bounded memory.

/** A file cannot be read. The message is one line for the user. */
export class AudioError extends Error {}

/** The browser cannot decode this file in a worker; `decodeAudioData` may support it. */
export class NotHere extends Error {}

/**
 * Opens a file: `{duration_s, rate, blocks}`, where `blocks` is an async iterator of Float32Arrays.
 *
 * Containers and PCM are read by Mediabunny, other codecs by the browser's WebCodecs.
 */
export async function openAudio(file) {
  if (file.size === 0) throw new AudioError("the file is empty");
  const library = await import("../runtime/mediabunny.min.mjs");
  const { MP4, QTFF, MATROSKA, WEBM, MP3, WAVE, OGG, ADTS, FLAC, MPEG_TS } = library;
  const formats = [MP4, QTFF, MATROSKA, WEBM, MP3, WAVE, OGG, ADTS, FLAC, MPEG_TS];
  const input = new library.Input({ formats, source: new library.BlobSource(file) });
  let track;
  try {
    track = await input.getPrimaryAudioTrack();
  } catch {
    throw new NotHere();
  }
  if (!track) throw new AudioError("the file has no audio track");
  if (!(await track.canDecode())) throw new NotHere();
  const rate = await track.getSampleRate();
  const duration_s = (await input.getDurationFromMetadata([track]).catch(() => null)) || null;
  return { duration_s, rate, blocks: decoded(new library.AudioSampleSink(track), input, rate) };
}

async function* decoded(sink, input, rate) {
  let read_s = 0;
  try {
    for await (const sample of sink.samples()) {
      try {
        if (sample.sampleRate !== rate) throw new AudioError("its sampling rate changes within the file");
        const before = Math.min(sample.numberOfFrames, Math.max(0, Math.round(-sample.timestamp * rate)));
        const block = mono(sample).subarray(before); // samples before 0 s are the encoder's delay
        read_s = sample.timestamp + sample.duration;
        if (block.length) yield block;
      } finally {
        sample.close();
      }
    }
  } catch (error) {
    if (error instanceof AudioError) throw error;
    if (!read_s) throw new NotHere();
    throw new AudioError(`it is damaged (decoding failed at ${read_s.toFixed(1)} s)`);
  } finally {
    input.dispose();
  }
}

/** The mean of the channels. */
function mono(sample) {
  const block = new Float32Array(sample.numberOfFrames);
  const channel = new Float32Array(sample.numberOfFrames);
  for (let planeIndex = 0; planeIndex < sample.numberOfChannels; planeIndex++) {
    sample.copyTo(channel, { planeIndex, format: "f32-planar" });
    for (let at = 0; at < block.length; at++) block[at] += channel[at] / sample.numberOfChannels;
  }
  return block;
}
