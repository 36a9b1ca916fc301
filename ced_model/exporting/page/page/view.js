// Copyright 2026 The ced_model authors.
// SPDX-License-Identifier: Apache-2.0
// Draws tags, timeline and events.

import { ranked } from "./events.js";

const TAGS = 8;
const MIN_ROWS = 6;
const MAX_ROWS = 8;
const MAX_EVENTS = 200;
const LIVE_S = 30; // length of the timeline while the microphone is on

export const byId = (id) => document.getElementById(id);

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** 5.0 s, 1:05.0 or 1:01:05. */
export function clock(seconds, digits = 1) {
  if (seconds < 60) return `${seconds.toFixed(digits)} s`;
  const whole = Math.floor(seconds);
  const parts = [Math.floor(whole / 60) % 60, (seconds >= 3600 ? whole : seconds) % 60];
  const last = seconds >= 3600 || !digits ? String(Math.floor(parts[1])).padStart(2, "0") : parts[1].toFixed(1).padStart(4, "0");
  return seconds < 3600 ? `${parts[0]}:${last}` : `${Math.floor(whole / 3600)}:${String(parts[0]).padStart(2, "0")}:${last}`;
}

/** The classes with the highest scores, as bars with numbers. */
export function showTags(list, labels, scores) {
  const best = ranked(scores).slice(0, TAGS);
  while (list.children.length > best.length) list.lastChild.remove();
  while (list.children.length < best.length) {
    const bar = element("div", { className: "bar" }, element("div"));
    bar.setAttribute("role", "meter");
    bar.setAttribute("aria-valuemin", "0");
    bar.setAttribute("aria-valuemax", "1");
    list.append(element("li", {}, element("span", { className: "label" }), element("span", { className: "score" }), bar));
  }
  best.forEach(({ index, score }, place) => {
    const [name, number, bar] = list.children[place].children;
    name.textContent = labels[index];
    number.textContent = score.toFixed(2);
    bar.setAttribute("aria-label", labels[index]);
    bar.setAttribute("aria-valuenow", score.toFixed(2));
    bar.firstChild.style.width = `${100 * Math.min(1, Math.max(0, score))}%`;
    list.children[place].classList.toggle("sure", score >= 0.5);
  });
}

/**
 * A strip for each of the classes with the highest scores, darker where the score is higher.
 *
 * `duration_s` is the length of the recording, if known; while the microphone is on, the last 30 s are shown.
 */
export function showTimeline(place, timeline, { duration_s, isLive, threshold, onSeek }) {
  const end_s = timeline.end_s[timeline.windows - 1] || 0;
  const from_s = isLive ? Math.max(0, end_s - LIVE_S) : 0;
  const to_s = isLive ? from_s + LIVE_S : Math.max(duration_s || 0, end_s);
  let first = 0;
  while (first < timeline.windows - 1 && timeline.end_s[first] <= from_s) first++;
  const order = ranked(timeline.highest(first));
  const sure = order.filter(({ score }) => score >= threshold).length;
  const shown = order.slice(0, Math.min(MAX_ROWS, Math.max(MIN_ROWS, sure)));
  const rows = place.querySelectorAll(".row");
  rows.forEach((row, index) => index >= shown.length && row.remove());
  if (!place.querySelector(".axis")) place.append(element("div", { className: "axis", ariaHidden: "true" }));
  const axis = place.querySelector(".axis");
  place.classList.toggle("seekable", Boolean(onSeek));
  shown.forEach(({ index, score }, at) => {
    let row = rows[at];
    if (!row) {
      const canvas = element("canvas");
      canvas.setAttribute("role", "img");
      row = element("div", { className: "row" }, element("span", { className: "label" }), element("div", { className: "strip" }, canvas));
      axis.before(row);
      row.querySelector(".strip").addEventListener("click", (event) => {
        const box = event.currentTarget.getBoundingClientRect();
        event.currentTarget.onSeek?.((event.clientX - box.left) / box.width);
      });
    }
    row.querySelector(".strip").onSeek = onSeek && ((share) => onSeek(from_s + share * (to_s - from_s)));
    row.firstChild.textContent = timeline.labels[index];
    drawStrip(row.querySelector("canvas"), timeline, index, first, from_s, to_s);
    let when = first;
    for (let window = first; window < timeline.windows; window++)
      if (timeline.score(window, index) > timeline.score(when, index)) when = window;
    const text = `${timeline.labels[index]}: highest ${score.toFixed(2)} at ${clock(timeline.segment(when)[0])}`;
    row.querySelector("canvas").setAttribute("aria-label", text);
  });
  showAxis(axis, from_s, to_s);
}

function drawStrip(canvas, timeline, index, first, from_s, to_s) {
  const width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
  const height = Math.max(1, Math.round(canvas.clientHeight * devicePixelRatio));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const columns = new Float32Array(width);
  const scale = width / (to_s - from_s);
  for (let window = first; window < timeline.windows; window++) {
    const [start_s, end_s] = timeline.segment(window);
    const left = Math.max(0, Math.round((start_s - from_s) * scale));
    const right = Math.min(width, Math.max(left + 1, Math.round((end_s - from_s) * scale)));
    const score = timeline.score(window, index);
    for (let column = left; column < right; column++) columns[column] = Math.max(columns[column], score);
  }
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  context.fillStyle = getComputedStyle(canvas).color;
  for (let left = 0; left < width; ) {
    let right = left + 1;
    while (right < width && columns[right] === columns[left]) right++;
    context.globalAlpha = Math.min(1, Math.max(0, columns[left]));
    context.fillRect(left, 0, right - left, height);
    left = right;
  }
}

function showAxis(axis, from_s, to_s) {
  const length_s = to_s - from_s;
  const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 36000];
  const most = Math.max(2, Math.floor(axis.clientWidth / 70));
  const step = steps.find((each) => length_s / each <= most) || steps.at(-1);
  axis.replaceChildren();
  for (let tick = Math.ceil(from_s / step); tick * step <= to_s - 0.3 * step; tick++) {
    const mark = element("span", { textContent: clock(tick * step, step < 1 ? 1 : 0) });
    mark.style.left = `${(100 * (tick * step - from_s)) / length_s}%`;
    axis.append(mark);
  }
}

/** The events as a table; with `onPlay`, each sound is a button that plays it. */
export function showEvents(table, events, onPlay, isLive) {
  const shown = isLive ? events.slice(-MAX_EVENTS).reverse() : events.slice(0, MAX_EVENTS);
  const rows = shown.map((event) => {
    let name = event.label;
    if (onPlay) {
      name = element("button", { type: "button", className: "play", textContent: event.label });
      name.setAttribute("aria-label", `Play ${event.label}, ${clock(event.onset_s)} to ${clock(event.offset_s)}`);
      name.addEventListener("click", () => onPlay(event));
    }
    const cells = [clock(event.onset_s), clock(event.offset_s), event.peak.toFixed(2)];
    const head = element("th", { scope: "row" }, name);
    return element("tr", {}, head, ...cells.map((textContent) => element("td", { textContent })));
  });
  table.tBodies[0].replaceChildren(...rows);
  table.hidden = rows.length === 0;
  return events.length - shown.length;
}
