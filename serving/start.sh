#!/usr/bin/env bash
# What the container runs: tritonserver with the models in /models. Told by the environment, with more options as
# arguments:
#
# RICE_MODEL    the model's name; default rice
# RICE_ENGINE   gpu or tensorrt: the models' configs/<engine>.pbtxt. Default config.pbtxt, which wants no GPU
# RICE_HOST     the address at which the ports are published. A server that others can reach takes no orders: it loads
#               what is there, and goes over to another version when it is started again. So also where nothing is said
set -euo pipefail

model=${RICE_MODEL:-rice}
# the two that clients ask; the models of the version that answers come with them, those of earlier ones do not
options=(--model-repository=/models --model-control-mode=explicit --load-model="$model" --load-model="${model}_bytes")
[[ -z ${RICE_ENGINE:-} ]] || options+=(--model-config-name="$RICE_ENGINE")
case ${RICE_HOST:-} in
  127.* | localhost) ;;
  *) # whoever may load a model may run code: such calls want a secret, which nobody is told
    orders=model-repository,shared-memory,trace,logging:rice-orders=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    options+=(--http-restricted-api="$orders" --grpc-restricted-protocol="$orders")
    ;;
esac
exec tritonserver "${options[@]}" "$@"
