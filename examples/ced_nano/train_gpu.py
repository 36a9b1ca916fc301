# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains ced-nano from a bank: mixing, augmentation, teacher and student on one device, in one or more sittings.

    python examples/ced_nano/train_gpu.py BANK OUT --device cuda --steps 60000 --minutes 9 --compile

Each step makes new mixes, runs the teacher on them, and trains the student on its logits and embeddings (every 0.48 s).
OUT/last.pt is written as it goes, and the same command continues from there. At the end, or when the minutes are over,
OUT/model has the averaged weights as a model folder.
"""

import argparse
import json
import logging
import os
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import publish
import yamnet
import yamnet_torch
from bank import BALANCE, OpusBank, weights_of
from ced_model import CedConfig, CedFeatureExtractor, CedForAudioClassification
from ced_model.audioset import AUDIOSET_LABELS
from ced_model.evaluation import classification_metrics
from ced_model.log_mel import AMIN, TOP_DB, FrontEnd, hann_window, mel_filters
from ced_model.output import new_file, write_file
from ced_model.training.distillation.augmentation import Augmentation
from mixing_torch import SAMPLING_RATE, TorchMixer
from pretrain import Pretraining, make_optimizers

logger = logging.getLogger("train_gpu")

WINDOWS = (1, 3, 9, 20)  # the teacher's patches: 0.96, 1.92, 4.8 and 10.08 s
WINDOW_SHARES = {False: (0.25, 0.25, 0.25, 0.25), True: (0.5, 0.3, 0.1, 0.1)}  # of the patches; in the final stage
WAYS = ("consistent", "inconsistent", "none")
MAX_LOGIT = 8.0  # the teacher's logits reach -100; below this no class is among the first
SILENCE_DB = -100.0
CALIBRATION_CLIPS = 256


@dataclass(kw_only=True)
class Arguments:
    """How long and how; a bad value is reported by name."""

    steps: int = 20_000
    minutes: float = 1e9  # of this sitting
    batch_patches: int = 1024  # of the teacher, in a step
    way: str = "consistent"  # what the student gets: the teacher's augmentation, another, or neither any
    dense: bool = True  # targets every 0.48 s, besides those of the clip
    mask_share: float = 0.5  # of the clips that are masked
    teacher_passes: int = 1  # 3: the mean over patches shifted by 0.16 s in either direction
    balance: float = BALANCE  # 0: recordings are drawn equally often; 1: their classes are
    final_share: float = 0.2  # of the steps, with short, clean, unmasked clips
    learning_rate: float = 1e-3
    optimizer: str = "muon"
    weight_decay: float = 0.05
    warmup_steps: int = 200
    decay_share: float = 0.4  # of the steps, at the end, down to a fiftieth
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
        for name in ("steps", "batch_patches", "save_steps", "width", "depth", "heads"):
            if getattr(self, name) < 1:
                raise SystemExit(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}.")


def load_recordings(bank: OpusBank, cache: Path, processes: int) -> np.ndarray:
    """All recordings one after another, int16, decoded once for each set of whole pieces."""
    path = cache / f"decoded-{bank.checksum[:12]}.i16"
    if not path.exists():
        started = time.monotonic()
        with new_file(path, replace=True) as file:
            for row, samples in zip(bank.rows, bank.decode(processes=processes), strict=True):
                if len(samples) < row["samples"]:
                    samples = np.pad(samples, (0, row["samples"] - len(samples)))
                file.write(samples[: row["samples"]].tobytes())
        logger.warning("Decoded %d recordings in %.0f s.", len(bank.rows), time.monotonic() - started)
    return np.fromfile(path, np.int16)


class LogMel(nn.Module):
    """CED's front end for batches of equally long clips on any device."""

    def __init__(self) -> None:
        super().__init__()
        self.front_end = FrontEnd()
        self.register_buffer("window", torch.from_numpy(hann_window(self.front_end)))
        self.register_buffer("filters", torch.from_numpy(mel_filters(self.front_end)))

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(clips, samples) to decibels (clips, 64, frames)."""
        half = self.front_end.n_fft // 2
        padded = F.pad(waveforms[:, None], (half, half), mode="reflect")[:, 0]
        frames = padded.unfold(-1, self.front_end.n_fft, self.front_end.hop_size) * self.window
        power = torch.view_as_real(torch.fft.rfft(frames)).square().sum(-1) @ self.filters
        decibels = 10 * torch.log10(power.clamp(min=AMIN))
        return torch.maximum(decibels, decibels.amax((1, 2), keepdim=True) - TOP_DB).transpose(1, 2)


class Masks:
    """Time and frequency masks of a batch of clips, the same for both front ends."""

    def __init__(self, clips: int, frames: int, share: float, generator: torch.Generator, device: torch.device):
        limits = Augmentation()

        def bounds(max_width: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
            width = (torch.rand(clips, 1, generator=generator, device=device) * (max_width + 1)).floor()
            start = (torch.rand(clips, 1, generator=generator, device=device) * (length - width + 1)).floor()
            return start, start + width

        is_masked = torch.rand(clips, 1, generator=generator, device=device) < share
        start, stop = bounds(int(limits.max_time_mask * frames / (limits.chunk_s * 100)), frames)
        positions = torch.arange(frames, device=device)
        self.time = (positions >= start) & (positions < stop) & is_masked
        start, stop = bounds(limits.max_freq_mask, FrontEnd().n_mels)
        bins = torch.arange(FrontEnd().n_mels, device=device)
        self.bins = (bins >= start) & (bins < stop) & is_masked
        nearest = np.abs(_centers_hz(mel_filters(FrontEnd())) - _centers_hz(yamnet.mel_weights())[:, None]).argmin(1)
        self.teacher_bins = self.bins[:, torch.from_numpy(nearest).to(device)]

    def apply(self, log_mel: torch.Tensor, *, teacher: bool) -> torch.Tensor:
        """Fills what is masked of (clips, frames, bins) with each clip's mean."""
        bins = self.teacher_bins if teacher else self.bins
        mask = self.time[:, : log_mel.shape[1], None] | bins[:, None]
        return torch.where(mask, log_mel.mean((1, 2), keepdim=True), log_mel)


def _centers_hz(filters: np.ndarray) -> np.ndarray:
    frequencies = np.linspace(0, SAMPLING_RATE / 2, len(filters))
    return (filters * frequencies[:, None]).sum(0) / filters.sum(0).clip(1e-9)


def samples_of(patches: int) -> int:
    """Samples in which the teacher has `patches` patches and the student as many frames."""
    return yamnet.HOP * (yamnet.PATCH_HOP * (patches + 1) - 1) + yamnet.WINDOW


class Trainer:
    """Student, teacher and mixer on a device. `step` is what has been done; everything else follows from it."""

    def __init__(self, arguments: Arguments, mixer: TorchMixer, student: CedForAudioClassification, *, compile: bool):
        self.arguments, self.mixer, self.device = arguments, mixer, mixer.samples.device
        torch.manual_seed(arguments.seed)
        self.model = Pretraining(student.config).to(self.device)
        self.model.student.load_state_dict(student.state_dict())
        self.teacher = yamnet_torch.load(quantized=False).to(self.device)
        self.log_mel = LogMel().to(self.device)
        self.indices = torch.from_numpy(yamnet.teacher().class_indices).to(self.device)
        self.step, self.splits, self.skipped = 0, 1, 0
        self.calibrate(is_new=not getattr(student, "is_trained", False))
        self.averaged = torch.optim.swa_utils.AveragedModel(
            self.model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(arguments.ema_decay), use_buffers=True
        )
        self.optimizers = make_optimizers(self.model, arguments)
        self.forward = torch.compile(self.model, dynamic=False) if compile else self.model
        self.teach = torch.compile(self.teacher, dynamic=False) if compile else self.teacher

    # --- Data ----------------------------------------------------------------------------------------------------

    def generator(self, purpose: int) -> torch.Generator:
        seed = (self.arguments.seed * 1_000_003 + self.step) * 16 + purpose
        return torch.Generator(self.device).manual_seed(seed)

    @property
    def is_final(self) -> bool:
        return self.step >= (1 - self.arguments.final_share) * self.arguments.steps

    @torch.no_grad()
    def batch(self, clips: int, patches: int, part: int) -> tuple[torch.Tensor, ...]:
        """Log-mels for the student, and the teacher's logits and embeddings of each patch."""
        way, frames = self.arguments.way, yamnet.PATCH_HOP * (patches + 1)
        waveforms = self.mixer.batch(clips, samples_of(patches), self.generator(4 * part), clean=self.is_final)
        share = 0.0 if way == "none" or self.is_final else self.arguments.mask_share
        masks = Masks(clips, frames, share, self.generator(4 * part + 1), self.device)
        taught = masks.apply(self.teacher.log_mel(waveforms), teacher=True)
        logits, embeddings = self.targets(taught)
        if way == "inconsistent" and not self.is_final:
            generator = self.generator(4 * part + 2)
            masks = Masks(clips, frames, share, generator, self.device)
            shift = int(torch.randint(waveforms.shape[1], (1,), generator=generator, device=self.device))
            waveforms = waveforms.roll(shift, dims=1)
        seen = self.log_mel(waveforms)[:, :, :frames].transpose(1, 2)
        return masks.apply(seen, teacher=False).transpose(1, 2).contiguous(), logits, embeddings

    def targets(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        passes = self.arguments.teacher_passes
        parts = yamnet_torch.patches_of(log_mel, yamnet.PATCH_HOP // passes)
        with self.autocast():
            logits, embeddings = self.teach(parts.flatten(0, 1))
        logits, embeddings = (x.float().unflatten(0, parts.shape[:2]) for x in (logits, embeddings))
        return (logits, embeddings) if passes == 1 else (_smoothed(logits), _smoothed(embeddings))

    def autocast(self) -> torch.autocast | nullcontext:
        return torch.autocast(self.device.type, torch.bfloat16)

    @torch.no_grad()
    def calibrate(self, *, is_new: bool) -> None:
        """Statistics of the teacher's embeddings; for a new student also of its inputs and of the classes."""
        self.teach = self.teacher
        log_mel, logits, embeddings = self.batch(CALIBRATION_CLIPS, WINDOWS[1], 0)
        roots = embeddings.sqrt().flatten(0, 1)
        self.model.embedding_mean.copy_(roots.mean(0))
        # Units that are seldom active in so few clips would rule the error.
        self.model.embedding_std.copy_(roots.std(0).clamp(min=float(roots.std(0).median())))
        if is_new:
            self.model.student.encoder.init_bn.running_mean.copy_(log_mel.mean((0, 2)))
            self.model.student.encoder.init_bn.running_var.copy_(log_mel.var((0, 2)))
            bias = self.model.student.outputlayer[1].bias
            bias.fill_(-MAX_LOGIT)[self.indices] = logits.sigmoid().mean((0, 1)).logit(eps=1e-4)

    # --- Training ------------------------------------------------------------------------------------------------

    def losses(self, batch: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        log_mel, taught, embeddings = batch
        with self.autocast():
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
        """What the teacher finds unlikely needs no more than to stay unlikely."""
        logits, taught = logits[..., self.indices], taught.clamp(-MAX_LOGIT, MAX_LOGIT)
        is_below = (taught <= -MAX_LOGIT) & (logits < taught)
        return torch.where(is_below, 0, F.smooth_l1_loss(logits, taught, reduction="none")).mean()

    def train_step(self) -> dict[str, float]:
        """One update of the weights; halves the parts that it is computed in when the memory is not enough."""
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
        patches = int(np.random.default_rng((weights.seed, self.step)).choice(WINDOWS, p=WINDOW_SHARES[self.is_final]))
        clips = max(1, weights.batch_patches // (patches + 1) // self.splits)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate()
            optimizer.zero_grad()
        self.model.train()
        self.model.student.encoder.init_bn.eval()  # statistics of windows of one length do not fit those of others
        means: dict[str, torch.Tensor] = {}
        for part in range(self.splits):
            losses = self.losses(self.batch(clips, patches, part))
            total = sum(weight_of.get(name, weights.logit_weight) * loss for name, loss in losses.items())
            (total / self.splits).backward()
            for name, loss in losses.items():
                means[name] = means.get(name, 0) + loss.detach() / self.splits
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if torch.isfinite(norm):
            for optimizer in self.optimizers:
                optimizer.step()
            self.averaged.update_parameters(self.model)
        else:
            self.skipped += 1
        self.step += 1
        self.heard_s += clips * self.splits * samples_of(patches) / SAMPLING_RATE
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

    # --- Sittings ------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, object]:
        return {
            "step": self.step,
            "heard_s": self.heard_s,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "arguments": asdict(self.arguments),
        }

    def load(self, state: dict[str, object]) -> None:
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.heard_s = state["step"], state["heard_s"]


def _smoothed(values: torch.Tensor) -> torch.Tensor:
    """(clips, 3 · patches - 2, ·) at a third of the hop to means of three (clips, patches, ·)."""
    before = torch.cat([values[:, :1], values[:, 2::3]], 1)
    after = torch.cat([values[:, 1::3], values[:, -1:]], 1)
    return (before + values[:, ::3] + after) / 3


def save(trainer: Trainer, folder: Path) -> None:
    """last.pt; the one before it is kept as previous.pt, in case writing is cut short."""
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
            os.replace(folder / name, folder / "damaged.pt")  # or it would take the place of previous.pt
            continue
        try:
            trainer.load(state)
        except (KeyError, ValueError, RuntimeError) as error:
            raise SystemExit(f"{folder / name} is of another student or optimizer: give another OUT.") from error
        logger.warning("Continuing from step %d.", trainer.step)
        return


def train(trainer: Trainer, folder: Path) -> None:
    """Trains until the steps or the minutes are over; writes log.jsonl and checkpoints."""
    arguments, started, recent = trainer.arguments, time.monotonic(), []
    deadline, first = started + 60 * arguments.minutes, trainer.step
    while trainer.step < arguments.steps and time.monotonic() < deadline:
        recent.append(trainer.train_step())
        if trainer.step % 50 == 0 or trainer.step == arguments.steps:
            elapsed = time.monotonic() - started
            row = {"step": trainer.step, "hours": round(trainer.heard_s / 3600, 2), "lr": trainer.learning_rate()}
            row |= {name: round(float(np.mean([part[name] for part in recent])), 4) for name in recent[0]}
            row |= {"steps_per_s": round((trainer.step - first) / elapsed, 3), "skipped": trainer.skipped}
            with open(folder / "log.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
            recent = []
        if trainer.step % arguments.save_steps == 0:
            save(trainer, folder)
    save(trainer, folder)


def write_model(trainer: Trainer, folder: Path) -> None:
    """The averaged weights as a model folder, stored in float16."""
    student = trainer.averaged.module.student
    # On few steps the average still has much of the first weights; its weight there is decay ** steps.
    if trainer.arguments.ema_decay**trainer.step > 0.05:
        student = trainer.model.student
    folder.mkdir(parents=True, exist_ok=True)
    publish.store(student.cpu().float(), CedFeatureExtractor(), folder)


@torch.no_grad()
def evaluate(trainer: Trainer, bank: OpusBank, samples: np.ndarray, *, limit: int) -> dict[str, float]:
    """Agreement with the teacher's tags (probability of 0.5 or more) on single held-out recordings of up to 10 s."""
    student = trainer.averaged.module.student.eval()
    taught, scores, start = [], [], 0
    for row in bank.rows:
        waveform = samples[start : start + row["samples"]][: 10 * SAMPLING_RATE]
        start += row["samples"]
        if row["split"] != "heldout" or len(taught) >= limit:
            continue
        padded = torch.zeros(1, max(samples_of(1), len(waveform)), device=trainer.device)
        padded[0, : len(waveform)] = torch.from_numpy(waveform.astype(np.float32) / 32768)
        patches = yamnet_torch.patches_of(trainer.teacher.log_mel(padded))[0]
        values = np.zeros(len(AUDIOSET_LABELS), np.float32)
        values[trainer.indices.cpu().numpy()] = trainer.teacher(patches)[0].sigmoid().mean(0).cpu().numpy()
        taught.append(values)
        seen = padded[:, : max(len(waveform), 2400)]
        scores.append(student(trainer.log_mel(seen)).logits[0].sigmoid().cpu().numpy())
    if not taught:
        return {}
    tags = np.stack(taught) >= 0.5
    has_tag = tags.any(1)
    metrics = classification_metrics(
        tags[has_tag].astype(np.float32), np.stack(scores)[has_tag], labels=AUDIOSET_LABELS
    )
    return {"mAP": metrics.mean_average_precision, "top_1": metrics.top_1, "clips": int(has_tag.sum())}


def make_student(arguments: Arguments, init: str | None) -> CedForAudioClassification:
    """Random weights, or those of a model folder with AudioSet's classes."""
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
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that decode the bank")
    parser.add_argument("--cache", type=Path, help="folder of the decoded bank, by default OUT's parent")
    parser.add_argument("--init", help="model folder or `ced-nano` to begin with")
    parser.add_argument("--compile", action="store_true", help="compile student and teacher")
    parser.add_argument("--evaluate", type=int, default=500, help="held-out recordings to evaluate at the end at most")
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
        bank = OpusBank(options.bank)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    samples = load_recordings(bank, options.cache or options.out.parent, options.processes)
    lengths = torch.tensor([row["samples"] for row in bank.rows])
    weights = weights_of(bank.taught(), [row["group"] for row in bank.rows], arguments.balance)
    weights *= [row["split"] == "train" for row in bank.rows]
    if not weights.any():
        raise SystemExit("The pieces of the bank that are whole hold no recordings for training.")
    mixer = TorchMixer(torch.from_numpy(samples).to(options.device), lengths, torch.from_numpy(weights))
    trainer = Trainer(arguments, mixer, make_student(arguments, options.init), compile=options.compile)
    resume(trainer, options.out)
    train(trainer, options.out)
    if options.evaluate:
        figures = {"step": trainer.step, **evaluate(trainer, bank, samples, limit=options.evaluate)}
        write_file(options.out / "heldout.json", json.dumps(figures, indent=1).encode())
        print(json.dumps(figures))
    write_model(trainer, options.out / "model")


if __name__ == "__main__":
    main()
