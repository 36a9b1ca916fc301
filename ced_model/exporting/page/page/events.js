// Copyright 2026 The ced_model authors.
// SPDX-License-Identifier: Apache-2.0
// Scores over time → events, as `ced_model.events` finds them with one threshold for all classes.

const SILENCE = "silence"; // not an event

/** Scores of the windows of one recording. */
export class Timeline {
  constructor(labels) {
    this.labels = labels;
    this.classes = labels.length;
    this.windows = 0;
    this.scores = new Float32Array(64 * this.classes);
    this.start_s = [];
    this.end_s = [];
  }

  add(start_s, end_s, scores) {
    const at = this.windows * this.classes;
    if (at + this.classes > this.scores.length) {
      const grown = new Float32Array(this.scores.length * 2);
      grown.set(this.scores);
      this.scores = grown;
    }
    this.scores.set(scores, at);
    this.start_s.push(start_s);
    this.end_s.push(end_s);
    this.windows += 1;
  }

  /** The part of the recording that a window represents: an overlap of two windows is divided at its middle. */
  segment(window) {
    const border = (left) => (this.end_s[left] + this.start_s[left + 1]) / 2;
    const from_s = window === 0 ? this.start_s[0] : border(window - 1);
    return [from_s, window === this.windows - 1 ? this.end_s[window] : border(window)];
  }

  score(window, index) {
    return this.scores[window * this.classes + index];
  }

  /** The highest score of each class from window `first` on. */
  highest(first = 0) {
    const highest = new Float32Array(this.classes).fill(-Infinity);
    for (let at = first * this.classes; at < this.windows * this.classes; at++) {
      const index = at % this.classes;
      if (this.scores[at] > highest[index]) highest[index] = this.scores[at];
    }
    return highest;
  }
}

/** Classes and their scores, highest first. */
export function ranked(scores) {
  return Array.from(scores, (score, index) => ({ score, index })).sort((a, b) => b.score - a.score || a.index - b.index);
}

/** Events `{onset_s, offset_s, label, peak}`, ordered by onset. */
export function findEvents(timeline, threshold) {
  const events = [];
  const highest = timeline.highest();
  for (let index = 0; index < timeline.classes; index++) {
    const label = timeline.labels[index];
    if (!(highest[index] >= threshold) || label.toLowerCase() === SILENCE) continue;
    let event = null;
    for (let window = 0; window < timeline.windows; window++) {
      const score = timeline.score(window, index);
      if (!(score >= threshold)) {
        event = null;
        continue;
      }
      const [from_s, to_s] = timeline.segment(window);
      if (!event) events.push((event = { onset_s: from_s, offset_s: to_s, label, peak: score }));
      event.offset_s = to_s;
      event.peak = Math.max(event.peak, score);
    }
  }
  const byName = (a, b) => (a.label < b.label ? -1 : Number(a.label > b.label));
  return events.sort((a, b) => a.onset_s - b.onset_s || a.offset_s - b.offset_s || byName(a, b));
}

export function toCsv(events) {
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const rows = events.map((event) =>
    [event.onset_s.toFixed(3), event.offset_s.toFixed(3), quoted(event.label), event.peak.toFixed(4)].join(","),
  );
  return ["onset_s,offset_s,label,peak", ...rows].join("\r\n") + "\r\n";
}
