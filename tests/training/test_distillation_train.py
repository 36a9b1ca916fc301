# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced distill train`: a student learns the outputs of its teachers for exactly the same inputs."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cli_process
import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    Trainer,
    TrainerCallback,
    pipeline,
)
from typer.testing import CliRunner

from ced_model import AudioTagger, CedConfig, CedFeatureExtractor, CedForAudioClassification, CedModel
from ced_model.cli.app import app
from ced_model.pretrained import MODEL_FILES
from ced_model.training.distillation.augmentation import Augmentation
from ced_model.training.distillation.checkpoints import average_checkpoints
from ced_model.training.distillation.inputs import (
    DistillationDataset,
    StoredRows,
    collate,
    mix_log_mels,
    set_input_statistics,
    split_by_file,
)
from ced_model.training.distillation.options import DistillationArguments
from ced_model.training.distillation.store import Store, open_store
from ced_model.training.distillation.student import load_student
from ced_model.training.distillation.teaching import teach
from ced_model.training.distillation.training import distill, measure_agreement
from ced_model.training.run_folder import find_checkpoints, last_checkpoint
from ced_model.training.shared_trainer import EpochSampler

ROOT = Path(__file__).parents[2]
LABELS = [f"class {index}" for index in range(7)]
EPOCHS = 3
AUGMENTATION = Augmentation(chunk_s=1.0, max_time_mask=20)
# Dropout draws from the global generator, which must be restored in a resumed run.
STUDENT = CedConfig(embed_dim=24, depth=1, num_heads=2, target_length=112, drop_rate=0.1)
# Steps of the killed run and of those with the same weights: more than two epochs.
SAME = {"batch_size": 8, "max_steps": 9, "save_steps": 3, "held_out": 0.15, "average": 2, "mixup": 0.3}


@pytest.fixture(scope="module")
def lesson(resources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `audio/`, a `teacher/` of 7 classes with random weights, and its outputs in `store/`."""
    folder = tmp_path_factory.mktemp("lesson")
    audio = folder / "audio"
    shutil.copytree(resources, audio, ignore=shutil.ignore_patterns("*.ogg"))
    generator = np.random.default_rng(0)
    for number in range(8):
        noise = generator.normal(size=16000 + 2000 * number)
        noise = np.cumsum(noise) if number % 2 else noise
        soundfile.write(audio / f"noise{number}.wav", 0.5 * noise / np.abs(noise).max(), 16000)
    torch.manual_seed(0)
    labels = dict(enumerate(LABELS))
    teacher = CedForAudioClassification(CedConfig(embed_dim=48, depth=1, num_heads=3, id2label=labels))
    teacher.outputlayer[1].weight.data.mul_(60)  # more varied outputs
    teacher.save_pretrained(folder / "teacher")
    CedFeatureExtractor().save_pretrained(folder / "teacher")
    teach(audio, [str(folder / "teacher")], folder / "store", epochs=EPOCHS, augmentation=AUGMENTATION, shard_chunks=16)
    return folder


@pytest.fixture
def store(lesson: Path, tmp_path: Path) -> Path:
    """A copy of the store that a test may damage."""
    return Path(shutil.copytree(lesson / "store", tmp_path / "store"))


def open_rows(store: Store) -> StoredRows:
    return StoredRows(store)


def quick(**changes: Any) -> DistillationArguments:
    """Arguments for a short run."""
    return DistillationArguments(**{"batch_size": 8, "max_steps": 2, "workers": 0, **changes})


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(first: Path, second: Path) -> None:
    ours, theirs = weights_of(first), weights_of(second)
    assert ours.keys() == theirs.keys()
    differing = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not differing, differing


# --- Complete runs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(lesson: Path) -> Path:
    """The model folder of a trained student."""
    arguments = DistillationArguments(
        batch_size=8,
        epochs=16,
        learning_rate=4e-3,
        workers=0,
        held_out=0.15,
        average=3,
        save_steps=16,
        training={"report_to": "tensorboard"},
    )
    distill(lesson / "store", STUDENT, lesson / "students" / "learned", arguments)
    return lesson / "students" / "learned"


def test_a_student_learns_the_outputs_of_its_teacher(lesson: Path, trained: Path) -> None:
    store = open_store(lesson / "store")
    rows = open_rows(store)
    split = split_by_file(store, 0.15)
    model = CedForAudioClassification.from_pretrained(trained).eval()
    for chunks, share in ((split.training, 0.6), (split.held_out, 0.85)):
        dataset = DistillationDataset(store, rows, chunks, CedFeatureExtractor())
        batch = collate([dataset[1, number] for number in range(len(dataset))])
        labels = batch.pop("labels")
        with torch.no_grad():
            agreement = measure_agreement(model(**batch).logits, labels)
        assert agreement["bce"] < share * agreement["prior_bce"]


def test_the_student_is_a_model_folder_like_any_other(trained: Path, lesson: Path) -> None:
    assert {path.name for path in trained.iterdir()} == MODEL_FILES
    config = json.loads((trained / "config.json").read_text())
    assert "use_cache" not in config and list(config["id2label"].values()) == LABELS
    model, report = AutoModelForAudioClassification.from_pretrained(trained, output_loading_info=True)
    assert isinstance(model, CedForAudioClassification) and not report["missing_keys"] and model.dtype == torch.float32
    encoder = AutoModel.from_pretrained(trained)
    assert isinstance(encoder, CedModel)
    assert isinstance(AutoFeatureExtractor.from_pretrained(trained), CedFeatureExtractor)
    waveform, rate = soundfile.read(lesson / "audio" / "noise0.wav", dtype="float32")
    tags = AudioTagger.from_pretrained(trained)(waveform)
    piped = pipeline("audio-classification", model=str(trained))({"array": waveform, "sampling_rate": rate}, top_k=1)
    assert piped[0]["label"] == tags[0].label and piped[0]["score"] == pytest.approx(tags[0].score, abs=1e-4)


def test_the_card_has_the_training_and_the_agreement_with_the_teachers(trained: Path) -> None:
    card = (trained / "README.md").read_text(encoding="utf-8")
    section = card.partition("### How it was distilled")[2].partition("## Evaluation")[0]
    for text in ("`teacher`", "±0.5 s", "20 frames", "24 mel bins", "binary cross-entropy", "cosine to a tenth"):
        assert text in section, text
    assert "mean of the 3 checkpoints best on held-out files" in section
    assert str(trained.parent) not in card
    assert "| mAP against the teachers' tags (probability ≥ 0.5) |" in card
    assert "model-index:" in card and "AudioSet" not in card.partition("---\n\n#")[0]


def test_checkpoints_and_logs_are_next_to_the_student(trained: Path) -> None:
    beside = trained.with_name("learned.training")
    assert len(find_checkpoints(beside)) in (3, 4)  # the best three, and the last
    assert all(find_checkpoints(beside).values())
    assert list(beside.glob("runs/*/events.out.tfevents.*"))
    assert {path.name for path in trained.parent.iterdir()} == {"learned", "learned.training"}


def test_the_weights_are_the_mean_of_the_checkpoints_that_are_best_on_held_out_files(trained: Path) -> None:
    beside = trained.with_name("learned.training")
    steps = list(find_checkpoints(beside))
    history = json.loads((beside / f"checkpoint-{steps[-1]}" / "trainer_state.json").read_text())["log_history"]
    losses = {entry["step"]: entry["eval_bce"] for entry in history if "eval_bce" in entry}
    best = sorted(losses, key=lambda step: losses[step])[:3]
    assert set(best) <= set(steps)
    states = [load_file(beside / f"checkpoint-{step}" / "model.safetensors") for step in best]
    ours = weights_of(trained)
    for name, tensor in ours.items():
        if tensor.is_floating_point() and not name.endswith("running_var"):
            mean = torch.stack([state[name].double() for state in states]).mean(dim=0)
            assert torch.equal(tensor, mean.float()), name


# --- Consistency -----------------------------------------------------------------------------------------------------


def record_inputs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, bytes]]:
    """Records the inputs of all CED classifiers: the frames of each clip as bytes, and whether in training mode."""
    recorded: list[tuple[bool, bytes]] = []
    forward = CedForAudioClassification.forward

    def recording(self: Any, input_values: torch.Tensor, attention_mask: Any = None, **kwargs: Any) -> Any:
        for index, values in enumerate(input_values):
            frames = values.shape[1] if attention_mask is None else int(attention_mask[index].sum())
            recorded.append((self.training, values[:, :frames].numpy().tobytes()))
        return forward(self, input_values, attention_mask=attention_mask, **kwargs)

    monkeypatch.setattr(CedForAudioClassification, "forward", recording)
    return recorded


@pytest.fixture(scope="module")
def heard(lesson: Path) -> dict[int, set[bytes]]:
    """The inputs of the teacher in each epoch."""
    with pytest.MonkeyPatch.context() as patch:
        recorded = record_inputs(patch)
        again = lesson / "again"
        teach(lesson / "audio", [str(lesson / "teacher")], again, epochs=EPOCHS, augmentation=AUGMENTATION)
    num_chunks = open_store(again).num_chunks
    inputs = [clip for _, clip in recorded]
    return {epoch: set(inputs[epoch * num_chunks : (epoch + 1) * num_chunks]) for epoch in range(EPOCHS)}


@pytest.mark.parametrize("workers", [0, 2])
def test_the_student_gets_bit_for_bit_the_inputs_of_its_teacher(
    workers: int, lesson: Path, heard: dict[int, set[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = record_inputs(monkeypatch)
    epoch_of_clip = {clip: epoch for epoch, clips in heard.items() for clip in clips}
    assert len(epoch_of_clip) == sum(map(len, heard.values()))  # all inputs differ
    distill(lesson / "store", STUDENT, tmp_path / "student", quick(epochs=EPOCHS + 1, max_steps=None, workers=workers))
    per_epoch = len(split_by_file(open_store(lesson / "store"), 0.05).training)
    training = [clip for is_training, clip in recorded if is_training]
    assert len(training) == (EPOCHS + 1) * per_epoch
    for epoch in range(EPOCHS + 1):  # after those of the store, they repeat
        clips = training[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert len(set(clips)) == per_epoch and {epoch_of_clip[clip] for clip in clips} == {epoch % EPOCHS}
    held_out = [clip for is_training, clip in recorded if not is_training]
    assert held_out and set(held_out) <= heard[0]


def test_without_consistency_it_trains_on_other_inputs_and_is_measured_on_the_same(
    lesson: Path, heard: dict[int, set[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = record_inputs(monkeypatch)
    distill(lesson / "store", STUDENT, tmp_path / "student", quick(consistent=False))
    training = {clip for is_training, clip in recorded if is_training}
    assert len(training) == 16 and not training & set().union(*heard.values())
    assert {clip for is_training, clip in recorded if not is_training} <= heard[0]
    assert "(inconsistent ensemble distillation)" in (tmp_path / "student" / "README.md").read_text(encoding="utf-8")


def test_targets_are_the_outputs_of_the_teacher_for_the_input(lesson: Path) -> None:
    store = open_store(lesson / "store")
    teacher = CedForAudioClassification.from_pretrained(lesson / "teacher").eval()
    dataset = DistillationDataset(store, open_rows(store), np.arange(store.num_chunks), CedFeatureExtractor())
    for key in ((0, 0), (1, 5), (2, 11), (EPOCHS + 1, 5)):
        item = dataset[key]
        with torch.no_grad():
            probabilities = teacher(item["input_values"][None]).logits.sigmoid()[0]
        assert torch.allclose(item["labels"], probabilities, atol=1e-3)  # stored in half precision


# --- The same weights ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(lesson: Path) -> Path:
    """A run without interruption, with one worker."""
    distill(lesson / "store", STUDENT, lesson / "undisturbed", DistillationArguments(workers=1, **SAME))
    return lesson / "undisturbed"


@pytest.mark.parametrize("workers", [0, 2])
def test_results_do_not_depend_on_the_number_of_workers(
    workers: int, lesson: Path, undisturbed: Path, tmp_path: Path
) -> None:
    distill(lesson / "store", STUDENT, tmp_path / "student", DistillationArguments(workers=workers, **SAME))
    assert_same_weights(tmp_path / "student", undisturbed)


def _die_while_saving(lesson: str, output: str) -> None:
    """A run that is killed while its third checkpoint (step 9) is being written."""
    save = Trainer._save_rng_state

    def dying(self: Trainer, output_dir: str) -> None:
        if self.state.global_step == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, output_dir)

    torch.set_num_threads(1)
    Trainer._save_rng_state = dying  # type: ignore[method-assign]
    distill(Path(lesson, "store"), STUDENT, output, DistillationArguments(workers=1, **SAME))


def test_a_killed_run_continues_to_the_same_weights(lesson: Path, undisturbed: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")  # whose children end with it
    process = context.Process(target=_die_while_saving, args=(str(lesson), str(tmp_path / "student")))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert find_checkpoints(tmp_path / "student.training") == {3: True, 6: True, 9: False}
    assert not (tmp_path / "student").exists()
    said: list[str] = []
    arguments = DistillationArguments(workers=1, **SAME)
    distill(lesson / "store", STUDENT, tmp_path / "student", arguments, resume=True, say=said.append)
    assert "continuing from checkpoint-6" in said
    assert_same_weights(tmp_path / "student", undisturbed)


def test_resume_starts_a_new_run_and_writes_the_model_of_a_finished_one_again(lesson: Path, tmp_path: Path) -> None:
    first = distill(lesson / "store", STUDENT, tmp_path / "student", quick(save_steps=1), resume=True)
    before = weights_of(tmp_path / "student")
    again = distill(lesson / "store", STUDENT, tmp_path / "student", quick(save_steps=1), resume=True)
    assert again == first and first.steps == 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights_of(tmp_path / "student").items())


def test_processes_share_the_work_and_only_one_writes(lesson: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "ced", "embed_dim": 24, "depth": 1, "num_heads": 2}))
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
    launch += ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0", "-m", "ced_model"]
    options = ["--student", config, "-o", tmp_path / "student", "--workers", "0", "--batch-size", "8", "-e", "2"]
    command = [sys.executable, "-m", *launch, "distill", "train", lesson / "store", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("wrote ") == 1 and run.stderr.count("epoch 2 of 2") == 1, run.stdout + run.stderr
    chunks = len(split_by_file(open_store(lesson / "store"), 0.05).training)
    steps = 2 * -(-chunks // 16)
    assert max(find_checkpoints(tmp_path / "student.training")) == steps
    assert CedForAudioClassification.from_pretrained(tmp_path / "student").config.num_labels == len(LABELS)


# --- Options ---------------------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_and_falls_to_a_tenth_and_only_matrices_decay(lesson: Path, tmp_path: Path) -> None:
    rates: list[float] = []
    decay: dict[str, float] = {}

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            groups = kwargs["optimizer"].param_groups
            rates.append(groups[0]["lr"])
            of = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
            decay.update({name: of[id(parameter)] for name, parameter in kwargs["model"].named_parameters()})
            self.args = args

    # With bf16 and accumulation, as examples of fields of TrainingArguments.
    watch = Watch()
    training = {"warmup_steps": 3, "bf16": True, "gradient_accumulation_steps": 2}
    arguments = quick(max_steps=8, batch_size=4, held_out=0.0, training=training)
    distill(lesson / "store", STUDENT, tmp_path / "student", arguments, callbacks=[watch])
    assert max(rates) == pytest.approx(1e-3) and rates.index(max(rates)) == 2
    assert rates[-1] == pytest.approx(1e-4) and rates[2:] == sorted(rates[2:], reverse=True)
    matrices = {name for name in decay if decay[name] > 0}
    assert {"encoder.patch_embed.proj.weight", "encoder.blocks.0.mlp.fc1.weight", "outputlayer.1.weight"} <= matrices
    assert not any("bias" in name or "norm" in name or "_bn" in name or "pos_embed" in name for name in matrices)
    assert watch.args.bf16 and watch.args.gradient_accumulation_steps == 2
    assert all(tensor.isfinite().all() for tensor in weights_of(tmp_path / "student").values())


def test_without_held_out_files_the_last_checkpoints_are_averaged(lesson: Path, tmp_path: Path) -> None:
    arguments = quick(held_out=0.0, max_steps=3, save_steps=1, average=2)
    done = distill(lesson / "store", STUDENT, tmp_path / "student", arguments)
    assert done.averaged == (3, 2) and done.metrics == {}
    assert "These weights have not been evaluated" in (tmp_path / "student" / "README.md").read_text(encoding="utf-8")


def test_the_trainer_does_not_change_the_given_model(lesson: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = CedConfig(embed_dim=24, depth=1, num_heads=2, id2label=dict(enumerate(LABELS)))
    student = CedForAudioClassification(config)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    distill(lesson / "store", student, tmp_path / "student", quick())
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    assert not torch.equal(weights_of(tmp_path / "student")["outputlayer.1.bias"], before["outputlayer.1.bias"])


# --- Parts -----------------------------------------------------------------------------------------------------------


def test_no_file_is_both_trained_on_and_held_out(lesson: Path) -> None:
    store = open_store(lesson / "store")
    paths = np.array(store.chunks["path"].to_pylist())
    for share in (0.01, 0.1, 0.3, 0.9):
        training, held_out = split_by_file(store, share)
        assert sorted([*training, *held_out]) == list(range(store.num_chunks))
        assert len(held_out) and len(training) and not set(paths[training]) & set(paths[held_out])
    assert not len(split_by_file(store, 0.0).held_out)


def test_a_single_file_is_not_held_out(lesson: Path, tmp_path: Path) -> None:
    store = teach(
        [lesson / "audio" / "loop_tabla.flac"],
        [str(lesson / "teacher")],
        tmp_path / "store",
        epochs=1,
        augmentation=AUGMENTATION,
    )
    assert not len(split_by_file(store, 0.5).held_out)
    said: list[str] = []
    distill(tmp_path / "store", STUDENT, tmp_path / "student", quick(), say=said.append)
    assert any("no files are held out: all chunks are of one file" in line for line in said)


def test_each_epoch_has_every_chunk_once_in_another_order() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, size=50)
    sampler = EpochSampler(lengths, batch_size=8, seed=3)
    orders = []
    for epoch in (0, 1):
        sampler.epoch = epoch
        keys = list(sampler)
        assert {key[0] for key in keys} == {epoch} and sorted(key[1] for key in keys) == list(range(50))
        orders.append([number for _, number in keys])
    assert orders[0] != orders[1]
    sampler.epoch = 0
    assert [number for _, number in sampler] == orders[0]
    assert [number for _, number in EpochSampler(lengths, batch_size=8, seed=4)] != orders[0]


def test_chunks_of_similar_length_share_a_batch() -> None:
    lengths = np.random.default_rng(0).integers(1, 1000, size=8 * 32 + 5)
    order = np.array([number for _, number in EpochSampler(lengths, batch_size=8, seed=0)])
    batches = lengths[order[: 8 * 32].reshape(32, 8)]
    padding = batches.max(axis=1).sum() * 8 / batches.sum() - 1
    assert padding < 0.1  # in random batches it is about 0.8
    longest = list(batches.max(axis=1))
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)


def test_mixup_adds_powers_and_targets_and_depends_only_on_the_key(lesson: Path) -> None:
    store = open_store(lesson / "store")
    chunks = np.arange(store.num_chunks)
    plain = DistillationDataset(store, open_rows(store), chunks, CedFeatureExtractor())
    mixing = DistillationDataset(store, open_rows(store), chunks, CedFeatureExtractor(), mixup=1.0)
    torch.manual_seed(0)
    first = mixing[1, 4]
    torch.manual_seed(5)
    np.random.seed(5)
    mixing[0, 3]
    assert all(torch.equal(tensor, mixing[1, 4][name]) for name, tensor in first.items())
    assert not torch.equal(first["labels"], mixing[2, 4]["labels"])
    # Exactly one pair explains both the targets and the powers, with the same weight of at least 0.5.
    own = plain[1, 4]
    fits = 0
    for number in range(len(plain)):
        other = plain[1, number]
        difference = own["labels"] - other["labels"]
        if number == 4 or difference.abs().max() < 1e-3:
            continue
        weight = float(((first["labels"] - other["labels"]) / difference)[difference.abs().argmax()])
        targets = weight * own["labels"] + (1 - weight) * other["labels"]
        mixed = mix_log_mels(own["input_values"], other["input_values"], weight)
        fits += torch.allclose(targets, first["labels"], atol=1e-5) and bool(
            torch.allclose(mixed, first["input_values"], atol=1e-2) and 0.5 <= weight <= 1
        )
    assert fits == 1


def test_the_level_of_mixed_sounds_is_the_sum_of_their_powers() -> None:
    loud, quiet = torch.full((64, 30), 10.0), torch.full((64, 20), 0.0)
    mixed = mix_log_mels(loud, quiet, 0.75)
    assert torch.allclose(mixed[:, :20], torch.tensor(10 * np.log10(0.75 * 10 + 0.25)).float())
    assert torch.allclose(mixed[:, 20:], torch.tensor(10 * np.log10(0.75 * 10)).float())
    assert torch.equal(mix_log_mels(quiet, loud, 1.0), quiet)


def test_input_statistics_are_those_of_batch_normalisation_over_valid_frames() -> None:
    generator = torch.Generator().manual_seed(0)
    long, short = (torch.randn(64, frames, generator=generator) * 3 - 40 for frames in (100, 60))
    items = [{"input_values": values, "labels": torch.zeros(1)} for values in (long, short)]
    norm, reference = nn.BatchNorm2d(64), nn.BatchNorm2d(64, momentum=1.0)
    set_input_statistics(norm, [collate(items), collate(items[:1])])
    reference(torch.cat([long, short, long], dim=1).T[:, :, None, None])
    assert torch.allclose(norm.running_mean, reference.running_mean, atol=1e-4)
    assert torch.allclose(norm.running_var, reference.running_var, rtol=1e-2)


def test_averaged_batch_statistics_are_those_of_all_batches_together(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(500, 4, generator=generator) + shift for shift in (0.0, 3.0)]
    for number, values in enumerate(data):
        (tmp_path / str(number)).mkdir()
        state = {
            "bn.running_mean": values.mean(dim=0),
            "bn.running_var": values.var(dim=0, correction=0),
            "bn.num_batches_tracked": torch.tensor(10 + number),
            "weight": torch.tensor([1.0, 2.0]) * (number + 1),
            "half": torch.tensor([1.0, 3.0], dtype=torch.float16),
        }
        save_file(state, tmp_path / str(number) / "model.safetensors")
    averaged = average_checkpoints([tmp_path / "0", tmp_path / "1"])
    assert torch.allclose(averaged["bn.running_mean"], torch.cat(data).mean(dim=0), atol=1e-5)
    assert torch.allclose(averaged["bn.running_var"], torch.cat(data).var(dim=0, correction=0), atol=1e-4)
    assert averaged["bn.num_batches_tracked"] == 11 and averaged["half"].dtype == torch.float16
    assert averaged["weight"].tolist() == [1.5, 3.0]
    save_file(state | {"weight": torch.tensor([1.0, torch.nan])}, tmp_path / "1" / "model.safetensors")
    with pytest.raises(ValueError, match=r"1: weight is not finite: remove this checkpoint and resume"):
        average_checkpoints([tmp_path / "0", tmp_path / "1"])


def test_incomplete_checkpoints_are_removed(undisturbed: Path, tmp_path: Path) -> None:
    whole = max(undisturbed.with_name("undisturbed.training").glob("checkpoint-*"))
    files = ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")
    for number, name in enumerate(files, start=2):
        shutil.copytree(whole, tmp_path / f"checkpoint-{number}")
        file = tmp_path / f"checkpoint-{number}" / name
        os.truncate(file, file.stat().st_size // 2 if name != "model.safetensors" else 100)
    shutil.copytree(whole, tmp_path / "checkpoint-1")
    (tmp_path / "checkpoint-9").mkdir()
    shutil.copytree(whole, tmp_path / "checkpoint-10")
    damaged = tmp_path / "checkpoint-10" / "optimizer.pt"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1  # in a tensor
    damaged.write_bytes(content)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-1"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_agreement_equals_scikit_learn_and_torch() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.3, -2.0], [1.0, 2.0, -1.0]])
    probabilities = torch.tensor([[0.9, 0.2, 0.4], [0.3, 0.7, 0.1], [0.8, 0.6, 0.2]])
    agreement = measure_agreement(logits, probabilities)
    expected = nn.functional.binary_cross_entropy_with_logits(logits, probabilities)
    assert agreement["bce"] == pytest.approx(expected.item())
    constants = probabilities.mean(dim=0).expand(3, 3)
    prior = nn.functional.binary_cross_entropy(constants, probabilities)
    assert agreement["prior_bce"] == pytest.approx(prior.item())
    assert agreement["top1"] == pytest.approx(2 / 3)
    assert agreement["mAP"] == pytest.approx(1.0)  # both classes that are tags are ranked correctly
    assert "mAP" not in measure_agreement(logits, torch.full((3, 3), 0.1))


# --- Students --------------------------------------------------------------------------------------------------------


def make_store(labels: list[str] = LABELS, **augmentation: Any) -> Store:
    """A store with the fields that a student has to fit."""
    front_end = {"sampling_rate": 16000, "feature_size": 64, "n_fft": 512, "win_size": 512, "hop_size": 160}
    front_end |= {"center": True, "f_min": 0, "f_max": 8000.0}
    settings = {"labels": labels, "front_end": front_end, "augmentation": Augmentation(**augmentation).to_dict()}
    return Store(Path("store"), settings, None)  # type: ignore[arg-type]


def test_a_size_is_the_published_shape_with_the_classes_of_the_store() -> None:
    student = load_student("tiny", make_store())
    config = student.model.config
    assert (config.embed_dim, config.depth, config.num_heads, config.target_length) == (192, 12, 3, 1012)
    assert list(config.id2label.values()) == LABELS and student.model.outputlayer[1].out_features == len(LABELS)
    assert not student.has_weights and not student.notes


def test_random_weights_depend_only_on_the_seed() -> None:
    def weight(seed: int) -> torch.Tensor:
        torch.manual_seed(int(np.random.default_rng().integers(1000)))
        return (
            load_student(STUDENT, make_store(chunk_s=1.0, max_time_mask=20), seed)
            .model.encoder.blocks[0]
            .mlp.fc1.weight
        )

    assert torch.equal(weight(0), weight(0)) and not torch.equal(weight(0), weight(1))


@pytest.mark.parametrize(("chunk_s", "target_length"), [(4.0, 401), (12.0, 1201)])
def test_a_size_has_as_many_positions_as_the_chunks_need(chunk_s: float, target_length: int) -> None:
    student = load_student("tiny", make_store(chunk_s=chunk_s))
    assert student.model.config.target_length == target_length and "target_length" in student.notes[0]


def test_a_model_keeps_its_weights_and_a_head_that_fits(golden: Path) -> None:
    source = CedForAudioClassification.from_pretrained(golden / "micro_hub")
    labels = list(source.config.id2label.values())
    student = load_student(golden / "micro_hub", make_store(labels))
    assert student.has_weights and not student.notes
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, student.model.state_dict()[name]), name


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (LABELS, "the student has 13 classes, the store has 7"),
        (
            [f"class {index}" for index in range(12, -1, -1)],
            "class 0 is 'class 0' in the student, but 'class 12' in the store",
        ),
        ([f"kind {index}" for index in range(13)], "class 0 is 'class 0' in the student, but 'kind 0' in the store"),
    ],
)
def test_a_head_that_does_not_fit_is_replaced_and_reported(golden: Path, labels: list[str], reason: str) -> None:
    source = CedForAudioClassification.from_pretrained(golden / "micro_hub")
    student = load_student(golden / "micro_hub", make_store(labels))
    assert len(student.notes) == 1 and f"head is replaced by a new one: {reason}" in student.notes[0]
    assert list(student.model.config.id2label.values()) == labels
    for name, tensor in source.encoder.state_dict().items():
        assert torch.equal(tensor, student.model.encoder.state_dict()[name]), name


def test_an_encoder_gets_a_head(golden: Path, tmp_path: Path) -> None:
    encoder = CedModel.from_pretrained(golden / "micro_hub")
    encoder.save_pretrained(tmp_path / "encoder")
    student = load_student(tmp_path / "encoder", make_store())
    assert student.has_weights and "the student has 0 classes, the store has 7" in student.notes[0]
    assert torch.equal(student.model.encoder.norm.weight, encoder.norm.weight)


def test_a_configuration_determines_the_shape(golden: Path, tmp_path: Path) -> None:
    settings = {"model_type": "ced", "embed_dim": 32, "depth": 2, "num_heads": 2, "target_length": 1012}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    for place in (tmp_path, tmp_path / "config.json"):
        student = load_student(place, make_store())
        assert student.model.config.embed_dim == 32 and len(student.model.encoder.blocks) == 2
        assert not student.has_weights and not student.notes


def test_positions_that_are_not_trained_are_reported() -> None:
    config = CedConfig(embed_dim=24, depth=1, num_heads=2)
    (note,) = load_student(config, make_store(chunk_s=4.0)).notes
    assert note == "chunks of 4 s do not train the last 38 of the student's 63 time positions"


def bad_students(golden: Path, folder: Path) -> Iterator[tuple[Any, str]]:
    def configured(**settings: Any) -> Path:
        place = folder / f"{len(list(folder.iterdir()))}"
        place.mkdir()
        (place / "config.json").write_text(json.dumps({"model_type": "ced", "embed_dim": 24, **settings}))
        return place

    yield "huge", "'huge' is not tiny, mini, small, base, a config.json, a model folder or a Hub id"
    yield "./nothing", "There is no folder './nothing'"
    yield configured(model_type="vit"), '"model_type" must be "ced"'
    yield configured(num_heads=5), r"is invalid: .*`embed_dim` \(24\) is not a multiple"
    yield CedConfig(embed_dim=24, target_length=512), "10 s are 1001 frames long; .* at most `target_length` 512"
    yield configured(n_mels=128), "front end differs from the store's: feature_size is 128, in the store 64"
    yield configured(hop_size=320), "front end differs from the store's: hop_size is 320, in the store 160"
    broken = configured()
    (broken / "config.json").write_text("{")
    yield broken, "config.json cannot be read: Expecting property name"
    damaged = Path(shutil.copytree(golden / "micro_hub", folder / "damaged"))
    os.truncate(damaged / "model.safetensors", 1000)
    yield damaged, "damaged cannot be loaded: "
    slow = Path(shutil.copytree(golden / "micro_hub", folder / "slow"))
    settings = json.loads((slow / "preprocessor_config.json").read_text())
    (slow / "preprocessor_config.json").write_text(json.dumps({**settings, "sampling_rate": 8000, "f_max": 4000}))
    (slow / "config.json").write_text(json.dumps({**json.loads((slow / "config.json").read_text()), "f_max": 4000}))
    yield slow, "sampling_rate is 8000, in the store 16000"
    partial = Path(shutil.copytree(golden / "micro_hub", folder / "partial"))
    tensors = load_file(partial / "model.safetensors")
    del tensors["encoder.norm.weight"]
    save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
    yield partial, "is missing|lacks|1 missing: encoder.norm.weight"


def test_students_that_do_not_fit_are_refused_with_the_difference(golden: Path, tmp_path: Path) -> None:
    for student, message in bad_students(golden, tmp_path):
        with pytest.raises((ValueError, OSError), match=message) as caught:
            load_student(student, make_store())
        assert "\n" not in str(caught.value)


# --- Invalid input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "`epochs=0`: expected at least 1"),
        ({"epochs": 1, "max_steps": 1}, "`max_steps=1`: expected None with `epochs`"),
        ({"learning_rate": float("nan")}, "`learning_rate=nan`: expected a number above 0"),
        ({"held_out": 1.0}, "`held_out=1.0`: expected a share"),
        ({"mixup": -1.0}, "`mixup=-1.0`: expected a number from 0"),
        (
            {"training": {"learning_rate": 1}},
            "TrainingArguments.learning_rate cannot be set; use the distillation option",
        ),
        ({"training": {"num_train_epochs": 1}}, "TrainingArguments.num_train_epochs cannot be set"),
        ({"training": {"fsdp": "full_shard"}}, "TrainingArguments.fsdp cannot be set"),
        ({"training": {"push_to_hub": True}}, "TrainingArguments.push_to_hub cannot be set"),
    ],
)
def test_invalid_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistillationArguments(**arguments)


def test_a_field_that_transformers_rejects_gives_one_line(lesson: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="transformers cannot train with these arguments: .*polynomic is not a valid"
    ) as caught:
        distill(lesson / "store", STUDENT, tmp_path / "student", quick(training={"lr_scheduler_type": "polynomic"}))
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_an_unknown_reporting_integration_is_refused(lesson: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="transformers cannot train with these arguments: nowhere is not supported"):
        distill(lesson / "store", STUDENT, tmp_path / "student", quick(training={"report_to": "nowhere"}))
    assert not list(tmp_path.iterdir())


def refusals(lesson: Path) -> dict[str, tuple[Callable[[Path], object], dict[str, Any], str]]:
    """Changes of a store, options of the training, and the error message."""

    def shard(store: Path) -> Path:
        return sorted((store / "shards").iterdir())[1]

    return {
        "no store": (lambda store: (store / "manifest.json").unlink(), {}, "not a store: it has no manifest.json"),
        "unfinished": (
            lambda store: shard(store).unlink(),
            {},
            "unfinished: .* shards exist. .*distill teach.* to complete it",
        ),
        "corrupt": (lambda store: os.truncate(shard(store), 300), {}, "epoch-000000-chunk-0000000016.parquet: corrupt"),
        "no audio": (lambda store: None, {"audio": lesson / "gone"}, "is not at .*gone: give its folder as `audio=…`"),
        "other audio": (
            lambda store: None,
            {"audio": lesson / "teacher"},
            r"audio files are not in .*teacher, such as",
        ),
    }


@pytest.mark.parametrize("case", ["no store", "unfinished", "corrupt", "no audio", "other audio"])
def test_an_incomplete_store_is_refused_in_one_line(case: str, store: Path, lesson: Path, tmp_path: Path) -> None:
    damage, options, message = refusals(lesson)[case]
    damage(store)
    with pytest.raises(ValueError, match=message) as caught:
        distill(store, STUDENT, tmp_path / "student", quick(), **options)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_audio_that_was_changed_is_reported(lesson: Path, tmp_path: Path) -> None:
    audio = Path(shutil.copytree(lesson / "audio", tmp_path / "audio"))
    soundfile.write(audio / "noise3.wav", np.zeros(22000), 16000)
    with pytest.raises(ValueError, match=r"noise3.wav: not the audio of the store") as caught:
        arguments = quick(workers=1, max_steps=20, held_out=0.0)
        distill(lesson / "store", STUDENT, tmp_path / "student", arguments, audio=audio)
    assert "\n" not in str(caught.value)


def test_audio_that_was_moved_is_found_in_the_given_folder(lesson: Path, store: Path, tmp_path: Path) -> None:
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["audio"]["root"] = str(tmp_path / "gone")
    (store / "manifest.json").write_text(json.dumps(manifest))
    assert distill(store, STUDENT, tmp_path / "student", quick(), audio=lesson / "audio").steps == 2


def test_existing_files_are_kept_without_overwrite(lesson: Path, tmp_path: Path) -> None:
    def run(output: str = "student", **options: Any) -> int:
        arguments = options.pop("arguments", quick())
        return distill(lesson / "store", STUDENT, tmp_path / output, arguments, **options).steps

    run()
    with pytest.raises(ValueError, match="student is not empty: use `overwrite=True`, or choose another output"):
        run()
    shutil.rmtree(tmp_path / "student")
    with pytest.raises(
        ValueError, match="student.training contains the checkpoints of a run: use `resume=True` or `overwrite=True`"
    ):
        run()
    with pytest.raises(ValueError, match=r"differs in batch_size \(8 then, 4 now\)"):
        run(resume=True, arguments=quick(batch_size=4))
    assert find_checkpoints(tmp_path / "student.training") == {2: True}
    assert run(overwrite=True, arguments=quick(batch_size=4, max_steps=3)) == 3
    (tmp_path / "student" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"student has other files than those of a model \(notes.txt\)"):
        run(overwrite=True)
    (tmp_path / "other.training").mkdir()
    (tmp_path / "other.training" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="other.training contains files that are not checkpoints"):
        run("other", overwrite=True)


def test_a_nan_loss_stops_the_run(lesson: Path, tmp_path: Path) -> None:
    arguments = quick(learning_rate=1e30, max_steps=20, held_out=0.0, training={"logging_steps": 1})
    with pytest.raises(ValueError, match=r"The loss is no longer finite at step \d+: lower the learning rate"):
        distill(lesson / "store", STUDENT, tmp_path / "student", arguments)
    assert not (tmp_path / "student").exists()


# --- The command -----------------------------------------------------------------------------------------------------


def test_the_command_trains_and_shows_the_progress(lesson: Path, tmp_path: Path) -> None:
    settings = {"model_type": "ced", "embed_dim": 24, "depth": 1, "num_heads": 2, "target_length": 112}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    arguments = ["distill", "train", lesson / "store", "-s", tmp_path / "config.json", "-o", tmp_path / "student"]
    arguments += ["--epochs", "2", "--batch-size", "8", "--workers", "1", "--mixup", "0.5", "--no-consistency"]
    arguments += ["--set", "gradient_accumulation_steps=2", "--set", "weight_decay=0.1"]
    run = CliRunner().invoke(app, [*map(str, arguments)])
    out, err = run.stdout, run.stderr
    assert run.exit_code == 0, err
    assert out.startswith(f"wrote {tmp_path / 'student'}: ") and "ced tag FILES --model" in out
    lines = [line for line in err.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2 and lines[1].startswith("epoch 2 of 2  loss 0.") and max(map(len, lines)) <= 80
    assert "Traceback" not in err and "Warning" not in err
    assert AudioTagger.from_pretrained(tmp_path / "student")(lesson / "audio" / "noise0.wav")
    assert "weight decay 0.1" in (tmp_path / "student" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "missing --student: tiny, mini, small, base"),
        ("-s tiny", "missing --output DIR: where to write the model"),
        ("-s tiny -o x --epochs 1 --max-steps 2", "--max-steps 2: expected None with"),
        ("-s tiny -o x --resume --overwrite", "choose one"),
        ("-s tiny -o x --set bf16", "--set bf16: expected NAME=VALUE"),
        ("-s tiny -o x --learning-rate -1", "ced: --learning-rate -1: expected a number above 0"),
        ("-s tiny -o x --held-out 2", "ced: --held-out 2: expected a share"),
        (
            "-s tiny -o x --set learning_rate=1",
            "TrainingArguments.learning_rate cannot be set; use the distillation option",
        ),
        ("-s tiny -o x --set push_to_hub=1", "TrainingArguments.push_to_hub cannot be set"),
        ("-s tiny -o x --set adam_beta3=1", "TrainingArguments has no such field: did you mean"),
        ("-s tiny -o x --set adam_beta1=high", "--set adam_beta1=high: invalid float value"),
    ],
)
def test_wrong_usage_gives_one_line(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(app, ["distill", "train", ".", *arguments.split()])
    assert run.exit_code == 2 and run.stderr.count("\n") == 1 and message in run.stderr and not run.stdout
    assert not list(tmp_path.iterdir())


def test_after_a_full_disk_a_run_can_be_continued(lesson: Path, tmp_path: Path) -> None:
    settings = {"model_type": "ced", "embed_dim": 24, "depth": 1, "num_heads": 2, "target_length": 112}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    arguments = ["distill", "train", lesson / "store", "-s", tmp_path / "config.json", "-o", tmp_path / "student"]
    arguments += ["--max-steps", "2", "--batch-size", "8", "--workers", "0"]
    for limit in (30_000, 100_000):  # bytes; too small for the weights, or only for the optimiser's state
        process = cli_process.start([*arguments, "--resume"], stderr=tmp_path / "stderr", max_file_size=limit)
        process.join()
        last = (tmp_path / "stderr").read_text().splitlines()[-1]
        assert process.exitcode == 1 and last.startswith("ced: A checkpoint could not be written"), last
        assert list(find_checkpoints(tmp_path / "student.training").values()) == [False]
    assert CliRunner().invoke(app, [*map(str, arguments), "--resume"]).exit_code == 0
    assert (tmp_path / "student" / "model.safetensors").exists()


def test_errors_are_one_line(lesson: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "ced", "embed_dim": 24, "target_length": 64}')
    arguments = ["distill", "train", lesson / "store", "-s", tmp_path / "config.json", "-o", tmp_path / "student"]
    run = CliRunner().invoke(app, [*map(str, arguments)])
    assert run.exit_code == 1 and run.stderr.count("\n") == 1 and not run.stdout
    assert run.stderr.startswith("ced: The store's chunks of 1 s are 101 frames long; the student encodes at most")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
