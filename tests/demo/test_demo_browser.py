# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The demo in a real browser, at the width of a desktop and of a phone: `pytest -m browser`, with Chromium installed.

Screenshots go to `build/screenshots`. `CHROMIUM` names the program where it is not on the PATH.
"""

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from chromium import TIMEOUT_MS, start_chromium, take
from demo_files import COMPLAINTS, MICRO, RESOURCES, make_bad_files, serve
from playwright.sync_api import Browser, BrowserContext, Page, expect

from ced_model import AUDIOSET_LABELS, AudioTagger, CedConfig
from ced_model.demo import models as models_module
from ced_model.demo.event_table import to_csv

pytestmark = pytest.mark.browser

SIZES: dict[str, Any] = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}
NAMES = AUDIOSET_LABELS[111:124]  # of animals, some of them long
MICROPHONE_S = 3.0


class Server(NamedTuple):
    url: str
    model: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With the micro model, whose scores change over time; its classes have names of real lengths."""
    folder = tmp_path_factory.mktemp("models") / "demo_model"
    shutil.copytree(MICRO, folder)
    config = CedConfig.from_pretrained(folder)
    config.id2label = dict(enumerate(NAMES))
    config.save_pretrained(folder)
    with serve(folder) as app:
        assert app.local_url is not None
        yield Server(app.local_url, folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_bad_files(tmp_path_factory.mktemp("bad"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with start_chromium(tmp_path_factory.mktemp("microphone")) as chromium:
        yield chromium


@pytest.fixture(params=SIZES)
def size(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def page(browser: Browser, server: Server, size: str) -> Iterator[Page]:
    """The page, which sends requests only to its server, logs no error, and is not wider than the screen."""
    context = browser.new_context(**SIZES[size])
    page, elsewhere, errors = open_page(context, server)
    yield page
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert elsewhere == [] and errors == []
    context.close()


def open_page(context: BrowserContext, server: Server) -> tuple[Page, list[str], list[str]]:
    """A new page, its requests to other servers, and its logged errors."""
    context.set_default_timeout(TIMEOUT_MS)
    elsewhere: list[str] = []
    errors: list[str] = []
    local = (server.url, "data:", "blob:")
    context.on("request", lambda request: None if request.url.startswith(local) else elsewhere.append(request.url))
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server.url)
    expect(page.get_by_role("heading", name="What is this sound?")).to_be_visible(timeout=TIMEOUT_MS)
    return page, elsewhere, errors


def expect_answer(page: Page, name: str) -> None:
    expect(page.get_by_role("status").filter(has_text=name)).to_be_visible(timeout=TIMEOUT_MS)
    expect(page.get_by_text("Model: demo_model")).to_be_visible()
    expect(page.get_by_role("meter")).to_have_count(8)


def upload(page: Page, path: Path) -> None:
    """Selects a file as with the file dialog, with or without a previous one."""
    if page.get_by_label("Clear").first.is_visible():
        page.get_by_label("Clear").first.click()
    page.locator("input[type=file]").first.set_input_files(path)


def test_a_recording_of_the_page_is_answered_with_bars_timeline_and_events(page, size, server):
    expect(page.get_by_role("button", name="tabla")).to_be_visible()
    take(page, size, "start")
    page.get_by_role("button", name="tabla").click()
    expect_answer(page, "loop_tabla.flac, 10.7 s")
    picture = page.locator("#ced-timeline img")
    expect(picture).to_be_visible()
    assert "Highest scores over 10.7 seconds" in (picture.get_attribute("alt") or "")
    shown = picture.evaluate("image => [image.currentSrc === image.src, image.naturalWidth, image.clientWidth]")
    assert shown[0] == (size == "desktop"), "each width has a picture of its own"
    assert shown[1] >= shown[2] > 0.85 * min(SIZES[size]["viewport"]["width"] - 60, 800)
    events = AudioTagger(server.model).events(RESOURCES / "loop_tabla.flac")
    expect(page.locator("#ced-events tbody tr")).to_have_count(min(len(events), 200))
    take(page, size, "answer")


@pytest.mark.parametrize("key", ["click", "Enter"])
def test_an_event_plays_from_its_onset_to_its_offset(page, key):
    page.get_by_role("button", name="tabla").click()
    expect_answer(page, "loop_tabla.flac")
    late = page.locator("#ced-events button[data-onset]:not([data-onset='0.000'])").first
    onset_s, offset_s = (float(late.get_attribute(f"data-{edge}") or "nan") for edge in ("onset", "offset"))
    page.evaluate(
        """() => {
        const audio = document.querySelector('#ced-recording audio');
        window.played = [];
        for (const event of ['seeked', 'pause', 'ended'])
          audio.addEventListener(event, () => window.played.push([event, audio.currentTime]));
        }"""
    )
    assert 10.67 - 3 > offset_s > onset_s > 0
    if key == "click":
        late.click()
    else:
        late.press(key)
    expect(page.locator("#ced-events tr.ced-playing")).to_have_count(1)
    page.wait_for_function("window.played.some(([event]) => event !== 'seeked')")
    played = dict(page.evaluate("window.played"))
    assert onset_s - 0.05 <= played["seeked"] < offset_s
    assert offset_s - 0.05 <= played["pause"] < offset_s + 2  # far from the end, even on a busy machine
    expect(page.locator("#ced-events tr.ced-playing")).to_have_count(0)


def test_the_events_download_as_csv(page, server):
    page.get_by_role("button", name="tabla").click()
    expect_answer(page, "loop_tabla.flac")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the events as CSV").click()
    assert download.value.suggested_filename == "loop_tabla.events.csv"
    events = AudioTagger(server.model).events(RESOURCES / "loop_tabla.flac")
    lines = Path(download.value.path()).read_text().splitlines()
    assert len(lines) == len(events) + 1 == len(to_csv(events).splitlines())
    assert [line[:11] for line in lines] == [line[:11] for line in to_csv(events).splitlines()]


def test_a_file_is_uploaded_and_another_one_dropped(page, size):
    upload(page, RESOURCES / "perc_bell.flac")
    expect_answer(page, "perc_bell.flac, 6.7 s")
    page.get_by_label("Clear").first.click()
    content = base64.b64encode((RESOURCES / "misc_crow.flac").read_bytes()).decode()
    transfer = page.evaluate_handle(
        """content => {
        const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], 'dropped.flac', {type: 'audio/flac'}));
        return transfer;
        }""",
        content,
    )
    page.get_by_role("button", name="Click to upload").dispatch_event("drop", {"dataTransfer": transfer})
    expect_answer(page, "dropped.flac, 0.5 s")
    expect(page.locator("#ced-timeline img")).to_have_count(0)  # shorter than a window
    take(page, size, "short")


def test_recordings_of_the_microphone_are_tagged(page, size):
    page.get_by_role("tab", name="Microphone").click()
    page.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(1000 * MICROPHONE_S)
    take(page, size, "recording")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect_answer(page, ".wav, ")
    audio = page.locator("#ced-recording audio")
    expect(audio).to_be_visible()
    loudness = audio.evaluate(
        """async (audio) => {
        const content = await (await fetch(audio.src)).arrayBuffer();
        const samples = (await new AudioContext().decodeAudioData(content)).getChannelData(0);
        return [samples.length > 0, Math.max(...samples.slice(-40000))];
        }"""
    )
    assert loudness[0] and loudness[1] > 0.01
    take(page, size, "microphone")


def test_unreadable_audio_is_reported_in_one_line_and_the_settings_stay(page, size, files):
    threshold = page.get_by_label("number input for Threshold")
    threshold.fill("0.35")
    threshold.press("Enter")
    for name, complaint in COMPLAINTS.items():
        upload(page, files[name])
        expect(page.get_by_role("alert").filter(has_text=complaint)).to_be_visible(timeout=TIMEOUT_MS)
        expect(page.get_by_role("meter").first).to_be_hidden()
        expect(threshold).to_have_value("0.35")
    take(page, size, "silent")
    upload(page, RESOURCES / "perc_bell.flac")
    expect_answer(page, "perc_bell.flac")
    expect(threshold).to_have_value("0.35")
    expect(page.locator("#ced-events caption, #ced-events p").first).to_contain_text("0.35")


def test_a_file_that_is_too_large_is_refused_and_the_page_still_works(page, size, files):
    page.get_by_role("button", name="bell").click()
    expect_answer(page, "perc_bell.flac")
    upload(page, files["large.wav"])
    complaint = "large.wav is too large. The limit is 2 MB"
    expect(page.get_by_role("alert").filter(has_text=complaint)).to_be_visible(timeout=TIMEOUT_MS)
    expect(page.get_by_role("meter").first).to_be_hidden()
    take(page, size, "large")
    page.get_by_role("button", name="crow").click()
    expect_answer(page, "misc_crow.flac")


def test_settings_are_used_and_a_model_that_cannot_be_fetched_leaves_the_others(page, server, monkeypatch):
    load = AudioTagger
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    page.get_by_role("button", name="bell").click()
    expect_answer(page, "perc_bell.flac")

    def refuse(name: str) -> AudioTagger:
        if name == "mispeech/ced-base":
            raise OSError("no network")
        return load(name)

    monkeypatch.setattr(models_module, "AudioTagger", refuse)
    page.get_by_role("combobox", name="Model").click()
    page.get_by_role("option", name="mispeech/ced-base").click()
    expect(page.get_by_text("the most accurate, and the slowest")).to_be_visible()
    page.get_by_role("combobox", name="Model").click()
    page.get_by_role("option", name="demo_model").click()
    expect_answer(page, "perc_bell.flac")


def test_two_users_at_once_are_both_answered(browser, server):
    contexts = [browser.new_context(**SIZES[size]) for size in SIZES]
    pages = [open_page(context, server)[0] for context in contexts]
    for page, sound in zip(pages, ("tabla", "guitar"), strict=True):
        page.get_by_role("button", name=sound).click(no_wait_after=True)
    for page, name in zip(pages, ("loop_tabla.flac", "guit_e_slide.flac"), strict=True):
        expect_answer(page, name)
    for context in contexts:
        context.close()


def test_scores_are_readable_as_numbers_and_not_by_colour_alone(page):
    page.get_by_role("button", name="tabla").click()
    expect_answer(page, "loop_tabla.flac")
    page.get_by_text("The timeline in words").click()
    expect(page.locator("#ced-timeline details p")).to_contain_text("Highest scores over 10.7 seconds")
    values = page.get_by_role("meter").evaluate_all("meters => meters.map((meter) => Number(meter.value))")
    assert len(values) == 8 and np.all(np.diff(values) <= 0) and 0 < values[0] <= 1
    for control in ("combobox", "slider", "spinbutton", "button", "tab"):
        for element in page.get_by_role(control).all():
            assert element.evaluate(
                "e => e.innerText || e.ariaLabel || e.labels?.length || e.ariaLabelledByElements"
            ), (
                control,
                element.evaluate("e => e.outerHTML.slice(0, 300)"),
            )


def test_settings_work_with_the_keyboard_and_have_no_effect_before_a_sound(page):
    threshold = page.get_by_label("number input for Threshold")
    threshold.fill("0.4")
    threshold.press("Enter")
    page.wait_for_timeout(1000)
    expect(page.get_by_role("alert")).to_have_count(0)
    page.get_by_role("button", name="tabla").click()
    expect_answer(page, "loop_tabla.flac")
    expect(page.locator("#ced-events")).to_contain_text("with a score from 0.4")
    threshold.fill("0.6")
    threshold.press("Enter")
    expect(page.locator("#ced-events")).to_contain_text("with a score from 0.6", timeout=TIMEOUT_MS)
    page.get_by_role("slider", name="Threshold").press("ArrowLeft")
    expect(page.locator("#ced-events")).to_contain_text("with a score from 0.55", timeout=TIMEOUT_MS)
