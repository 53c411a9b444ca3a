#!/usr/bin/env bash
# What the container runs: tritonserver with the models in /models. Configured by the environment; arguments are more
# options:
#
# RICE_MODEL    the model's name; default rice
# RICE_ENGINE   gpu or tensorrt: the models' configs/<engine>.pbtxt. Default config.pbtxt, which needs no GPU
# RICE_KEY      what whoever loads a model must know (header rice-control); default one that nobody knows: another version
#               is served when the server is started again. It stands on the server's command line: users of the host can
#               read it there, unless /proc is mounted with hidepid=2
set -euo pipefail
export ORT_DISABLE_TELEMETRY=${ORT_DISABLE_TELEMETRY:-1}

# bodies are parsed on the stacks of the server's threads, and each connection is a file
ulimit -Ss 524288 || true
ulimit -Sn "$(ulimit -Hn)"

model=${RICE_MODEL:-rice}
# the two that clients call; the models of the version that answers come with them, those of earlier ones do not
options=(--model-repository=/models --model-control-mode=explicit --load-model="$model" --load-model="${model}_bytes")
[[ -z ${RICE_ENGINE:-} ]] || options+=(--model-config-name="$RICE_ENGINE")
# whoever may load a model may run code
key=${RICE_KEY:-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')}
protected=model-repository,shared-memory,trace,logging:rice-control=$key
options+=(--http-restricted-api="$protected" --grpc-restricted-protocol="$protected" --exit-timeout-secs=8)
exec tritonserver "${options[@]}" "$@"
