# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The page of `ced export --format web` in Chromium, from a plain server: `pytest -m browser`.

The runtime comes from the npm registry when it is not in the cache. Screenshots go to `build/screenshots`.
"""

import base64
import io
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
import soxr
from chromium import RESOURCES, TIMEOUT_MS, start_chromium, take
from demo_files import make_mute_video
from playwright.sync_api import Browser, BrowserContext, Page, expect

from ced_model import AudioTagger
from ced_model.exporting import export_model

pytestmark = pytest.mark.browser

SIZES: dict[str, Any] = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "phone": {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True},
}
RATE = 16000
# Sends a file, or 16 kHz samples in blocks, to the page's worker, and returns its response.
ASK_WORKER = """async ([folder, kind, content]) => {
  const worker = new Worker('page/worker.js', { type: 'module' });
  const metadata = await (await fetch(folder + 'metadata.json')).json();
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const windows = [];
  return await new Promise((resolve, reject) => {
    const send = (message, list) => worker.postMessage({ id: 1, ...message }, list);
    worker.onmessage = ({ data }) => {
      if (data.type === 'ready' && kind === 'file') send({ type: 'file', file: new File([bytes], 'file') });
      if (data.type === 'ready' && kind === 'stream') {
        const samples = new Float32Array(bytes.buffer);
        send({ type: 'stream', rate: 16000 });
        for (let at = 0; at < samples.length; at += 1234)
          send({ type: 'block', samples: samples.slice(at, at + 1234) });
        send({ type: 'end' });
      }
      if (data.type === 'window') windows.push([data.start_s, data.end_s, ...data.scores]);
      if (data.type === 'done') resolve({ windows, scores: data.scores && [...data.scores] });
      if (['failed', 'error', 'undecoded'].includes(data.type)) reject(new Error(data.type + data.message));
    };
    const address = new URL(folder, document.baseURI).href;
    worker.postMessage({ type: 'load', folder: address, metadata, device: 'wasm' });
  });
}"""


class Site(NamedTuple):
    folder: Path
    url: str


@contextmanager
def serve(folder: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """`python -m http.server`: its address, and the process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1)
    try:
        while True:
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None
        yield f"http://127.0.0.1:{port}/", process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def site(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The page of ced-nano, with other exports in subfolders."""
    folder = tmp_path_factory.mktemp("web") / "site"
    export_model("ced-nano", folder, format="web", num_threads=1)
    micro = golden / "micro_hub"
    export_model(micro, folder / "onnx", format="onnx", num_threads=1)
    export_model(micro, folder / "int8", format="onnx", compute_type="int8", num_threads=1)
    export_model(micro, folder / "mel", format="onnx", input="mel", num_threads=1)
    export_model(micro, folder / "openvino", format="openvino", num_threads=1)
    for name, metadata in (("damaged", "{"), ("other", "{}"), ("gone", None)):
        shutil.copytree(folder / "onnx", folder / name)
        (folder / name / ("model.onnx" if metadata is None else "metadata.json")).unlink()
        if metadata is not None:
            (folder / name / "metadata.json").write_text(metadata)
    with serve(folder) as (url, _):
        yield Site(folder, url)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with start_chromium(tmp_path_factory.mktemp("microphone")) as chromium:
        yield chromium


@pytest.fixture(params=SIZES)
def size(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def context(browser: Browser, size: str) -> Iterator[BrowserContext]:
    context = browser.new_context(**SIZES[size])
    context.set_default_timeout(TIMEOUT_MS)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, site: Site) -> Iterator[Page]:
    """The page with its model. It sends requests only to its server, has no error, and is not wider than the screen."""
    elsewhere: list[str] = []
    errors: list[str] = []
    local = (site.url, "data:", "blob:")
    context.on("request", lambda request: None if request.url.startswith(local) else elsewhere.append(request.url))
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(site.url)
    expect_status(page, "Ready: ced-nano recognises 527 sounds.")
    yield page
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert elsewhere == [] and errors == []


def expect_status(page: Page, text: str | re.Pattern) -> None:
    expect(page.get_by_role("status")).to_contain_text(text, timeout=TIMEOUT_MS)


def expect_complaint(page: Page, text: str | re.Pattern) -> None:
    expect(page.get_by_role("alert")).to_contain_text(text, timeout=TIMEOUT_MS)


def choose(page: Page, path: Path) -> None:
    page.get_by_label("Choose a file").set_input_files(path)


def still_works(page: Page) -> None:
    page.get_by_role("button", name="crow").click()
    expect_status(page, "Done: 0.5 s of audio")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_sound_has_tags_a_timeline_and_events(page, size):
    take(page, size, "web_start")
    page.get_by_role("button", name="tabla").click()
    expect_status(page, re.compile(r"Done: 10\.7 s of audio in .* Most likely: Music\."))
    tags = page.get_by_role("meter")
    expect(tags).to_have_count(8)
    values = [float(tag.get_attribute("aria-valuenow") or "nan") for tag in tags.all()]
    assert values == sorted(values, reverse=True)
    tagger = AudioTagger(num_threads=1)
    expected = list(tagger.tag([RESOURCES / "loop_tabla.flac"]))[0].tags
    assert [tag.get_attribute("aria-label") for tag in tags.all()[:3]] == [tag.label for tag in expected[:3]]
    assert np.allclose(values[:3], [tag.score for tag in expected[:3]], atol=0.02)
    first_row = page.locator("#timeline canvas").first.get_attribute("aria-label")
    peak = tagger.timeline(RESOURCES / "loop_tabla.flac").select("Music").scores.max()
    assert float(re.match(r"Music: highest (\S+) at ", first_row)[1]) == pytest.approx(peak, abs=0.02)
    rows = page.locator("#events tbody tr")
    threshold = page.get_by_label("Minimum score")
    threshold.fill("0.2")
    expect(page.locator("#threshold-value")).to_have_text("0.20")
    events = tagger.events(RESOURCES / "loop_tabla.flac", 0.2)
    expect(rows).to_have_count(len(events))
    assert sorted(row.locator("th").inner_text() for row in rows.all()) == sorted(event.label for event in events)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download all as CSV").click()
    assert download.value.suggested_filename == "tabla.events.csv"
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0] == "onset_s,offset_s,label,peak" and len(lines) == len(events) + 1
    take(page, size, "web_tabla")


def test_the_page_supports_dark_mode(page, size):
    page.get_by_role("button", name="guitar").click()
    expect_status(page, "Done: 4.3 s")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    take(page, size, "web_dark")


@pytest.mark.parametrize("size", ["desktop"])
def test_scores_are_those_of_python(page):
    rng = np.random.default_rng(0)
    samples, rate = soundfile.read(RESOURCES / "loop_tabla.flac", dtype="float32")
    tabla = soxr.resample(samples.mean(axis=1), rate, RATE)
    audio = np.concatenate([tabla, rng.normal(scale=0.05, size=3 * RATE), tabla[:150_777] / 5]).astype(np.float32)
    tagger = AudioTagger(num_threads=1)
    for length in (1000, 2400, 32001, 33500, 161919, 163000, len(audio)):
        clip = audio[:length]
        expected = tagger.timeline(clip)
        tags = {tag.index: tag.score for tag in list(tagger.tag([clip], top_k=527))[0].tags}
        wav = to_wav(clip)
        for kind, content in (("file", wav), ("stream", clip.tobytes())):
            answer = page.evaluate(ASK_WORKER, ["", kind, base64.b64encode(content).decode()])
            windows = np.array(answer["windows"])
            assert windows.shape == (len(expected.scores), 2 + 527)
            np.testing.assert_allclose(windows[:, 0], expected.start_s, atol=1e-6)
            np.testing.assert_allclose(windows[:, 1], expected.end_s, atol=1e-6)
            np.testing.assert_allclose(windows[:, 2:], expected.scores, atol=1e-5)
            if kind == "file":
                wanted = [tags[index] for index in range(527)]
                np.testing.assert_allclose(answer["scores"], wanted, atol=1e-5)


def to_wav(samples: np.ndarray) -> bytes:

    content = io.BytesIO()
    soundfile.write(content, samples, RATE, "FLOAT", format="WAV")
    return content.getvalue()


@pytest.mark.parametrize("size", ["desktop"])
@pytest.mark.parametrize(("name", "atol"), [("onnx", 1e-5), ("int8", 0.25)])
def test_other_exports_are_opened_by_their_folder(context, site, golden, name, atol):
    page = context.new_page()
    page.goto(f"{site.url}?model={name}")
    expect_status(page, "Ready: micro_hub recognises 13 sounds.")
    samples = np.random.default_rng(0).normal(scale=0.1, size=60000).astype(np.float32)
    answer = page.evaluate(ASK_WORKER, [f"{name}/", "stream", base64.b64encode(samples.tobytes()).decode()])
    expected = AudioTagger(golden / "micro_hub", num_threads=1).timeline(samples).scores
    np.testing.assert_allclose(np.array(answer["windows"])[:, 2:], expected, atol=atol)


@pytest.mark.parametrize("size", ["desktop"])
@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ("openvino", "/openvino/ is an export for openvino (input: waveform). Make one with: ced export --format web"),
        ("mel", "/mel/ is an export for onnx (input: mel). Make one with: ced export --format web"),
        ("nowhere", "/nowhere/ is not an export of ced_model: it has no metadata.json."),
        ("damaged", "/damaged/ is damaged: its metadata.json is not JSON."),
        ("other", "/other/ is not an export of ced_model: its metadata.json describes something else."),
        ("gone", "micro_hub cannot be loaded: model.onnx: the server answers 404"),
        ("https://example.org/model", "is on another server. This page loads models from its own server only."),
        ("http://[", "?model=http://[ is not the address of a folder."),
    ],
)
def test_a_model_that_cannot_be_used_is_one_line_with_a_link_to_the_default_model(context, site, asked, complaint):
    page = context.new_page()
    page.goto(f"{site.url}?model={asked}")
    expect_complaint(page, complaint)
    expect_status(page, "The model cannot be used.")
    page.get_by_role("link", name="Use this page's own model").click()
    expect_status(page, "Ready: ced-nano")


@pytest.mark.parametrize("size", ["desktop"])
def test_it_works_offline_after_the_first_visit(context, site):
    page = context.new_page()
    with serve(site.folder) as (url, server):
        page.goto(url)
        expect_status(page, "Ready: ced-nano")
        page.evaluate("navigator.serviceWorker.ready.then(() => null)")
        server.kill()
        server.wait()
        page.reload()
        expect_status(page, "Ready: ced-nano")
        still_works(page)
        choose(page, RESOURCES / "perc_bell.flac")
        expect_status(page, "Done: 6.7 s")
        page.get_by_role("button", name="Use the microphone").click()
        expect(page.get_by_role("meter").first).to_be_visible()
        names = page.evaluate(
            "caches.keys().then(async (names) => (await Promise.all(names.map("
            "async (name) => (await (await caches.open(name)).keys()).map((key) => key.url)))).flat())"
        )
        assert not [name for name in names if "webgpu" in name or "asyncify" in name]
        assert len([name for name in names if re.search(r"\.(wasm|safetensors)\?", name)]) == 2


def test_the_microphone_is_tagged_live_and_not_processed(context, size, site):
    context.add_init_script(
        """const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        navigator.mediaDevices.getUserMedia = async (wanted) => (window.heard = await ask(wanted));"""
    )
    page = context.new_page()
    page.goto(site.url)
    page.get_by_role("button", name="Use the microphone").click()  # before the model is loaded
    expect_status(page, "Listening to the microphone")
    expect(page.get_by_role("meter").first).to_have_attribute("aria-label", "Music")
    expect(page.locator("#tags-note")).to_have_text("In the last 2 seconds")
    expect(page.locator("#live")).to_contain_text("Music")
    settings = page.evaluate("window.heard.getAudioTracks()[0].getSettings()")
    assert not any(settings[name] for name in ("echoCancellation", "noiseSuppression", "autoGainControl"))
    take(page, size, "web_microphone")
    page.get_by_role("button", name="Stop the microphone").click()
    expect_status(page, "Stopped after")
    assert page.evaluate("window.heard.getAudioTracks()[0].readyState") == "ended"
    expect(page.locator("#events tbody tr").first).to_contain_text("Music")
    still_works(page)

    page.get_by_role("button", name="Use the microphone").click()
    expect(page.locator("#tags-note")).to_have_text("In the last 2 seconds")
    page.evaluate("window.heard.getAudioTracks()[0].dispatchEvent(new Event('ended'))")
    expect_complaint(page, "The microphone was disconnected. The results up to then are below.")
    expect(page.get_by_role("button", name="Use the microphone")).to_be_visible()
    still_works(page)


@pytest.mark.parametrize("size", ["desktop"])
@pytest.mark.parametrize(
    ("error", "complaint"),
    [
        ("NotAllowedError", "The microphone was not allowed."),
        ("NotFoundError", "No microphone was found."),
        ("NotReadableError", "The microphone cannot be used: another program may be using it."),
    ],
)
def test_no_microphone_is_one_line(page, error, complaint):
    page.evaluate(
        "error => navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('no', error))", error
    )
    page.get_by_role("button", name="Use the microphone").click()
    expect_complaint(page, complaint)
    expect(page.get_by_role("button", name="Use the microphone")).to_be_visible()
    still_works(page)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files that cannot be tagged, and unusual files that can."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=0.1, size=3 * RATE).astype(np.float32)
    (folder / "empty.mp3").touch()
    (folder / "notes.txt").write_text("no sound\n" * 100)
    (folder / "broken.wav").write_bytes(b"RIFF" + rng.bytes(5000))
    soundfile.write(folder / "whole.flac", noise, RATE)
    content = bytearray((folder / "whole.flac").read_bytes())
    content[len(content) // 2 :] = rng.bytes(len(content) // 2)
    (folder / "damaged.flac").write_bytes(content)
    soundfile.write(folder / "none.wav", noise[:0], RATE)
    soundfile.write(folder / "silent.wav", 0 * noise, RATE)
    soundfile.write(folder / "nan.wav", np.where(np.arange(len(noise)) == 16000, np.nan, noise), RATE, "FLOAT")
    make_mute_video(folder / "mute.mp4")
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize("size", ["phone"])
def test_a_file_that_cannot_be_tagged_is_one_line_and_the_page_still_works(page, files, size):
    for name, complaint in {
        "empty.mp3": "empty.mp3 cannot be read: the file is empty.",
        "notes.txt": "notes.txt cannot be read: this browser cannot decode it. WAV, MP3, FLAC,",
        "broken.wav": "broken.wav cannot be read: this browser cannot decode it.",
        "damaged.flac": re.compile(
            r"damaged.flac (is damaged or truncated: only 1\.\d s of its 3\.0 s|cannot be read)"
        ),
        "none.wav": "none.wav cannot be read: it holds no audio.",
        "silent.wav": "silent.wav is silent (below -80 dB).",
        "nan.wav": "nan.wav cannot be read: its sample at 1.000 s is NaN: scale the audio to [-1, 1].",
        "mute.mp4": "mute.mp4 cannot be read: the file has no audio track.",
    }.items():
        choose(page, files[name])
        expect_complaint(page, complaint)
        expect(page.locator("#progress, #stop").locator("visible=true")).to_have_count(0)
    take(page, size, "web_refused")
    still_works(page)


@pytest.mark.parametrize("size", ["desktop"])
def test_an_hour_shows_its_progress_and_can_be_stopped(page, tmp_path, size):
    path = tmp_path / "hour.wav"
    with soundfile.SoundFile(path, "w", 8000, 1, "PCM_U8") as file:
        minute = np.random.default_rng(0).normal(scale=0.1, size=60 * 8000)
        for _ in range(60):
            file.write(minute)
    choose(page, path)
    expect_status(page, "Tagging hour.wav")
    expect(page.locator("#counter")).to_have_text(re.compile(r"^\d+ s of 1:00:00$"))
    expect(page.get_by_role("progressbar")).to_be_visible()
    take(page, size, "web_hour")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect_status(page, re.compile(r"Stopped at .* of hour.wav"))
    expect(page.get_by_role("meter").first).to_be_visible()
    still_works(page)


@pytest.mark.parametrize("size", ["desktop"])
def test_without_webassembly_it_is_one_line(context, site):
    context.add_init_script("delete window.WebAssembly")
    page = context.new_page()
    page.goto(site.url)
    expect_complaint(page, "This page needs WebAssembly, which this browser does not support")


def test_it_can_be_used_with_the_keyboard_and_a_screen_reader(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "crow"
    page.keyboard.press("Enter")
    expect_status(page, "Done: 0.5 s")
    page.get_by_label("Minimum score").fill("0.05")
    button = page.get_by_role("button", name=re.compile("^Play Crow, 0.0 s to 0.5 s")).first
    button.press("Enter")
    page.wait_for_timeout(300)
    assert page.evaluate("document.getElementById('player').played.length") == 1
    for control in ("button", "slider", "link", "meter", "img", "progressbar", "table"):
        for element in page.get_by_role(control).all():
            name = "e => e.ariaLabel || e.innerText || (e.labels && e.labels[0].innerText)"
            assert element.evaluate(name), element.evaluate("e => e.outerHTML.slice(0, 200)")
    headings = [heading.inner_text() for heading in page.get_by_role("heading").all()]
    assert headings == ["What is this sound?", "crow.flac", "Sounds", "Timeline", "Events"]


@pytest.mark.parametrize("size", ["desktop"])
def test_a_file_can_be_dropped(page):
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
    page.locator("body").dispatch_event("drop", {"dataTransfer": transfer})
    expect_status(page, "Done: 0.5 s")
    expect(page.get_by_role("heading", name="dropped.flac")).to_be_visible()
    page.locator("body").dispatch_event("drop", {"dataTransfer": page.evaluate_handle("new DataTransfer()")})
    expect_complaint(page, "Only files can be dropped here.")
