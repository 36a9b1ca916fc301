# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""CED audio taggers for transformers. Importing this package registers them with the Auto classes."""

from .custom_code import MIN_TRANSFORMERS  # noqa: F401  an older version of transformers ends here

# isort: split

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

from .audio import AudioError
from .audioset import AUDIOSET_LABELS
from .bundled import bundled_folder
from .configuration_ced import CedConfig
from .feature_extraction_ced import CedFeatureExtractor
from .findings import Event, StreamUpdate, Tag, TagResult, Timeline
from .modeling_ced import CedForAudioClassification, CedModel, CedPreTrainedModel
from .tagging import AudioTagger

__version__ = "0.1.0"

AutoConfig.register("ced", CedConfig, exist_ok=True)
AutoFeatureExtractor.register(CedConfig, CedFeatureExtractor, exist_ok=True)
AutoModel.register(CedConfig, CedModel, exist_ok=True)
AutoModelForAudioClassification.register(CedConfig, CedForAudioClassification, exist_ok=True)

__all__ = [
    "AUDIOSET_LABELS",
    "AudioError",
    "AudioTagger",
    "CedConfig",
    "CedFeatureExtractor",
    "CedForAudioClassification",
    "CedModel",
    "CedPreTrainedModel",
    "Event",
    "StreamUpdate",
    "Tag",
    "TagResult",
    "Timeline",
    "__version__",
    "bundled_folder",
]
