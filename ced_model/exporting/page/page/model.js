// Copyright 2026 The ced_model authors.
// SPDX-License-Identifier: Apache-2.0
// Finds the model of the page and checks its metadata.

const FOR_PAGES = ["web", "onnx"];

/** The model cannot be used. The message is one line for the user. */
export class ModelError extends Error {}

/** The folder of the model: that of `?model=`, by default that of this page. */
export function modelFolder() {
  const asked = new URLSearchParams(location.search).get("model");
  try {
    return new URL(asked ? `${asked.replace(/\/+$/, "")}/` : "./", document.baseURI);
  } catch {
    throw new ModelError(`?model=${asked} is not the address of a folder.`);
  }
}

/** The metadata of an export, checked. */
export async function readMetadata(folder) {
  const name = folder.href;
  let response;
  try {
    response = await fetch(new URL("metadata.json", folder));
  } catch {
    if (folder.origin !== location.origin)
      throw new ModelError(`${name} is on another server. This page loads models from its own server only.`);
    throw new ModelError(`${name} cannot be reached. Is there a connection to the server?`);
  }
  if (!response.ok) throw new ModelError(`${name} is not an export of ced_model: it has no metadata.json.`);
  let metadata;
  try {
    metadata = await response.json();
  } catch {
    throw new ModelError(`${name} is damaged: its metadata.json is not JSON.`);
  }
  if (metadata?.model_type !== "ced" || !Array.isArray(metadata.labels) || !metadata.front_end)
    throw new ModelError(`${name} is not an export of ced_model: its metadata.json describes something else.`);
  if (!FOR_PAGES.includes(metadata.format) || metadata.input !== "waveform")
    throw new ModelError(
      `${name} is an export for ${metadata.format} (input: ${metadata.input}). Make one with: ced export --format web`,
    );
  return metadata;
}
