# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The demo: API, limits, queue and privacy; parts of the page; `ced demo`."""

import json
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import gradio
import httpx
import numpy as np
import pytest
import soundfile
import yaml
from cli_process import start as start_command
from demo_files import COMPLAINTS, LIMITS, MICRO, RESOURCES, make_bad_files, serve
from filelock import FileLock
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from typer.testing import CliRunner

from ced_model import AudioTagger, Event, Timeline
from ced_model.audio import AudioError
from ced_model.cli.app import app as ced_app
from ced_model.demo import answer as answer_module
from ced_model.demo import limits as limits_module
from ced_model.demo import models as models_module
from ced_model.demo import service as service_module
from ced_model.demo.answer import Answer, listen
from ced_model.demo.app import _describe as describe_model
from ced_model.demo.event_table import MAX_ROWS, draw_events, to_csv
from ced_model.demo.limits import DemoError, Limits, read_sound
from ced_model.demo.models import PUBLISHED, Models
from ced_model.demo.pictures import count_rows, describe_timeline, draw_timeline
from ced_model.demo.service import Service
from ced_model.demo.uploads import Uploads, remove_old
from ced_model.recordings import NAMES, find_recordings

ROOT = Path(__file__).parents[2]
TABLA, CROW = RESOURCES / "loop_tabla.flac", RESOURCES / "misc_crow.flac"


@pytest.fixture(scope="module")
def tagger() -> AudioTagger:
    return AudioTagger(MICRO)


@pytest.fixture(scope="module")
def foreign_addresses() -> Iterator[list[Any]]:
    """The addresses of other machines that this process connects to."""
    addresses: list[Any] = []
    connect = socket.socket.connect

    def watch(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            addresses.append(address)
            raise OSError("the network was touched")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", watch)
        yield addresses


@pytest.fixture(scope="module")
def url(foreign_addresses: list[Any]) -> Iterator[str]:
    with serve() as app:
        assert app.local_url is not None
        yield app.local_url


@pytest.fixture(scope="module")
def client(url: str) -> Client:
    return Client(url, verbose=False)


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_bad_files(tmp_path_factory.mktemp("bad"))


# For programs


def test_the_api_gives_the_tags_of_the_tagger(client, tagger):
    found = client.predict(handle_file(CROW), top_k=4, api_name="/tags")
    assert (found["file"], found["model"]) == ("misc_crow.flac", "micro_hub")
    assert found["duration_s"] == pytest.approx(0.48, abs=0.01)
    expected = tagger(CROW, top_k=4)
    assert [tag["label"] for tag in found["tags"]] == [tag.label for tag in expected]
    assert [tag["score"] for tag in found["tags"]] == pytest.approx([tag.score for tag in expected], abs=1e-5)


def test_the_api_gives_the_events_of_the_tagger(client, tagger):
    found = client.predict(handle_file(TABLA), window_s=1.5, threshold=0.55, api_name="/events")
    expected = tagger.events(TABLA, 0.55, window_s=1.5)
    assert len(expected) > 3
    assert [event["label"] for event in found["events"]] == [event.label for event in expected]
    for key in ("onset_s", "offset_s", "peak"):
        assert [event[key] for event in found["events"]] == pytest.approx([getattr(e, key) for e in expected], abs=1e-5)


def test_the_api_finds_events_of_the_requested_classes_with_smoothing(client, tagger):
    options = {"smooth_s": 3, "labels": "class 5, class 7"}
    found = client.predict(handle_file(TABLA), window_s=1, threshold=0.3, **options, api_name="/events")
    expected = tagger.events(TABLA, 0.3, window_s=1, **options)
    assert expected and [event["label"] for event in found["events"]] == [event.label for event in expected]
    with pytest.raises(AppError, match="expected a class of the model; did you mean 'class 5'"):
        client.predict(handle_file(TABLA), labels="clas 5", api_name="/events")


def test_the_api_lists_the_models_with_descriptions(client):
    models = client.predict(api_name="/models")
    assert models[0]["model"] == "micro_hub" and "13 classes" in models[0]["good_for"]
    assert {f"mispeech/ced-{size}" for size in ("tiny", "mini", "small", "base")} <= {row["model"] for row in models}
    assert "50.0 mAP" in next(row["good_for"] for row in models if row["model"] == "mispeech/ced-base")


def test_there_are_no_other_endpoints(client):
    endpoints = client.view_api(return_format="dict", print_info=False)
    assert set(endpoints["named_endpoints"]) == {"/tags", "/events", "/models"}
    assert endpoints["unnamed_endpoints"] == {}


def test_the_lines_of_the_tutorial_run(url, monkeypatch, capsys):
    page = (ROOT / "docs/tutorials/serving.md").read_text(encoding="utf-8")
    readme = page.replace("clip.wav", "resources/misc_crow.flac")
    (code,) = re.findall(r"^```python3\n(.*?)^```", readme, flags=re.DOTALL | re.MULTILINE)
    assert len(code.strip().splitlines()) <= 4 and "http://127.0.0.1:7860" in code
    monkeypatch.chdir(ROOT)
    exec(code.replace("http://127.0.0.1:7860", url), {})
    assert "'label'" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMPLAINTS)
def test_the_api_returns_one_line_for_unreadable_audio_and_continues(client, bad_files, name):
    with pytest.raises(AppError) as caught:
        client.predict(handle_file(bad_files[name]), api_name="/tags")
    message = str(caught.value)
    assert COMPLAINTS[name] in message
    assert "\n" not in message and "/" not in message.replace(" / ", ""), "paths of the server are not shown"
    assert client.predict(handle_file(CROW), top_k=1, api_name="/tags")["tags"]


def test_a_file_that_is_too_large_is_refused_during_the_upload(client, bad_files):
    with pytest.raises(Exception, match="(?i)size|large|413"):
        client.predict(handle_file(bad_files["large.wav"]), api_name="/tags")


def call_tags(server: str, **file: str) -> str:
    """The response to a program that does not upload: `error` or `complete`, and the data."""
    content = file | {"meta": {"_type": "gradio.FileData"}}
    event = httpx.post(f"{server}gradio_api/call/tags", json={"data": [content, "micro_hub", 3]}).json()["event_id"]
    return httpx.get(f"{server}gradio_api/call/tags/{event}", timeout=600).text


@pytest.mark.parametrize("address", ["http://203.0.113.1/sound.wav", "https://example.com/sound.wav"])
def test_addresses_in_place_of_files_are_never_fetched(url, foreign_addresses, address):
    answer = call_tags(url, path=address)
    assert answer.startswith("event: error") and "URLs are not supported" in answer
    answer = call_tags(url, path=str(CROW), url=address)
    assert answer.startswith("event: error") and "label" not in answer
    assert foreign_addresses == []


def test_files_of_the_server_that_were_not_uploaded_are_not_read(url):
    answer = call_tags(url, path=str(CROW))
    assert answer.startswith("event: error") and "label" not in answer


# Malformed requests (method, path, body). They must give neither a result nor a traceback.
JSON_PATHS = ("call/tags", "call/v2/tags", "run/tags", "api/tags", "queue/join", "cancel", "call/nix", "run/nix")
BODIES: dict[str, bytes] = {
    "not JSON": b"{not json",
    "empty": b"",
    "a list": b"[1]",
    "null": b"null",
    "binary": b"\xff\xfe\x00",
    "nested deeply": b'{"data":' + b"[" * 100_000,
    "not finite": b'{"data": [NaN, 1e999]}',
    "half a character": b'{"data": ["\\ud800"], "session_hash": "\\ud800", "fn_index": 0}',
    "no data": b"{}",
    "data of another type": b'{"data": "x"}',
    "an unknown function": b'{"data": [], "fn_index": 99999, "session_hash": "a", "event_id": 3}',
    "a session of another type": b'{"data": [], "fn_index": 0, "session_hash": [1]}',
    "too large": b'{"data": ["' + b"x" * 1_000_001 + b'"]}',
}
# The arguments of a call are checked when it runs, so errors are in its result.
LATE = {("call/tags", "an unknown function")}
MULTIPART = {"content-type": "multipart/form-data; boundary=X"}
PART = b'--X\r\nContent-Disposition: form-data; name="files"%s\r\n\r\nabc\r\n--X--\r\n'
REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    *(
        ("POST", f"gradio_api/{path}", {"content": body, "headers": {"content-type": "application/json"}})
        for path in JSON_PATHS
        for name, body in BODIES.items()
        if (path, name) not in LATE
    ),
    ("POST", "gradio_api/upload", {"content": b"x"}),
    ("POST", "gradio_api/upload", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}),
    ("POST", "gradio_api/upload", {"content": b"garbage", "headers": MULTIPART}),
    ("POST", "gradio_api/upload", {"content": PART % b"", "headers": MULTIPART}),
    ("POST", "gradio_api/upload", {"content": PART % b'; filename=".."', "headers": MULTIPART}),
    ("POST", "gradio_api/upload?upload_id=1", {"content": PART % b"", "headers": MULTIPART}),
    *((method, path, {}) for method in ("PUT", "OPTIONS", "FOO") for path in ("", "config", "gradio_api/upload")),
    *(
        ("GET", path, {})
        for path in (
            "nothing",
            "monitoring",
            "gradio_api/file=/etc/passwd",
            "gradio_api/file=https://example.com/a.wav",
            "gradio_api/file=/uploads/../../../etc/passwd",
            "gradio_api/file=/uploads/%2e%2e/lock",
            "gradio_api/file=/uploads/%00",
            "gradio_api/proxy=https://example.com/",
            "gradio_api/queue/data",
            "gradio_api/queue/data?session_hash=unknown",
            "gradio_api/call/tags/unknown",
            "gradio_api/upload_progress",
            "gradio_api/dev/reload",
        )
    ),
]


def test_malformed_requests_are_refused_without_a_traceback(url, foreign_addresses, capfd):
    with httpx.Client(base_url=url, trust_env=False, timeout=600) as server:
        for method, path, content in REQUESTS:
            answer = server.request(method, path, **content)
            assert 400 <= answer.status_code < 500, (method, path, content, answer.text)
            assert str(ROOT) not in answer.text and tempfile.gettempdir() not in answer.text
            captured = capfd.readouterr()
            assert "Traceback" not in captured.err + captured.out and (captured.err + captured.out).count("\n") <= 1
    assert len(REQUESTS) > 130 and foreign_addresses == []


def upload(server: str, path: Path) -> dict[str, Any]:
    """An uploaded file in the form in which programs refer to it."""
    with open(path, "rb") as file:
        (uploaded,) = httpx.post(f"{server}gradio_api/upload", files={"files": file}, trust_env=False).json()
    return {"path": uploaded, "meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize("is_direct", [True, False])
def test_arguments_that_are_not_the_endpoints_are_refused_in_one_line(url, capfd, is_direct):
    sound = upload(url, CROW)
    meta = {"meta": sound["meta"]}
    calls: list[list[Any]] = [
        *(
            [file, "micro_hub", 3]
            for file in (
                *(
                    {"path": path} | meta
                    for path in ("/etc/passwd", "/uploads/../../x", "/dev/zero", "", "a\0", 3, None)
                ),
                {"path": str(CROW)} | meta,
                {"path": "x" * 5000} | meta,
                {"path": sound["path"]},
                {"path": sound["path"], "size": "x"} | meta,
                {"url": "http://203.0.113.1/x"} | meta,
                sound["path"],
                5,
                [sound],
                None,
            )
        ),
        *([sound, model, 3] for model in (3, None, ["micro_hub"], {"a": 1}, "<b>\x1b[31m")),
        *([sound, "micro_hub", top_k] for top_k in ("x", 0, -1, [1])),
        [sound],
    ]
    for data in calls:
        if is_direct:
            answer = httpx.post(f"{url}gradio_api/run/tags", json={"data": data}, trust_env=False)
            assert answer.status_code == 422, (data, answer.text)
            message = answer.json()["error"]
        else:
            event = httpx.post(f"{url}gradio_api/call/tags", json={"data": data}, trust_env=False).json()["event_id"]
            answer = httpx.get(f"{url}gradio_api/call/tags/{event}", trust_env=False, timeout=600)
            kind, content = answer.text.rstrip().split("\n")
            assert kind == "event: error"
            message = json.loads(content.removeprefix("data: "))["error"]
        assert message and "\n" not in message and "\x1b" not in message, data
        assert str(ROOT) not in message and tempfile.gettempdir() not in message and "/etc" not in message
    captured = capfd.readouterr()
    assert captured.err == captured.out == ""
    data = [sound, "micro_hub", 3]
    assert httpx.post(f"{url}gradio_api/run/tags", json={"data": data}, trust_env=False).status_code == 200


@pytest.mark.parametrize("path", ["", "config", "gradio_api/info", "gradio_api/openapi.json", "?view=api"])
def test_no_folder_of_the_server_is_shown(url, path):
    text = httpx.get(url + path, trust_env=False).text
    for folder in (str(ROOT), tempfile.gettempdir() + "/", str(Path.home()), sys.prefix):
        assert folder not in text, folder


def test_an_upload_has_a_name_without_folders_and_can_be_downloaded_by_it(url):
    sound = upload(url, CROW)
    assert re.fullmatch(r"/uploads/[0-9a-f]{64}/misc_crow\.flac", sound["path"])
    answer = httpx.get(f"{url}gradio_api/file={sound['path']}", trust_env=False)
    assert answer.content == CROW.read_bytes()


def test_the_page_fetches_the_model_and_then_shows_what_was_uploaded(url):
    with httpx.Client(base_url=url, trust_env=False, timeout=600) as server:
        config = server.get("config").json()
        upload_id = next(part["id"] for part in config["components"] if part["type"] == "file")
        steps = [step for step in config["dependencies"] if [upload_id, "upload"] in step["targets"]]
        while following := [step for step in config["dependencies"] if step["trigger_after"] == steps[-1]["id"]]:
            steps += following
        assert len(steps) == 3  # keep the upload, fetch the model, show the results
        sent = [upload(url, CROW)], ["micro_hub"], [None, "micro_hub", 2, 0.5, 0, ""]
        for step, data in zip(steps, sent, strict=True):
            body = {"data": data, "fn_index": step["id"], "session_hash": "one"}
            server.post("gradio_api/queue/join", json=body).raise_for_status()
            answer = server.get("gradio_api/queue/data?session_hash=one").text
        assert "misc_crow.flac, 0.5 s. Model:" in answer and str(tempfile.gettempdir()) not in answer
        (recording,) = set(re.findall(r'gradio_api/file=(/uploads/[^"]+)', answer))
        assert server.get(f"gradio_api/file={recording}").content[:4] == b"RIFF"


def test_a_model_that_cannot_be_reached_does_not_block_others_and_is_not_retried_at_once(url, client, monkeypatch):
    tried: list[str] = []
    may_fail = threading.Event()
    load = AudioTagger

    def stall(name: str) -> AudioTagger:
        if name != "mispeech/ced-base":
            return load(name)
        tried.append(name)
        assert may_fail.wait(300)
        raise OSError("We couldn't connect")

    monkeypatch.setattr(models_module, "AudioTagger", stall)
    waiting = [client.submit(handle_file(CROW), model="mispeech/ced-base", api_name="/tags") for _ in range(3)]
    while not tried:
        time.sleep(0.01)
    assert client.predict(handle_file(CROW), model="micro_hub", api_name="/tags")["model"] == "micro_hub"
    may_fail.set()
    for job in waiting:
        with pytest.raises(AppError, match="mispeech/ced-base could not be downloaded"):
            job.result()
    with pytest.raises(AppError, match="mispeech/ced-base could not be downloaded"):
        client.predict(handle_file(CROW), model="mispeech/ced-base", api_name="/tags")
    assert tried == ["mispeech/ced-base"]


@pytest.mark.parametrize(("retry_s", "attempts"), [(60, 1), (0, 2)])
def test_a_model_that_could_not_be_fetched_is_tried_again_later(monkeypatch, retry_s, attempts):
    tried: list[str] = []

    def fail(name: str) -> AudioTagger:
        tried.append(name)
        raise OSError("We couldn't connect")

    monkeypatch.setattr(models_module, "AudioTagger", fail)
    monkeypatch.setattr(models_module, "RETRY_S", retry_s)
    models = Models()
    for _ in range(2):
        with pytest.raises(DemoError, match="could not be downloaded"):
            models.load("mispeech/ced-base")
    assert len(tried) == attempts


def test_a_local_model_that_cannot_be_loaded_does_not_show_its_folder(tmp_path):
    (tmp_path / "secret" / "mine").mkdir(parents=True)
    models = Models([str(tmp_path / "secret" / "mine")])
    with pytest.raises(DemoError, match="mine could not be loaded: ") as caught:
        models.load("mine")
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_names_of_files_and_classes_reach_neither_the_page_as_html_nor_a_terminal(tmp_path, monkeypatch):
    name = "<img src=x>\x1b[31m.flac"
    shutil.copy(CROW, tmp_path / name)
    service = Service(Models([str(MICRO)]), LIMITS)
    parts = service.show(str(tmp_path / name), "micro_hub", 2.0, 0.5)
    assert "<img" not in parts.status and "\x1b" not in parts.status and "misc" not in parts.status
    assert service.find_tags(str(tmp_path / name), "micro_hub")["file"] == r"<img src=x>\x1b[31m.flac"
    monkeypatch.setattr(
        service.models.load("micro_hub"), "labels", ["<b>Rain\x1b[31m", "![](http://203.0.113.1/x.png)"]
    )
    note = describe_model(service, "micro_hub")
    assert "<b>" not in note and "\x1b" not in note and "&lt;b&gt;Rain" in note


def test_an_unknown_model_and_impossible_settings_are_refused(client):
    with pytest.raises(AppError, match="no-such"):
        client.predict(handle_file(CROW), model="no-such", api_name="/tags")
    with pytest.raises(AppError):
        client.predict(handle_file(CROW), window_s=100, api_name="/events")


def test_simultaneous_users_are_queued_and_none_is_dropped(url, client, monkeypatch):
    running, most = 0, 0
    lock = threading.Lock()

    def slow(*args: Any, **settings: Any) -> Answer:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        try:
            return listen(*args, **settings)
        finally:
            with lock:
                running -= 1

    monkeypatch.setattr(service_module, "listen", slow)
    clients = [client, Client(url, verbose=False)]
    paths = [CROW, RESOURCES / "perc_snap.flac", RESOURCES / "misc_burp.flac"] * 4
    jobs = [
        clients[number % 2].submit(handle_file(path), api_name=("/tags", "/events")[number % 3 == 0])
        for number, path in enumerate(paths)
    ]
    assert [job.result()["file"] for job in jobs] == [path.name for path in paths]
    assert most == 1


def test_no_data_leaves_the_machine_and_the_page_has_no_external_fonts_or_scripts(url, client, foreign_addresses):
    page = urllib.request.urlopen(url).read().decode()
    for address in re.findall(r'(?:src|href)="(https?://[^"]+)"', page):
        assert address.startswith(url), address
    assert "fonts.googleapis.com" not in page
    client.predict(handle_file(CROW), api_name="/tags")
    assert foreign_addresses == []


@pytest.mark.parametrize("window_s", [2.0, 0.5])
def test_samples_that_are_too_large_are_reported_in_one_line(tagger, tmp_path, window_s):
    samples = np.full(32_000, 0.1, np.float32)
    samples[20_000] = 1e30
    soundfile.write(tmp_path / "huge.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(DemoError, match=r"^huge\.wav could not be tagged: the sample 1e\+30 at 1\.250 s is too large"):
        listen(tmp_path / "huge.wav", tagger, LIMITS, window_s)


# Limits


def test_the_loudest_channel_is_used_if_channels_cancel_each_other_out(tmp_path):
    mono = np.random.default_rng(0).uniform(-0.5, 0.5, 16000).astype(np.float32)
    soundfile.write(tmp_path / "opposite.wav", np.stack([mono, -mono], axis=1), 16000, subtype="FLOAT")
    np.testing.assert_array_equal(read_sound(tmp_path / "opposite.wav", 16000, LIMITS), mono)


def test_a_file_with_a_too_long_duration_in_its_header_is_not_decoded(bad_files, monkeypatch):
    monkeypatch.setattr(limits_module, "read_blocks", lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(DemoError, match="too long"):
        read_sound(bad_files["long.wav"], 16000, LIMITS)
    with pytest.raises(DemoError, match="large.wav is too large. The limit is 2 MB"):
        read_sound(bad_files["large.wav"], 16000, LIMITS)


@pytest.mark.parametrize("header_s", [None, 1.0])
def test_decoding_stops_at_the_limit_if_the_duration_in_the_header_is_missing_or_wrong(
    bad_files, monkeypatch, header_s
):
    decoded = 0

    def count(*args: Any, **kwargs: Any) -> Iterator[np.ndarray]:
        nonlocal decoded
        for block in read_blocks(*args, **kwargs):
            decoded += len(block)
            yield block

    read_blocks = limits_module.read_blocks
    monkeypatch.setattr(limits_module, "duration_s", lambda _: header_s)
    monkeypatch.setattr(limits_module, "read_blocks", count)
    with pytest.raises(DemoError, match="too long"):
        read_sound(bad_files["long.wav"], 16000, Limits(minutes=0.1))
    assert decoded <= 16 * 16000


def test_a_file_of_the_maximum_duration_is_tagged(tmp_path, bad_files):
    waveform = read_sound(bad_files["long.wav"], 16000, Limits(minutes=31 / 60))
    assert waveform.dtype == np.float32 and len(waveform) == 31 * 16000


def test_a_deleted_upload_must_be_chosen_again(tmp_path):
    with pytest.raises(DemoError, match="gone.wav is no longer available"):
        read_sound(tmp_path / "gone.wav", 16000, LIMITS)


# Models


def test_models_are_loaded_once_and_few_at_a_time(monkeypatch):
    loaded: list[str] = []
    monkeypatch.setattr(models_module, "AudioTagger", lambda name: loaded.append(name) or object())
    models = Models()
    first = models.load("mispeech/ced-tiny")
    assert models.load("mispeech/ced-tiny") is first and loaded == ["mispeech/ced-tiny"]
    for name in PUBLISHED:
        models.load(name)
    models.load("mispeech/ced-tiny")
    assert loaded.count("mispeech/ced-tiny") == 2


def test_a_published_model_that_cannot_be_fetched_is_reported_in_one_line(monkeypatch):
    def fail(_: str) -> AudioTagger:
        raise OSError("We couldn't connect to the Hub\nand so on")

    monkeypatch.setattr(models_module, "AudioTagger", fail)
    parts = Service(Models(), LIMITS).show(str(CROW), "mispeech/ced-base", 2, 0.5)
    assert "mispeech/ced-base could not be downloaded" in parts.status and "\n" not in parts.status
    assert 'role="alert"' in parts.status


def test_folders_of_the_same_name_have_different_names(tmp_path):
    for parent in ("a", "b"):
        (tmp_path / parent / "model").mkdir(parents=True)
    models = Models([str(tmp_path / "a" / "model"), str(tmp_path / "b" / "model"), "mispeech/ced-mini"])
    assert models.names[:3] == ["model (1)", "model (2)", "mispeech/ced-mini"]
    assert models.names.count("mispeech/ced-mini") == 1 and set(PUBLISHED) <= set(models.names)


def test_the_bundled_model_is_the_default():
    assert Models().names == ["ced-nano", *PUBLISHED]
    assert Models().is_local("ced-nano") and not Models().is_local("mispeech/ced-tiny")
    assert "no network" in Models().describe("ced-nano")
    assert len(Models().load("ced-nano").labels) == 527


# Parts of the page


def make_answer(labels: list[str], scores: list[list[float]], name: str = "a.wav", threshold: float = 0.5) -> Answer:
    """A result with windows of 2 s every second, and noise as the waveform."""
    count = len(scores)
    array = np.array(scores, np.float32)
    timeline = Timeline(array, np.arange(count) * 1.0, np.arange(count) + 2.0, labels, count + 1.0)
    waveform = np.random.default_rng(0).normal(scale=0.1, size=(count + 1) * 16000).astype(np.float32)
    return Answer(name, waveform, count + 1.0, [], timeline, timeline.events(threshold), 2.0)


def test_the_page_shows_tags_timeline_and_events_of_a_long_recording(tagger):
    parts = Service(Models([str(MICRO)]), LIMITS).show(str(TABLA), "micro_hub", 2.0, 0.5)
    assert "loop_tabla.flac, 10.7 s" in parts.status and "micro_hub" in parts.status
    assert parts.has_answer["visible"] is True
    expected = {tag.label: tag.score for tag in tagger(TABLA, top_k=8)}
    assert parts.tags == pytest.approx(expected, abs=1e-5)
    events = tagger.events(TABLA)
    assert parts.events.count("<button") == len(events) > 3
    assert parts.timeline.count("data:image/png;base64,") == 2
    rate, samples = parts.recording
    assert rate == 16000 and samples.dtype == np.int16 and len(samples) == pytest.approx(10.67 * rate, rel=0.01)


def test_a_recording_no_longer_than_a_window_has_tags_only():
    parts = Service(Models([str(MICRO)]), LIMITS).show(str(CROW), "micro_hub", 2.0, 0.5)
    assert parts.tags and parts.recording is not None and parts.timeline == parts.events == ""


@pytest.mark.parametrize("name", COMPLAINTS)
def test_the_page_shows_errors_in_one_line(bad_files, name):
    parts = Service(Models([str(MICRO)]), LIMITS).show(str(bad_files[name]), "micro_hub", 2.0, 0.5)
    assert COMPLAINTS[name] in unescape(parts.status) and "\n" not in parts.status
    assert parts.has_answer["visible"] is False and parts.tags is None


def test_windows_that_a_model_cannot_use_and_faults_of_the_demo_are_one_line(monkeypatch, caplog):
    service = Service(Models([str(MICRO)]), LIMITS)
    assert "0.15 to 10.12 seconds" in service.show(str(CROW), "micro_hub", 20.0, 0.5).status
    assert "choose a file" in service.show(None, "micro_hub", 2.0, 0.5).status
    assert service.show_again(None, "micro_hub", 2.0, 0.5) == gradio.skip()  # before the first upload

    def fail(*_: Any, **__: Any) -> Answer:
        raise RuntimeError("a secret of the server")

    monkeypatch.setattr(service_module, "listen", fail)
    status = service.show(str(CROW), "micro_hub", 2.0, 0.5).status
    assert "Unexpected error" in status and "secret" not in status and "secret" in caplog.text


def test_the_picture_is_drawn_for_two_widths_and_described_in_words(tagger):
    answer = make_answer(["Rain", "Dog <b>", "Bell", "Wind", "Car"], [[0.9, 0.1, 0, 0, 0], [0.1, 0.7, 0, 0, 0.01]])
    assert count_rows(answer, 0.5) == 3 and count_rows(answer, 0.0) == 5
    words = describe_timeline(answer, 2)
    assert words == "Highest scores over 3.0 seconds: Rain 0.90 at 0.0 to 1.5 s; Dog <b> 0.70 at 1.5 to 3.0 s."
    html = draw_timeline(answer, tagger.front_end, 0.5)
    assert "<b>" not in html and 'alt="Highest scores' in html and '<source media="(max-width: 640px)"' in html


def test_at_most_twelve_classes_are_drawn():
    answer = make_answer([str(number) for number in range(40)], [[0.8] * 40])
    assert count_rows(answer, 0.5) == 12


def test_events_play_are_escaped_and_download_as_csv():
    answer = make_answer(['Dog, "<script>"', "Rain"], [[0.9, 0.2], [0.8, 0.6]], name='x"><y.wav')
    html = draw_events(answer, 0.5)
    assert "<script>" not in html and "<y" not in html
    assert re.findall(r'data-onset="([\d.]+)" data-offset="([\d.]+)"', html) == [("0.000", "3.000"), ("1.500", "3.000")]
    assert "Play Rain, 1.50 to 3.00 seconds" in html
    assert to_csv(answer.events).splitlines() == [
        "onset_s,offset_s,label,peak",
        '0.000,3.000,"Dog, ""<script>""",0.9000',
        "1.500,3.000,Rain,0.6000",
    ]


def test_the_table_states_if_there_are_no_events_or_very_many():
    quiet = make_answer(["Rain"], [[0.1], [0.2]])
    assert "No sound reaches the threshold of 0.5" in draw_events(quiet, 0.5)
    events = [Event(float(second), second + 1.0, "Tick", 0.9) for second in range(MAX_ROWS + 7)]
    many = Answer("a.wav", quiet.waveform, 207.0, [], quiet.timeline, events, 2.0)
    html = draw_events(many, 0.5)
    assert html.count("<button") == MAX_ROWS and "7 more are in the CSV" in html


def test_the_recordings_are_found_in_a_checkout_and_travel_with_the_package():
    assert find_recordings().keys() == set(NAMES.values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    shared = project["tool"]["setuptools"]["data-files"]["share/ced_model/resources"]
    assert {Path(file).name for pattern in shared for file in ROOT.glob(pattern)} >= set(NAMES)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (AudioError("<array>: not today"), "misc_crow.flac could not be tagged: not today. Please try"),
        (ValueError("`window_s` is too long"), "Invalid settings: window_s is too long"),
    ],
)
def test_errors_of_the_tagger_are_shown(error, message):
    class Refusing:
        sampling_rate = 16000

        def tag(self, *_: Any, **__: Any) -> None:
            raise error

    with pytest.raises(DemoError, match=message):
        listen(CROW, Refusing(), LIMITS)  # type: ignore[arg-type]
    assert answer_module.TOP_K == 8


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_an_error_of_that_recording(tmp_path, value):
    samples = np.zeros(16000, np.float32)
    samples[8000] = value
    soundfile.write(tmp_path / "odd.wav", samples, 16000, "FLOAT")
    parts = Service(Models([str(MICRO)]), LIMITS).show(str(tmp_path / "odd.wav"), "micro_hub", 2.0, 0.5)
    assert "odd.wav could not be read as audio: " in parts.status and "\n" not in parts.status


# The command


def ced(*arguments: Any) -> Any:
    return CliRunner().invoke(ced_app, ["demo", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-minutes", "0"], "--max-minutes 0: expected a number above 0"),
        (["--max-megabytes", "nan"], "--max-megabytes nan"),
        (["--max-minutes", "inf"], "--max-minutes inf"),
        (["--model", "./missing"], "there is no such folder"),
        (["--port", "0"], "--port"),
        (["file.wav"], "unexpected argument file.wav"),
    ],
)
def test_wrong_usage_is_one_line(arguments, message):
    result = ced(*arguments)
    assert result.exit_code == 2 and message in result.stderr and result.stdout == ""


def test_help_and_wrong_usage_need_no_gradio_and_serving_needs_no_torch():
    code = (
        "import sys; from ced_model.cli.app import app\n"
        "for arguments in (['--help'], ['--max-minutes', '0']):\n"
        "    try: app(['demo', *arguments], standalone_mode=False)\n"
        "    except BaseException: pass\n"
        "print(sorted({'torch', 'gradio', 'transformers'} & set(sys.modules)))\n"
        "from ced_model.demo import server\n"
        "server.wait_until_stopped = lambda app: app.close(verbose=False)\n"
        "app(['demo'], standalone_mode=False)\n"
        "print(sorted({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert "--max-megabytes" in run.stdout and lines[-1] == "['huggingface_hub']", run.stderr  # Gradio imports it
    assert lines[-2].startswith("The demo is at http://127.0.0.1:") and lines[-3] == "[]"


def test_a_missing_gradio_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr("ced_model.packages.missing", lambda names: list(names))
    result = ced("--model", MICRO)
    assert (
        result.exit_code == 1
        and "the demo requires gradio and matplotlib: pip install gradio matplotlib" in result.stderr
    )


def test_a_model_that_cannot_be_loaded_is_reported_before_serving(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "ced"}')
    result = ced("--model", tmp_path)
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr.startswith(f"ced: {tmp_path.name} could not be loaded") and result.stderr.count("\n") == 1


@pytest.mark.parametrize("host", ["203.0.113.1", "no such host"])
def test_an_address_of_another_machine_is_refused_at_once(host):
    result = ced("--model", MICRO, "--host", host)
    assert result.exit_code == 1 and f"cannot listen at {host}" in result.stderr


def test_the_command_serves_until_it_is_stopped_and_leaves_no_uploads(tmp_path):
    out, err, folder = tmp_path / "out", tmp_path / "err", tmp_path / "temporary"
    environment = {"GRADIO_TEMP_DIR": str(folder)}
    process = start_command(["demo", "--model", MICRO], stdout=out, stderr=err, environment=environment)
    while not (served := re.search(r"http://127\.0\.0\.1:(\d+)/", out.read_text() if out.exists() else "")):
        assert process.exitcode is None, err.read_text()
        time.sleep(0.05)
    assert "What is this sound?" in urllib.request.urlopen(served[0]).read().decode()
    assert err.read_text() == "model: micro_hub\n"
    files = {"files": ("a.wav", b"abc")}
    httpx.post(f"{served[0]}gradio_api/upload", files=files, trust_env=False).raise_for_status()
    assert [path.read_bytes() for path in folder.rglob("a.wav")] == [b"abc"]
    taken = ced("--model", MICRO, "--port", served[1])
    assert taken.exit_code == 1 and f"port {served[1]}: the port is taken" in taken.stderr
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 0 and err.read_text() == "model: micro_hub\n"
    assert not list(folder.glob("ced-demo-*")) and not any(path.is_file() for path in folder.rglob("*"))


SIGNALLED = """
import os, signal, sys, threading, time
from types import SimpleNamespace
from ced_model.demo.server import wait_until_stopped

number, closed = int(sys.argv[1]), []
before = signal.getsignal(number)

def send():
    while signal.getsignal(number) is before:
        time.sleep(0.01)
    os.kill(os.getpid(), number)

threading.Thread(target=send).start()
wait_until_stopped(SimpleNamespace(close=lambda verbose: closed.append(verbose)))
assert len(closed) == 1 and signal.getsignal(number) is before
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_close_the_server_once_and_their_handlers_are_restored(number):
    # In another process, since libraries that earlier tests loaded may change how this one handles signals.
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run([sys.executable, "-c", SIGNALLED, str(int(number))], env=environment, capture_output=True)
    assert run.returncode == 0, run.stderr.decode()


def test_files_of_a_killed_server_are_removed_by_the_next_one(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    left, running = tmp_path / "ced-demo-left", tmp_path / "ced-demo-running"
    for folder in (left, running):
        (folder / "uploads" / "0123").mkdir(parents=True)
        (folder / "uploads" / "0123" / "a.wav").touch()
        os.utime(folder, (0, 0))
    (tmp_path / "mine").mkdir()
    (tmp_path / "ced-demo-link").symlink_to(tmp_path / "mine")
    with FileLock(running / "lock"):
        os.utime(running, (0, 0))
        uploads = Uploads(3600)
        assert not left.exists() and len(list(running.rglob("a.wav"))) == 1
        assert os.environ["GRADIO_TEMP_DIR"] == str(uploads.path) and uploads.path.is_dir()
        uploads.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ced-demo-link", "ced-demo-running", "mine"]
    assert list((tmp_path / "mine").iterdir()) == [] and os.environ["GRADIO_TEMP_DIR"] == str(tmp_path)


def test_old_uploads_are_deleted_and_new_ones_kept(tmp_path):
    (tmp_path / "0123").mkdir()
    (tmp_path / "0123" / "a.wav").touch()
    (tmp_path / "tmpbrokenoff").touch()
    remove_old(tmp_path, 3600)
    assert len(list(tmp_path.rglob("*"))) == 3
    remove_old(tmp_path, -1)
    assert list(tmp_path.iterdir()) == []


# The Space


def test_the_space_is_complete(monkeypatch):
    folder = ROOT / "examples" / "space"
    _, front, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["sdk"] == "gradio"
    assert metadata["sdk_version"].split(".")[0] == gradio.__version__.split(".")[0]
    launched: list[Any] = []
    monkeypatch.setattr("ced_model.demo.launch", lambda *args, **kwargs: launched.append((args, kwargs)))
    runpy.run_path(str(folder / metadata["app_file"]), run_name="__main__")
    assert len(launched) == 1


def test_the_space_requires_the_packages_of_the_demo():
    def names(path: Path) -> set[str]:
        lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
        return {re.split(r"[<>=\[ ]", line)[0] for line in lines if line}

    needed = names(ROOT / "requirements-lite.txt") - {"rich", "typer"}  # of the command
    assert names(ROOT / "examples" / "space" / "requirements.txt") >= needed | {"av", "matplotlib"}
