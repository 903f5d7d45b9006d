"""LoRA adapters, in as far as SGLang 0.5.23 refuses who asks for one where it was started without --enable-lora.

Which adapter is meant, it reads as the routes of OpenAI and Anthropic do: all that follows the served name and a colon,
or a first colon; else "lora_path".
"""

from typing import Any

from .simulated_engine import SimulatedEngine

_PROBLEM = (
    "LoRA adapter '{}' was requested, but LoRA is not enabled. Please launch the server with --enable-lora flag and "
    "preload adapters using --lora-paths or /load_lora_adapter endpoint."
)


def problem(engine: SimulatedEngine, body: dict[str, Any], *, by_model: bool = True) -> str | None:
    """What the refusal says; `by_model`: on this route the model's name may name an adapter."""
    if engine.flags.enable_lora:
        return None
    named = _of_model(str(body.get("model")), engine.served_model_name) if by_model else ""
    paths = body.get("lora_path")
    adapter = named or next((one for one in (paths if isinstance(paths, list) else [paths]) if one), None)
    return None if adapter is None else _PROBLEM.format(adapter)


def _of_model(model: str, served: str) -> str:
    if model == served:
        return ""
    beside = model.removeprefix(f"{served}:")
    return (beside if beside != model else model.partition(":")[2]).strip()
