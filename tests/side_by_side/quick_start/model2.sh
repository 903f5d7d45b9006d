#!/usr/bin/env bash
set -euo pipefail

TARGET_MODEL='HuggingFaceTB/SmolLM2-135M-Instruct'

python -m sglang.launch_server --model "${TARGET_MODEL}" --port=30002 --enable-memory-saver
