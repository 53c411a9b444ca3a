#!/usr/bin/env bash
# Build the TensorRT plan of a model in a Triton repository, with the TensorRT of the container that will serve it: a
# plan runs only with the version, and on the kind of GPU, that built it. Meant to run inside the container:
#
#   docker compose -f serving/compose.yaml -f serving/compose.gpu.yaml run --rm plan
#
#   build_plan.sh MODEL_FOLDER [VERSION]
#
# MODEL_FOLDER  <repository>/<model>, as `rice serve` and notebook 07 write it
# VERSION       default the one that answers, as MODEL_FOLDER/config.pbtxt says
#
# Writes model.plan and model.plan.json (GPU, TensorRT, CUDA driver, hash of the ONNX file) beside the version's
# model.onnx, MODEL_FOLDER_v<VERSION>/1/model.onnx, whose types are the plan's: serve a float16 one for half precision.
set -euo pipefail

fail() {
  echo "error: $*" >&2
  exit 2
}

[[ $# -ge 1 && $# -le 2 ]] || fail "usage: build_plan.sh MODEL_FOLDER [VERSION]"
model=${1%/}
ensemble=$model/config.pbtxt
[[ -f $ensemble ]] || fail "$ensemble: not there; write the model repository first (rice serve build)"
version=${2:-$(sed -n '/key: "version"$/,/string_value/s/.*string_value: "\([0-9]*\)".*/\1/p' "$ensemble")}
[[ -n $version ]] || fail "$ensemble: says no version; name one: build_plan.sh MODEL_FOLDER VERSION"

config=${model}_v$version/configs/tensorrt.pbtxt
folder=${model}_v$version/1
onnx=$folder/model.onnx
for file in "$config" "$onnx"; do
  [[ -f $file ]] || fail "$file: not there; the repository has no version $version"
done
[[ -w $folder ]] || fail "$folder: this user ($(id -u)) cannot write there; set RICE_UID to the owner's number"
trtexec=$(PATH="$PATH:/usr/src/tensorrt/bin" command -v trtexec) ||
  fail "no trtexec in this image; set PLAN_IMAGE=nvcr.io/nvidia/tensorrt (the same release has the same TensorRT)"
gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -n 1) || gpu=
[[ -n $gpu ]] || fail "no GPU is visible in this container (NVIDIA Container Toolkit, deploy.resources)"

max=$(sed -n 's/^max_batch_size: *\([0-9][0-9]*\).*/\1/p' "$config")
[[ -n $max ]] || fail "$config: says no max_batch_size"
middle=$(((max + 1) / 2))
side=224x224x3

scratch=$(mktemp -d "$folder/.plan.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

# --stronglyTyped: the types of the ONNX file, which TensorRT 11 always takes and 10 on request
"$trtexec" --onnx="$onnx" --saveEngine="$scratch/model.plan" --stronglyTyped --skipInference \
  --minShapes=images:1x$side --optShapes=images:"$middle"x$side --maxShapes=images:"$max"x$side |
  tee "$scratch/log"
[[ -s $scratch/model.plan ]] || fail "trtexec wrote no plan"

tensorrt=$(sed -n 's/.*TensorRT\.trtexec \[TensorRT \(v[0-9]*\)\].*/\1/p' "$scratch/log" | head -n 1)
cat > "$scratch/model.plan.json" <<JSON
{
  "gpu": "${gpu%%,*}",
  "driver": "${gpu##*, }",
  "tensorrt": "${tensorrt:-unknown}",
  "onnx_sha256": "$(sha256sum "$onnx" | cut -d ' ' -f 1)",
  "max_batch_size": $max
}
JSON
mv "$scratch/model.plan.json" "$scratch/model.plan" "$folder/"
echo "wrote $folder/model.plan: serve it with RICE_ENGINE=tensorrt"
