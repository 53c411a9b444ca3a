#!/usr/bin/env bash
# Whether every worker of the container's server answers: exit status 0 or 1. The server says that it is ready although a
# worker has died, and starts none again; then it is ended (SIGTERM to process 1), for the orchestrator to restart it.
# A slow answer is no fault: a busy server must not be restarted.
set -euo pipefail

model=${RICE_MODEL:-rice} url=http://localhost:8000/v2
curl -fsS --max-time 5 "$url/health/ready"
# the drawn grain by which the decoder warms up, behind four bytes of length
grain=$(find "${RICE_MODELS:-/models}" -path "*/${model}_v*_decode/warmup/grain" | sort -V | tail -n 1)
answers=$(
  for _ in $(seq $((2 * $(nproc)))); do # at once: a free worker takes the next
    tail -c +5 "$grain" | curl -sS --max-time 20 --output - --data-binary @- -H 'Inference-Header-Content-Length: 0' \
      -H 'Content-Type: application/octet-stream' "$url/models/${model}_bytes/infer" 2> /dev/null | tr -d '\0' &
  done
  wait
) || true
if [[ $answers == *'is not healthy'* ]]; then
  echo "a worker is dead" >&2
  kill -TERM "${RICE_SERVER_PID:-1}"
  exit 1
fi
