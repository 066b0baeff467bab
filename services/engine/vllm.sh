#!/bin/sh
# Starts vLLM on its Unix socket, without a network. The same script runs in vLLM's official image
# (mounted by compose.gpu.yml) and in the image for CPUs, so what is tested there is what runs on
# the GPU. Settings: see README.md beside this file.
set -euf # f: a star in ENGINE_FLAGS stays a star

main() {
  socket=${ENGINE_SOCKET:-/run/engine/engine.sock}
  weights=${ENGINE_WEIGHTS:-}
  weights=${weights%/}
  [ -f "$weights/config.json" ] ||
    fail "ENGINE_WEIGHTS is \"$weights\": give the folder of the weights volume that holds the model (with config.json), as WEIGHTS in .env"
  name=${ENGINE_NAME:-${weights##*/}}
  context_tokens=$(number CONTEXT_TOKENS "${CONTEXT_TOKENS:-2048}" 256 1048576)
  slots=$(number ENGINE_SLOTS "${ENGINE_SLOTS:-8}" 1 1024)
  copies=$(number GPU_COPIES "${GPU_COPIES:-1}" 1 64)
  chosen=$(chosen_flags) # an assignment, so that a bad value ends the script

  # All of the weights are read, several files at once: README.md says what that costs.
  if [ -e "$weights/SHA256SUMS" ]; then
    python3 "$(dirname "$0")/digests.py" "$weights"
  fi

  # vLLM binds the socket without unlinking what a killed one left, and never sets its mode.
  umask 007
  if ! rm -f "$socket" 2>/dev/null || ! [ -w "$(dirname "$socket")" ]; then
    fail "ENGINE_SOCKET is \"$socket\": give a path in a directory that the engine's user may write to"
  fi

  # Compiled kernels are loaded from the cache: it must be writable and executable.
  export HOME="${ENGINE_CACHE:-/cache}"
  # The user has a number only; Inductor asks for a name.
  export USER=engine LOGNAME=engine
  export XDG_CACHE_HOME="$HOME" VLLM_CACHE_ROOT="$HOME/vllm" TRITON_CACHE_DIR="$HOME/triton" \
    TORCHINDUCTOR_CACHE_DIR="$HOME/inductor"
  # There is no network: the parts of vLLM find each other on the loopback, and nobody phones home.
  export VLLM_HOST_IP=127.0.0.1 GLOO_SOCKET_IFNAME=lo NCCL_SOCKET_IFNAME=lo \
    HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1

  if command -v nvidia-smi >/dev/null; then
    tell_gpus "$(dirname "$socket")/gpu" &
  fi

  # shellcheck disable=SC2086 # both are lists of words
  exec vllm serve "$weights" --served-model-name "$name" --uds "$socket" \
    --max-model-len "$context_tokens" --max-num-seqs "$(((slots + copies - 1) / copies))" \
    --scheduling-policy priority --disable-uvicorn-access-log $chosen ${ENGINE_FLAGS:-}
}

# chosen_flags: prints the flags of those settings that are set; vLLM has its own word for the others.
# Every value is assigned first: a bad one ends the script from an assignment alone.
chosen_flags() {
  gpus=$(number GPU_COUNT "${GPU_COUNT:-1}" 1 64)
  stages=$(number GPU_STAGES "${GPU_STAGES:-1}" 1 64)
  [ "$((gpus % (copies * stages)))" -eq 0 ] ||
    fail "GPU_COUNT is \"$gpus\": give a multiple of GPU_COPIES ($copies) times GPU_STAGES ($stages), for each copy needs as many cards"
  tensor=$((gpus / (copies * stages)))
  quantization=$(word QUANTIZATION "${QUANTIZATION:-}" "a method of vLLM's, such as fp8")
  cache=$(word KV_CACHE "${KV_CACHE:-}" "auto or fp8")
  batch=${BATCH_TOKENS:+$(number BATCH_TOKENS "$BATCH_TOKENS" 256 1048576)}
  share=${GPU_MEMORY:-}
  case $share in
    '' | 0.[1-9] | 0.[1-9][0-9]) ;;
    *) fail "GPU_MEMORY is \"$share\": give a share of the GPU's memory between 0.1 and 0.99" ;;
  esac
  [ "$tensor" -eq 1 ] || flag --tensor-parallel-size "$tensor"
  [ "$stages" -eq 1 ] || flag --pipeline-parallel-size "$stages"
  [ "$copies" -eq 1 ] || flag --data-parallel-size "$copies"
  flag --quantization "$quantization"
  flag --kv-cache-dtype "$cache"
  flag --gpu-memory-utilization "$share"
  flag --max-num-batched-tokens "$batch"
}

# flag NAME VALUE: prints both, or nothing where there is no value.
flag() {
  [ -z "$2" ] || echo "$1 $2"
}

# word NAME VALUE SUCH_AS: prints VALUE if it is one word or nothing.
word() {
  case $2 in
    *[!a-z0-9_-]* | -*) fail "$1 is \"$2\": give $3, or nothing" ;;
    *) echo "$2" ;;
  esac
}

# tell_gpus FILE: for the gateway, which has no GPU to ask; as long as the engine lives.
tell_gpus() {
  exec >/dev/null 2>&1
  while kill -0 $$; do
    timeout 5 nvidia-smi --query-gpu=utilization.gpu,memory.used,memory.total \
      --format=csv,noheader,nounits >"$1.new" && mv "$1.new" "$1"
    sleep 10
  done
}

# number NAME VALUE LEAST MOST: prints VALUE, or says what is wrong with it.
number() {
  case $2 in
    '' | *[!0-9]* | ????????*) ;;
    *) if [ "$2" -ge "$3" ] && [ "$2" -le "$4" ]; then
      echo "$2"
      return
    fi ;;
  esac
  fail "$1 is \"$2\": give a number between $3 and $4"
}

fail() {
  echo "$1" >&2
  exit 2
}

main
