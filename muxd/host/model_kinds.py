"""The kind of model in a folder, as its small files tell it: does SGLang generate text or embeddings with it?

The names of architectures here were compared with those that SGLang 0.5.23 knows.
"""

import json
from enum import StrEnum
from pathlib import Path
from typing import Any


class Unusable(Exception):
    """A folder holds no model that can be served; the text says why, and what to do if anything can be done."""


class NoModel(Unusable):
    """A folder holds no model and no part of one: there may be models in folders below it."""


class Unreadable(Unusable):
    """A file of the model cannot be read, by this user at least."""


class ModelKind(StrEnum):
    GENERATION = "generation"
    EMBEDDING = "embedding"


ONLY_GGUF = "only GGUF files, which are for llama.cpp; SGLang needs *.safetensors"

#: A config.json of a real model has some kB.
LARGEST = 4 << 20

GENERATION_ENDINGS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
GENERATION = {
    "ChatGLMModel",
    "InternVLChatModel",
    "MiniCPMO",
    "MiniCPMV",
    "MultiModalityCausalLM",
    "NemotronH_Nano_VL_V2",
    "POINTSV15ChatModel",
}
EMBEDDING = {
    "BertModel",
    "Contriever",
    "EmbeddingGemma2Model",
    "Gemma3TextModel",
    "Lfm2BidirectionalModel",
    "LlamaEmbeddingModel",
    "LlamaModel",
    "MistralModel",
    "Qwen2Model",
    "Qwen3Model",
    "RobertaModel",
    "XLMRobertaModel",
}
# Files of a sentence-transformers model, whatever its architecture is called.
EMBEDDING_FILES = ("modules.json", "config_sentence_transformers.json")

# Part of an architecture's name -> description of such a model.
OTHERS = {
    "Eagle": "a draft model for speculative decoding",
    "NextN": "a draft model for speculative decoding",
    "MTP": "a draft model for speculative decoding",
    "Draft": "a draft model for speculative decoding",
    "Whisper": "a speech model",
    "ASR": "a speech model",
    "Asr": "a speech model",
    "SequenceClassification": "a classifier or a reranker",
    "RewardModel": "a reward model",
    "GlmImage": "an image generator",
    "Diffusion": "a diffusion model",
}


def kind_of(folder: Path) -> ModelKind:
    """Return the kind of the model in the folder.  Raises Unusable."""
    config = config_of(folder)
    match config.get("architectures"):
        case [str(name), *_]:
            return _kind_of_architecture(name, config, folder)
    raise NoModel("config.json names no architecture")


def config_of(folder: Path) -> dict[str, Any]:
    """Return the config.json of a model, whatever its architecture.  Raises Unusable."""
    if (folder / "adapter_config.json").is_file():
        raise Unusable(f"a LoRA adapter{_base(folder)}, not a whole model: it goes into a model's args, --lora-paths")
    if (folder / "model_index.json").is_file():
        raise Unusable("a diffusion pipeline")
    file = folder / "config.json"
    if not file.exists() and next(folder.glob("*.gguf"), None) is not None:
        raise Unusable(ONLY_GGUF)
    return _read_object(file)


def _kind_of_architecture(name: str, config: dict[str, Any], folder: Path) -> ModelKind:
    for part, description in OTHERS.items():
        if part in name:
            raise Unusable(f"{name} is {description}")
    if config.get("is_encoder_decoder") is True:
        raise Unusable(f"{name} is an encoder and a decoder, which SGLang does not serve")
    generates = name in GENERATION or name.endswith(GENERATION_ENDINGS)
    if name in EMBEDDING or (generates and any((folder / file).is_file() for file in EMBEDDING_FILES)):
        return ModelKind.EMBEDDING
    if generates:
        return ModelKind.GENERATION
    raise Unusable(f"{name} is not known to generate text or embeddings; write it by hand if SGLang serves it")


def _base(folder: Path) -> str:
    """Return " of BASE", with the model that a LoRA adapter is for; "" if it names none."""
    try:
        base = _read_object(folder / "adapter_config.json").get("base_model_name_or_path")
    except Unusable:
        return ""
    return f" of {base}" if isinstance(base, str) and base else ""


def _read_object(file: Path) -> dict[str, Any]:
    """Return the object in a small JSON file.  Raises Unusable; NoModel if the file holds no JSON object."""
    try:
        if not file.is_file():
            raise Unusable(f"no {file.name}")
        if file.stat().st_size > LARGEST:
            raise Unusable(f"{file.name} is larger than {LARGEST >> 20} MiB")
        found = json.loads(file.read_bytes())
    except OSError as error:
        raise Unreadable(f"{file.name} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise NoModel(f"{file.name} is not JSON") from None
    if not isinstance(found, dict):
        raise NoModel(f"{file.name} is not a JSON object")
    return found
