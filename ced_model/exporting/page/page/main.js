// Copyright 2026 The ced_model authors.
// SPDX-License-Identifier: Apache-2.0
// The page: sends the user's actions to the worker, and shows the tags, timeline and events that it returns.

import "./files.js";
import { decodeHere } from "./decode_here.js";
import { Timeline, findEvents, ranked, toCsv } from "./events.js";
import { openMicrophone } from "./microphone.js";
import { ModelError, modelFolder, readMetadata } from "./model.js";
import { byId, clock, element, showEvents, showTags, showTimeline } from "./view.js";

const SHOWN_EVERY_MS = 250;
const ANNOUNCED_EVERY_MS = 4000;
const SILENT = 1e-4; // peak, -80 dB
const TOO_SLOW_S = 5; // delay of the scores from which a warning is shown

const page = { model: null, job: null, jobs: 0, waiting: null, shownAt: 0, announced: "", announcedAt: 0 };
let worker = null;

start();

async function start() {
  byId("file").addEventListener("change", ({ target }) => {
    if (target.files.length) takeFile(target.files[0]);
    target.value = "";
  });
  byId("microphone").addEventListener("click", () => (page.job?.microphone ? stop() : listen()));
  byId("stop").addEventListener("click", stop);
  byId("threshold").addEventListener("input", ({ target }) => {
    byId("threshold-value").textContent = Number(target.value).toFixed(2);
    show();
  });
  acceptDrops();
  followPlayer();
  offerSounds();
  new ResizeObserver(show).observe(byId("timeline"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  navigator.serviceWorker?.register("sw.js").catch(() => {}); // without it, the page requires a network
  try {
    await loadModel();
  } catch (error) {
    state("The model cannot be used.");
    complain(error.message);
    if (location.search.includes("model="))
      byId("error").append(" ", element("a", { href: location.pathname, textContent: "Use this page's own model" }));
  }
}

// The model

async function loadModel() {
  if (typeof WebAssembly !== "object" || typeof Worker !== "function")
    throw new ModelError("This page needs WebAssembly, which this browser does not support or has disabled. Enable it, or use a current browser.");
  state("Loading the model …");
  const folder = modelFolder();
  const metadata = await readMetadata(folder);
  const device = await chosenDevice();
  const total = sizeOf(folder, metadata, device);
  worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  const ready = new Promise((resolve, reject) => {
    worker.onerror = (event) => reject(new ModelError(`The page cannot start: ${event.message || "a file is missing"}.`));
    worker.onmessage = ({ data }) => {
      if (data.type === "loading") progress(data.bytes, total, `${megabytes(data.bytes)}${total ? ` of ${megabytes(total)}` : ""} MB`);
      if (data.type === "failed") reject(new ModelError(`${metadata.model} cannot be loaded: ${data.message}`));
      if (data.type === "ready") resolve(data);
    };
  });
  worker.postMessage({ type: "load", folder: folder.href, metadata, device });
  const { threads } = await ready;
  worker.onmessage = ({ data }) => page.job && data.id === page.job.id && answers[data.type]?.(data, page.job);
  page.model = metadata;
  progress(null);
  state(`Ready: ${metadata.model} recognises ${metadata.labels.length} sounds.`);
  const where = device === "webgpu" ? "the graphics card" : `${threads} ${threads === 1 ? "thread" : "threads"}`;
  byId("about").textContent = `Model: ${metadata.model}, ${metadata.labels.length} sounds, on ${where} of this device.`;
  const waiting = page.waiting;
  page.waiting = null;
  waiting?.();
}

/** "webgpu" if it was requested and is available, else "wasm". */
async function chosenDevice() {
  const address = new URL(location.href);
  const asked = address.searchParams.get("device") === "webgpu";
  const adapter = navigator.gpu && (await navigator.gpu.requestAdapter().catch(() => null));
  byId("device").hidden = !adapter;
  byId("webgpu").checked = asked;
  byId("webgpu").addEventListener("change", ({ target }) => {
    if (target.checked) address.searchParams.set("device", "webgpu");
    else address.searchParams.delete("device");
    location.assign(address);
  });
  if (asked && !adapter) complain("This browser does not support WebGPU. The model runs on the processor instead.");
  return asked && adapter ? "webgpu" : "wasm";
}

/** Bytes to load; 0 if not known. */
function sizeOf(folder, metadata, device) {
  const root = new URL("./", document.baseURI).href;
  const names = ["model.onnx", ...(metadata.weights || [])].map((name) => new URL(name, folder).href.slice(root.length));
  const program = device === "webgpu" ? "asyncify.wasm" : "threaded.wasm";
  const sizes = names.map((name) => self.CED_FILES[name]?.bytes);
  if (sizes.includes(undefined)) return 0;
  const runtime = Object.entries(self.CED_FILES).find(([name]) => name.endsWith(program))?.[1].bytes || 0;
  return sizes.reduce((sum, size) => sum + size, runtime);
}

const megabytes = (bytes) => (bytes / 1e6).toFixed(1);

// Jobs

function begin(job) {
  stop();
  complain(null);
  page.job = { id: ++page.jobs, began: performance.now(), timeline: new Timeline(page.model.labels), ...job };
  byId("name").textContent = job.name;
  byId("result").hidden = true;
  byId("stop").hidden = Boolean(job.microphone);
  return page.job;
}

/** Whether the model is loaded. If not, `action` is called as soon as it is. */
function whenReady(action, name) {
  if (page.model) return true;
  page.waiting = action;
  if (byId("error").hidden) state(`Loading the model, then ${name} …`);
  return false;
}

function takeFile(file) {
  if (!whenReady(() => takeFile(file), file.name)) return;
  const job = begin({ name: file.name, file });
  state(`Tagging ${file.name} …`);
  progress(0, 0, "");
  const player = byId("player");
  if (player.src) URL.revokeObjectURL(player.src);
  player.src = URL.createObjectURL(file);
  player.hidden = false;
  worker.postMessage({ type: "file", id: job.id, file });
}

async function listen() {
  if (!whenReady(listen, "The microphone")) return;
  const job = begin({ name: "Microphone", microphone: true });
  const player = byId("player");
  player.removeAttribute("src");
  player.hidden = true;
  state("Waiting for the microphone …");
  try {
    const onBlock = (samples) => {
      job.sent_s += samples.length / job.rate;
      if (page.job === job && !job.isOver) worker.postMessage({ type: "block", id: job.id, samples }, [samples.buffer]);
    };
    const onEnd = () => {
      if (job.isOver) return;
      complain("The microphone was disconnected. The results up to then are below.");
      stop();
    };
    const { rate, processed, close } = await openMicrophone(onBlock, onEnd);
    Object.assign(job, { rate, close, sent_s: 0 });
    if (page.job !== job || job.isOver) return close();
    worker.postMessage({ type: "stream", id: job.id, rate });
    state("Listening to the microphone …");
    showButtons(true);
    if (processed.length)
      complain(`This browser does not turn off ${processed.join(" and ")} of the microphone. Scores may be lower.`);
  } catch (error) {
    if (page.job !== job) return;
    finish(job);
    state("Ready for another sound.");
    complain(error.message);
  }
}

/** Stops the microphone, or cancels the rest of a file. */
function stop() {
  const job = page.job;
  if (!job || job.isOver) return;
  job.isOver = true;
  job.close?.();
  worker.postMessage({ type: job.microphone ? "end" : "cancel", id: job.id });
  if (job.microphone && !job.close) finish(job);
  showButtons(false);
}

function finish(job) {
  job.isOver = true;
  job.isDone = true;
  progress(null);
  byId("stop").hidden = true;
  showButtons(false);
}

function showButtons(isOn) {
  byId("microphone").classList.toggle("on", isOn);
  byId("microphone").lastElementChild.textContent = isOn ? "Stop the microphone" : "Use the microphone";
}

/** Handlers of the worker's messages about the current job. */
const answers = {
  window({ start_s, end_s, scores, duration_s, peak }, job) {
    job.timeline.add(start_s, end_s, scores);
    job.duration_s = job.expected_s = duration_s;
    job.last = scores;
    if (job.microphone) {
      const behind_s = job.sent_s - end_s;
      const late = behind_s > TOO_SLOW_S ? `, ${behind_s.toFixed(0)} s behind: this device is too slow for the model` : "";
      progress(0, -1, `${clock(end_s, 0)}${late}`);
      if (peak < SILENT && end_s > 2) complain("The microphone is silent. Is it muted?");
      else if (byId("error").textContent.includes("muted")) complain(null);
      announce(job);
    } else if (!job.isOver) {
      progress(end_s, duration_s || 0, duration_s ? `${clock(end_s, 0)} of ${clock(duration_s, 0)}` : clock(end_s, 0));
    }
    if (performance.now() - page.shownAt > SHOWN_EVERY_MS) show();
  },

  done({ scores, duration_s, isCancelled, peak }, job) {
    const took_s = (performance.now() - job.began) / 1000;
    const missing_s = isCancelled ? 0 : 0.9 * (job.duration_s || 0) - duration_s; // lengths in files are not exact
    Object.assign(job, { scores, duration_s });
    finish(job);
    show();
    if (job.microphone) state(duration_s ? `Stopped after ${clock(duration_s)}.` : "Stopped.");
    else if (isCancelled) state(`Stopped at ${clock(job.timeline.end_s.at(-1) || 0)} of ${job.name}.`);
    else state(`Done: ${clock(duration_s)} of audio in ${clock(took_s)}. ${summary(scores)}`);
    if (missing_s > 0.2)
      complain(`${job.name} is damaged or truncated: only ${clock(duration_s)} of its ${clock(job.expected_s)} could be read.`);
    else if (!job.microphone && peak < SILENT && !isCancelled) complain(`${job.name} is silent (below -80 dB).`);
  },

  async undecoded(_, job) {
    try {
      const samples = await decodeHere(job.file, page.model.sampling_rate);
      if (page.job !== job || job.isOver) return;
      worker.postMessage({ type: "file", id: job.id, rate: page.model.sampling_rate });
      worker.postMessage({ type: "block", id: job.id, samples }, [samples.buffer]);
      worker.postMessage({ type: "end", id: job.id });
    } catch (error) {
      if (page.job === job) answers.error(error, job);
    }
  },

  error({ message }, job) {
    finish(job);
    state("Ready for another sound.");
    byId("player").hidden = job.timeline.windows === 0;
    if (job.timeline.windows) show();
    complain(`${job.name} cannot be read: ${message}.`);
  },
};

// Results

function show() {
  const job = page.job;
  if (!job || !job.timeline.windows) return;
  page.shownAt = performance.now();
  byId("result").hidden = false;
  const { timeline, isDone } = job;
  const threshold = Number(byId("threshold").value);
  const isLive = Boolean(job.microphone) && !isDone;
  const canPlay = !byId("player").hidden;
  if (isLive) note("tags", "In the last 2 seconds");
  else if (job.scores) note("tags", "In the whole recording");
  else note("tags", "Highest scores of the recording");
  showTags(byId("tags"), timeline.labels, isLive ? job.last : job.scores || timeline.highest());
  note("timeline", `${isLive ? "The last 30 seconds. " : ""}The stronger the colour, the higher the score`);
  const onSeek = canPlay && ((seconds) => play(seconds));
  showTimeline(byId("timeline"), timeline, { duration_s: job.duration_s, isLive, threshold, onSeek });
  job.events = findEvents(timeline, threshold);
  const hidden = showEvents(byId("events"), job.events, canPlay && (({ onset_s, offset_s }) => play(onset_s, offset_s)), isLive);
  const number = job.events.length === 1 ? "1 event" : `${job.events.length} events`;
  const none = `No sound reaches ${threshold.toFixed(2)}. Lower the minimum score to see more events.`;
  note("events", job.events.length ? `${number}${hidden > 0 ? `, ${hidden} of them only in the CSV` : ""}` : none);
  const link = byId("csv");
  link.hidden = !isDone || !job.events.length;
  if (isDone) {
    if (link.href) URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(new Blob([toCsv(job.events)], { type: "text/csv" }));
    link.download = `${job.name.replace(/\.[^.]*$/, "")}.events.csv`;
  }
}

const note = (section, text) => {
  const place = byId(`${section}-note`);
  if (place.textContent !== text) place.textContent = text;
};

function summary(scores) {
  const [best] = ranked(scores);
  return `Most likely: ${page.model.labels[best.index]}.`;
}

/** Announces the current sounds to screen readers if they have changed, every few seconds at most. */
function announce(job) {
  const sure = ranked(job.last).filter(({ score }) => score >= Number(byId("threshold").value));
  const names = sure.slice(0, 3).map(({ index }) => page.model.labels[index]).join(", ");
  if (names === page.announced || performance.now() - page.announcedAt < ANNOUNCED_EVERY_MS) return;
  Object.assign(page, { announced: names, announcedAt: performance.now() });
  byId("live").textContent = names;
}

function state(text) {
  byId("status").textContent = text;
}

function complain(text) {
  byId("error").hidden = text === null;
  byId("error").textContent = text || "";
}

/**
 * Shows `text` and a progress bar, which is indeterminate without a total, and hidden if the total is negative.
 *
 * If `value` is null, both are hidden.
 */
function progress(value, total, text) {
  const bar = byId("progress");
  bar.hidden = value === null || total < 0;
  byId("counter").textContent = value === null ? "" : text;
  if (total > 0) Object.assign(bar, { max: total, value: Math.min(value, total) });
  else bar.removeAttribute("value");
}

// Dropped files, bundled sounds and playback

function acceptDrops() {
  const input = byId("input");
  let inside = 0;
  document.addEventListener("dragenter", () => input.classList.toggle("dropping", ++inside > 0));
  document.addEventListener("dragleave", () => input.classList.toggle("dropping", --inside > 0));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    inside = 0;
    input.classList.remove("dropping");
    const [file] = event.dataTransfer.files;
    if (file) takeFile(file);
    else complain("Only files can be dropped here. Save the sound as a file and choose it.");
  });
}

function offerSounds() {
  const place = byId("sounds");
  for (const path of Object.keys(self.CED_FILES)) {
    const name = /^sounds\/(.*)\.flac$/.exec(path)?.[1];
    if (!name) continue;
    const button = element("button", { type: "button", className: "button small", textContent: name });
    button.addEventListener("click", async () => {
      try {
        const response = await fetch(path);
        takeFile(new File([await response.blob()], `${name}.flac`, { type: "audio/flac" }));
      } catch {
        complain(`${name} cannot be loaded. Is there a connection to the server?`);
      }
    });
    place.append(button);
    place.hidden = false;
  }
}

let playedTo_s = Infinity;

function play(from_s, to_s = Infinity) {
  const player = byId("player");
  playedTo_s = to_s;
  player.currentTime = from_s;
  player.play().catch(() => {});
}

function followPlayer() {
  const player = byId("player");
  player.addEventListener("error", () => {
    if (!player.src) return;
    player.hidden = true; // the browser can decode it, but not play it
    show();
  });
  player.addEventListener("seeking", () => player.paused && (playedTo_s = Infinity));
  const follow = () => {
    const length_s = page.job?.duration_s || player.duration;
    byId("timeline").style.setProperty("--played", Math.min(1, player.currentTime / length_s) || 0);
    if (player.currentTime >= playedTo_s) {
      playedTo_s = Infinity;
      player.pause();
    }
    if (!player.paused) requestAnimationFrame(follow);
  };
  for (const event of ["play", "seeked", "timeupdate"]) player.addEventListener(event, follow);
}
