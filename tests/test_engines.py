# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""AudioTagger with each engine: scores equal those of torch, and int8 versions are cached."""

import gc
import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from ced_model import AudioError, AudioTagger, CedConfig, CedFeatureExtractor, CedForAudioClassification
from ced_model.engines import EngineError, MissingPackageError
from ced_model.exporting.verification import TOLERANCES
from ced_model.messages import OptionError
from ced_model.model_folder import ModelFolder, open_model
from ced_model.quantization import BLOCKS, quantize_onnx

RATE = 16000
PATIENCE_S = 300.0  # timeout for other processes; not an assertion about time
ENGINES = {"onnx": ("onnx", "float32"), "openvino": ("openvino", "float32")} | {
    f"{name}-int8": (name, "int8") for name in ("onnx", "openvino")
}
LABELS = ["Speech", "a, b", "Größe", *(f"class {index}" for index in range(3, 12)), "Crow"]
# Kinds of models: settings of the configuration and of the front end.
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

Folders = Callable[[str], Path]
MakeTagger = Callable[..., AudioTagger]


def make_model(kind: str = "audioset") -> CedForAudioClassification:
    """A classifier of one block whose outputs depend on its input."""
    torch.manual_seed(0)
    settings, front_end = KINDS[kind]
    model = CedForAudioClassification(CedConfig(embed_dim=48, depth=1, num_heads=3, **settings, **front_end)).eval()
    with torch.no_grad():  # as after training: inputs are normalised, and outputs vary
        model.encoder.init_bn.running_mean.fill_(-30.0)
        model.encoder.init_bn.running_var.fill_(200.0)
        model.outputlayer[1].weight.normal_(std=0.3)
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """The folder of each kind of model."""
    place = tmp_path_factory.mktemp("models")

    def find(kind: str) -> Path:
        if not (place / kind).exists():
            make_model(kind).save_pretrained(place / kind)
            CedFeatureExtractor(**KINDS[kind][1]).save_pretrained(place / kind)
        return place / kind

    return find


@pytest.fixture(scope="module", autouse=True)
def kept(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of the cache."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("assets")
        patch.setenv("HF_ASSETS_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def make_tagger(folders: Folders) -> MakeTagger:
    def make(engine: str = "torch", kind: str = "audioset", **options: Any) -> AudioTagger:
        name, compute_type = ENGINES.get(engine, ("torch", "float32"))
        options = {"num_threads": 2, "device": "cpu"} | options
        return AudioTagger(folders(kind), engine=name, compute_type=compute_type, **options)

    return make


@pytest.fixture(scope="module")
def sounds(resources: Path) -> list[Any]:
    """Recordings, 0.05 s of noise, and 23.4 s of noise that gets louder."""
    noise = np.random.default_rng(0).normal(size=int(23.4 * RATE)).astype(np.float32)
    noise *= np.linspace(0.001, 0.3, len(noise), dtype=np.float32)
    return [*(resources / f"{name}.flac" for name in ("misc_crow", "perc_snap", "misc_burp")), noise[:800], noise]


def scores_of(tagger: AudioTagger, sounds: list[Any], **options: Any) -> np.ndarray:
    """Scores of all classes: `(sounds, classes)`."""
    found = np.full((len(sounds), len(tagger.labels)), np.nan)
    for row, tags in zip(found, tagger(sounds, top_k=len(tagger.labels), **options), strict=True):
        for tag in tags:
            row[tag.index] = tag.score
    return found


# Each feature of the tagger


@pytest.mark.parametrize("engine", ENGINES)
def test_tags_embeddings_and_timelines_of_any_length_are_those_of_torch(
    engine: str, make_tagger: MakeTagger, sounds: list[Any]
) -> None:
    reference, tagger = make_tagger(), make_tagger(engine)
    assert (tagger.engine, tagger.compute_type, reference.engine) == (*ENGINES[engine], "torch")
    tolerance = TOLERANCES[tagger.compute_type]
    expected, found = scores_of(reference, sounds), scores_of(tagger, sounds)
    assert np.ptp(expected, axis=0).max() > 0.3  # scores differ between sounds
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)
    assert (np.abs(found - expected).max() > 1e-4) == (
        tagger.compute_type == "int8"
    )  # the arithmetic really is different
    alone = np.concatenate([scores_of(tagger, [sound]) for sound in sounds])
    np.testing.assert_allclose(alone, found, atol=1e-5, rtol=0)
    embeddings = reference.embed(sounds)
    np.testing.assert_allclose(tagger.embed(sounds), embeddings, atol=tolerance * embeddings.max(), rtol=0)
    assert tagger.embed(sounds[0]).shape == (48,) and tagger.embed([]).shape == (0, 48)
    noise = sounds[-1]
    one, other = reference.timeline(noise, hop_s=0.7), tagger.timeline(noise, hop_s=0.7)
    np.testing.assert_array_equal(other.start_s, one.start_s)
    np.testing.assert_allclose(other.scores, one.scores, atol=tolerance, rtol=0)
    for event, same in zip(tagger.events(noise, 0.4, hop_s=0.7), other.events(0.4), strict=True):
        assert event[:3] == same[:3] and event.peak == pytest.approx(same.peak, abs=1e-5)  # from other batches
    updates = list(tagger.stream(np.array_split(noise, 50), sampling_rate=RATE, hop_s=0.7))
    np.testing.assert_allclose([update.scores for update in updates], other.scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("engine", ["onnx", "openvino-int8"])
@pytest.mark.parametrize("options", [{"num_threads": 1}, {"num_threads": 3, "batch_size": 1}, {"batch_size": 7}])
def test_neither_threads_nor_batches_change_scores(
    engine: str, options: dict[str, int], make_tagger: MakeTagger, sounds: list[Any]
) -> None:
    tagger = make_tagger(engine, **options)
    np.testing.assert_allclose(
        scores_of(tagger, sounds, window_s=1.9), scores_of(make_tagger(engine), sounds, window_s=1.9), atol=1e-5
    )


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
@pytest.mark.parametrize("kind", ["single label", "regression"])
def test_other_heads_labels_poolings_and_front_ends_work(
    kind: str, engine: str, make_tagger: MakeTagger, sounds: list[Any]
) -> None:
    reference, tagger = make_tagger(kind=kind), make_tagger(engine, kind)
    expected = scores_of(reference, sounds)
    np.testing.assert_allclose(scores_of(tagger, sounds), expected, atol=1e-4, rtol=0)
    np.testing.assert_allclose(tagger.embed(sounds), reference.embed(sounds), atol=1e-3, rtol=0)
    if kind == "single label":
        np.testing.assert_allclose(expected.sum(axis=1), 1, atol=1e-5)
    else:
        assert expected.min() < 0 or expected.max() > 1  # no probabilities


def test_openvino_can_compute_in_bfloat16(make_tagger: MakeTagger, folders: Folders, sounds: list[Any]) -> None:
    tagger = AudioTagger(folders("audioset"), engine="openvino", compute_type="bfloat16")
    assert tagger.compute_type == "bfloat16"
    np.testing.assert_allclose(scores_of(tagger, sounds), scores_of(make_tagger(), sounds), atol=0.05, rtol=0)


@pytest.mark.parametrize("engine", ["onnx-int8", "openvino"])
def test_a_broken_file_does_not_stop_the_others_or_change_their_scores(
    engine: str, make_tagger: MakeTagger, resources: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF" + bytes(100))
    files = [resources / "misc_crow.flac", broken, np.full(RATE, 1e30, np.float32), resources / "misc_burp.flac"]
    tagger = make_tagger(engine)
    results = list(tagger.tag(files))
    assert [type(result.error) for result in results] == [type(None), AudioError, AudioError, type(None)]
    assert [results[index].tags for index in (0, 3)] == tagger([files[0], files[3]])


@pytest.mark.parametrize("engine", ["onnx", "onnx-int8", "openvino"])
def test_a_model_in_memory_uses_its_current_weights(engine: str, make_tagger: MakeTagger, sounds: list[Any]) -> None:
    model = make_model().train()
    name, compute_type = ENGINES[engine]
    tagger = AudioTagger(model, engine=name, compute_type=compute_type, num_threads=2)
    np.testing.assert_allclose(scores_of(tagger, sounds[:2]), scores_of(make_tagger(engine), sounds[:2]), atol=1e-6)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_a_tagger_can_be_pickled_and_does_not_change_the_threads_of_torch(
    engine: str, make_tagger: MakeTagger, sounds: list[Any]
) -> None:
    threads = torch.get_num_threads()
    tagger = make_tagger(engine)
    again = pickle.loads(pickle.dumps(tagger))
    np.testing.assert_allclose(scores_of(again, sounds), scores_of(tagger, sounds), atol=1e-5)
    assert torch.get_num_threads() == threads


# Forked processes


def in_a_fork(function: Callable[[], Any]) -> Any:
    """The result or the exception of a function in a forked process."""
    with multiprocessing.get_context("fork").Pool(1, initializer=_remember, initargs=(function,)) as pool:
        return pool.apply_async(_call).get(timeout=PATIENCE_S)


def _remember(function: Callable[[], Any]) -> None:
    global _function
    _function = function


def _call() -> Any:
    found = _function()
    gc.collect()  # runs destructors
    return found


@pytest.mark.parametrize("engine", ["onnx", "onnx-int8"])
def test_a_forked_process_tags_with_a_tagger_of_its_parent(
    engine: str, make_tagger: MakeTagger, sounds: list[Any]
) -> None:
    taggers = [make_tagger(engine), make_tagger(engine)]
    expected = [scores_of(tagger, sounds) for tagger in taggers]

    def tag() -> np.ndarray:
        taggers.pop()  # used by the parent only
        tagger = taggers.pop()
        return np.concatenate([scores_of(tagger, sounds), scores_of(tagger, sounds[:1])])

    np.testing.assert_allclose(in_a_fork(tag), np.concatenate([expected[0], expected[0][:1]]), atol=1e-5)
    np.testing.assert_allclose(scores_of(taggers[0], sounds), expected[0], atol=1e-5)


def test_openvino_in_a_forked_process_is_refused_with_the_remedy(make_tagger: MakeTagger, sounds: list[Any]) -> None:
    tagger = make_tagger("openvino")
    tagger(sounds[:2])
    for use in (lambda: tagger(sounds[0]), lambda: make_tagger("openvino", "regression")(sounds[0])):
        with pytest.raises(RuntimeError, match="^OpenVINO cannot be used in a process that was forked after .*spawn"):
            in_a_fork(use)
    assert in_a_fork(lambda: scores_of(make_tagger("onnx"), sounds[:1])).shape == (1, 13)


# Errors before anything is loaded


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "tflite"}, "`engine='tflite'`: expected auto, onnx, openvino, torch"),
        (
            {"engine": "torch", "compute_type": "int8"},
            "expected .* with the engine torch; int8 requires onnx or openvino",
        ),
        (
            {"engine": "onnx", "compute_type": "float16"},
            "expected float32 or int8 with the engine onnx; float16 requires torch",
        ),
        ({"compute_type": "int4"}, "`compute_type='int4'`: expected float32, int8, bfloat16, float16"),
        ({"engine": "onnx", "device": "cuda:1"}, "`device='cuda:1'`: expected cpu for the engine onnx"),
    ],
    ids=str,
)
def test_engines_and_types_that_do_not_exist_are_refused_before_any_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message) as error:
        AudioTagger("./there-is-no-such-folder", **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("engine", "package", "install"),
    [
        ("onnx", "onnxruntime", "the engine onnx requires onnxruntime: pip install onnxruntime onnx"),
        ("openvino", "openvino", "the engine openvino requires openvino: pip install openvino"),
    ],
)
def test_a_missing_package_gives_one_line_with_the_command_to_install_it(
    engine: str, package: str, install: str, make_tagger: MakeTagger, sounds: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ced_model.packages.missing", lambda names: [name for name in names if name == package])
    monkeypatch.delitem(sys.modules, package, raising=False)
    with pytest.raises(MissingPackageError) as error:
        make_tagger(engine)(sounds[0])
    assert str(error.value) == install


def test_a_model_with_adapters_requires_torch() -> None:
    import peft

    model = peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["qkv"]), make_model())
    with pytest.raises(EngineError, match="^the model has other layers than CED, such as adapters: merge them first"):
        AudioTagger(model, engine="onnx")


# int8


@pytest.fixture(scope="module")
def opened(folders: Folders) -> ModelFolder:
    return open_model(folders("audioset"))


def test_int8_quantizes_linear_layers_of_the_blocks_and_prints_nothing(
    opened: ModelFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    graph = quantize_onnx(opened, front_end=opened.front_end).graph
    dequantized = {output for node in graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm", "Conv")]
    in_int8 = sorted(node.name for node in products if node.input[1] in dequantized)
    assert in_int8 == sorted(f"{BLOCKS}0.{name}" for name in ("attn.proj", "attn.qkv", "mlp.fc1"))
    assert root.handlers == [] and capsys.readouterr().out == ""


def test_openvino_computes_the_quantized_layers_in_int8(opened: ModelFolder) -> None:
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(quantize_onnx(opened).SerializeToString()), "CPU")
    infos = [operator.get_rt_info() for operator in compiled.get_runtime_model().get_ops()]
    kinds = [(info["layerType"].astype(str), info["runtimePrecision"].astype(str)) for info in infos]
    assert kinds.count(("FullyConnected", "u8")) == 3


def test_a_graph_that_the_quantizer_does_not_change_is_an_error(
    opened: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(model: onnx.ModelProto, path: str, *_: Any, **__: Any) -> None:
        onnx.save(model, path)

    monkeypatch.setattr("onnxruntime.quantization.quantize_static", leave)
    with pytest.raises(EngineError, match="^3 of 3 layers could not be quantized to int8$"):
        quantize_onnx(opened)


@pytest.mark.parametrize("engine", ["onnx-int8", "openvino-int8"])
def test_int8_versions_are_cached_and_made_again_if_damaged(
    engine: str,
    make_tagger: MakeTagger,
    sounds: list[Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path))
    caplog.set_level(logging.WARNING, "ced_model")
    expected = scores_of(make_tagger(engine), sounds[:1])
    (message,) = caplog.messages
    assert message.endswith("to int8, once: the result is kept for later runs ...")
    np.testing.assert_allclose(scores_of(make_tagger(engine), sounds[:1]), expected, atol=1e-6)
    assert len(caplog.messages) == 1
    (kept,) = (path for path in tmp_path.rglob("*") if path.is_file())
    whole = kept.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:300] + bytes([whole[300] ^ 1]) + whole[301:]):
        kept.write_bytes(damaged)
        caplog.clear()
        np.testing.assert_allclose(scores_of(make_tagger(engine), sounds[:1]), expected, atol=1e-6)
        assert len(caplog.messages) == 1 and zipfile.ZipFile(kept).testzip() is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [kept]


def test_float32_writes_no_files_and_int8_works_without_a_cache(
    make_tagger: MakeTagger,
    sounds: list[Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "file"))
    for engine in ("onnx", "openvino"):
        make_tagger(engine)(sounds[0])
    assert not caplog.messages
    assert len(make_tagger("onnx-int8")(sounds[0])) == 5
    assert "the int8 version cannot be cached: " in caplog.messages[1] and "HF_ASSETS_CACHE" in caplog.messages[1]


def test_processes_may_make_the_same_int8_version_at_the_same_time(
    folders: Folders, resources: Path, make_tagger: MakeTagger, tmp_path: Path
) -> None:
    script = (
        "import sys; from ced_model import AudioTagger\n"
        "tagger = AudioTagger(sys.argv[1], engine='onnx', compute_type='int8', num_threads=1)\n"
        "print(*sorted((tag.index, round(tag.score, 4)) for tag in tagger(sys.argv[2], top_k=13)))\n"
        "assert 'torch' not in sys.modules"
    )
    crow = resources / "misc_crow.flac"
    environment = os.environ | {"HF_ASSETS_CACHE": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", script, folders("audioset"), crow]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=PATIENCE_S)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert printed[0] == printed[1] and printed[0].count("(") == 13
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
