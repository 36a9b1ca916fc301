// Copyright 2026 The ced_model authors.
// SPDX-License-Identifier: Apache-2.0
// The service worker: makes the page available offline after the first visit.
//
// Files are cached by checksum, so that a new version of the page downloads only what has changed. Small files are
// cached when the worker is installed; large ones are added to the same cache by `page/download.js`.

importScripts("page/files.js");

const ROOT = self.registration.scope;
const CACHE = `ced ${ROOT}`;
const OTHER_MODELS = `ced models ${ROOT}`;
const LIST = "page/files.js"; // lists all files except itself
const SMALL = 1 << 20;
const NOT_AT_FIRST = /^(runtime\/.*(webgpu|asyncify)|model|.*LICENSE)/; // WebGPU is cached on first use
// With these headers a page may use several threads. Most servers do not send them.
const ISOLATED = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

const keyOf = (path) => (path === LIST ? ROOT + LIST : `${ROOT}${path}?sha256=${self.CED_FILES[path].sha256}`);

self.addEventListener("install", (event) => {
  event.waitUntil(keepSmallFiles().then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  event.waitUntil(removeOldFiles().then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || url.origin !== self.location.origin) return;
  const path = url.href.startsWith(ROOT) ? url.pathname.slice(new URL(ROOT).pathname.length) || "index.html" : null;
  event.respondWith(path === LIST || self.CED_FILES[path] ? answer(event.request, path) : fetchFirst(event.request));
});

async function keepSmallFiles() {
  const cache = await caches.open(CACHE);
  const paths = Object.keys(self.CED_FILES).filter(
    (path) => self.CED_FILES[path].bytes < SMALL && !NOT_AT_FIRST.test(path),
  );
  for (const path of [LIST, ...paths]) {
    if (path !== LIST && (await cache.match(keyOf(path)))) continue;
    const response = await fetch(ROOT + path, { cache: "no-cache" });
    if (!response.ok) throw new Error(`${path}: the server answers ${response.status}`);
    await cache.put(keyOf(path), response);
  }
}

async function removeOldFiles() {
  const wanted = new Set([LIST, ...Object.keys(self.CED_FILES)].map(keyOf));
  const cache = await caches.open(CACHE);
  for (const { url } of await cache.keys()) if (!wanted.has(url)) await cache.delete(url);
}

/** A file of the page: from the cache, otherwise from the network. */
async function answer(request, path) {
  const cache = await caches.open(CACHE);
  let response = await cache.match(keyOf(path));
  if (!response) {
    response = await fetch(request);
    if (response.status === 200 && !(self.CED_FILES[path]?.bytes >= SMALL)) await cache.put(keyOf(path), response.clone());
  }
  return isolated(response);
}

/** Other files, such as those of another model: from the network, and without a network from the cache. */
async function fetchFirst(request) {
  const cache = await caches.open(OTHER_MODELS);
  try {
    const response = await fetch(request);
    if (response.status === 200) await cache.put(request.url, response.clone());
    return isolated(response);
  } catch (error) {
    const kept = await cache.match(request.url);
    if (kept) return isolated(kept);
    throw error;
  }
}

function isolated(response) {
  if (response.type === "opaque" || response.type === "opaqueredirect" || response.status === 206) return response;
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(ISOLATED)) headers.set(name, value);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
