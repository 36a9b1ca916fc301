# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning on labelled clips, with transformers' `Trainer`: data → model folder."""

import hashlib
import json
import logging
import math
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalPrediction
from transformers.utils import logging as transformers_logging

from .audio import describe
from .clip_dataset import ClipCollator, ClipDataset, LengthGroupedOrder, check_clips, hold_out
from .configuration_ced import CedConfig
from .conversion import MODEL_FILES, move_into_place, save_model_folder
from .evaluation import ClassificationMetrics, Evaluation, classification_metrics, evaluate
from .feature_extraction_ced import CedFeatureExtractor
from .labelled import ALL, SINGLE_LABEL, LabelledClips, Skipped, find_splits, read_labelled
from .model_card import create_model_card
from .modeling_ced import CedForAudioClassification
from .tagging import AudioTagger

logger = logging.getLogger(__name__)

INSTALL_LORA = 'pip install "ced_model[lora]"'

TRAIN_SPLITS = ("train", "training")
VALIDATION_SPLITS = ("validation", "valid", "val", "dev", "eval")
MAX_VALIDATION_S = 60.0  # of each clip, in the validation of each epoch; at the end, clips are validated whole
MAX_CLASS_WEIGHT = 10.0  # a class with a single clip must not drown the others
ENCODER_SHARE = 0.1  # of the head's learning rate, for weights that are learnt already
TRAINING_SUFFIX = ".training"  # of the folder beside the output that holds checkpoints and logs
ADAPTER_FOLDER = "adapter"
SELECTION = "selection"  # the figure by which Trainer chooses the best epoch
RUN_FILE = "finetuning.json"
HELD_OUT_FILE = "held_out.jsonl"
# The beginnings of training arguments that may differ when a run goes on.
FREE_ARGUMENTS = ("dataloader_", "logging_", "log_", "report_to", "run_name", "disable_tqdm")
STATE_FILE = "trainer_state.json"  # what Trainer writes last into a checkpoint
MAX_WORKERS = 8

DataSource = str | os.PathLike | LabelledClips


@dataclass(frozen=True)
class FinetuningOptions:
    """
    How to fine-tune.

    Attributes:
        train: What is trained: `"head"`, `"last:K"` (the head, the last K blocks and the final LayerNorm) or `"all"`.
            The statistics of `init_bn` stay as they are in any case.
        lora: The rank of LoRA adapters (https://arxiv.org/abs/2106.09685) that are trained in place of the blocks of
            `train`, and merged into them at the end; None for none.
        epochs: At most so many.
        patience: Stop when so many epochs have brought nothing better; 0 for never.
        batch_size: Clips per device and step.
        learning_rate: The highest one of the head.
        encoder_learning_rate: The highest one of the encoder; by default a tenth of the head's, and with LoRA the same.
        class_weights: `"balanced"` gives rare classes more weight in the loss, up to 10 times, see [`class_weights`].
        crop_s: Longer clips are cut to so many seconds, at random, in training; by default what the model looks at in
            one piece (10.12 s).
        mixup: The parameter α of mixup; 0 for none.
        masks: Whether to mask a part in time and one in frequency of each training clip (SpecAugment).
        validation_share: Of the clips, held out for validation if there are no others; 0 for no validation.
        seed: Of the new head, the held-out clips, and all that is random in training.
        device: `"cpu"`, `"cuda"` or `"mps"`; by default a GPU if there is one.

    Raises:
        ValueError: if a value is not possible; the message names it.
    """

    train: str = "all"
    lora: int | None = None
    epochs: float = 20
    patience: int = 5
    batch_size: int = 16
    learning_rate: float = 1e-3
    encoder_learning_rate: float | None = None
    class_weights: Literal["none", "balanced"] = "none"
    crop_s: float | None = None
    mixup: float = 0.0
    masks: bool = False
    validation_share: float = 0.1
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"head|all|last:[1-9]\d*", self.train):
            raise ValueError(f"`train={self.train!r}` must be 'head', 'all', or 'last:K' for the last K blocks.")
        if self.lora is not None and (self.lora < 1 or self.train == "head"):
            problem = "is for the blocks of the encoder" if self.lora >= 1 else "must be a rank of at least 1"
            raise ValueError(f"`lora={self.lora}` {problem}: give it with `train` 'all' or 'last:K'.")
        for name in ("epochs", "learning_rate", "encoder_learning_rate", "crop_s", "batch_size"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"`{name}={value:g}` must be a number above 0.")
        for name in ("patience", "mixup"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"`{name}={getattr(self, name):g}` must be a number from 0 on.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"`seed={self.seed}` must be a whole number from 0 to 2³² - 1.")
        if self.class_weights not in ("none", "balanced"):
            raise ValueError(f"`class_weights={self.class_weights!r}` must be 'none' or 'balanced'.")
        if not 0 <= self.validation_share < 1:
            raise ValueError(
                f"`validation_share={self.validation_share:g}` must be a part of the clips, from 0 to below 1."
            )

    @property
    def num_blocks(self) -> int | None:
        """The K of `"last:K"`."""
        return int(self.train.removeprefix("last:")) if self.train.startswith("last:") else None


@dataclass(frozen=True)
class Finetuned:
    """
    A model folder that was written.

    Attributes:
        folder: the model.
        checkpoints: the folder of the run: checkpoints, logs for TensorBoard, and the list of the validation clips.
        labels: the classes.
        evaluation: of the validation clips, each tagged whole by [`AudioTagger`] with this model; None without any,
            and in a distributed run but in the main process.
        num_training_clips, num_validation_clips: that were used.
        held_out: a table of the validation clips, if they were taken from the training data.
        skipped: clips that were left out, with the reason.
        epochs: that were trained until the end.
        best_epoch: the one whose model this is.
        num_trained: trained parameters.
    """

    folder: Path
    checkpoints: Path
    labels: list[str]
    evaluation: Evaluation | None
    num_training_clips: int
    num_validation_clips: int
    held_out: Path | None
    skipped: list[Skipped]
    epochs: float
    best_epoch: float
    num_trained: int


def finetune(
    data: DataSource,
    output_dir: str | os.PathLike,
    *,
    model: str | os.PathLike,
    validation: DataSource | None = None,
    options: FinetuningOptions | None = None,
    reading: Mapping[str, Any] | None = None,
    training_arguments: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    say: Callable[[str], object] = logger.info,
) -> Finetuned:
    """
    Fine-tunes a CED model on labelled clips and writes it as a model folder.

    The head is replaced by a new one for the classes of the clips, unless these are the model's own. The model of the
    best epoch by validation is kept: by mean average precision for multi-label clips, else by the share of right
    answers, and of equal epochs by the Brier score. `output_dir` appears in one piece at the end. Checkpoints are in a
    folder beside it, with `.training` behind its name, from which an interrupted run goes on.

    Args:
        data: clips, or a folder or table for [`read_labelled`]. Of its splits that of training is used, and that of
            validation unless `validation` is given.
        output_dir: the folder to write.
        model: the folder or Hub id of a CED model.
        validation: the same as `data`, for validation. Without it and without such a split, a share of the clips is
            held out.
        options: how to fine-tune.
        reading: options of [`read_labelled`] for `data` and `validation`, such as `audio_root`; a `split` is that of
            `data`.
        training_arguments: fields of [`~transformers.TrainingArguments`] that override what `options` and this
            function make of them.
        resume: go on from the last checkpoint, if there is one.
        overwrite: replace the model that is in `output_dir`, and discard checkpoints unless they are resumed.
        callbacks: further callbacks of the `Trainer`; a [`~transformers.ProgressCallback`] takes the place of its own.
        say: called with lines that tell what is left out, assumed and trained.

    Returns:
        The [`Finetuned`] model.

    Raises:
        ValueError: in one line, if the clips, the model, the options or the folders do not fit.
        OSError: if there is no such model, or something cannot be written.
        ImportError: if an extra is not installed.
    """
    options = options or FinetuningOptions()
    target = Path(output_dir).absolute()
    checkpoints = target.with_name(target.name + TRAINING_SUFFIX)
    _check_output(target, overwrite)
    _check_device(options.device)
    network, feature_extractor = load_classifier(model)
    tagger = AudioTagger(network, feature_extractor)
    crop = _crop_samples(tagger, options.crop_s)
    clips = _read_clips(data, validation, tagger, dict(reading or {}), options)
    problem_type = clips.training.problem_type
    keeps_head = set_classes(network, clips.training.labels, problem_type, options.seed)
    trained = choose_trained(network, options)
    has_validation = clips.validation is not None
    arguments = _make_arguments(options, checkpoints, has_validation, training_arguments or {})

    checkpoint = None
    if arguments.should_save:
        run = _describe_run(str(model), clips, options, training_arguments or {})
        checkpoint = _prepare_run(checkpoints, run, resume, overwrite)
        _write_held_out(checkpoints, clips)
        for line in _opening_lines(clips, keeps_head, trained, options, checkpoint):
            say(line)
    arguments.distributed_state.wait_for_everyone()
    if resume and not arguments.should_save:
        checkpoint = _last_checkpoint(checkpoints)
    trainer = _make_trainer(trained, tagger, clips, crop, options, arguments, callbacks)
    if checkpoint is not None and _has_ended(checkpoint):
        trainer.finish_from(checkpoint)  # killed while the model was written
    else:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    evaluation = None
    if arguments.should_save:
        evaluation = _write_model(trainer, tagger, clips, options, str(model), target)
    arguments.distributed_state.wait_for_everyone()
    return Finetuned(
        folder=target,
        checkpoints=checkpoints,
        labels=clips.training.labels,
        evaluation=evaluation,
        num_training_clips=len(clips.training),
        num_validation_clips=0 if clips.validation is None else len(clips.validation),
        held_out=checkpoints / HELD_OUT_FILE if clips.is_held_out else None,
        skipped=clips.skipped,
        epochs=trainer.state.epoch or 0.0,
        best_epoch=_best_epoch(trainer),
        num_trained=_count_trained(trained),
    )


# --- Model -----------------------------------------------------------------------------------------------------------


def load_classifier(model: str | os.PathLike) -> tuple[CedForAudioClassification, CedFeatureExtractor | None]:
    """
    A CED model in float32 on the CPU, and its front end if it has a file of its own. An encoder gets a head.

    Raises:
        ValueError: if it is no CED model, or lacks tensors.
        OSError: if there is no such folder or repository, or it cannot be reached.
    """
    config = CedConfig.get_config_dict(str(model))[0]
    if config.get("model_type") != CedConfig.model_type:
        raise ValueError(f"{str(model)!r} is a {config.get('model_type')!r} model, not CED.")
    try:
        with _quiet():
            loaded: Any = CedForAudioClassification.from_pretrained(
                model, dtype=torch.float32, output_loading_info=True
            )
    except (SafetensorError, StrictDataclassError, RuntimeError) as error:
        raise ValueError(f"{str(model)!r} cannot be loaded: {' '.join(str(error).split())}") from error
    network, loading = loaded
    missing = sorted(name for name in loading["missing_keys"] if not name.startswith("outputlayer."))
    if missing:
        raise ValueError(f"{str(model)!r} is no whole model: it lacks {len(missing)} tensors, such as {missing[0]}.")
    try:
        return network, CedFeatureExtractor.from_pretrained(model)
    except OSError:
        return network, None


def set_classes(model: CedForAudioClassification, labels: Sequence[str], problem_type: str, seed: int) -> bool:
    """
    Gives a model a new head for `labels`, unless these are its own.

    Returns:
        Whether the head is kept: the labels are those that it has, in the same order.
    """
    config: Any = model.config
    config.problem_type = problem_type
    if [config.id2label[index] for index in range(model.num_labels)] == list(labels):
        return True
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    model.num_labels = len(labels)
    weight = torch.empty(len(labels), config.hidden_size)
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(config.hidden_size, len(labels))
    linear.weight = nn.Parameter(nn.init.trunc_normal_(weight, std=config.initializer_range, generator=generator))
    nn.init.zeros_(linear.bias)
    model.outputlayer[1] = linear
    return False


def choose_trained(model: CedForAudioClassification, options: FinetuningOptions) -> Any:
    """
    Freezes what is not to be trained, and adds LoRA adapters if they are asked for.

    Returns:
        The model, or a `peft.PeftModel` around it.

    Raises:
        ValueError: if the model has fewer blocks than are to be trained.
        ImportError: if LoRA is asked for and peft is not installed.
    """
    depth = len(model.encoder.blocks)
    k = depth if options.num_blocks is None else options.num_blocks
    if k > depth:
        raise ValueError(f"`train={options.train!r}`: the encoder has {depth} blocks.")
    if options.lora is not None:
        return _add_lora(model, options.lora, range(depth - k, depth), options.seed)
    if options.train == "all":
        # Batches of few clips would move its statistics away from what the weights have learnt with.
        model.encoder.init_bn.requires_grad_(False)
        return model
    model.freeze_encoder()
    if options.train != "head":
        model.unfreeze_last(k)
    return model


def _add_lora(model: CedForAudioClassification, rank: int, blocks: Iterable[int], seed: int) -> Any:
    peft = _import_peft()
    numbers = "|".join(map(str, blocks))
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=rf"encoder\.blocks\.({numbers})\.(attn\.(qkv|proj)|mlp\.fc[12])",
        modules_to_save=["outputlayer"],
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of names that transformers has changed
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config)


def _import_peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ImportError(f"LoRA needs peft: {INSTALL_LORA}") from error
    return peft


def _count_trained(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _crop_samples(tagger: AudioTagger, crop_s: float | None) -> int:
    if crop_s is None:
        return round(tagger.max_window_s * tagger.sampling_rate)
    if not tagger.min_window_s <= crop_s <= tagger.max_window_s:
        raise ValueError(
            f"`crop_s={crop_s:g}`: this model looks at {tagger.min_window_s:.3g} to {tagger.max_window_s:.4g} seconds"
            " at once."
        )
    return round(crop_s * tagger.sampling_rate)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' report on tensors that were not loaded, and its progress bar."""
    verbosity, shows_bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shows_bar:
            transformers_logging.enable_progress_bar()


# --- Clips -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Clips:
    """
    What to train and to validate with.

    Attributes:
        training, validation: clips that can be read.
        training_lengths, validation_lengths: of them, in samples.
        name: of the data, for the model card.
        is_held_out: whether the validation clips were taken from the training data.
        notes: what else to know, one line each.
    """

    training: LabelledClips
    training_lengths: list[int]
    validation: LabelledClips | None
    validation_lengths: list[int]
    name: str
    is_held_out: bool
    notes: list[str]

    @property
    def skipped(self) -> list[Skipped]:
        every = [*self.training.skipped, *(self.validation.skipped if self.validation is not None else [])]
        return list(dict.fromkeys(every))


def _read_clips(
    data: DataSource,
    validation: DataSource | None,
    tagger: AudioTagger,
    reading: dict[str, Any],
    options: FinetuningOptions,
) -> _Clips:
    split = reading.pop("split", None)
    training, held_apart = _read_training(data, split, tagger.labels, reading)
    _check_classes(training)
    if validation is not None:
        held_apart = _read_validation(validation, None, training, reading)
    notes = [*training.notes, *([] if held_apart is None else held_apart.notes)]
    training, lengths = check_clips(training, tagger.sampling_rate)
    name = "the given clips" if isinstance(data, LabelledClips) else Path(data).absolute().name
    if held_apart is not None:
        _check_disjoint(training, held_apart)
        held_apart, validation_lengths = check_clips(held_apart, tagger.sampling_rate)
        return _Clips(training, lengths, held_apart, validation_lengths, name, False, notes)
    if not options.validation_share:
        return _Clips(training, lengths, None, [], name, False, notes)
    kept, held_out = hold_out(training.targets, options.validation_share, options.seed)
    if not held_out:
        raise ValueError(
            f"No class of {name} has two clips, so none can be held out for validation: add clips, give others for"
            " validation, or a validation share of 0."
        )
    chosen = [[lengths[index] for index in indices] for indices in (kept, held_out)]
    validation_clips = replace(training.select(held_out), skipped=[])
    return _Clips(training.select(kept), chosen[0], validation_clips, chosen[1], name, True, notes)


def _read_training(
    data: DataSource, split: str | None, model_labels: list[str], reading: dict[str, Any]
) -> tuple[LabelledClips, LabelledClips | None]:
    """Training clips, and validation clips if the data have such a split."""
    if isinstance(data, LabelledClips):
        return data, None
    if split is not None:
        return read_labelled(data, split=split, model_classes=model_labels, **reading), None
    splits = find_splits(data)
    split = _find_split(splits, TRAIN_SPLITS)
    if len(splits) > 1 and split is None:
        shown = ", ".join(map(repr, splits))
        raise ValueError(f"{describe(data)}: which of its splits is for training: {shown}, or {ALL!r} for all of them?")
    training = read_labelled(data, split=split, model_classes=model_labels, **reading)
    validation_split = _find_split(splits, VALIDATION_SPLITS)
    if split is None or validation_split is None:
        return training, None
    return training, _read_validation(data, validation_split, training, reading)


def _find_split(splits: Sequence[str], names: Sequence[str]) -> str | None:
    return next((split for split in splits if split.lower() in names), None)


def _read_validation(
    data: DataSource, split: str | None, training: LabelledClips, reading: dict[str, Any]
) -> LabelledClips:
    """Validation clips with the classes of the training clips."""
    if isinstance(data, LabelledClips):
        if data.labels != training.labels or data.problem_type != training.problem_type:
            raise ValueError("The validation clips must have the classes of the training clips, in the same order.")
        return data
    if split is None:
        split = _find_split(find_splits(data), VALIDATION_SPLITS)
    options = {**reading, "classes": training.labels, "problem_type": training.problem_type}
    try:
        return read_labelled(data, split=split, **options)
    except ValueError as error:
        raise ValueError(f"For validation: {error}") from error


def _check_classes(clips: LabelledClips) -> None:
    """Raises ValueError where there is nothing to tell apart."""
    if clips.problem_type == SINGLE_LABEL and len(clips.labels) < 2:
        raise ValueError(
            f"All clips are of one class, {clips.labels[0]!r}: a model learns from clips of two classes or more."
        )
    if (clips.targets >= 0.5).all():
        raise ValueError("Every clip has every class: a model learns from clips with and without each of them.")


def _check_disjoint(training: LabelledClips, validation: LabelledClips) -> None:
    known = {os.path.realpath(path) for path in training.paths}
    doubles = [path for path in validation.paths if os.path.realpath(path) in known]
    if doubles:
        raise ValueError(
            f"{len(doubles)} of {len(validation)} validation clips are training clips, too, such as"
            f" {describe(doubles[0])}: their figures would say nothing."
        )


def _opening_lines(
    clips: _Clips, keeps_head: bool, trained: nn.Module, options: FinetuningOptions, checkpoint: Path | None
) -> Iterator[str]:
    """What is to be known before training."""
    for path, reason in clips.skipped:
        yield f"left out: {describe(path)}: {reason}"
    yield from (f"note: {note}" for note in clips.notes)
    labels = clips.training.labels
    for subset, verb in ((clips.training, "trained"), (clips.validation, "validated")):
        absent: Any = [] if subset is None else np.flatnonzero((subset.targets < 0.5).all(axis=0))
        if len(absent):
            names = ", ".join(repr(labels[index]) for index in absent[:5]) + (", …" if len(absent) > 5 else "")
            yield f"note: no clip of {names}: {'it is' if len(absent) == 1 else 'they are'} not {verb}"
    kind = "one" if clips.training.problem_type == SINGLE_LABEL else "any number of them"
    yield f"{len(clips.training)} clips of {len(labels)} classes, {kind} per clip" + (
        "" if clips.validation is None else f"; {len(clips.validation)} {'held out ' * clips.is_held_out}for validation"
    )
    head = "the model's own head" if keeps_head else "a new head"
    yield f"training {_describe_trained(options)}, {_count_trained(trained):,} parameters, with {head}"
    if checkpoint is not None:
        yield f"going on from {checkpoint.name}"


def _describe_trained(options: FinetuningOptions) -> str:
    where = "all blocks" if options.num_blocks is None else f"the last {options.num_blocks} blocks"
    if options.lora is not None:
        return f"the head and LoRA adapters of rank {options.lora} in {where}"
    if options.train == "head":
        return "the head"
    return "all but the input statistics" if options.num_blocks is None else f"the head and {where}"


# --- Training --------------------------------------------------------------------------------------------------------


def class_weights(targets: np.ndarray, problem_type: str) -> torch.Tensor:
    """
    Weights that balance the classes in the loss.

    Args:
        targets: of the training clips, of shape `(clips, classes)`.

    Returns:
        float32 of shape `(classes,)`. Single-label: clips / (classes · clips of the class), for the cross-entropy.
        Multi-label: clips without the class / clips with it, for the positives in the binary cross-entropy. Both are
        kept within 1/10 and 10; a class without clips has 1.
    """
    positives = targets.sum(axis=0, dtype=np.float64)
    if problem_type == SINGLE_LABEL:
        weights = len(targets) / (targets.shape[1] * np.maximum(positives, 1e-9))
    else:
        weights = (len(targets) - positives) / np.maximum(positives, 1e-9)
    weights = np.where(positives > 0, weights.clip(1 / MAX_CLASS_WEIGHT, MAX_CLASS_WEIGHT), 1.0)
    return torch.from_numpy(weights.astype(np.float32))


class FinetuningTrainer(Trainer):
    """
    transformers' Trainer with class weights, soft labels for one class per clip (mixup), a learning rate of its own
    for the encoder, and clips of similar length in a batch.
    """

    loss_is_scaled_for_ga = False  # it is a mean over the clips of a batch

    def __init__(
        self,
        *args: Any,
        problem_type: str,
        weights: torch.Tensor | None = None,
        encoder_learning_rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.problem_type = problem_type
        self.weights = weights
        self.encoder_learning_rate = encoder_learning_rate

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        logits, labels = outputs["logits"].float(), inputs["labels"]
        weights = None if self.weights is None else self.weights.to(logits.device)
        if self.problem_type == SINGLE_LABEL:
            smoothing = self.args.label_smoothing_factor
            loss = nn.functional.cross_entropy(logits, labels, weights, label_smoothing=smoothing)
        else:
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights)
        return (loss, outputs) if return_outputs else loss

    def finish_from(self, checkpoint: Path) -> None:
        """Takes the state that training ended in, in place of training: a finished Trainer would go a step too far."""
        self.state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
        best = self.state.best_model_checkpoint
        if not self.args.load_best_model_at_end or best is None or not os.path.isdir(best):
            best = str(checkpoint)
        self._load_from_checkpoint(best)

    def create_optimizer(self, model: Any = None) -> Any:
        if self.optimizer is None:
            optimizer = super().create_optimizer(model)
            network: Any = self.model
            head = {id(p) for name, p in network.named_parameters() if "outputlayer" in name}
            rates = {True: self.args.learning_rate, False: self.encoder_learning_rate or self.args.learning_rate}
            groups = []
            for group in optimizer.param_groups:
                for is_head, rate in rates.items():
                    parameters = [p for p in group["params"] if (id(p) in head) == is_head]
                    groups += [{**group, "params": parameters, "lr": rate}] if parameters else []
            optimizer.param_groups = groups
        return self.optimizer

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        names = super().get_decay_parameter_names(model)
        return [name for name in names if not re.search(r"pos_embed|cls_token|init_bn", name)]

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        loader: Any = super()._get_dataloader(*args, **kwargs)
        # Seeds of workers would be drawn from the global generator, and how often depends on whether the run was
        # resumed. That is left to dropout.
        getattr(loader, "base_dataloader", loader).generator = torch.Generator()
        return loader

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        batch_size = self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        dataset: Any = train_dataset or self.train_dataset
        return LengthGroupedOrder(dataset, batch_size)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_eval_sampler(eval_dataset)
        return LengthGroupedOrder(eval_dataset, self.args.eval_batch_size * self.args.world_size)


class EpochCallback(TrainerCallback):
    """Tells a [`ClipDataset`] which epoch it is; accelerate does not always pass that on."""

    def __init__(self, dataset: ClipDataset) -> None:
        self.dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.dataset.epoch = int(state.epoch or 0)


def _make_trainer(
    model: Any,
    tagger: AudioTagger,
    clips: _Clips,
    crop: int,
    options: FinetuningOptions,
    arguments: TrainingArguments,
    callbacks: Sequence[TrainerCallback],
) -> FinetuningTrainer:
    rate, problem_type = tagger.sampling_rate, clips.training.problem_type
    training = ClipDataset(clips.training, clips.training_lengths, rate, crop, seed=options.seed, mixup=options.mixup)
    own_callbacks: list[TrainerCallback] = [EpochCallback(training)]
    validation = None
    if clips.validation is not None:
        validation = ClipDataset(clips.validation, clips.validation_lengths, rate, round(MAX_VALIDATION_S * rate))
        if options.patience and arguments.load_best_model_at_end:
            own_callbacks.append(EarlyStoppingCallback(options.patience))
    shown = [callback for callback in callbacks if isinstance(callback, ProgressCallback)]
    is_balanced = options.class_weights == "balanced"
    default_rate = arguments.learning_rate * (1.0 if options.lora is not None else ENCODER_SHARE)
    trainer = FinetuningTrainer(
        model=model,
        args=arguments,
        data_collator=ClipCollator(tagger.feature_extractor, masks=options.masks),
        train_dataset=training,
        eval_dataset=validation,
        processing_class=tagger.feature_extractor,
        compute_metrics=partial(_compute_metrics, problem_type=problem_type),
        callbacks=[*own_callbacks, *(callback for callback in callbacks if callback not in shown)],
        problem_type=problem_type,
        weights=class_weights(clips.training.targets, problem_type) if is_balanced else None,
        encoder_learning_rate=options.encoder_learning_rate or default_rate,
    )
    if shown:
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(shown[0])
    return trainer


def _compute_metrics(prediction: EvalPrediction, problem_type: str) -> dict[str, float]:
    logits = torch.as_tensor(prediction.predictions).float()
    if not torch.isfinite(logits).all():
        raise ValueError("The model's outputs are not numbers any more: lower the learning rate.")
    if problem_type == SINGLE_LABEL:
        targets = np.eye(logits.shape[1])[prediction.label_ids]
        scores = logits.softmax(dim=-1).numpy()
    else:
        targets = np.asarray(prediction.label_ids) >= 0.5
        scores = logits.sigmoid().numpy()
    metrics = classification_metrics(targets, scores, problem_type=problem_type)
    return {**metrics.summary(), SELECTION: _selection(metrics)}


def _selection(metrics: ClassificationMetrics) -> float:
    """
    What the best epoch has the most of: the share of right answers, or mean average precision if clips may have several
    classes. Of few clips both are coarse, so that of equal epochs the one with the better Brier score counts as better.
    """
    if metrics.problem_type == SINGLE_LABEL:
        # As if the Brier score were that of one more clip: no more than a right answer counts.
        return (metrics.top_1 * metrics.num_clips + 1 - metrics.brier / 2) / (metrics.num_clips + 1)
    return (metrics.mean_average_precision + 1e-6 * (1 - metrics.brier)) / (1 + 1e-6)


def _make_arguments(
    options: FinetuningOptions,
    checkpoints: Path,
    has_validation: bool,
    overrides: Mapping[str, Any],
) -> TrainingArguments:
    if "output_dir" in overrides:
        raise ValueError("`training_arguments` has output_dir, which is made of the name of the model: leave it out.")
    workers = overrides.get("dataloader_num_workers", _default_workers())
    values: dict[str, Any] = {
        "num_train_epochs": options.epochs,
        "per_device_train_batch_size": options.batch_size,
        "per_device_eval_batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,  # of all
        "weight_decay": 0.01,
        "eval_strategy": "epoch" if has_validation else "no",
        "save_strategy": "epoch",
        "logging_strategy": "epoch",
        "save_total_limit": 2,  # the best and the last
        "load_best_model_at_end": has_validation,
        "metric_for_best_model": SELECTION if has_validation else None,
        "greater_is_better": True if has_validation else None,
        "report_to": ["tensorboard"] if find_spec("tensorboard") else [],
        "seed": options.seed,
        "use_cpu": options.device == "cpu",
        "dataloader_num_workers": workers,
        "dataloader_persistent_workers": workers > 0,
        "dataloader_pin_memory": options.device != "cpu" and torch.cuda.is_available(),
        "train_sampling_strategy": "group_by_length",
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "ddp_find_unused_parameters": False,
        "restore_callback_states_from_checkpoint": True,  # the patience that is left
    }
    try:
        return TrainingArguments(output_dir=str(checkpoints), **{**values, **overrides})
    except TypeError as error:  # an unknown name
        raise ValueError(f"`training_arguments`: {error}") from error


def _default_workers() -> int:
    """Half of this process's CPUs: workers that take training's own slow it down by far more than they help."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(MAX_WORKERS, max(1, cpus // (2 * processes)))


def _check_device(device: str | None) -> None:
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if device is None or available.get(device):
        return
    if device not in available:
        raise ValueError(
            f"`device={device!r}` must be 'cpu', 'cuda' or 'mps'; the variable CUDA_VISIBLE_DEVICES chooses among GPUs."
        )
    raise ValueError(f"`device={device!r}`: there is no such device here.")


# --- Checkpoints -----------------------------------------------------------------------------------------------------


def _describe_run(
    model: str, clips: _Clips, options: FinetuningOptions, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """What must be the same when a run goes on, as JSON has it."""
    subsets = {"training clips": clips.training, "validation clips": clips.validation}
    run = {
        "model": model,
        "labels": clips.training.labels,
        "problem_type": clips.training.problem_type,
        **{name: value for name, value in asdict(options).items() if name != "device"},
        **{name: value for name, value in overrides.items() if not name.startswith(FREE_ARGUMENTS)},
        **{name: _digest(subset) for name, subset in subsets.items()},
    }
    return json.loads(json.dumps(run, default=str))


def _digest(clips: LabelledClips | None) -> str | None:
    if clips is None:
        return None
    paths = "\0".join(map(os.path.abspath, clips.paths))
    digest = hashlib.sha256(os.fsencode(paths))
    digest.update(np.ascontiguousarray(clips.targets).tobytes())
    return f"{len(clips)}, {digest.hexdigest()[:16]}"


def _prepare_run(checkpoints: Path, run: dict[str, Any], resume: bool, overwrite: bool) -> Path | None:
    """
    Makes the folder of a run, or finds the checkpoint to go on from; without one a resumed run begins anew.

    Raises:
        ValueError: if there is another run, or something else.
    """
    run_file = checkpoints / RUN_FILE
    if checkpoints.exists() and (not checkpoints.is_dir() or (any(checkpoints.iterdir()) and not run_file.is_file())):
        raise ValueError(f"{checkpoints} holds something else than checkpoints: move it, or choose another output.")
    if run_file.is_file() and resume:
        stored = json.loads(run_file.read_text(encoding="utf-8"))
        differing = sorted(name for name in {*run, *stored} if stored.get(name) != run.get(name))
        if differing:
            raise ValueError(
                f"{checkpoints} cannot be resumed: its run was another one in {', '.join(differing)}; overwrite it"
                " without resuming, or choose another output."
            )
        return _last_checkpoint(checkpoints)
    if run_file.is_file():
        if not overwrite and _last_checkpoint(checkpoints) is not None:
            raise ValueError(f"{checkpoints} holds the checkpoints of a run: resume it, or overwrite it.")
        shutil.rmtree(checkpoints)
    checkpoints.mkdir(parents=True, exist_ok=True)
    _write_text(run_file, json.dumps(run, indent=2) + "\n")
    return None


def _write_held_out(checkpoints: Path, clips: _Clips) -> None:
    """Leaves a table of the held-out clips, with which the model can be evaluated again."""
    if clips.validation is None or not clips.is_held_out:
        return
    lines = []
    for path, targets in zip(clips.validation.paths, clips.validation.targets, strict=True):
        labels = [clips.validation.labels[index] for index in np.flatnonzero(targets >= 0.5)]
        lines.append(json.dumps({"file_name": os.path.abspath(path), "labels": labels}) + "\n")
    _write_text(checkpoints / HELD_OUT_FILE, "".join(lines))


def _last_checkpoint(checkpoints: Path) -> Path | None:
    """The last one that was written to its end; those after it are removed."""
    found = [path for path in checkpoints.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.split("-")[-1].isdigit()]
    for path in sorted(found, key=lambda path: -int(path.name.split("-")[-1])):
        try:
            json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
            return path
        except (OSError, ValueError):
            shutil.rmtree(path)
    return None


def _has_ended(checkpoint: Path) -> bool:
    """Whether nothing was left to train when it was written: all epochs were through, or the patience was."""
    state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
    return bool(state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"])


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


# --- Output ----------------------------------------------------------------------------------------------------------


def _check_output(target: Path, overwrite: bool) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ValueError(f"{target} is not a folder: choose another output.")
    present = sorted(path.name for path in target.iterdir()) if target.exists() else []
    foreign = [name for name in present if name not in {*MODEL_FILES, ADAPTER_FOLDER}]
    if foreign:
        raise ValueError(f"{target} holds more than a model ({', '.join(foreign[:5])}): choose another output.")
    if present and not overwrite:
        raise ValueError(f"{target} holds a model: overwrite it, or choose another output.")


def _write_model(
    trainer: FinetuningTrainer,
    tagger: AudioTagger,
    clips: _Clips,
    options: FinetuningOptions,
    base_model: str,
    target: Path,
) -> Evaluation | None:
    """Writes the folder in one piece, and returns how well its model tags the validation clips."""
    network: Any = trainer.accelerator.unwrap_model(trainer.model)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch, _quiet():
        folder = Path(scratch) / target.name
        folder.mkdir()
        if options.lora is not None:
            network.save_pretrained(folder / ADAPTER_FOLDER)
            network = network.merge_and_unload()
        evaluation = None
        if clips.validation is not None:
            evaluation = evaluate(AudioTagger(network, tagger.feature_extractor), clips.validation)
        card = _make_card(network, trainer, clips, options, base_model, target.name, evaluation)
        save_model_folder(network, tagger.feature_extractor, folder, card)
        move_into_place(folder, target, Path(scratch) / "replaced")
    return evaluation


def _make_card(
    model: CedForAudioClassification,
    trainer: FinetuningTrainer,
    clips: _Clips,
    options: FinetuningOptions,
    base_model: str,
    name: str,
    evaluation: Evaluation | None,
) -> ModelCard:
    is_local = os.path.isdir(base_model)
    base_name = Path(base_model).absolute().name if is_local else base_model
    return create_model_card(
        model,
        model_id=name,
        source=f"Fine-tuned from `{base_name}`.",
        base_model=None if is_local else base_model,
        eval_results=[] if evaluation is None else _eval_results(evaluation.metrics, clips.name),
        datasets=[],
        training_data=_describe_training(trainer, clips, options, base_name),
    )


def _eval_results(metrics: ClassificationMetrics, data_name: str) -> list[EvalResult]:
    figures = metrics.summary()
    names = {"mAP": "Mean average precision", "mAUC": "Mean area under the ROC curve", "top_1": "Top-1 accuracy"}
    return [
        EvalResult(
            task_type="audio-classification",
            task_name="Audio classification",
            dataset_type=data_name,
            dataset_name=data_name,
            dataset_split="validation",
            metric_type=short,
            metric_name=long,
            metric_value=round(figures[short], 4),
        )
        for short, long in names.items()
        if math.isfinite(figures[short])
    ]


def _describe_training(trainer: FinetuningTrainer, clips: _Clips, options: FinetuningOptions, base_name: str) -> str:
    """A paragraph for the model card."""
    extractor: Any = trainer.processing_class
    hours = sum(clips.training_lengths) / extractor.sampling_rate / 3600
    length = f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
    kind = "one class" if clips.training.problem_type == SINGLE_LABEL else "any number of classes"
    lines = [
        f"{len(clips.training)} clips ({length}) of `{clips.name}`, each with {kind}, on top of what `{base_name}` had"
        f" learnt. Trained: {_describe_trained(options)}, at a highest learning rate of"
        f" {trainer.args.learning_rate:g} for the head"
        + ("" if options.train == "head" else f" and {trainer.encoder_learning_rate:g} for the rest")
        + f", in batches of {trainer.args.train_batch_size}, with seed {options.seed}."
    ]
    extras = {
        "classes balanced by weights in the loss": options.class_weights == "balanced",
        f"mixup (α = {options.mixup:g})": bool(options.mixup),
        "time and frequency masks": options.masks,
    }
    lines += [f"With {', '.join(name for name, is_used in extras.items() if is_used)}."] if any(extras.values()) else []
    if clips.validation is None:
        lines.append(f"Nothing was held out; these are the weights after {_best_epoch(trainer):g} epochs.")
    else:
        origin = "held out at random, in proportion in each class" if clips.is_held_out else "given apart"
        lines.append(
            f"Validation clips: {len(clips.validation)}, {origin}. They chose the best epoch, number"
            f" {_best_epoch(trainer):g} of {trainer.state.epoch or 0:g}, so figures on other recordings may be lower."
        )
    return " ".join(lines)


def _best_epoch(trainer: Trainer) -> float:
    state = trainer.state
    epochs: dict[Any, float] = {entry["step"]: entry["epoch"] for entry in state.log_history if "epoch" in entry}
    best = state.best_global_step if trainer.args.load_best_model_at_end else None
    return round(epochs.get(best, state.epoch or 0.0), 2)
