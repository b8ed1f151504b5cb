#!/usr/bin/env bash
# Runs everything that needs a GPU, from the bundle that publish-gpu-bundle.sh packs, and leaves one folder of results.
# Usage: run-on-gpu.sh RESULTS_FOLDER [seconds for the PyTorch peers, 0 to leave them out]
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
results=${1:?usage: run-on-gpu.sh RESULTS_FOLDER}
mkdir -p "$results"
failures=0

# Each part has a log of its own; a failed one does not keep the others from running.
part() {
  local name=$1
  shift
  echo "== $name"
  if "$@" > "$results/$name.log" 2>&1; then echo "   ok"; else echo "   FAILED, see $name.log"; failures=$((failures + 1)); fi
  tail -n 4 "$results/$name.log"
}

nvidia-smi > "$results/nvidia-smi.txt" 2>&1
cp "$here/commit" "$results/commit"
part devices "$here/ilgpu-peft" devices
part kernels "$here/perf" kernels --device cuda:0
part outputs "$here/perf" outputs check --device cuda:0 --file "$here/emulator-outputs.safetensors"
part tests "$here/IlgpuPeft.Tests" -class "*OpTests" -class "*LinearTests" -class "*MatMul*" -class "*Attention*" -class "*CrossEntropy*" -class "*Nf4*" -class "*Sampler*" -class "*DeviceTraining*"
part device "$here/perf" device --device cuda:0 --csv "$results/device.csv"
if [ "${2:-1}" != 0 ]; then
  part peers python3 "$here/peers.py" "$results/device.csv"
fi

echo "$failures parts failed; results in $results"
[ "$failures" -eq 0 ]
