"""LoRA adapters: SGLang 0.5.23 refuses a request for one where it was started without --enable-lora.

The adapter's name is read as SGLang's routes for OpenAI and Anthropic read it: all that follows the served name and a
colon in the model's name, or else the first colon; without such a name, "lora_path".
"""

from typing import Any

from .simulated_engine import SimulatedEngine

_PROBLEM = (
    "LoRA adapter '{}' was requested, but LoRA is not enabled. Please launch the server with --enable-lora flag and "
    "preload adapters using --lora-paths or /load_lora_adapter endpoint."
)


def problem(engine: SimulatedEngine, body: dict[str, Any], *, by_model: bool = True) -> str | None:
    """Return the text of the refusal, None where there is none; `by_model`: the model's name may name an adapter."""
    if engine.flags.enable_lora:
        return None
    in_model = _adapter_in(str(body.get("model")), engine.served_model_name) if by_model else ""
    paths = body.get("lora_path")
    adapter = in_model or next((path for path in (paths if isinstance(paths, list) else [paths]) if path), None)
    return None if adapter is None else _PROBLEM.format(adapter)


def _adapter_in(model: str, served: str) -> str:
    if model == served:
        return ""
    beside = model.removeprefix(f"{served}:")
    return (beside if beside != model else model.partition(":")[2]).strip()
