# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The page of the demo and its endpoints."""

import json
from html import escape
from typing import Any

import gradio

from ..recordings import find_recordings
from .answer import THRESHOLD, TOP_K
from .event_table import PLAY_JS
from .guard import answer_in_one_line, without_urls
from .limits import Limits, too_large
from .models import Models
from .service import Service

TITLE = "What is this sound?"
WINDOWS_S = (0.5, 10.0)
WINDOW_S = 2.0
LONGEST_SMOOTHING_S = 10.0
KEPT_S = 3600  # before uploads and files made from them are deleted
# Screen readers read changes of the status. Files that are too large are refused in the browser, since Gradio shows
# only "Error" if the server refuses them.
STATUS_JS = """
element.setAttribute('role', 'status');
element.setAttribute('aria-live', 'polite');
const refuse = (event) => {
  const files = event.dataTransfer ? event.dataTransfer.files : event.target.files;
  const large = Array.from(files || []).find((file) => file.size > MAX_BYTES);
  if (!large) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  if (!event.dataTransfer) event.target.value = '';
  const line = document.createElement('p');
  line.className = 'ced-error';
  line.setAttribute('role', 'alert');
  line.textContent = large.name + ' ' + REASON;
  props.value = line.outerHTML;
};
document.addEventListener('change', refuse, true);
document.addEventListener('drop', refuse, true);
"""
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}  # other requests wait in the queue
# Requests of programs may include the download of a model; they wait for their turn in `take_turn`.
TOGETHER: dict[str, Any] = {"concurrency_limit": None}
PRIVATE: dict[str, Any] = {"api_visibility": "private"}  # only for the page

SettingBlocks = tuple[gradio.Dropdown, gradio.Slider, gradio.Slider, gradio.Slider, gradio.Textbox]


def build_app(models: Models, limits: Limits) -> gradio.Blocks:
    """
    Creates the app.

    Args:
        models: The models to choose from. The first one is the default.
        limits: Limits on size and duration.
    """
    service = Service(models, limits)
    with gradio.Blocks(title=TITLE, analytics_enabled=False) as app:
        gradio.Markdown(
            f"# {TITLE}\nChoose a recording to see which sounds are in it, and when: an audio or video file of up to"
            f" {limits}. Files are deleted within two hours."
        )
        with gradio.Row():
            with gradio.Column(scale=2, min_width=300):
                file, microphone, examples = _add_sounds()
                settings = _add_settings(service)
                button = gradio.Button("Name the sounds", variant="primary")
            with gradio.Column(scale=5, min_width=300):
                outputs = _add_results(limits)
        gradio.Markdown(
            "`ced export --format web --output DIR` writes a page that runs entirely in the browser: offline, live at"
            " the microphone, and on any web server."
        )
        _connect(service, file, microphone, examples, settings, button, outputs)
        _add_endpoints(service, file, settings)
    app.queue(max_size=None)
    answer_in_one_line(app)
    return app


def _add_sounds() -> tuple[gradio.File, gradio.Audio, gradio.Dataset | None]:
    with gradio.Tab("File"):
        file = without_urls(gradio.File(label="Audio or video file", height=150))
    with gradio.Tab("Microphone"):
        microphone = without_urls(
            gradio.Audio(sources=["microphone"], type="filepath", label="Your recording", editable=False, buttons=[])
        )
    recordings = find_recordings()
    if not recordings:
        return file, microphone, None
    examples = gradio.Dataset(
        label="Or choose one of these recordings",
        components=[gradio.Textbox(visible=False)],
        samples=[[name] for name in recordings],
        sample_labels=list(recordings),
        type="index",
    )
    return file, microphone, examples


def _add_settings(service: Service) -> SettingBlocks:
    model = gradio.Dropdown(service.models.names, value=service.models.names[0], label="Model")
    note = gradio.HTML(_describe(service, service.models.names[0]), elem_classes="ced-note")
    window = gradio.Slider(*WINDOWS_S, WINDOW_S, step=0.5, label="Window length (seconds)")
    threshold = gradio.Slider(0, 1, THRESHOLD, step=0.05, label="Threshold (minimum score)")
    smoothing = gradio.Slider(0, LONGEST_SMOOTHING_S, 0, step=0.5, label="Smoothing of events (seconds)")
    labels = gradio.Textbox(
        "",
        label="Only these sounds",
        placeholder="all, or for example Dog..., Speech",
        info="Names of classes. Dog... is Dog and all classes below it.",
    )
    model.change(lambda name: _describe(service, name), model, note, queue=False, show_progress="hidden", **PRIVATE)
    return model, window, threshold, smoothing, labels


def _describe(service: Service, model: str) -> str:
    return f"<p>{escape(service.describe(model))}</p>"  # may contain class names of untrusted models


def _add_results(limits: Limits) -> list[gradio.blocks.Block]:
    script = STATUS_JS.replace("MAX_BYTES", str(limits.bytes)).replace("REASON", json.dumps(too_large(limits)))
    status = gradio.HTML("<p>Results appear here.</p>", js_on_load=script, elem_id="ced-status")
    with gradio.Column(visible=False, elem_id="ced-answer") as has_answer:
        tags = gradio.Label(label="Sounds and their probabilities", show_heading=False)
        recording = gradio.Audio(
            label="The recording as mono audio",
            interactive=False,
            buttons=[],
            elem_id="ced-recording",
            waveform_options=gradio.WaveformOptions(
                show_recording_waveform=False
            ),  # the browser's own, which is labelled
        )
        timeline = gradio.HTML(elem_id="ced-timeline")
        events = gradio.HTML(js_on_load=PLAY_JS, elem_id="ced-events")
    return [status, has_answer, tags, recording, timeline, events]


def _connect(
    service: Service,
    file: gradio.File,
    microphone: gradio.Audio,
    examples: gradio.Dataset | None,
    settings: SettingBlocks,
    button: gradio.Button,
    outputs: list[gradio.blocks.Block],
) -> None:
    """
    Tags a sound when it is chosen, and again when a setting changes.

    Models are loaded in a separate step, so that requests of others are not blocked.
    """

    async def show(sound: str | None, *settings: Any) -> Any:
        return await service.take_turn(service.show, sound, *settings)

    async def show_again(sound: str | None, *settings: Any) -> Any:
        return await service.take_turn(service.show_again, sound, *settings)

    sound = gradio.State(time_to_live=KEPT_S)
    model, window, threshold, smoothing, labels = settings
    chosen = [
        file.upload(lambda path: path, file, sound, queue=False, **PRIVATE),
        microphone.stop_recording(lambda path: path, microphone, sound, queue=False, **PRIVATE),
    ]
    if examples is not None:
        paths = [str(path) for path in find_recordings().values()]
        chosen.append(examples.click(lambda index: paths[index], examples, sound, queue=False, **PRIVATE))
    for event in chosen:
        fetched = event.then(service.fetch, model, None, **TOGETHER, **PRIVATE)
        fetched.then(show, [sound, *settings], outputs, scroll_to_output=True, **ONE_AT_A_TIME, **PRIVATE)
    fetched = button.click(service.fetch, model, None, **TOGETHER, **PRIVATE)
    fetched.then(show, [sound, *settings], outputs, **ONE_AT_A_TIME, **PRIVATE)
    # `release` does not fire for the keyboard.
    changed = [model.input, window.change, threshold.change, smoothing.change, labels.submit]
    again: dict[str, Any] = {"trigger_mode": "always_last", **PRIVATE}
    fetched = gradio.on(changed, service.fetch, model, None, **TOGETHER, **again)
    fetched.then(show_again, [sound, *settings], outputs, **ONE_AT_A_TIME, **again)


def _add_endpoints(service: Service, file: gradio.File, settings: SettingBlocks) -> None:
    top_k = gradio.Number(TOP_K, precision=0, minimum=1, visible=False)
    output = gradio.JSON(visible=False)
    model = settings[0]
    never = gradio.Button(visible=False)
    never.click(service.tags, [file, model, top_k], output, api_name="tags", **TOGETHER)
    never.click(service.events, [file, *settings], output, api_name="events", **TOGETHER)
    never.click(service.list_models, None, output, api_name="models", **TOGETHER)
