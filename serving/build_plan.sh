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
# Writes model.plan, and its manifest model.plan.json as `rice export tensorrt` writes it (rice_lib.backends.plan reads
# both), beside the version's model.onnx, MODEL_FOLDER_v<VERSION>/1/model.onnx, whose types are the plan's: serve a
# float16 one for half precision.
set -euo pipefail

fail() {
  echo "error: $*" >&2
  exit 2
}

[[ $# -ge 1 && $# -le 2 ]] || fail "usage: build_plan.sh MODEL_FOLDER [VERSION]"
model=${1%/}
ensemble=$model/config.pbtxt
[[ -f $ensemble ]] || fail "$ensemble: not there; write the model repository first (rice serve build)"
version=${2:-$(sed -n 's/.*versions: \[\([0-9]*\)\].*/\1/p' "$ensemble")}
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
gpu=$(nvidia-smi --query-gpu=name,compute_cap --format=csv,noheader 2>/dev/null | head -n 1) || gpu=
[[ -n $gpu ]] || fail "no GPU is visible in this container (NVIDIA Container Toolkit, deploy.resources)"
cuda=$(nvidia-smi | sed -n 's/.*CUDA[A-Za-z ]*Version: *\([0-9.]*\).*/\1/p' | head -n 1)
command -v python3 > /dev/null || fail "no python3 in this image, which writes the plan's manifest"

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

# the fields of rice_lib.backends.plan.EngineManifest, by the standard library: rice_lib is not in the image
decision=$(find "${model}_v${version}"_*/1 -name decision.json | head -n 1)
[[ -n $decision ]] || fail "${model}_v${version}: its decision.json is not there"
python3 - "$scratch" "$onnx" "$decision" "$gpu" "$cuda" "$middle" "$max" <<'PYTHON'
import hashlib, json, re, sys
from pathlib import Path

scratch, onnx, decision, gpu, cuda, middle, largest = sys.argv[1:]
model, plan, served = Path(onnx).read_bytes(), Path(scratch, "model.plan"), json.loads(Path(decision).read_text())
# of the file's metadata: the key, then the value with its tag and length
precision = re.search(rb"\tprecision\x12.(float\d\d)", model)
# as `[TensorRT v100900] [b34]`: 10.9.0, build 34
banner = re.search(r"\[TensorRT v(\d+)(\d\d)(\d\d)\] \[b(\d+)\]", Path(scratch, "log").read_text())
name, _, capability = gpu.rpartition(", ")
manifest = {
    "flavour": "tensorrt",
    "tensorrt": ".".join(str(int(part)) for part in banner.groups()) if banner else "unknown",
    "gpu": {"name": name, "compute_capability": capability, "cuda_driver": cuda},
    "onnx": onnx,
    "onnx_sha256": hashlib.sha256(model).hexdigest(),
    "plan_sha256": hashlib.sha256(plan.read_bytes()).hexdigest(),
    "precision": precision[1].decode() if precision else "float32",
    "profile": {"min": 1, "opt": int(middle), "max": int(largest)},
    "labels": served["labels"],
    "decision": json.dumps(served["decision"]) if served["decision"] else None,
    "agreement": None,
}
Path(scratch, "model.plan.json").write_text(json.dumps(manifest, indent=2) + "\n")
PYTHON
mv "$scratch/model.plan.json" "$scratch/model.plan" "$folder/"
echo "wrote $folder/model.plan: serve it with RICE_ENGINE=tensorrt"
