#!/bin/bash
# Serve a model that Kiara trained with vLLM (https://docs.vllm.ai), for many users on a GPU.
#
#   bash docs/recipes/vllm/serve.sh checkpoints/best.pt my-model
#
# The folder holds what vLLM reads: config.json with one of its own architectures (no code of anyone's is run), weights
# in bf16, tokenizer.json, the chat template, and generation_config.json with what ends a reply.
set -euo pipefail
CHECKPOINT=${1:?say which checkpoint}
FOLDER=${2:?say where the folder is to be}

if [ ! -e "$FOLDER" ]; then
  kiara export "$CHECKPOINT" --to hf --quant bf16 --check --out "$FOLDER"
fi
exec vllm serve "$FOLDER" --served-model-name "$(basename "$FOLDER")" --generation-config auto --host 127.0.0.1 --port 8000
