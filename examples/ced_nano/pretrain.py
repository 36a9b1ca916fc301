# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains a new student on the teacher's class probabilities and embedding for each 0.96 s of a scene.

The share of long windows, up to complete scenes, grows during the training, so that every time position is trained.
The tokens of a window are pooled over each of the teacher's patches, so a scene of 10 s gives 19 examples.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import yamnet
from ced_model import CedConfig, CedForAudioClassification
from ced_model.audioset import AUDIOSET_LABELS
from ced_model.output import new_file
from scenes import Shards

TIME_PATCH = 16  # frames
PATCH_POSITIONS = yamnet.PATCH_FRAMES // TIME_PATCH  # a patch of the teacher has 6 positions of the student
HOP_POSITIONS = yamnet.PATCH_HOP // TIME_PATCH
WINDOWS = (1, 3, 9, 19)  # patches: 0.96, 1.92, 4.8 and 9.6 s
SAVE_STEPS = 200
WINDOW_SHARES = ((1.0, 0.0, 0.0, 0.0), (0.3, 0.25, 0.25, 0.2))  # of the tokens: at the start, and in the second half


@dataclass(kw_only=True)
class PretrainArguments:
    """Options of pretraining. `examples` is the number of 0.96 s windows with the same total number of tokens."""

    examples: int = 1_400_000
    batch_examples: int = 256
    learning_rate: float = 1e-3
    optimizer: str = "muon"  # "muon" (matrices of the blocks; AdamW for other weights) or "adamw" (all weights)
    weight_decay: float = 0.05
    warmup_steps: int = 100
    decay_share: float = 0.25  # share of the steps in which the learning rate decays to a twentieth
    ema_decay: float = 0.999
    embedding_weight: float = 1.0
    class_weight: float = 0.3
    seed: int = 0


class Pretraining(nn.Module):
    """The student and, only for training, a layer that predicts the teacher's embedding."""

    def __init__(self, config: CedConfig):
        super().__init__()
        self.student = CedForAudioClassification(config)
        self.embedding = nn.Linear(config.hidden_size, yamnet.EMBEDDING_SIZE)
        self.register_buffer("embedding_mean", torch.zeros(yamnet.EMBEDDING_SIZE))
        self.register_buffer("embedding_std", torch.ones(yamnet.EMBEDDING_SIZE))

    def forward(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(batch, 64, frames) → logits and embeddings of each patch (batch, patches, ·), logits of the window."""
        patches, window = self.features(log_mel)
        head = self.student.outputlayer
        return head(patches), self.embedding(head[0](patches)), head(window)

    def features(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, 64, frames) → means of tokens over each patch (batch, patches, width) and over the window."""
        tokens = self.student.encoder(log_mel).last_hidden_state
        tokens = tokens.unflatten(1, (-1, log_mel.shape[-1] // TIME_PATCH)).mean(1)
        patches = F.avg_pool1d(tokens.transpose(1, 2), PATCH_POSITIONS, HOP_POSITIONS).transpose(1, 2)
        return patches, tokens.mean(1)


def normalizer(shards: Shards) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the square roots of the teacher's embeddings. Roots reduce the effect of peaks."""
    sample = np.sqrt(np.concatenate([shards.arrays[name][2][::4] for name in shards.names[:8]]).astype(np.float32))
    flat = torch.from_numpy(sample.reshape(-1, sample.shape[-1]))
    return flat.mean(0), flat.std(0) + 0.05


def set_input_and_output_statistics(model: Pretraining, shards: Shards) -> None:
    """Initialises the input statistics (level of each mel bin) and the output biases (frequency of each class)."""
    log_mel, probabilities, _ = make_batch(shards, 1, 2000, np.random.default_rng(0))
    model.student.encoder.init_bn.running_mean.copy_(log_mel.mean((0, 2)))
    model.student.encoder.init_bn.running_var.copy_(log_mel.var((0, 2)))
    model.student.outputlayer[1].bias.data.copy_(probabilities.mean((0, 1)).logit(eps=1e-5))


def make_batch(shards: Shards, patches: int, count: int, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
    """Log-mels (count, 64, frames), probabilities (count, patches, 527), square roots of embeddings (…, 1024)."""
    parts = []
    for _ in range(count):
        scene = int(rng.integers(len(shards)))
        first = int(rng.integers(WINDOWS[-1] - patches + 1))
        parts.append(shards.crop(scene, first, patches))
    log_mel, logits, embeddings = (
        torch.from_numpy(np.stack(part).astype(np.float32)) for part in zip(*parts, strict=True)
    )
    probabilities = torch.zeros(count, patches, len(AUDIOSET_LABELS))
    probabilities[..., torch.from_numpy(yamnet.teacher().class_indices)] = logits.sigmoid()
    return log_mel, probabilities, embeddings.sqrt()


def loss_of(
    model: Pretraining, batch: tuple[torch.Tensor, ...], arguments: PretrainArguments
) -> tuple[torch.Tensor, dict[str, float]]:
    log_mel, probabilities, embeddings = batch
    with torch.autocast("cpu", torch.bfloat16):
        logits, predicted, window_logits = model(log_mel)
    classes = F.binary_cross_entropy_with_logits(logits.float(), probabilities, reduction="none").sum(-1).mean()
    window = F.binary_cross_entropy_with_logits(window_logits.float(), probabilities.mean(1), reduction="none")
    error = F.mse_loss(predicted.float(), (embeddings - model.embedding_mean) / model.embedding_std)
    loss = arguments.class_weight * (classes + window.sum(-1).mean()) + arguments.embedding_weight * error
    return loss, {"classes": classes.item(), "window": window.sum(-1).mean().item(), "embedding": error.item()}


def make_optimizers(model: Pretraining, arguments: PretrainArguments) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.named_parameters() if ".blocks." in n and p.ndim == 2]
    if arguments.optimizer == "adamw":
        matrices = []
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": arguments.weight_decay},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, arguments.learning_rate, betas=(0.9, 0.98))]
    if matrices:
        optimizers.append(
            torch.optim.Muon(
                matrices, arguments.learning_rate, weight_decay=arguments.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        )
    return optimizers


def learning_rate_at(step: int, steps: int, arguments: PretrainArguments) -> float:
    decay_steps = max(1, round(arguments.decay_share * steps))
    remaining = max(0.0, min(1.0, (steps - step) / decay_steps))
    return arguments.learning_rate * min(1.0, (step + 1) / arguments.warmup_steps) * max(0.05, remaining)


def window_at(step: int, steps: int, rng: np.random.Generator) -> int:
    progress = min(1.0, 2 * step / steps)
    start, end = (np.array(shares) for shares in WINDOW_SHARES)
    return int(rng.choice(WINDOWS, p=start + progress * (end - start)))


def pretrain(config: CedConfig, shards: Shards, folder: Path, arguments: PretrainArguments) -> Pretraining:
    """Trains a model, or continues from folder/last.pt. Returns the exponential moving average of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)
    model = Pretraining(config)
    model.embedding_mean, model.embedding_std = normalizer(shards)
    set_input_and_output_statistics(model, shards)
    averaged = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(arguments.ema_decay), use_buffers=True
    )
    optimizers = make_optimizers(model, arguments)
    step, steps = 0, arguments.examples // arguments.batch_examples
    if (folder / "last.pt").exists():
        saved = torch.load(folder / "last.pt", weights_only=True)
        model.load_state_dict(saved["model"])
        averaged.load_state_dict(saved["averaged"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        step = saved["step"]
    model.train()
    started, recent = time.monotonic(), []
    while step < steps:
        rng = np.random.default_rng((arguments.seed, step))
        patches = window_at(step, steps, rng)
        count = max(1, round(arguments.batch_examples * PATCH_POSITIONS / (HOP_POSITIONS * (patches + 1))))
        loss, parts = loss_of(model, make_batch(shards, patches, count, rng), arguments)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step, steps, arguments)
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        averaged.update_parameters(model)
        step += 1
        recent.append(parts)
        if step % 50 == 0 or step == steps:
            means = {name: round(float(np.mean([part[name] for part in recent])), 4) for name in parts}
            row = {"step": step, "examples": step * arguments.batch_examples, "scenes": len(shards), **means}
            row["minutes"] = round((time.monotonic() - started) / 60, 2)
            with open(folder / "log.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            recent = []
        if step % SAVE_STEPS == 0 or step == steps:
            shards.refresh()
            state = {"model": model.state_dict(), "averaged": averaged.state_dict(), "step": step}
            state |= {
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "arguments": asdict(arguments),
            }
            with new_file(folder / "last.pt", replace=True) as file:
                torch.save(state, file)
    return averaged.module
