#!/usr/bin/env bash
# What the container runs: tritonserver with the models in /models. Configured by the environment; arguments are more
# options:
#
# RICE_MODEL    the model's name; default rice
# RICE_ENGINE   gpu or tensorrt: the models' configs/<engine>.pbtxt. Default config.pbtxt, which needs no GPU
# RICE_HOST     the address at which the ports are published. Model control is disabled on a public address, and where
#               none is given: another version is served when the server is started again
set -euo pipefail
export ORT_DISABLE_TELEMETRY=${ORT_DISABLE_TELEMETRY:-1}

model=${RICE_MODEL:-rice}
# the two that clients call; the models of the version that answers come with them, those of earlier ones do not
options=(--model-repository=/models --model-control-mode=explicit --load-model="$model" --load-model="${model}_bytes")
[[ -z ${RICE_ENGINE:-} ]] || options+=(--model-config-name="$RICE_ENGINE")
if [[ ! ${RICE_HOST:-} =~ ^(localhost|127(\.[0-9]{1,3}){3})$ ]]; then
  # whoever may load a model may run code: such calls need a secret that nobody knows
  protected=model-repository,shared-memory,trace,logging:rice-control=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  options+=(--http-restricted-api="$protected" --grpc-restricted-protocol="$protected")
fi
exec tritonserver "${options[@]}" "$@"
