# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""AudioTagger with other runtimes: what torch gives, from exports that are made once, whoever asks for them."""

import copy
import gc
import io
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import cli_process  # noqa: F401  # the server that processes are forked from has imported torch
import numpy as np
import peft
import pytest
import torch

from ced_model import AudioError, AudioTagger, CedConfig, CedFeatureExtractor, CedForAudioClassification, TagResult
from ced_model.exporting.tracing import quiet
from ced_model.exporting.verification import TOLERANCES
from ced_model.runtimes import cache, formats

RATE = 16000
PATIENCE_S = 300.0  # after which a test that waits for another process fails; nothing is asserted about time
RUNTIMES = {"onnx": ("onnx", None), "openvino": ("openvino", None)} | {
    f"{name}-int8": (name, "int8") for name in ("onnx", "openvino")
}
LABELS = ["Speech", "a, b", "Größe", *(f"class {index}" for index in range(3, 12)), "Crow"]
# Front ends and heads: a kind of model → settings of its configuration, and of its front end.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "audioset": ({"id2label": dict(enumerate(LABELS))}, {}),
    "single label": (
        {
            "id2label": {0: "alarm", 1: "hum"},
            "problem_type": "single_label_classification",
            "pooling": "token",
            "target_length": 300,
        },
        {"hop_size": 200, "win_size": 400, "n_fft": 401, "f_min": 50, "f_max": 7000, "center": False},
    ),
    "regression": ({"id2label": {0: "dB"}, "problem_type": "regression", "pooling": "logit"}, {}),
}


def make_model(kind: str = "audioset") -> tuple[CedForAudioClassification, CedFeatureExtractor]:
    """A classifier of one block whose outputs depend on what it hears, and its front end."""
    torch.manual_seed(0)
    settings, front_end = KINDS[kind]
    model = CedForAudioClassification(CedConfig(embed_dim=48, depth=1, num_heads=3, **settings)).eval()
    with torch.no_grad():  # as after training: inputs are normalised, and outputs differ
        model.encoder.init_bn.running_mean.fill_(-30.0)
        model.encoder.init_bn.running_var.fill_(200.0)
        model.outputlayer[1].weight.normal_(std=0.3)
    return model, CedFeatureExtractor(**front_end)


@pytest.fixture(scope="module", autouse=True)
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the cache."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("assets")
        patch.setenv("HF_ASSETS_CACHE", str(folder))
        yield folder


MakeTagger = Callable[..., AudioTagger]


@pytest.fixture(scope="module")
def make_tagger() -> MakeTagger:
    def make(runtime: str = "torch", kind: str = "audioset", **options: Any) -> AudioTagger:
        name, quantize = RUNTIMES.get(runtime, ("torch", None))
        return AudioTagger(*make_model(kind), runtime=name, quantize=quantize, **{"num_threads": 2} | options)

    return make


@pytest.fixture(params=RUNTIMES)
def pair(request: pytest.FixtureRequest, make_tagger: MakeTagger) -> tuple[AudioTagger, AudioTagger, float]:
    """A tagger with torch, one with another runtime, and what they may differ by."""
    return make_tagger(), make_tagger(request.param), TOLERANCES["int8" if "int8" in request.param else "none"]


@pytest.fixture(scope="module")
def sounds(resources: Path) -> list[Any]:
    """Of many lengths: recordings, 0.05 s, 10 s, and 23.4 s of noise that grows."""
    noise = np.random.default_rng(0).normal(size=int(23.4 * RATE)).astype(np.float32)
    noise *= np.linspace(0.001, 0.3, len(noise), dtype=np.float32)
    return [*sorted(resources.glob("*.flac")), noise[:800], noise[: 10 * RATE], noise]


def scores_of(tagger: AudioTagger, sounds: list[Any], **options: Any) -> np.ndarray:
    """Scores of all classes: `(sounds, classes)`."""
    found = np.full((len(sounds), len(tagger.labels)), np.nan)
    for row, tags in zip(found, tagger(sounds, top_k=len(tagger.labels), **options), strict=True):
        for tag in tags:
            row[tag.index] = tag.score
    return found


# Each feature of the tagger


def test_tags_of_clips_of_any_length_are_those_of_torch(pair: Any, sounds: list[Any]) -> None:
    reference, tagger, tolerance = pair
    assert tagger.runtime != "torch" and reference.runtime == "torch"
    expected = scores_of(reference, sounds)
    assert np.ptp(expected, axis=0).max() > 0.3  # classes that sounds differ in
    found = scores_of(tagger, sounds)
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)
    assert (np.abs(found - expected).max() > 1e-4) == (tagger.quantize == "int8")  # it really is another arithmetic
    alone = np.concatenate([scores_of(tagger, [sound]) for sound in sounds])
    np.testing.assert_allclose(alone, found, atol=1e-5, rtol=0)
    best = [tag.label for tag in tagger(sounds[0], top_k=3)]
    assert best == [LABELS[index] for index in np.argsort(-alone[0])[:3]]


def test_embeddings_are_those_of_torch(pair: Any, sounds: list[Any]) -> None:
    reference, tagger, tolerance = pair
    expected = reference.embed(sounds)
    np.testing.assert_allclose(tagger.embed(sounds) / expected.max(), expected / expected.max(), atol=tolerance, rtol=0)
    assert tagger.embed(sounds[0]).shape == (48,) and tagger.embed([]).shape == (0, 48)


def test_timelines_events_and_streams_are_those_of_torch(pair: Any, sounds: list[Any]) -> None:
    reference, tagger, tolerance = pair
    expected = [result.timeline for result in reference.timelines(sounds, hop_s=0.7)]
    for one, other in zip(expected, tagger.timelines(sounds, hop_s=0.7), strict=True):
        assert other.timeline.labels == one.labels and other.duration_s == one.duration_s
        np.testing.assert_array_equal(other.timeline.start_s, one.start_s)
        np.testing.assert_allclose(other.timeline.scores, one.scores, atol=tolerance, rtol=0)
    noise = sounds[-1]
    timeline = tagger.timeline(noise)
    assert tagger.events(noise, 0.4) == timeline.events(0.4)
    updates = list(tagger.stream(np.array_split(noise, 50), sampling_rate=RATE))
    np.testing.assert_allclose([update.scores for update in updates], timeline.scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("runtime", ["onnx", "openvino-int8"])
@pytest.mark.parametrize("options", [{"num_threads": 1}, {"num_threads": 3, "batch_size": 1}, {"batch_size": 7}])
def test_neither_threads_nor_batches_change_scores(
    runtime: str, options: dict[str, int], make_tagger: MakeTagger, sounds: list[Any]
) -> None:
    tagger = make_tagger(runtime, **options)
    np.testing.assert_allclose(
        scores_of(tagger, sounds, window_s=1.9), scores_of(make_tagger(runtime), sounds, window_s=1.9), atol=1e-5
    )


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.parametrize("kind", ["single label", "regression"])
def test_other_heads_labels_poolings_and_front_ends_work(
    kind: str, runtime: str, make_tagger: MakeTagger, sounds: list[Any]
) -> None:
    reference, tagger = make_tagger(kind=kind), make_tagger(runtime, kind)
    expected = scores_of(reference, sounds)
    np.testing.assert_allclose(scores_of(tagger, sounds), expected, atol=1e-4, rtol=0)
    np.testing.assert_allclose(tagger.embed(sounds), reference.embed(sounds), atol=1e-3, rtol=0)
    if kind == "single label":
        np.testing.assert_allclose(expected.sum(axis=1), 1, atol=1e-5)
        assert {tag.label for tag in tagger(sounds[0])} == {"alarm", "hum"}
    else:
        assert expected.min() < 0 or expected.max() > 1  # no probabilities


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_broken_file_does_not_stop_the_others_or_change_their_scores(
    runtime: str, make_tagger: MakeTagger, resources: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF" + bytes(100))
    huge = np.full(RATE, 1e30, np.float32)
    files = [resources / "misc_crow.flac", broken, huge, resources / "misc_burp.flac"]
    tagger = make_tagger(runtime)
    results: list[TagResult] = list(tagger.tag(files))
    assert [type(result.error) for result in results] == [type(None), AudioError, AudioError, type(None)]
    assert [results[index].tags for index in (0, 3)] == tagger([files[0], files[3]])
    for call in (tagger, tagger.timeline, tagger.embed, lambda source: list(tagger.stream([source]))):
        with pytest.raises(AudioError, match="the sample 1e[+]30 at 0.000 s is too large"):
            call(huge)


def test_a_model_in_training_mode_is_exported_in_evaluation_mode_and_stays_as_it_is(
    make_tagger: MakeTagger, sounds: list[Any]
) -> None:
    model, extractor = make_model()
    state = copy.deepcopy(model.train().state_dict())
    tagger = AudioTagger(model, extractor, runtime="onnx", num_threads=2)
    np.testing.assert_array_equal(scores_of(tagger, sounds), scores_of(make_tagger("onnx"), sounds))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_tagger_can_be_pickled_and_leaves_torch_as_it_is(
    runtime: str, make_tagger: MakeTagger, sounds: list[Any]
) -> None:
    threads = torch.get_num_threads()
    tagger = make_tagger(runtime)
    expected = scores_of(tagger, sounds)
    again = pickle.loads(pickle.dumps(tagger))
    np.testing.assert_array_equal(scores_of(again, sounds[:1]), scores_of(tagger, sounds[:1]))
    np.testing.assert_allclose(scores_of(again, sounds), expected, atol=1e-5)
    assert torch.get_num_threads() == threads


# Forked processes


def in_a_fork(function: Callable[[], Any]) -> Any:
    """What a function returns, or raises, in a process that is forked from this one."""
    with multiprocessing.get_context("fork").Pool(1, initializer=_forget, initargs=(function,)) as pool:
        return pool.apply_async(_call).get(timeout=PATIENCE_S)


def _forget(function: Callable[[], Any]) -> None:
    global _function
    _function = function


def _call() -> Any:
    found = _function()
    gc.collect()  # what a fork cannot free is kept
    return found


@pytest.mark.parametrize("runtime", ["onnx", "onnx-int8"])
def test_a_forked_process_tags_with_a_tagger_of_its_parent(
    runtime: str, make_tagger: MakeTagger, sounds: list[Any]
) -> None:
    taggers = [make_tagger(runtime)]
    alone, together = scores_of(taggers[0], sounds[:1]), scores_of(taggers[0], sounds)

    def tag() -> tuple[np.ndarray, np.ndarray]:
        tagger = taggers.pop()
        return scores_of(tagger, sounds[:1]), scores_of(tagger, sounds)

    for found, expected in zip(in_a_fork(tag), (alone, together), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    in_a_fork(lambda: scores_of(make_tagger(runtime), sounds[:1]))
    np.testing.assert_array_equal(scores_of(taggers[0], sounds[:1]), alone)


def test_a_forked_process_that_cannot_use_openvino_says_so(make_tagger: MakeTagger, sounds: list[Any]) -> None:
    tagger = make_tagger("openvino")
    tagger(sounds[:2])
    for use in (lambda: tagger(sounds[0]), lambda: tagger(sounds), lambda: make_tagger("openvino", "regression")):
        with pytest.raises(RuntimeError, match="^OpenVINO cannot be used in a process that was forked after .*spawn"):
            in_a_fork(use)
    assert in_a_fork(lambda: scores_of(make_tagger(), sounds[:1])).shape == (1, 13)


# What is refused, before anything is loaded


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "tflite"}, "unknown runtime 'tflite': choose one of torch, onnx, openvino"),
        ({"runtime": "sherpa-onnx"}, "unknown runtime 'sherpa-onnx'"),
        ({"quantize": "int8"}, "the runtime torch has no int8: choose the runtime onnx or openvino"),
        ({"runtime": "onnx", "quantize": "fp16"}, "unknown quantization 'fp16': choose int8, or none"),
        ({"runtime": "onnx", "device": "cuda:1"}, "the runtime onnx computes on the CPU, not on 'cuda:1'"),
        ({"runtime": "openvino", "device": torch.device("meta")}, "not on 'meta': leave the device out"),
        ({"runtime": "openvino", "dtype": "bfloat16"}, "the runtime openvino has no dtype bfloat16: leave it out"),
    ],
    ids=str,
)
def test_what_there_is_not_is_refused_before_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        AudioTagger.from_pretrained("./there-is-no-such-folder", **options)
    assert str(error.value).startswith(message) or message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("runtime", "quantize", "package", "extra"),
    [
        ("onnx", None, "onnxruntime", "onnx"),
        ("onnx", None, "onnxscript", "onnx"),
        ("openvino", None, "openvino", "openvino"),
        ("openvino", "int8", "nncf", "openvino"),
    ],
)
def test_a_missing_runtime_names_its_extra_before_work(
    runtime: str, quantize: str | None, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == package else find_spec(name))
    with pytest.raises(ImportError, match=rf'needs {package}: pip install "ced_model\[{extra}\]"$'):
        AudioTagger.from_pretrained("./there-is-no-such-folder", runtime=runtime, quantize=quantize)


def test_a_model_in_another_type_is_refused() -> None:
    model, extractor = make_model()
    with pytest.raises(ValueError, match=r"in float32, but the model is on cpu in bfloat16: give `model.cpu"):
        AudioTagger(model.bfloat16(), extractor, runtime="onnx")


# The cache


class Exporter:
    """Stands for `export_model`: copies what that has made, and counts."""

    def __init__(self, made: Path) -> None:
        self.made = made
        self.calls = 0

    def __call__(self, model: Any, output: Path, **options: Any) -> None:
        self.calls += 1
        shutil.copytree(self.made, output, ignore=shutil.ignore_patterns(cache.CONTENTS_FILE))


@pytest.fixture
def exporter(make_tagger: MakeTagger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Exporter:
    """A new cache, filled by copies of an export of the runtime onnx."""
    made = folder_of(make_tagger("onnx"))
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "new"))
    exporter = Exporter(made)
    monkeypatch.setattr("ced_model.exporting.export_model", exporter)
    return exporter


def folder_of(tagger: AudioTagger) -> Path:
    assert tagger._exported is not None
    return tagger._exported.folder


def test_an_export_is_made_once_and_said_to_be(
    exporter: Exporter, make_tagger: MakeTagger, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(make_tagger("onnx"))
    assert caplog.messages == ["exporting to onnx, once: the export is kept for later runs ..."]
    assert folder_of(make_tagger("onnx", num_threads=1, batch_size=2)) == folder
    assert exporter.calls == 1 == len(caplog.messages)
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name, f"{folder.name}.lock"]


def test_all_that_changes_an_export_makes_another(
    exporter: Exporter, make_tagger: MakeTagger, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_tagger("onnx")
    model, extractor = make_model()
    with torch.no_grad():
        model.encoder.norm.bias[0] += 1e-6
    others = [AudioTagger(model, extractor, runtime="onnx")]
    others.append(AudioTagger(make_model()[0], CedFeatureExtractor(f_max=7999), runtime="onnx"))
    model, extractor = make_model()
    model.config.problem_type = "single_label_classification"
    others.append(AudioTagger(model, extractor, runtime="onnx"))
    others.append(make_tagger("onnx-int8"))
    model, extractor = make_model()
    model.encoder.blocks[0].mlp.act = torch.nn.ReLU()
    others.append(AudioTagger(model, extractor, runtime="onnx"))
    model, extractor = make_model()
    for name in ("first", "second"):
        config = peft.LoraConfig(target_modules=["qkv"], init_lora_weights=False)
        model = peft.inject_adapter_in_model(config, model, name)
    layers: Any = [module for module in model.modules() if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer)]
    choices: list[Callable[[Any], None]] = [
        lambda layer: layer.set_adapter("first"),
        lambda layer: layer.set_adapter("second"),
        lambda layer: layer.enable_adapters(False),
    ]
    for choose in choices:
        for layer in layers:
            choose(layer)
        others.append(AudioTagger(model, extractor, runtime="onnx"))
    monkeypatch.setattr(cache, "versions", lambda choice: formats.versions(choice) | {"onnxruntime": "1.0"})
    others.append(make_tagger("onnx"))
    assert len({folder_of(tagger) for tagger in [first, *others]}) == exporter.calls == 10
    monkeypatch.undo()


@pytest.mark.parametrize("damage", ["no program", "half a program", "another program", "no contents", "half of them"])
def test_a_damaged_export_is_made_again(damage: str, exporter: Exporter, make_tagger: MakeTagger) -> None:
    folder = folder_of(make_tagger("onnx"))
    program, contents = folder / "model.onnx", folder / cache.CONTENTS_FILE
    whole = program.read_bytes()
    if damage == "no program":
        program.unlink()
    elif damage == "half a program":
        program.write_bytes(whole[: len(whole) // 2])
    elif damage == "another program":
        program.write_bytes(b"\xff" * len(whole))
    elif damage == "no contents":
        contents.unlink()
    else:
        contents.write_bytes(contents.read_bytes()[:9])
    assert folder_of(make_tagger("onnx")) == folder and exporter.calls == 2
    assert program.read_bytes() == whole
    make_tagger("onnx")
    assert exporter.calls == 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_export_that_fails_leaves_nothing(
    when: str, exporter: Exporter, make_tagger: MakeTagger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        if when == "after":
            exporter(*arguments, **options)
        raise KeyError("first line\nand a second")

    with monkeypatch.context() as patch:
        patch.setattr("ced_model.exporting.export_model", fail)
        with pytest.raises(RuntimeError, match=r"^the export to onnx failed: 'first line\\nand a second'$"):
            make_tagger("onnx")
    left = [path for path in (tmp_path / "new").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []
    make_tagger("onnx")


def test_a_cache_that_cannot_be_written_to_is_an_error_that_says_what_to_do(
    make_tagger: MakeTagger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match="the export cannot be kept: .* another folder .* variable HF_ASSETS_CACHE$"):
        make_tagger("onnx")


# Several processes

_context = multiprocessing.get_context("forkserver")


def _tag_crow(folder: str, results: Any) -> None:
    os.environ["HF_ASSETS_CACHE"] = folder
    said = io.StringIO()
    logging.getLogger("ced_model").addHandler(logging.StreamHandler(said))
    torch.set_num_threads(1)
    tagger = AudioTagger(*make_model(), runtime="onnx", num_threads=1)
    noise = np.random.default_rng(0).normal(scale=0.1, size=RATE).astype(np.float32)
    results.put((said.getvalue(), scores_of(tagger, [noise])[0]))


def start_tagging(folder: Path, results: Any = None) -> BaseProcess:
    process = _context.Process(target=_tag_crow, args=(str(folder), results))
    process.start()
    return process


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_processes_that_need_the_same_export_make_it_once_and_one_that_is_killed_leaves_no_half(
    make_tagger: MakeTagger, tmp_path: Path
) -> None:
    place = tmp_path / "ced_model" / "exports" / "onnx"
    killed = start_tagging(tmp_path)
    wait_until(lambda: any(path.is_file() for path in place.glob(".float32-*/.export.*/*")))
    os.kill(killed.pid or 0, signal.SIGKILL)
    killed.join()
    assert not list(place.glob("float32-*/")) and len(list(place.glob(".float32-*/"))) == 1

    results = _context.Queue()
    processes = [start_tagging(tmp_path, results) for _ in range(3)]
    found = [results.get(timeout=PATIENCE_S) for _ in processes]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    said = "".join(text for text, _ in found)
    assert said.count("exporting to onnx, once") == 1
    assert said.count("another process exports the same model: waiting for it ...") <= 2
    noise = np.random.default_rng(0).normal(scale=0.1, size=RATE).astype(np.float32)
    for _, scores in found:
        np.testing.assert_allclose(scores, scores_of(make_tagger(), [noise])[0], atol=1e-4)
    folder = next(place.glob("float32-*/"))
    assert sorted(path.name for path in place.iterdir()) == [folder.name, f"{folder.name}.lock"]


def test_one_who_waits_for_another_says_so(
    exporter: Exporter, make_tagger: MakeTagger, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[float] = []

    class Lock:
        def __init__(self, path: str) -> None:
            self.real = cache_lock(path)

        def acquire(self, timeout: float = -1) -> None:
            calls.append(timeout)
            if timeout == 0:
                raise cache.Timeout("held")
            self.real.acquire()

        def release(self) -> None:
            self.real.release()

    cache_lock = cache.FileLock
    monkeypatch.setattr(cache, "FileLock", Lock)
    make_tagger("onnx")
    assert calls == [0, -1] and caplog.messages[0] == "another process exports the same model: waiting for it ..."


def test_exporting_leaves_the_log_of_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    with quiet():
        logging.info("this gives the root logger a handler that writes to the standard error of the moment")
        assert root.handlers
    assert root.handlers == []
