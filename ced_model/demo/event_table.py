# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The events of a recording as an HTML table whose rows play, and as CSV.

Unlike Gradio's table, its rows are buttons for keyboards and screen readers. The CSV is inside the link, so no file is
left on the server.
"""

import base64
import csv
import io
from html import escape
from pathlib import Path

from ..events import Event
from ..messages import printable
from .answer import Answer

MAX_ROWS = 200  # shown rows; the CSV has all

# Plays a part of the recording in the player of the page. `element` contains the table, and stays when it changes.
PLAY_JS = """
let watching = 0;
element.addEventListener('click', (click) => {
  const button = click.target.closest('button[data-onset]');
  const audio = document.querySelector('#ced-recording audio');
  if (!button || !audio) return;
  cancelAnimationFrame(watching);
  element.querySelectorAll('.ced-playing').forEach((row) => row.classList.remove('ced-playing'));
  const row = button.closest('tr');
  const offset = Number(button.dataset.offset);
  row.classList.add('ced-playing');
  audio.currentTime = Number(button.dataset.onset);
  audio.play();
  const watch = () => {
    const isOver = audio.currentTime >= offset;
    if (isOver) audio.pause();
    if (isOver || audio.ended || !row.isConnected) row.classList.remove('ced-playing');
    else watching = requestAnimationFrame(watch);
  };
  watching = requestAnimationFrame(watch);
});
"""


def draw_events(answer: Answer, threshold: float) -> str:
    """The table with a link to the CSV, or a line if there are no events."""
    if not answer.events:
        return f"<p>No sound reaches the threshold of {threshold:g}. Try a lower one.</p>"
    rows = "".join(map(_row, answer.events[:MAX_ROWS]))
    hidden = len(answer.events) - MAX_ROWS
    more = f"<p>{hidden} more are in the CSV.</p>" if hidden > 0 else ""
    number = "1 event" if len(answer.events) == 1 else f"{len(answer.events)} events"
    content = base64.b64encode(to_csv(answer.events).encode()).decode()
    file_name = escape(f"{Path(answer.name).stem}.events.csv")
    return (
        f'<table class="ced-events"><caption>{number} with a score from {threshold:g}: press one to play it</caption>'
        '<thead><tr><th scope="col">sound</th><th scope="col">onset (s)</th><th scope="col">offset (s)</th>'
        f'<th scope="col">peak</th></tr></thead><tbody>{rows}</tbody></table>{more}'
        f'<p><a class="ced-download" download="{file_name}" href="data:text/csv;charset=utf-8;base64,{content}">'
        "Download the events as CSV</a></p>"
    )


def _row(event: Event) -> str:
    onset_s, offset_s = f"{event.onset_s:.2f}", f"{event.offset_s:.2f}"
    label = escape(printable(event.label))
    return (
        f'<tr><th scope="row"><button type="button" data-onset="{event.onset_s:.3f}" data-offset="{event.offset_s:.3f}"'
        f' aria-label="Play {label}, {onset_s} to {offset_s} seconds"><span aria-hidden="true">▶</span> {label}'
        f"</button></th><td>{onset_s}</td><td>{offset_s}</td><td>{event.peak:.2f}</td></tr>"
    )


def to_csv(events: list[Event]) -> str:
    """A table with the columns onset_s, offset_s, label and peak."""
    content = io.StringIO()
    writer = csv.writer(content)
    writer.writerow(Event._fields)
    writer.writerows(
        (f"{onset_s:.3f}", f"{offset_s:.3f}", label, f"{peak:.4f}") for onset_s, offset_s, label, peak in events
    )
    return content.getvalue()
