// Copyright 2026 The ced_model authors.
// SPDX-License-Identifier: Apache-2.0
// Downloads large files once, with progress, and caches them for offline use.

import "./files.js";

const ROOT = new URL("..", import.meta.url).href;
const CACHE = `ced ${ROOT}`; // as in sw.js

/** The content of a file as an ArrayBuffer; `onProgress` is called with the number of new bytes. */
export async function fetchWhole(url, onProgress) {
  const known = url.startsWith(ROOT) && self.CED_FILES[url.slice(ROOT.length)];
  const key = known && `${url}?sha256=${known.sha256}`;
  const cache = known ? await openCache() : null;
  const kept = cache && (await cache.match(key));
  if (kept) {
    const content = await kept.arrayBuffer();
    onProgress(content.byteLength);
    return content;
  }
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url.split("/").pop()}: the server answers ${response.status}`);
  const parts = [];
  const reader = response.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    onProgress(part.value.length);
  }
  const content = new Blob(parts);
  if (known && content.size !== known.bytes) throw new Error(`${url.split("/").pop()}: the download is incomplete; reload the page`);
  if (cache) await cache.put(key, new Response(content)).catch(() => {}); // the storage may be full
  return content.arrayBuffer();
}

/** The cache; null if the browser has none, such as on pages without https. */
async function openCache() {
  try {
    return await caches.open(CACHE);
  } catch {
    return null;
  }
}
