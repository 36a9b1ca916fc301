# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The parts of examples/ced_nano that prepare the training of ced-nano. The training itself takes hours."""

import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
import torch

from ced_model import AUDIOSET_LABELS, AudioTagger, CedConfig, CedForAudioClassification

RECIPE = Path(__file__).parent.parent / "examples" / "ced_nano"
sys.path.insert(0, str(RECIPE))

import ablation  # noqa: E402
import bank as banks  # noqa: E402
import batches  # noqa: E402
import fingerprints  # noqa: E402
import licences  # noqa: E402
import measure_esc10  # noqa: E402
import mixing  # noqa: E402
import mixing_torch  # noqa: E402
import named_sounds  # noqa: E402
import pretrain  # noqa: E402
import publish  # noqa: E402
import report_training  # noqa: E402
import scenes  # noqa: E402
import sources  # noqa: E402
import synthesis  # noqa: E402
import train_gpu  # noqa: E402
import yamnet  # noqa: E402
import yamnet_torch  # noqa: E402

CLASS_INDICES = np.arange(527)[:521]


def encoded(samples: np.ndarray, format: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16000, format=format)
    return file.getvalue()


def make_bank(folder: Path, recordings: dict[str, np.ndarray]) -> sources.Bank:
    rows, start = [], 0
    for source, waveform in recordings.items():
        rows.append({"source": source, "start": start, "samples": len(waveform)})
        start += len(waveform)
    samples = np.concatenate(list(recordings.values()))
    (folder / "audio.i16").write_bytes(np.round(samples * 32767).astype(np.int16).tobytes())
    (folder / "recordings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return sources.Bank(folder)


@pytest.fixture
def bank(tmp_path: Path) -> sources.Bank:
    rng = np.random.default_rng(0)
    lengths = {"a/x/one.wav": 8000, "a/x/two.wav": 100_000, "b/y/three.ogg": 300_000}
    recordings = {source: (0.5 * rng.uniform(-1, 1, length)).astype(np.float32) for source, length in lengths.items()}
    return make_bank(tmp_path, recordings)


@pytest.fixture
def mixer(bank: sources.Bank) -> mixing.Mixer:
    return mixing.Mixer(bank, [0, 1, 2], np.ones(3), [np.array([1, 0, 0.3], np.float32)], seed=1)


def test_files_that_contain_other_files_are_found() -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 20000).astype(np.float32)
    files = [
        (".ogg", encoded(noise, "OGG")),
        (".wav", encoded(noise[:500], "WAV")),
        (".ogg", encoded(noise[:90], "OGG")),
    ]
    blob = b"qres\x00\x01" + files[0][1] + b"OggX" + files[1][1] + b"name" + files[2][1] + b"end RIFF"
    assert list(sources.carve(blob)) == files


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("p/usr/voices/bark1.ogg", "p/usr/voices/bark2.ogg"),
        ("p/usr/birds/rooster_desc_fr.ogg", "p/usr/birds/rooster.ogg"),
        ("p/usr/birds/rooster_desc_pt_BR.ogg", "p/usr/birds/rooster.ogg"),
        ("general-midi/font/program007_0.flac", "general-midi/font/program007_3.flac"),
    ],
)
def test_a_series_is_in_one_split(one: str, other: str) -> None:
    assert sources.group_of(one) == sources.group_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("p/usr/birds/hen.ogg", "p/usr/birds/rooster.ogg"),
        ("p/usr/a/1.ogg", "p/usr/a/2.ogg"),
        ("general-midi/font/program007_0.flac", "general-midi/font/program008_0.flac"),
    ],
)
def test_recordings_without_series_are_split_separately(one: str, other: str) -> None:
    assert sources.group_of(one) != sources.group_of(other)


def test_recordings_of_the_twelve_sounds_are_held_out_with_their_series(tmp_path: Path) -> None:
    tone = np.full(2000, 0.5, np.float32)
    rooster = "tuxpaint-stamps-default/usr/share/tuxpaint/stamps/animals/birds/rooster.ogg"
    names = [rooster, rooster.replace(".ogg", "_desc_de.ogg"), *(f"p/usr/sounds/{letter}.wav" for letter in "abcdefgh")]
    bank = make_bank(tmp_path, {name: tone for name in names})
    heldout = [bank.rows[i]["source"] for i in scenes.recordings_of(bank, "heldout")]
    assert heldout[:2] == names[:2]
    assert len(scenes.recordings_of(bank, "train")) + len(heldout) == len(names)
    assert named_sounds.is_reserved("sonic-pi-samples/usr/share/misc_crow.flac")


def test_the_twelve_sounds_are_classes_of_audioset() -> None:
    from ced_model import AUDIOSET_LABELS

    assert len(named_sounds.NAMED_SOUNDS) == 12
    for labels, recordings in named_sounds.NAMED_SOUNDS.values():
        assert recordings and set(labels) <= set(AUDIOSET_LABELS)


def test_a_scene_depends_only_on_its_seed(mixer: mixing.Mixer, bank: sources.Bank) -> None:
    again = mixing.Mixer(bank, [0, 1, 2], np.ones(3), mixer.rooms, seed=1)
    made = [mixer.scene(index) for index in (5, 0, 11)]
    for index, scene in zip((0, 5, 11), (made[1], made[0], made[2]), strict=True):
        assert np.array_equal(again.scene(index), scene)
    assert not np.array_equal(made[0], made[1])


def test_scenes_are_ten_seconds_of_audio(mixer: mixing.Mixer) -> None:
    for index in range(40):  # includes every kind, noise and every codec
        scene = mixer.scene(index)
        assert scene.shape == (160_000,) and scene.dtype == np.float32
        assert np.isfinite(scene).all() and 1e-4 < np.abs(scene).max() <= 1.1  # a codec may overshoot a little


def test_scenes_have_only_the_recordings_of_their_split(bank: sources.Bank) -> None:
    asked = set()
    spy = SimpleNamespace(rows=bank.rows, waveform=lambda index: (asked.add(index), bank.waveform(index))[1])
    mixer = mixing.Mixer(spy, [0, 2], np.ones(2), [np.ones(1, np.float32)], seed=2)
    for index in range(30):
        mixer.scene(index)
    assert asked == {0, 2}


def test_the_teachers_patches_are_0_96_s_every_0_48_s() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(160_000) / 16000).astype(np.float32)
    patches = yamnet.patches_of(tone)
    assert patches.shape == (19, 96, 64)
    edges = 700 * np.expm1(np.linspace(*(np.log1p(np.array([125, 7500]) / 700)), 66))
    loudest = set(np.unique(patches.argmax(-1)))
    assert loudest == {int(np.abs(edges[1:-1] - 1000).argmin())}  # the bin with the nearest centre
    assert yamnet.patches_of(tone[:100]).shape == (1, 96, 64)
    assert np.array_equal(yamnet.patches_of(tone[7680:])[0], patches[1])


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> scenes.Shards:
    """Two small shards in which a class is present when the log-mel is loud."""
    monkeypatch.setattr(yamnet, "teacher", lambda: SimpleNamespace(class_indices=CLASS_INDICES))
    monkeypatch.setattr(scenes, "SHARD_SCENES", 6)
    rng = np.random.default_rng(0)
    for number in range(2):
        loud = np.repeat(rng.random((6, 21)) < 0.5, 48, axis=1)[:, :1001]
        mel = -60 + 40 * loud[:, None] + rng.normal(0, 1, (6, 64, 1001))
        logits = np.full((6, 19, 521), -9.0)
        starts = 48 * np.arange(19)
        logits[..., 3] = np.where(loud[:, starts + 24] & loud[:, starts + 72], 4, -4)
        embeddings = np.abs(logits[..., :1]) * rng.random(1024)
        for name, array in (("mel", mel), ("logits", logits), ("embeddings", embeddings)):
            np.save(tmp_path / f"{number:04d}.{name}.npy", array.astype(np.float16))
        (tmp_path / f"{number:04d}.json").write_text("{}")
    (tmp_path / "0002.mel.npy").write_bytes(b"")  # in progress
    return scenes.Shards(tmp_path)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # too small for several threads
    yield
    torch.set_num_threads(threads)


def small(**changes: int | str) -> tuple[CedConfig, pretrain.PretrainArguments]:
    settings = {"examples": 96 * 20, "batch_examples": 96, "warmup_steps": 4, "decay_share": 0.5, "ema_decay": 0.5}
    config = CedConfig(embed_dim=16, depth=1, num_heads=2)
    return config, pretrain.PretrainArguments(**(settings | {"learning_rate": 1e-2} | changes))


def test_a_crop_has_the_targets_of_its_patches(shards: scenes.Shards) -> None:
    assert len(shards) == 12
    mel, logits, embeddings = shards.crop(7, first_patch=4, patches=3)
    assert mel.shape == (64, 192) and logits.shape == (3, 521) and embeddings.shape == (3, 1024)
    scene_mel, scene_logits, _ = shards.arrays["0001"]
    assert np.array_equal(mel, scene_mel[1, :, 192:384]) and np.array_equal(logits, scene_logits[1, 4:7])


def test_predictions_belong_to_their_patches(shards: scenes.Shards) -> None:
    torch.manual_seed(0)
    model = pretrain.Pretraining(small()[0]).eval()
    mel = torch.from_numpy(shards.crop(0, 0, 3)[0].astype(np.float32))[None]
    logits, embeddings, window = model(mel)
    assert logits.shape == (1, 3, 527) and embeddings.shape == (1, 3, 1024)
    torch.testing.assert_close(window, model.student(mel).logits)
    single = model(mel[..., :96])[0]
    assert single.shape == (1, 1, 527)
    torch.testing.assert_close(single[:, 0], model.student(mel[..., :96]).logits)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_pretraining_learns(shards: scenes.Shards, tmp_path: Path, optimizer: str) -> None:
    config, arguments = small(optimizer=optimizer, examples=96 * 50)
    pretrain.pretrain(config, shards, tmp_path / "run", arguments)
    rows = [json.loads(line) for line in open(tmp_path / "run" / "log.jsonl")]
    batch = pretrain.make_batch(shards, 1, 200, np.random.default_rng(9))
    model = pretrain.pretrain(config, shards, tmp_path / "run", arguments).eval()  # done: loads the result
    on = model(batch[0])[0][:, 0, 3].sigmoid().detach()
    truth = batch[1][:, 0, 3] > 0.5
    assert on[truth].mean() > 0.8 and on[~truth].mean() < 0.2
    assert rows[-1]["step"] == 50


def test_pretraining_continues_after_it_was_killed(
    shards: scenes.Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain, "SAVE_STEPS", 8)
    config, arguments = small()
    whole = pretrain.pretrain(config, shards, tmp_path / "whole", arguments)

    def killed(step: int, *rest: object) -> float:
        if step == 13:
            raise KeyboardInterrupt
        return rate(step, *rest)

    rate = pretrain.learning_rate_at
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pretrain, "learning_rate_at", killed)
        pretrain.pretrain(config, shards, tmp_path / "parts", arguments)
    resumed = pretrain.pretrain(config, shards, tmp_path / "parts", arguments)
    for (name, one), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_windows_grow_and_the_rate_falls() -> None:
    arguments = pretrain.PretrainArguments()
    rng = np.random.default_rng(0)
    assert {pretrain.window_at(0, 1000, rng) for _ in range(50)} == {1}
    assert {pretrain.window_at(900, 1000, rng) for _ in range(200)} == set(pretrain.WINDOWS)
    rates = [pretrain.learning_rate_at(step, 10000, arguments) for step in (0, 499, 5000, 7400, 9000, 10000)]
    assert rates[0] < rates[1] == rates[2] == rates[3] == arguments.learning_rate > rates[4] > rates[5] > 0


def test_the_packed_model_is_half_as_large_with_the_same_scores(tmp_path: Path, random_model: Path) -> None:
    publish.pack([random_model, random_model], tmp_path / "packed")
    whole, packed = (
        CedForAudioClassification.from_pretrained(path).eval() for path in (random_model, tmp_path / "packed")
    )
    assert packed.dtype == torch.float32
    sizes = [(path / "model.safetensors").stat().st_size for path in (random_model, tmp_path / "packed")]
    assert sizes[1] < 0.52 * sizes[0]
    log_mel = torch.from_numpy(np.random.default_rng(0).normal(-30, 15, (2, 64, 200)).astype(np.float32))
    with torch.inference_mode():
        difference = (whole(log_mel).logits.sigmoid() - packed(log_mel).logits.sigmoid()).abs().max()
    assert 0 < difference < 1e-3


def test_tables_are_written_to_the_page_and_replaced() -> None:
    page = "a\n\n<!-- one -->\n<!-- end -->\n\nb\n<!-- two -->\nold\n\n<!-- end -->\nc <!-- three -->\n"
    filled = publish.fill(page, {"one": "| 1 |\n", "two": "| 2 |"})
    assert filled == (
        "a\n\n<!-- one -->\n\n| 1 |\n\n<!-- end -->\n\nb\n<!-- two -->\n\n| 2 |\n\n<!-- end -->\nc <!-- three -->\n"
    )
    assert publish.fill(filled, {"one": "| 1 |", "two": "| 2 |"}) == filled


def test_every_placeholder_of_the_page_has_a_table() -> None:
    places = re.findall(r"^<!-- (\w+) -->$", publish.PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    summary = {"mAP": 0.5, "mAUC": 0.9, "top_1": 0.7, "clips": 3, "classes": 2}
    accuracy = {"clips": 2, "highest": 0.5, "top5": 1.0, "probe": 0.75}
    per_class = {name: {"highest": 0.9, "top5": 0.8} for name in measure_esc10.CLASSES}
    who = {"rank": 2, "top": [("Dog", 0.5)]}
    figures = {
        "agreement": {"ced-nano": {"scenes": summary, "recordings": summary}},
        "esc10": {"ced-nano": accuracy | {"without_seen": accuracy, "per_class": per_class}},
        "sounds": [{"sound": "dog", "source": "p/x/dog.ogg", "student": who, "teacher": who}],
        "named": {"dog": True},
    }
    tables = report_training.tables(figures)
    assert set(tables) == set(places) - {"end"} and places.count("end") == len(tables)
    assert "| dog | 1 | 1 | yes |" in tables["named"]
    assert "| Rain | 90% | 80% |" in tables["esc10_classes"] and "| ced-nano | 50.0% | 100.0% |" in tables["esc10"]


def quantised_graph() -> onnx.ModelProto:
    """A small version of YAMNet's graph: two 8-bit convolutions, the mean, and a linear layer."""
    rng, nodes, constants = np.random.default_rng(0), [], {}

    def constant(name: str, value: np.ndarray) -> str:
        constants[name] = onnx.numpy_helper.from_array(value, name)
        return name

    def both(name: str, scale: np.ndarray, zero: np.ndarray, **attributes: int) -> str:
        parts = [constant(f"{name}_scale", scale), constant(f"{name}_zero_point", zero)]
        nodes.append(onnx.helper.make_node("QuantizeLinear", [name, *parts], [f"{name}_q"], **attributes))
        nodes.append(onnx.helper.make_node("DequantizeLinear", [f"{name}_q", *parts], [f"{name}_qdq"], **attributes))
        return f"{name}_qdq"

    scale, byte = np.float32(0.05), np.uint8(144)
    parts = [constant("audio_scale", scale), constant("audio_zero_point", byte)]
    nodes.append(onnx.helper.make_node("DequantizeLinear", ["audio", *parts], ["hidden0"]))
    hidden = "hidden0"
    for number, (shape, groups, pads) in enumerate(
        (((8, 1, 3, 3), 1, [1, 1, 1, 1]), ((8, 1, 3, 3), 8, [0, 0, 1, 1])), 1
    ):
        name = constant(f"weight{number}", rng.normal(0, 0.3, shape).astype(np.float32))
        weight = both(name, np.full(8, 0.01, np.float32), np.zeros(8, np.int8), axis=0)
        bias = constant(f"bias{number}", rng.normal(0, 0.1, 8).astype(np.float32))
        options = {"group": groups, "pads": pads, "strides": [2, 2], "kernel_shape": [3, 3], "dilations": [1, 1]}
        nodes.append(onnx.helper.make_node("Conv", [hidden, weight, bias], [f"conv{number}"], **options))
        nodes.append(onnx.helper.make_node("Relu", [f"conv{number}"], [f"relu{number}"]))
        hidden = both(f"relu{number}", np.float32(0.04), np.uint8(0))
    nodes.append(onnx.helper.make_node("GlobalAveragePool", [hidden], [yamnet.EMBEDDING]))
    pooled = both(yamnet.EMBEDDING, np.float32(0.02), np.uint8(0))
    nodes.append(onnx.helper.make_node("Reshape", [pooled, constant("shape", np.array([-1, 8]))], ["flat"]))
    constant("head", rng.normal(0, 0.3, (5, 8)).astype(np.float32))
    head = both("head", np.float32(0.01), np.int8(0))
    bias = constant("head_bias", rng.normal(0, 1, 5).astype(np.float32))
    nodes.append(onnx.helper.make_node("Gemm", ["flat", head, bias], [yamnet.LOGITS], transB=1))
    audio = onnx.helper.make_tensor_value_info("audio", onnx.TensorProto.UINT8, ["patches", 1, 96, 64])
    outputs = [
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in (yamnet.LOGITS, yamnet.EMBEDDING)
    ]
    graph = onnx.helper.make_graph(nodes, "small", [audio], outputs, list(constants.values()))
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def test_torch_yamnet_equals_its_graph_on_a_clip() -> None:
    model = quantised_graph()
    module = yamnet_torch.TorchYamNet(model)
    waveform = np.random.default_rng(0).normal(0, 0.1, 40_000).astype(np.float32)
    patches = yamnet.patches_of(waveform)
    torch.testing.assert_close(
        yamnet_torch.patches_of(module.log_mel(torch.from_numpy(waveform)[None]))[0],
        torch.from_numpy(patches.copy()),
        atol=1e-3,
        rtol=0,
    )
    options = (
        onnxruntime.SessionOptions()
    )  # without optimization: fused integer kernels round differently on each processor
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    bytes_in = np.clip(np.round(patches / 0.05 + 144), 0, 255).astype(np.uint8)[:, None]
    expected = session.run(None, {"audio": bytes_in})
    logits, embeddings = module(torch.from_numpy(patches.copy()))
    np.testing.assert_allclose(embeddings.numpy(), expected[1][:, :, 0, 0], atol=1e-3)
    # A value halfway between two steps of 0.02 may be rounded to either before the last layer.
    differences = np.abs(logits.numpy() - expected[0])
    assert np.median(differences) < 1e-3 and differences.max() < 0.02


@pytest.fixture(scope="module")
def opus_bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, recordings = tmp_path_factory.mktemp("opus"), []
    for number in range(6):
        waveform = synthesis.make("siren", number, seconds=1.0)
        row = {
            "source": f"a/{number}",
            "licence": "CC0-1.0",
            "split": "train",
            "group": f"a/{number}",
            "samples": 16000,
        }
        recordings.append(({**row, "taught": {"Siren": 0.5 + number / 100}}, banks.encode(waveform)))
    banks.write_bank(recordings[:3], folder, piece_bytes=8000)
    assert banks.sources_in(folder) == {"a/0", "a/1", "a/2"}
    banks.write_bank(recordings[3:], folder, piece_bytes=8000)  # as after an interruption
    return folder


def test_a_bank_returns_its_recordings(opus_bank: Path) -> None:
    bank = banks.OpusBank(opus_bank)
    assert len(bank.pieces) > 1 and all((opus_bank / name).stat().st_size <= 8000 for name in bank.pieces)
    for number, samples in enumerate(bank.decode()):
        original = synthesis.make("siren", number, seconds=1.0)
        assert len(samples) == 16000
        assert np.corrcoef(samples, original)[0, 1] > 0.95
    assert bank.taught()[3].max() == pytest.approx(0.53)


@pytest.mark.parametrize("harm", ["missing", "cut", "altered"])
def test_a_bank_with_a_damaged_piece_returns_the_others(
    opus_bank: Path, tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    for path in opus_bank.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    bad, content = tmp_path / "piece_001.zip", (opus_bank / "piece_001.zip").read_bytes()
    if harm == "missing":
        bad.unlink()
    else:
        bad.write_bytes(content[:-100] if harm == "cut" else content[:500] + b"!" + content[501:])
    whole, bank = banks.OpusBank(opus_bank), banks.OpusBank(tmp_path)
    assert [row["file"] for row in bank.rows] == [row["file"] for row in whole.rows if row["piece"] != 1]
    assert len(list(bank.decode())) == len(bank.rows) < len(whole.rows)
    assert "piece_001.zip is" in caplog.text and "left out" in caplog.text
    assert bank.checksum != whole.checksum


def test_a_folder_without_a_complete_bank_is_refused_in_one_line(opus_bank: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a bank"):
        banks.OpusBank(tmp_path)
    (tmp_path / "manifest.json").write_bytes((opus_bank / "manifest.json").read_bytes())
    (tmp_path / "recordings.jsonl").write_bytes((opus_bank / "recordings.jsonl").read_bytes()[:-5])
    with pytest.raises(ValueError, match="is damaged"):
        banks.OpusBank(tmp_path)
    (tmp_path / "recordings.jsonl").write_bytes((opus_bank / "recordings.jsonl").read_bytes())
    with pytest.raises(ValueError, match="no complete piece"):
        banks.OpusBank(tmp_path)


@pytest.mark.parametrize("kind", synthesis.KINDS)
def test_a_synthesised_sound_depends_only_on_kind_and_number(kind: str) -> None:
    sound = synthesis.make(kind, 1, seconds=1.5)
    assert sound.dtype == np.float32 and len(sound) == 24000 and np.isfinite(sound).all()
    assert np.abs(sound).max() == pytest.approx(0.9, abs=1e-4)
    np.testing.assert_array_equal(sound, synthesis.make(kind, 1, seconds=1.5))
    assert not np.array_equal(sound, synthesis.make(kind, 2, seconds=1.5))


def test_mixes_on_a_device_depend_only_on_the_seed() -> None:
    waveforms = [synthesis.make(kind, 0, seconds=seconds) for kind, seconds in (("bell", 1.0), ("rain", 5.0))]
    samples = torch.from_numpy(np.round(np.concatenate(waveforms) * 32767).astype(np.int16))
    mixer = mixing_torch.TorchMixer(samples, torch.tensor([16000, 80000]), torch.ones(2))
    for clean in (False, True):
        mixes = mixer.batch(12, 20_000, torch.Generator().manual_seed(3), clean=clean)
        assert mixes.shape == (12, 20_000) and mixes.abs().max() <= 1
        assert (mixing_torch.rms(mixes) > 1e-3).all()
        torch.testing.assert_close(mixes, mixer.batch(12, 20_000, torch.Generator().manual_seed(3), clean=clean))


def test_fingerprints_find_a_copy_that_was_cut_and_encoded_again(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "kept.wav", synthesis.make("fire", 0, seconds=5.0), 16000)
    prints = fingerprints.Fingerprints([tmp_path / "kept.wav"])
    copy = 0.3 * synthesis.make("fire", 0, seconds=5.0)[12_345:60_000]
    samples, _ = soundfile.read(io.BytesIO(encoded(copy, "MP3")), dtype="float32")
    assert prints.match(samples) == "kept.wav"
    assert prints.match(synthesis.make("fire", 1, seconds=5.0)) is None
    assert fingerprints.Fingerprints([]).match(samples) is None


def test_licences_are_those_of_the_last_paragraph_that_fits(tmp_path: Path) -> None:
    folder = tmp_path / "game" / "usr" / "share" / "doc" / "game"
    folder.mkdir(parents=True)
    (folder / "copyright").write_text("Files: *\nLicense: GPL-2+\n\nFiles: data/sounds/*\nLicense: CC0-1.0\n")
    assert licences.licence_of(tmp_path, "game/usr/share/game/sounds/dog.ogg") == "CC0-1.0"
    assert licences.licence_of(tmp_path, "game/usr/share/game/music/song.ogg") == "GPL-2+"
    assert licences.licence_of(tmp_path, "other/song.ogg") == "unknown"


@pytest.fixture
def tiny_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher of five classes with embeddings of 8 units."""
    monkeypatch.setattr(yamnet, "EMBEDDING_SIZE", 8)
    monkeypatch.setattr(yamnet, "teacher", lambda: SimpleNamespace(class_indices=np.arange(5)))
    monkeypatch.setattr(
        yamnet_torch, "load", lambda quantized: yamnet_torch.TorchYamNet(quantised_graph(), quantized=quantized)
    )
    monkeypatch.setattr(train_gpu, "CALIBRATION_CLIPS", 4)


@pytest.mark.parametrize("way", train_gpu.WAYS)
@pytest.mark.usefixtures("tiny_teacher")
def test_training_on_one_device_continues_from_the_last_complete_checkpoint(
    opus_bank: Path, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    common = "--device cpu --processes 1 --batch-patches 8 --save-steps 1 --width 24 --depth 1 --heads 1"

    def run(steps: int) -> int:
        command = f"train_gpu {opus_bank} {tmp_path / 'out'} {common} --way {way} --steps {steps}"
        monkeypatch.setattr(sys, "argv", command.split())
        train_gpu.main()
        return torch.load(tmp_path / "out" / "last.pt", weights_only=True)["step"]

    assert run(2) == 2
    last = tmp_path / "out" / "last.pt"
    last.write_bytes(last.read_bytes()[:1000])
    assert run(3) == 3
    assert "last.pt cannot be read" in caplog.text and "Continuing from step" in caplog.text
    assert len(AudioTagger(tmp_path / "out" / "model")(synthesis.make("siren", 0, seconds=1.0), top_k=3)) == 3


@pytest.mark.usefixtures("tiny_teacher")
def test_a_trained_student_is_fitted_to_the_teachers_embedding_before_training(
    opus_bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_gpu, "FITTED_CLIPS", 4)
    monkeypatch.setattr(train_gpu, "FITTED_BATCHES", 2)
    arguments = train_gpu.Arguments(width=24, depth=1, heads=1, batch_patches=8, steps=1)
    recordings = train_gpu.open_recordings(opus_bank, tmp_path, 1)
    given = {"way": "consistent", "mask_share": 0.0, "teacher_passes": 1}
    batch_maker = train_gpu.make_batches(recordings, recordings.weights(arguments, []), "cpu", given)
    errors = []
    for is_trained in (False, True):
        student = train_gpu.make_student(arguments, None)
        student.is_trained = is_trained
        trainer = train_gpu.Trainer(arguments, batch_maker, student)
        batch = batch_maker.make(batches.Request(clips=4, patches=9, seed=0, number=1))
        errors.append(trainer.losses(batch)["embedding"].item())
    assert errors[1] < 0.7 * errors[0]


class CountedBatches:
    """A stand-in for `batches.Batches` in another process."""

    def make(self, request: batches.Request) -> batches.Batch:
        assert request.clips < 9, "too many"
        return torch.full((1, 2), request.number / 4), torch.zeros(1), torch.ones(1)


def test_a_feeder_yields_batches_in_order_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "WAIT_S", 0.1)
    feeder = batches.Feeder(CountedBatches)
    for number in (3, 1):
        feeder.ask(batches.Request(clips=1, patches=1, seed=0, number=number))
    assert [feeder.take()[0][0, 0].item() for _ in range(2)] == [0.75, 0.25]
    feeder.ask(batches.Request(clips=9, patches=1, seed=0, number=1))
    with pytest.raises(SystemExit, match="has ended: run again to continue"):
        feeder.take()


def test_training_on_recordings_leaves_out_excluded_ones(tmp_path: Path) -> None:
    (tmp_path / "bank").mkdir()
    np.arange(30, dtype=np.int16).tofile(tmp_path / "bank" / "audio.i16")
    rows = [
        {"source": f"game/{name}.wav", "licence": "CC0", "start": 10 * i, "samples": 10, "digest": str(i)}
        for i, name in enumerate(("saw", "dog", "rain"))
    ]
    (tmp_path / "bank" / "recordings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    means = np.zeros((3, 527), np.float16)
    means[0, AUDIOSET_LABELS.index("Chainsaw")] = means[1, 0] = means[2, 1] = 0.8
    np.savez(tmp_path / "bank" / "heard.npz", mean=means, peak=means)
    recordings = train_gpu.open_recordings(tmp_path, tmp_path, 1)
    assert recordings.samples.tolist() == list(range(30))
    for row in recordings.rows:
        row["split"] = "train"
    weights = recordings.weights(train_gpu.Arguments(focus=3.0), ["*/rain.wav"])
    assert weights[0] == pytest.approx(3 * weights[1]) and weights[2] == 0


def test_the_ablation_has_intervals_of_methods_and_of_differences_at_the_same_seed() -> None:
    assert ablation.interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.303 / 3**0.5), abs=1e-3)
    found = {
        (way, seed): {"mAP": base + 0.1 * seed, "loss": 1.0, "top_1": 0.5}
        for way, base in (("consistent", 0.5), ("inconsistent", 0.4))
        for seed in range(3)
    }
    rows = {row["what"]: row for row in ablation.rows_of(found)}
    assert list(rows) == ["consistent", "inconsistent", "consistent - inconsistent"]
    assert rows["consistent"]["mAP"] == pytest.approx((0.6, 0.2484), abs=1e-3)
    assert rows["consistent - inconsistent"]["mAP"] == pytest.approx((0.1, 0.0), abs=1e-9)
    assert "| consistent - inconsistent | 3 | 0.1000 ± 0.0000 |" in ablation.table_of(list(rows.values()))


def test_an_unfinished_run_of_the_ablation_is_repeated(tmp_path: Path) -> None:
    assert ablation.figures_of(tmp_path, 10) is None
    (tmp_path / "heldout.json").write_text('{"step": 7')
    assert ablation.figures_of(tmp_path, 10) is None
    (tmp_path / "heldout.json").write_text('{"step": 7, "mAP": 0.1}')
    assert ablation.figures_of(tmp_path, 10) is None
    assert ablation.figures_of(tmp_path, 7) == {"step": 7, "mAP": 0.1}
