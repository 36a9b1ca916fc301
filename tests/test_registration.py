# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""CED is registered with Auto classes and pipelines for every order of first imports, and imports are fast."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ced_model import AUDIOSET_LABELS

REPOSITORY = Path(__file__).parent.parent
CED = "import ced_model"

# The most frequent orders, and those that broke transformers with simpler hooks.
COMMON = [
    f"{CED}; from transformers import AutoModelForAudioClassification",
    f"{CED}; from transformers import ASTForAudioClassification",
    f"{CED}; from transformers import pipeline",
    f"{CED}; import transformers.modeling_layers",
    f"from transformers import AutoModel; {CED}",
    f"from transformers import Trainer; {CED}",
    f"from transformers import pipeline; {CED}",
    "from ced_model import CedForAudioClassification",
    "from ced_model.feature_extraction_ced import CedFeatureExtractor",
]
OTHERS = [
    "import transformers",
    "from transformers import AutoConfig",
    "from transformers import AutoFeatureExtractor",
    "from transformers import AutoModel",
    "from transformers import AutoModelForAudioClassification",
    "from transformers import ASTConfig",
    "from transformers import ASTForAudioClassification",
    "from transformers import BertModel",
    "from transformers import WhisperModel",
    "from transformers import PreTrainedModel",
    "from transformers import Trainer",
    "from transformers import pipeline",
    "import transformers.modeling_layers",
    "import transformers.modeling_utils",
    "import transformers.masking_utils",
    "import transformers.core_model_loading",
    "import transformers.models.auto",
    "import transformers.models.auto.configuration_auto",
    "import transformers.models.auto.feature_extraction_auto",
    "import transformers.models.auto.modeling_auto",
    "import transformers.pipelines",
    "from transformers import AudioClassificationPipeline",
]
OWN = [
    "from ced_model import AudioTagger",
    "from ced_model.configuration_ced import CedConfig",
    "from ced_model.modeling_ced import CedModel",
    "from ced_model import CedAudioClassificationPipeline",
]
EVERY = [*COMMON, *(f"{CED}; {other}" for other in OTHERS), *(f"{other}; {CED}" for other in OTHERS), *OWN]

# Each order runs in a fork, in which torch is imported already, since it takes seconds, but transformers is not.
RUN_ORDERS = """
import json, os, sys, traceback
import torch
torch.set_num_threads(1)
golden, orders = sys.argv[1], json.loads(sys.argv[2])

def check(order):
    exec(order, {})
    import ced_model
    from transformers import (
        ASTConfig, ASTForAudioClassification, AutoConfig, AutoFeatureExtractor, AutoModel,
        AutoModelForAudioClassification,
    )
    config = AutoConfig.from_pretrained(golden)
    assert type(config) is ced_model.CedConfig
    assert type(AutoModel.from_config(config)) is ced_model.CedModel
    model = AutoModelForAudioClassification.from_pretrained(golden)
    assert type(model) is ced_model.CedForAudioClassification
    assert type(AutoFeatureExtractor.from_pretrained(golden)) is ced_model.CedFeatureExtractor
    small = ASTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16)
    other = AutoModelForAudioClassification.from_config(small)
    assert type(other) is ASTForAudioClassification
    if "ipeline" not in order:
        return
    from transformers import pipeline
    extractor = AutoFeatureExtractor.from_pretrained(golden)
    for of, kind in ((model, "CedAudioClassificationPipeline"), (other, "AudioClassificationPipeline")):
        assert type(pipeline("audio-classification", model=of, feature_extractor=extractor)).__name__ == kind

for order in orders:
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            assert not {"transformers", "ced_model"} & set(sys.modules)
            check(order)
        except BaseException:
            print(f"{order}\\n{traceback.format_exc()}", flush=True)
        os._exit(0)
    os.waitpid(child, 0)
print("done")
"""


def run(script: str, *arguments: str) -> str:
    """The output of a fresh process."""
    command = [sys.executable, "-c", script, *arguments]
    process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_the_auto_classes_find_ced_and_other_models_in_common_orders_of_imports(golden: Path) -> None:
    assert run(RUN_ORDERS, str(golden / "micro_hub"), json.dumps(COMMON)) == "done\n"


@pytest.mark.imports
def test_the_auto_classes_find_ced_and_other_models_in_every_order_of_imports(golden: Path) -> None:
    assert run(RUN_ORDERS, str(golden / "micro_hub"), json.dumps(EVERY)) == "done\n"


def test_the_package_is_light_and_needs_neither_network_nor_torchaudio(tmp_path: Path, golden: Path) -> None:
    """Also, AudioSet's names replace a cut table without a download."""
    cut = {index: name.split(",")[0] for index, name in enumerate(AUDIOSET_LABELS)}
    stored = json.loads((golden / "micro_hub" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**stored, "outputdim": 527, "id2label": cut}))
    script = """
import socket, sys

def refuse(*args, **kwargs):
    raise SystemExit("the network was touched")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
sys.modules["torchaudio"] = None
import ced_model
assert not {"torch", "transformers"} & set(sys.modules)
from transformers import AutoConfig, AutoModelForAudioClassification
assert ced_model.CedConfig(name="ced-tiny").id2label[21] == "Chuckle, chortle"
assert AutoConfig.from_pretrained(sys.argv[1]).id2label[21] == "Chuckle, chortle"
extractor = ced_model.CedFeatureExtractor.from_pretrained(sys.argv[2])
model = AutoModelForAudioClassification.from_pretrained(sys.argv[2]).eval()
print(tuple(model(**extractor([0.0] * 16000, sampling_rate=16000)).logits.shape))
"""
    assert run(script, str(tmp_path), str(golden / "micro_hub")) == "(1, 13)\n"
