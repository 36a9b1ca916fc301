# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The common tests of transformers for all models, run on CED."""

import random
import unittest
from typing import Any

import numpy as np
import torch
from common_tests_source import import_common_tests
from transformers.testing_utils import torch_device

from ced_model import (
    CedConfig,
    CedFeatureExtractor,
    CedForAudioClassification,
    CedForAudioFrameClassification,
    CedModel,
)

common_modeling = import_common_tests("test_modeling_common")
ModelTesterMixin: Any = common_modeling.ModelTesterMixin
ConfigTester: Any = import_common_tests("test_configuration_common").ConfigTester
TrainingTesterMixin: Any = import_common_tests("test_training_mixin").TrainingTesterMixin
SequenceFeatureExtractionTestMixin: Any = import_common_tests(
    "test_sequence_feature_extraction_common"
).SequenceFeatureExtractionTestMixin

# The common tests choose the checks for a class by these tables of transformers' models.
COMMON_TABLES = {
    "MODEL_MAPPING_NAMES": "CedModel",
    "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES": "CedForAudioClassification",
    # `test_problem_types` only considers classifiers of images and texts.
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES": "CedForAudioClassification",
}
for table, class_name in COMMON_TABLES.items():
    setattr(common_modeling, table, {**getattr(common_modeling, table), "ced": class_name})

# Common tests that are replaced or skipped, with the reason. Others may be skipped by conditions of transformers
# (another device or modality, an optional package), see pytest's report (-rs).
SKIPPED = {
    "test_resize_tokens_embeddings": "CED has no vocabulary",
    "test_resize_embeddings_untied": "CED has no vocabulary",
    "test_resize_embeddings_untied_no_reinit_on_post_init": "CED has no vocabulary",
}
REPLACED = {
    "test_model_get_set_embeddings": "it asks for an `nn.Embedding`, but CED embeds patches by a convolution; the same"
    " check with any module takes its place, as in transformers' own audio_spectrogram_transformer",
    "test_reverse_loading_mapping": "its check that loading renames tensors is switched off by its own argument: CED's"
    " conversion resizes the time positions and keeps their name",
}


class CedModelTester:
    """Makes small models and inputs, with the attribute names of the common tests."""

    def __init__(self, pooling: str = "mean", problem_type: str = "single_label_classification") -> None:
        self.pooling = pooling
        self.problem_type = problem_type
        self.is_training = True
        self.batch_size = 13
        self.num_frames = 56  # three patches and a remainder
        self.hidden_size = 32
        self.num_hidden_layers = 2
        self.num_attention_heads = 4
        self.seq_length = 4 * (self.num_frames // 16) + (pooling == "token")

    def get_config(self) -> Any:
        fields: dict[str, Any] = {"pooling": self.pooling, "problem_type": self.problem_type, "num_labels": 5}
        return CedConfig(
            embed_dim=self.hidden_size,
            depth=self.num_hidden_layers,
            num_heads=self.num_attention_heads,
            mlp_ratio=1.5,
            target_length=64,
            **fields,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[CedConfig, dict[str, torch.Tensor]]:
        """A configuration, and a batch of clips with at least 16 frames."""
        input_values = common_modeling.floats_tensor([self.batch_size, 64, self.num_frames])
        lengths = torch.randint(16, self.num_frames + 1, (self.batch_size, 1))
        attention_mask = (torch.arange(self.num_frames) < lengths).long().to(torch_device)
        return self.get_config(), {"input_values": input_values, "attention_mask": attention_mask}


class CedModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (CedModel, CedForAudioClassification, CedForAudioFrameClassification)
    additional_model_inputs = ["attention_mask"]

    def setUp(self) -> None:
        self.model_tester = CedModelTester()

    def _prepare_for_class(self, inputs_dict: Any, model_class: Any, return_labels: bool = False) -> Any:
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        if return_labels and model_class is CedForAudioFrameClassification:
            inputs["labels"] = torch.full((len(inputs["input_values"]), self.model_tester.num_frames // 16, 5), 0.5)
        return inputs

    def test_model_get_set_embeddings(self) -> None:
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            self.assertIsInstance(model.get_input_embeddings(), torch.nn.Module)
            embeddings = torch.nn.Identity()
            model.set_input_embeddings(embeddings)
            self.assertIs(model.get_input_embeddings(), embeddings)
            self.assertIsNone(model.get_output_embeddings())

    def test_reverse_loading_mapping(self) -> None:
        super().test_reverse_loading_mapping(check_keys_were_modified=False)


for name, reason in SKIPPED.items():
    setattr(CedModelTest, name, unittest.skip(reason)(getattr(CedModelTest, name)))


def test_only_the_common_tests_in_the_tables_are_skipped_or_replaced() -> None:
    names = [name for name in dir(ModelTesterMixin) if name.startswith("test_")]
    ours = {name for name in names if getattr(getattr(CedModelTest, name), "__module__", None) == __name__}
    switches = {name for name in names if not callable(getattr(ModelTesterMixin, name))}
    assert ours == set(REPLACED)
    assert [name for name in switches if getattr(CedModelTest, name) != getattr(ModelTesterMixin, name)] == []


class CedModelWithClassTokenTest(CedModelTest):
    def setUp(self) -> None:
        self.model_tester = CedModelTester(pooling="token")


class CedConfigTest(unittest.TestCase):
    def test_config(self) -> None:
        tester = ConfigTester(
            self,
            config_class=CedConfig,
            has_text_modality=False,
            embed_dim=36,
            depth=2,
            num_heads=3,
            mlp_ratio=1.5,
            target_length=512,
            pooling="token",
            eval_avg="max",
            pad_last=False,
        )
        tester.run_common_tests()


class CedFeatureExtractionTester:
    """Makes small inputs, with the attribute names of the common tests."""

    def __init__(self) -> None:
        self.batch_size = 7
        self.min_seq_length = 20
        self.max_seq_length = 80
        self.seq_length_diff = (self.max_seq_length - self.min_seq_length) // (self.batch_size - 1)
        self.feature_size = 16

    def prepare_feat_extract_dict(self) -> dict[str, Any]:
        return {
            "feature_size": self.feature_size,
            "sampling_rate": 8000,
            "padding_value": 0.0,
            "return_attention_mask": True,
            "f_min": 50,
            "f_max": 3000,
            "n_fft": 256,
            "win_size": 256,
            "hop_size": 80,
        }

    def prepare_inputs_for_common(self, equal_length: bool = False, numpify: bool = False) -> list[Any]:
        """Sequences of features, each longer than the one before it unless `equal_length`."""
        lengths = [self.min_seq_length + index * self.seq_length_diff for index in range(self.batch_size)]
        if equal_length:
            lengths = [self.max_seq_length] * self.batch_size
        sequences = [[[random.random() for _ in range(self.feature_size)] for _ in range(n)] for n in lengths]
        return [np.asarray(sequence) for sequence in sequences] if numpify else sequences


class CedFeatureExtractionTest(SequenceFeatureExtractionTestMixin, unittest.TestCase):
    feature_extraction_class = CedFeatureExtractor

    def setUp(self) -> None:
        self.feat_extract_tester = CedFeatureExtractionTester()


class CedTrainingTester(CedModelTester):
    """The common training test only supports text: it uses the vocabulary of the configuration."""

    sequence_classification_class = CedForAudioClassification

    def get_config(self) -> CedConfig:
        config = super().get_config()
        config.vocab_size = config.num_labels
        return config


class CedTrainingTest(TrainingTesterMixin, unittest.TestCase):
    """A small model overfits a batch: the loss and its gradient fall by 90 %."""

    model_tester = None

    def setUp(self) -> None:
        self.model_tester = CedTrainingTester(problem_type="multi_label_classification")

    def _get_model_modality(self) -> str:
        return "text"  # the only one that the common test supports; the batch below is audio

    def _create_text_training_batch(self, batch_size: int, seq_length: int, vocab_size: int) -> dict[str, torch.Tensor]:
        input_values = common_modeling.floats_tensor([batch_size, 64, seq_length]).cpu()
        labels = torch.arange(batch_size * vocab_size).reshape(batch_size, vocab_size) % 2
        return {"input_values": input_values, "labels": labels.float()}
