# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains ced-nano from a bank, with mixing, augmentation, teacher and student on one device, in one or more runs.

    python examples/ced_nano/train_gpu.py BANK OUT --device cuda --steps 60000 --minutes 9 --compile

Each step makes new mixes, runs the teacher on them, and trains the student on its logits and embeddings (every 0.48 s).
BANK is a folder written by `bank.py`, or the WORK folder with the recordings. OUT/last.pt is written regularly, and the
same command continues from it. At the end, or when the time limit is reached, the averaged weights are written to the
model folder OUT/model.
"""

import argparse
import functools
import json
import logging
import os
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import publish
import yamnet
import yamnet_torch
from bank import BALANCE, MIN_PROBABILITY, OpusBank, weights_of
from batches import WAYS, Batch, Batches, Feeder, LogMel, Request, autocast, samples_of
from ced_model import CedConfig, CedFeatureExtractor, CedForAudioClassification
from ced_model.audioset import AUDIOSET_LABELS
from ced_model.evaluation import classification_metrics
from ced_model.output import new_file, write_file
from mixing_torch import SAMPLING_RATE, TorchMixer
from pretrain import Pretraining, make_optimizers
from sources import Bank

logger = logging.getLogger("train_gpu")

WINDOWS = (1, 3, 9, 20)  # the teacher's patches: 0.96, 1.92, 4.8 and 10.08 s
WINDOW_SHARES = {False: (0.25, 0.3, 0.3, 0.15), True: (0.5, 0.3, 0.1, 0.1)}  # by whether it is the final stage
MAX_LOGIT = 8.0  # the teacher's logits are clamped to ±8; those of unlikely classes reach -100
CALIBRATION_CLIPS = 256
AHEAD = 4  # number of batches that a feeder prepares
# Classes of everyday sounds with few minutes of real recordings in the bank
SCARCE = (
    *("Chainsaw", "Clock", "Tick", "Tick-tock", "Helicopter", "Chicken, rooster", "Crowing, cock-a-doodle-doo"),
    *("Rain", "Raindrop", "Rain on surface", "Sneeze", "Baby cry, infant cry", "Ocean", "Waves, surf", "Cat", "Dog"),
    *("Walk, footsteps", "Laughter", "Piano", "Bell"),
)
SCARCE_PROBABILITY = 0.15  # minimum probability of the teacher for a recording of such a class
SYNTHETIC = ("synthesis/*", "general-midi/*", "espeak-ng/*")
FITTED_CLIPS = 96  # of 9 patches; per batch for fitting the layer that predicts the teacher's embedding
FITTED_BATCHES = 8
RIDGE = 1e-3


@dataclass(kw_only=True)
class Arguments:
    """Options of the training. An invalid value raises an error with the name of the option."""

    steps: int = 20_000
    minutes: float = 1e9  # time limit of this run
    fit: bool = False  # reduce the number of steps so that the schedule ends after `minutes`
    batch_patches: int = 1024  # number of the teacher's patches per step
    way: str = "consistent"  # augmentation of the student: as for the teacher, different, or none for both
    dense: bool = True  # targets every 0.48 s in addition to those of the clip
    mask_share: float = 0.5  # share of clips with masks
    teacher_passes: int = 1  # 3: average over patches shifted by -0.16, 0 and 0.16 s
    balance: float = BALANCE  # 0: all recordings are drawn equally often; 1: all classes are drawn equally often
    focus: float = 1.0  # factor for the frequency of recordings of scarce classes
    synthetic: float = 1.0  # factor for the frequency of synthetic recordings
    distinct: int = 0  # number of steps with different mixes, repeated later with other augmentation; 0: all steps
    final_share: float = 0.2  # share of the steps, at the end, with short, clean clips without masks
    learning_rate: float = 1e-3
    optimizer: str = "muon"
    weight_decay: float = 0.05
    warmup_steps: int = 200
    decay_share: float = 0.4  # share of the steps in which the learning rate decays to a fiftieth
    ema_decay: float = 0.9995
    class_weight: float = 0.3
    logit_weight: float = 1.0
    embedding_weight: float = 1.0
    width: int = 192
    depth: int = 6
    heads: int = 3
    save_steps: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            raise SystemExit(f"--way must be one of {', '.join(WAYS)}, got {self.way!r}.")
        if self.teacher_passes not in (1, 3):
            raise SystemExit(f"--teacher-passes must be 1 or 3, got {self.teacher_passes}.")
        if self.fit and self.minutes > 1e6:
            raise SystemExit("--fit needs --minutes.")
        for name in ("steps", "batch_patches", "save_steps", "width", "depth", "heads"):
            if getattr(self, name) < 1:
                raise SystemExit(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}.")


@dataclass(frozen=True)
class Recordings:
    """The recordings of a run. The samples are memory-mapped."""

    path: Path  # concatenated recordings, int16
    rows: list[dict[str, object]]
    taught: np.ndarray  # the teacher's probabilities (recordings, 527); small ones are 0

    @property
    def samples(self) -> np.ndarray:
        return np.memmap(self.path, np.int16, "c", shape=(sum(int(row["samples"]) for row in self.rows),))

    def weights(self, arguments: Arguments, left_out: list[str]) -> np.ndarray:
        """Relative frequency with which each recording is drawn; 0 if it is held out or left out."""
        weights = weights_of(self.taught, [str(row["group"]) for row in self.rows], arguments.balance)
        scarce = self.taught[:, [AUDIOSET_LABELS.index(label) for label in SCARCE]].max(1) >= SCARCE_PROBABILITY
        weights *= np.where(scarce, arguments.focus, 1.0)
        weights *= [arguments.synthetic if _fits(row, SYNTHETIC) else 1.0 for row in self.rows]
        return weights * [row["split"] == "train" and not _fits(row, left_out) for row in self.rows]


def _fits(row: dict[str, object], patterns: Iterable[str]) -> bool:
    return any(fnmatch(str(row["source"]), pattern) for pattern in patterns)


def open_recordings(folder: Path, cache: Path, processes: int) -> Recordings:
    """
    Opens the recordings of a bank of Opus files or of a WORK folder.

    A bank is decoded to a file in `cache`, which is used again as long as the complete pieces are the same.

    Raises:
        ValueError: if the folder is neither a bank nor a WORK folder.
    """
    if (folder / "bank" / "heard.npz").exists() and not (folder / "manifest.json").exists():
        bank = Bank(folder / "bank")
        means = np.load(folder / "bank" / "heard.npz")["mean"].astype(np.float32)
        rows = bank.rows[: len(means)]
        return Recordings(folder / "bank" / "audio.i16", rows, np.where(means < MIN_PROBABILITY, 0, means)[: len(rows)])
    opus = OpusBank(folder)
    path = cache / f"decoded-{opus.checksum[:12]}.i16"
    if not path.exists():
        started = time.monotonic()
        with new_file(path, replace=True) as file:
            for row, samples in zip(opus.rows, opus.decode(processes=processes), strict=True):
                if len(samples) < row["samples"]:
                    samples = np.pad(samples, (0, row["samples"] - len(samples)))
                file.write(samples[: row["samples"]].tobytes())
        logger.warning("Decoded %d recordings in %.0f s.", len(opus.rows), time.monotonic() - started)
    return Recordings(path, opus.rows, opus.taught())


def make_batches(recordings: Recordings, weights: np.ndarray, device: str, options: dict[str, object]) -> Batches:
    lengths = torch.tensor([row["samples"] for row in recordings.rows])
    samples = torch.from_numpy(recordings.samples).to(device)
    return Batches(TorchMixer(samples, lengths, torch.from_numpy(weights)), **options)


class Trainer:
    """A student and its optimizer. `step` is the number of completed steps, which determines the next batch."""

    def __init__(
        self,
        arguments: Arguments,
        batches: Batches,
        student: CedForAudioClassification,
        *,
        compile: bool = False,
        feeder: Feeder | None = None,
    ):
        self.arguments, self.batches, self.feeder, self.device = arguments, batches, feeder, batches.device
        torch.manual_seed(arguments.seed)
        self.model = Pretraining(student.config).to(self.device)
        self.model.student.load_state_dict(student.state_dict())
        if self.device.type == "cpu":  # the backward pass of fused attention is slow on the CPU
            self.model.student.set_attn_implementation("eager")
        self.indices = torch.from_numpy(yamnet.teacher().class_indices).to(self.device)
        self.step, self.splits, self.skipped = 0, 1, 0
        self.asked: deque[Request] = deque()
        self.calibrate(is_new=not getattr(student, "is_trained", False))
        self.averaged = torch.optim.swa_utils.AveragedModel(
            self.model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(arguments.ema_decay), use_buffers=True
        )
        self.optimizers = make_optimizers(self.model, arguments)
        self.forward = torch.compile(self.model, dynamic=False) if compile else self.model

    # --- Data ----------------------------------------------------------------------------------------------------

    def request(self, step: int, part: int = 0) -> Request:
        arguments = self.arguments
        is_final = step >= (1 - arguments.final_share) * arguments.steps
        mixes = step % arguments.distinct if arguments.distinct and not is_final else None
        rng = np.random.default_rng((arguments.seed, step if mixes is None else mixes))
        patches = int(rng.choice(WINDOWS, p=WINDOW_SHARES[is_final]))
        clips = max(1, arguments.batch_patches // (patches + 1) // self.splits)
        return Request(
            clips=clips, patches=patches, seed=arguments.seed, number=step, part=part, mixes=mixes, is_clean=is_final
        )

    def batch(self, part: int) -> tuple[Request, Batch]:
        if self.feeder is None:
            request = self.request(self.step, part)
            return request, self.batches.make(request)
        while len(self.asked) < AHEAD:
            self.asked.append(self.request(self.step + len(self.asked)))
            self.feeder.ask(self.asked[-1])
        return self.asked.popleft(), self.feeder.take()

    @torch.no_grad()
    def calibrate(self, *, is_new: bool) -> None:
        """Sets the statistics of the teacher's embeddings and, for a new student, of its inputs and the classes."""
        request = Request(clips=CALIBRATION_CLIPS, patches=WINDOWS[1], seed=self.arguments.seed, number=0)
        log_mel, logits, embeddings = self.batches.make(request)
        roots = embeddings.sqrt().flatten(0, 1)
        self.model.embedding_mean.copy_(roots.mean(0))
        # Units that are rarely active in so few clips would dominate the error.
        self.model.embedding_std.copy_(roots.std(0).clamp(min=float(roots.std(0).median())))
        if is_new:
            self.model.student.encoder.init_bn.running_mean.copy_(log_mel.mean((0, 2)))
            self.model.student.encoder.init_bn.running_var.copy_(log_mel.var((0, 2)))
            bias = self.model.student.outputlayer[1].bias
            bias.fill_(-MAX_LOGIT)[self.indices] = logits.sigmoid().mean((0, 1)).logit(eps=1e-4)
        else:
            self.fit_embedding()

    @torch.no_grad()
    def fit_embedding(self) -> None:
        """Fits the layer that predicts the teacher's embedding by least squares.

        With random weights, its gradients would damage the features of a trained student.
        """
        model, width = self.model.eval(), self.model.embedding.in_features + 1
        squares = torch.zeros(width, width, dtype=torch.float64, device=self.device)
        products = torch.zeros(width, yamnet.EMBEDDING_SIZE, dtype=torch.float64, device=self.device)
        for number in range(FITTED_BATCHES):
            request = Request(clips=FITTED_CLIPS, patches=WINDOWS[2], seed=self.arguments.seed, number=1 + number)
            log_mel, _, embeddings = self.batches.make(request)
            features = model.student.outputlayer[0](model.features(log_mel)[0]).flatten(0, 1).double()
            features = torch.cat([features, torch.ones_like(features[:, :1])], 1)
            targets = (embeddings.sqrt().flatten(0, 1) - model.embedding_mean) / model.embedding_std
            squares += features.T @ features
            products += features.T @ targets.double()
        squares += RIDGE * squares.diagonal().mean() * torch.eye(width, dtype=torch.float64, device=self.device)
        fitted = torch.linalg.solve(squares, products).float()
        model.embedding.weight.copy_(fitted[:-1].T)
        model.embedding.bias.copy_(fitted[-1])

    # --- Training ------------------------------------------------------------------------------------------------

    def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        log_mel, taught, embeddings = batch
        with autocast(self.device):
            logits, predicted, clip_logits = self.forward(log_mel)
        probabilities = taught.sigmoid()
        clip = probabilities.mean(1)
        losses = {
            "clip": self._class_loss(clip_logits.float(), clip),
            "clip_logits": self._logit_loss(clip_logits.float(), clip.logit(eps=1e-7)),
        }
        if self.arguments.dense:
            error = (embeddings.sqrt() - self.model.embedding_mean) / self.model.embedding_std - predicted.float()
            losses["patch"] = self._class_loss(logits.float(), probabilities)
            losses["patch_logits"] = self._logit_loss(logits.float(), taught)
            losses["embedding"] = error.square().mean()
        return losses

    def _class_loss(self, logits: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        targets = torch.zeros_like(logits)
        targets[..., self.indices] = probabilities
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(-1).mean()

    def _logit_loss(self, logits: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
        """Error of the logits, weighted by the higher probability of teacher and student.

        Classes whose target is clamped to the minimum have no error if the student's logit is lower.
        """
        logits, taught = logits[..., self.indices], taught.clamp(-MAX_LOGIT, MAX_LOGIT)
        is_below = (taught <= -MAX_LOGIT) & (logits < taught)
        weights = 0.2 + 2 * torch.sigmoid(torch.maximum(taught, logits.detach()) + 3)
        return (weights * torch.where(is_below, 0, F.smooth_l1_loss(logits, taught, reduction="none"))).mean()

    def train_step(self) -> dict[str, float]:
        """Updates the weights once. If the GPU runs out of memory, the step is computed in smaller parts."""
        while True:
            try:
                return self._train_step()
            except torch.cuda.OutOfMemoryError:
                if self.splits >= self.arguments.batch_patches:
                    raise
                self.splits *= 2
                torch.cuda.empty_cache()
                logger.warning("Out of memory: each step is now computed in %d parts.", self.splits)

    def _train_step(self) -> dict[str, float]:
        weights = self.arguments
        weight_of = {"clip": weights.class_weight, "patch": weights.class_weight, "embedding": weights.embedding_weight}
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate()
            optimizer.zero_grad()
        self.model.train()
        self.model.student.encoder.init_bn.eval()  # the statistics depend on the length of the windows
        means: dict[str, torch.Tensor] = {}
        for part in range(self.splits):
            request, batch = self.batch(part)
            losses = self.losses(batch)
            total = sum(weight_of.get(name, weights.logit_weight) * loss for name, loss in losses.items())
            (total / self.splits).backward()
            for name, loss in losses.items():
                means[name] = means.get(name, 0) + loss.detach() / self.splits
            self.heard_s += request.clips * samples_of(request.patches) / SAMPLING_RATE
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if torch.isfinite(norm):
            for optimizer in self.optimizers:
                optimizer.step()
            self.averaged.update_parameters(self.model)
        else:
            self.skipped += 1
        self.step += 1
        return {name: float(mean) for name, mean in means.items()}

    heard_s = 0.0

    def learning_rate(self) -> float:
        steps, decay = self.arguments.steps, self.arguments.decay_share * self.arguments.steps
        remaining = min(1.0, (steps - self.step) / max(1.0, decay))
        return (
            self.arguments.learning_rate
            * min(1.0, (self.step + 1) / self.arguments.warmup_steps)
            * max(0.02, remaining)
        )

    # --- Checkpoints ---------------------------------------------------------------------------------------------

    def state(self) -> dict[str, object]:
        return {
            "step": self.step,
            "heard_s": self.heard_s,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "arguments": asdict(self.arguments),
            "splits": self.splits,
        }

    @property
    def is_averaged(self) -> bool:
        """Whether the initial weights, whose share is `decay ** steps`, are a small part of the average."""
        return self.arguments.ema_decay**self.step <= 0.05

    def load(self, state: dict[str, object]) -> None:
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.heard_s, self.splits = state["step"], state["heard_s"], state.get("splits", 1)


def save(trainer: Trainer, folder: Path) -> None:
    """Writes last.pt, and keeps the previous checkpoint as previous.pt in case writing is interrupted."""
    if (folder / "last.pt").exists():
        os.replace(folder / "last.pt", folder / "previous.pt")
    with new_file(folder / "last.pt", replace=True) as file:
        torch.save(trainer.state(), file)


def resume(trainer: Trainer, folder: Path) -> None:
    """Continues from the newest checkpoint that can be read."""
    for name in ("last.pt", "previous.pt"):
        if not (folder / name).exists():
            continue
        try:
            state = torch.load(folder / name, map_location=trainer.device, weights_only=True)
        except Exception as error:  # a damaged archive raises errors of many types
            reason = str(error).split(". ")[0][:120]
            logger.warning("%s cannot be read (%s): it is renamed to damaged.pt.", folder / name, reason)
            os.replace(folder / name, folder / "damaged.pt")  # otherwise `save` would replace previous.pt by it
            continue
        try:
            trainer.load(state)
        except (KeyError, ValueError, RuntimeError) as error:
            raise SystemExit(f"{folder / name} has another student or optimizer: use another OUT.") from error
        logger.warning("Continuing from step %d.", trainer.step)
        return


def train(trainer: Trainer, folder: Path) -> None:
    """Trains until the last step or the time limit; writes log.jsonl and checkpoints."""
    arguments, started, recent = trainer.arguments, time.monotonic(), []
    deadline, first, steps = started + 60 * arguments.minutes, trainer.step, arguments.steps
    while trainer.step < arguments.steps and time.monotonic() < deadline:
        recent.append(trainer.train_step())
        if arguments.fit and trainer.step - first >= 10:
            speed = (trainer.step - first) / (time.monotonic() - started)
            arguments.steps = min(steps, trainer.step + max(0, int(speed * (deadline - time.monotonic()))))
        if trainer.step % 50 == 0 or trainer.step == arguments.steps:
            elapsed = time.monotonic() - started
            row = {"step": trainer.step, "hours": round(trainer.heard_s / 3600, 2), "lr": trainer.learning_rate()}
            row |= {name: round(float(np.mean([part[name] for part in recent])), 4) for name in recent[0]}
            row["steps"] = arguments.steps
            row |= {"steps_per_s": round((trainer.step - first) / elapsed, 3), "skipped": trainer.skipped}
            with open(folder / "log.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
            recent = []
        if trainer.step % arguments.save_steps == 0:
            save(trainer, folder)
    save(trainer, folder)


def write_model(trainer: Trainer, folder: Path) -> None:
    """Writes the averaged weights to a model folder, in float16."""
    student = trainer.averaged.module.student if trainer.is_averaged else trainer.model.student
    folder.mkdir(parents=True, exist_ok=True)
    publish.store(student.cpu().float(), CedFeatureExtractor(), folder)


@torch.no_grad()
def evaluate(trainer: Trainer, recordings: Recordings, *, limit: int) -> dict[str, float]:
    """Agreement with the teacher's tags (probability of 0.5 or more) on single held-out recordings of up to 10 s."""
    student = trainer.averaged.module.student if trainer.is_averaged else trainer.model.student
    student.eval()
    taught, scores, start, all_samples = [], [], 0, recordings.samples
    log_mel = LogMel().to(trainer.device)
    for row in recordings.rows:
        waveform = all_samples[start : start + row["samples"]][: 10 * SAMPLING_RATE]
        start += row["samples"]
        if row["split"] != "heldout" or len(taught) >= limit:
            continue
        padded = torch.zeros(1, max(samples_of(1), len(waveform)), device=trainer.device)
        padded[0, : len(waveform)] = torch.from_numpy(waveform.astype(np.float32) / 32768)
        patches = yamnet_torch.patches_of(trainer.batches.teacher.log_mel(padded))[0]
        values = np.zeros(len(AUDIOSET_LABELS), np.float32)
        values[trainer.indices.cpu().numpy()] = trainer.batches.teach(patches)[0].sigmoid().mean(0).cpu().numpy()
        taught.append(values)
        seen = padded[:, : max(len(waveform), 2400)]
        scores.append(student(log_mel(seen)).logits[0].sigmoid().cpu().numpy())
    if not taught:
        return {}
    targets, predicted = np.stack(taught), np.stack(scores)
    tags = targets >= 0.5
    has_tag = tags.any(1)
    metrics = classification_metrics(tags[has_tag].astype(np.float32), predicted[has_tag], labels=AUDIOSET_LABELS)
    predicted = predicted.clip(1e-7, 1 - 1e-7)
    loss = -(targets * np.log(predicted) + (1 - targets) * np.log(1 - predicted)).sum(1).mean()
    return {
        "mAP": metrics.mean_average_precision,
        "top_1": metrics.top_1,
        "loss": float(loss),
        "clips": int(has_tag.sum()),
    }


def make_student(arguments: Arguments, init: str | None) -> CedForAudioClassification:
    """A student with random weights, or with those of a model folder with AudioSet's classes."""
    if init is None:
        torch.manual_seed(arguments.seed)
        config = CedConfig(embed_dim=arguments.width, depth=arguments.depth, num_heads=arguments.heads, name="ced-nano")
        return CedForAudioClassification(config)
    from ced_model.bundled import resolve_model

    student = CedForAudioClassification.from_pretrained(resolve_model(init), dtype=torch.float32)
    if student.num_labels != len(AUDIOSET_LABELS):
        raise SystemExit(f"--init {init} has {student.num_labels} classes instead of {len(AUDIOSET_LABELS)}.")
    student.is_trained = True
    return student


def parse() -> tuple[argparse.Namespace, Arguments]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bank", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="number of processes that decode the bank"
    )
    parser.add_argument("--cache", type=Path, help="folder of the decoded bank, by default OUT's parent")
    parser.add_argument("--init", help="initial weights: a model folder or `ced-nano`")
    parser.add_argument("--leave-out", nargs="*", default=[], metavar="PATTERN", help="sources to exclude")
    parser.add_argument("--feeder", action="store_true", help="on a CPU, make the batches in a second process")
    parser.add_argument("--compile", action="store_true", help="compile student and teacher")
    parser.add_argument(
        "--evaluate", type=int, default=500, help="maximum number of held-out recordings to evaluate at the end"
    )
    for field in fields(Arguments):
        name = f"--{field.name.replace('_', '-')}"
        if field.type in (bool, "bool"):
            parser.add_argument(name, action=argparse.BooleanOptionalAction, default=field.default)
        else:
            parser.add_argument(name, type=type(field.default), default=field.default)
    options = parser.parse_args()
    return options, Arguments(**{field.name: getattr(options, field.name) for field in fields(Arguments)})


def main() -> None:
    options, arguments = parse()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        recordings = open_recordings(options.bank, options.cache or options.out.parent, options.processes)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    weights = recordings.weights(arguments, options.leave_out)
    if not weights.any():
        raise SystemExit("The bank has no recordings for training.")
    given = {name: getattr(arguments, name) for name in ("way", "mask_share", "teacher_passes")}
    make = functools.partial(make_batches, recordings, weights, options.device)
    feeder = Feeder(functools.partial(make, given)) if options.feeder else None
    if feeder:
        torch.set_num_threads(1)
    batches = make(given | {"compile": options.compile})
    trainer = Trainer(arguments, batches, make_student(arguments, options.init), compile=options.compile, feeder=feeder)
    resume(trainer, options.out)
    train(trainer, options.out)
    if options.evaluate:
        figures = {"step": trainer.step, **evaluate(trainer, recordings, limit=options.evaluate)}
        write_file(options.out / "heldout.json", json.dumps(figures, indent=1).encode())
        print(json.dumps(figures))
    write_model(trainer, options.out / "model")


if __name__ == "__main__":
    main()
