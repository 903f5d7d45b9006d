#!/usr/bin/env bash
set -euo pipefail

MODEL_NAME="Qwen/Qwen3-0.6B"
PORT=30001

exec python -m sglang.launch_server \
  --model-path "$MODEL_NAME" \
  --host 127.0.0.1 \
  --port "$PORT" \
  --mem-fraction-static 0.4 \
  --enable-memory-saver
