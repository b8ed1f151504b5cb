#!/usr/bin/env bash
# Runs everything that needs a GPU, from the bundle that publish-gpu-bundle.sh packs, and leaves one folder of results. Takes about half an hour.
# Usage: run-on-gpu.sh RESULTS_FOLDER
# DEVICE=emulator runs the same parts without a GPU, over tiny shapes, to try the script out.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
results=${1:?usage: run-on-gpu.sh RESULTS_FOLDER}
device=${DEVICE:-cuda:0}
mkdir -p "$results"
failed=()

# Each part has a log of its own; a failed one does not keep the others from running.
part() {
  local name=$1
  shift
  echo "== $name"
  if "$@" > "$results/$name.log" 2>&1; then echo "   ok"; else echo "   FAILED, see $name.log"; failed+=("$name"); fi
  tail -n 3 "$results/$name.log"
}

# Lists devices, and fails if the one that is asked for does not open.
devices() {
  "$here/ilgpu-peft" devices
  "$here/ilgpu-peft" devices | grep "^$device *yes" > "$results/opens"
}

# The peers are for Python installations that have PyTorch; another kind of host is no failure.
has_torch() { python3 -c 'import torch; assert torch.cuda.is_available()' 2> /dev/null; }

# Test classes whose rows run on cuda:0 where the driver opens it.
tests=()
for name in OpTests LinearOpTests MatMulKernelTests TensorCoreMatMulTests Nf4TensorCoreMatMulTests Nf4KernelTests AttentionTests TensorCoreAttentionTests CrossEntropyTests SamplerTests AdamW8BitTests \
  CopyTests KernelDeviceTests DeviceTrainingTests PpoSteadyStateTests; do
  tests+=(-class "IlgpuPeft.Tests.$name")
done

if [ "$device" = emulator ]; then
  shapes=(--shape tiny)
  steps=("tiny 96")
  policies=("built-in 2" "tiny 2")
else
  shapes=()
  policies=("built-in 5" "smollm2-135m 5")
  steps=("smollm2-135m 2048" "llama3.2-1b 2048" "llama3.1-8b 2048")
fi

nvidia-smi > "$results/nvidia-smi.txt" 2>&1
cp "$here/commit" "$results/commit"
part devices devices
part kernels "$here/perf" kernels --device "$device"
part outputs "$here/perf" outputs check --device "$device" --file "$here/emulator-outputs.safetensors"
part device "$here/perf" device --device "$device" --csv "$results/device.csv" "${shapes[@]}"
for step in "${steps[@]}"; do
  read -r shape tokens <<< "$step"
  part "step-$shape" "$here/perf" device-step --device "$device" --shape "$shape" --tokens "$tokens" --csv "$results/steps.csv"
done
for policy in "${policies[@]}"; do
  read -r shape updates <<< "$policy"
  part "ppo-$shape" "$here/perf" ppo "$shape" "$updates" "$device"
done
if has_torch; then
  part peers python3 "$here/peers.py" "$results/device.csv" "$results/steps.csv"
else
  echo "== peers: left out, python3 has no torch with CUDA"
fi
if [ -s "$results/opens" ]; then
  part tests "$here/IlgpuPeft.Tests" "${tests[@]}"
else
  echo "== tests: left out, $device does not open"
fi

echo "failed: ${#failed[@]} (${failed[*]-}); results in $results"
[ "${#failed[@]}" -eq 0 ]
