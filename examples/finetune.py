# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes a CED model with only transformers' Trainer. `ced finetune` has more options.

The clips are in a folder with one subfolder per class (`sounds/dog/1.wav`), in any format and of any length:

    python examples/finetune.py sounds mispeech/ced-tiny my-model
"""

import sys
from pathlib import Path

import torch
from sklearn.model_selection import train_test_split
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, Trainer, TrainingArguments

from ced_model.audio import read_audio  # importing ced_model makes CED known to the Auto classes

data, base_model, output = sys.argv[1:]
clips = sorted(Path(data).glob("*/*"))
classes = sorted({clip.parent.name for clip in clips})
training, validation = train_test_split(
    clips, test_size=0.2, stratify=[clip.parent.name for clip in clips], random_state=0
)

feature_extractor = AutoFeatureExtractor.from_pretrained(base_model)
model = AutoModelForAudioClassification.from_pretrained(
    base_model,
    id2label=dict(enumerate(classes)),
    problem_type="single_label_classification",  # softmax: one class per clip
    ignore_mismatched_sizes=True,  # a new head replaces the old one
)
model.encoder.init_bn.requires_grad_(False)  # keep the input statistics of the pretrained model


def collate(clips):
    """Decodes clips and pads them as log-mels; the attention mask marks the padding."""
    waveforms = [read_audio(clip)[:160000] for clip in clips]  # 10 s at most
    batch = feature_extractor(waveforms, sampling_rate=16000)
    return {**batch, "labels": torch.tensor([classes.index(clip.parent.name) for clip in clips])}


arguments = TrainingArguments(
    output_dir=f"{output}.training",
    num_train_epochs=10,
    per_device_train_batch_size=16,
    learning_rate=2e-4,
    warmup_steps=0.1,  # of all
    lr_scheduler_type="cosine",
    eval_strategy="epoch",
    save_strategy="epoch",
    save_total_limit=2,
    load_best_model_at_end=True,
    metric_for_best_model="accuracy",
    logging_strategy="epoch",
    dataloader_num_workers=2,  # clips are decoded in other processes
    dataloader_persistent_workers=True,
    dataloader_pin_memory=torch.cuda.is_available(),
    remove_unused_columns=False,
)
trainer = Trainer(
    model,
    arguments,
    data_collator=collate,
    train_dataset=training,
    eval_dataset=validation,
    processing_class=feature_extractor,
    compute_metrics=lambda prediction: {
        "accuracy": (prediction.predictions.argmax(axis=-1) == prediction.label_ids).mean()
    },
)
trainer.train()
print(trainer.evaluate())
trainer.save_model(output)  # with the feature extractor
