// Copyright 2026 The ced_model authors.
// SPDX-License-Identifier: Apache-2.0
// Records the microphone without the browser's processing for speech.

const AS_IT_IS = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: { ideal: 1 } };
const REASONS = {
  NotAllowedError:
    "The microphone was not allowed. Allow it in the browser's settings for this page, or choose a file.",
  NotFoundError: "No microphone was found. Connect one, or choose a file.",
  NotReadableError: "The microphone cannot be used: another program may be using it.",
  OverconstrainedError: "The microphone does not work with this page. Try another one, or choose a file.",
};

/** The microphone cannot be used. The message is one line for the user. */
export class MicrophoneError extends Error {}

/**
 * Opens the microphone: `{rate, processed, close()}`, where `processed` lists the processing that the browser does not
 * turn off.
 *
 * `onBlock` is called with Float32Arrays, `onEnd` when the microphone is unplugged or its permission is withdrawn.
 */
export async function openMicrophone(onBlock, onEnd) {
  if (!window.isSecureContext || !navigator.mediaDevices || !window.AudioWorkletNode)
    throw new MicrophoneError("Browsers allow the microphone on pages with https and on localhost only. Choose a file.");
  let stream = null;
  let context = null;
  const close = () => {
    if (stream) for (const track of stream.getTracks()) track.stop();
    if (context && context.state !== "closed") context.close();
  };
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: AS_IT_IS });
    context = new AudioContext();
    await context.audioWorklet.addModule(new URL("capture.js", import.meta.url));
    const [track] = stream.getAudioTracks();
    track.addEventListener("ended", onEnd);
    const node = new AudioWorkletNode(context, "capture");
    node.port.onmessage = ({ data }) => onBlock(data);
    context.createMediaStreamSource(stream).connect(node).connect(context.destination); // the node outputs silence
    await context.resume();
    const settings = track.getSettings();
    const processed = Object.keys(AS_IT_IS).filter((name) => settings[name] === true);
    return { rate: context.sampleRate, processed, close };
  } catch (error) {
    close();
    throw new MicrophoneError(REASONS[error.name] || `The microphone cannot be used: ${error.message}`);
  }
}
