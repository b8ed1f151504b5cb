#!/usr/bin/env bash
# Runs everything that needs a GPU, from the bundle that publish-gpu-bundle.sh packs, and leaves one folder of results.
# Usage: run-on-gpu.sh RESULTS_FOLDER [PART...]    all parts without a name: kernels outputs tests device steps ppo peers
# DEVICE=emulator runs the same parts without a GPU, over tiny shapes, to try the script out. LIMIT is the most seconds of one process, JOBS the test classes at a time.
# All results are written as they come: whatever ends the script early, a log and summary.txt hold what there was. A GPU refuses all work of a process after a fault, so that
# operations that are left go on in a new process, and each test class has one of its own.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
results=${1:?usage: run-on-gpu.sh RESULTS_FOLDER [PART...]}
shift
device=${DEVICE:-cuda:0}
all=(kernels outputs tests device steps ppo peers)
parts=("$@")
[ $# -eq 0 ] && parts=("${all[@]}")
for name in "${parts[@]}"; do
  if [[ " ${all[*]} " != *" $name "* ]]; then echo "run-on-gpu.sh: expected parts out of ${all[*]}, got '$name'" >&2; exit 1; fi
done
mkdir -p "$results"
results=$(cd "$results" && pwd)
summary=$results/summary.txt
touch "$summary"
earlier=$(wc -l < "$summary")

# Launches that block put a fault on the kernel that it belongs to. Not where time is measured.
unset CUDA_LAUNCH_BLOCKING
blocking=(env CUDA_LAUNCH_BLOCKING=1)

# Test classes with rows for every device. The emulator's rows need no GPU, so they stay out there.
classes=(
  AdamW8BitTests AdamWTests AttentionTests BatchGeneratorTests CopyTests CrossEntropyTests DeviceTrainingTests GoldenForwardTests GoldenStoriesTests GoldenTrainingTests GrpoTrainerTests
  KernelDeviceTests LinearOpTests MatMulKernelTests Nf4KernelTests Nf4TensorCoreMatMulTests OpTests PpoSteadyStateTests PpoTrainerTests PpoUpdateTests PreferenceDataTests
  PreferenceTrainerTests RewardModelTests RmsNormTests RowsTests SamplerTests ScalarHeadTests TensorCoreAttentionTests TensorCoreMatMulTests
)

if [ "$device" = emulator ]; then
  shapes=(--shape tiny)
  steps=("tiny 96")
  policies=("built-in 2" "tiny 2")
  limit=${LIMIT:-1800}
else
  shapes=()
  policies=("built-in 5" "smollm2-135m 5")
  steps=("smollm2-135m 2048" "llama3.2-1b 2048" "llama3.1-8b 2048")
  limit=${LIMIT:-300}
  export TEST_KERNELS=$device
fi
jobs=${JOBS:-$((($(nproc) + 3) / 4))}

note() { printf '%-6s %-28s exit %3d, %4d s\n' "$1" "$2" "$3" "$4" | tee -a "$summary"; }

# One process with a log of its own.
part() {
  local name=$1 start=$SECONDS code
  shift
  timeout -k 10 "$limit" "$@" > "$results/$name.log" 2>&1
  code=$?
  note "$([ $code -eq 0 ] && echo ok || echo FAILED)" "$name" $code $((SECONDS - start))
}

# A command that notes in a file which operation it begins, and goes on behind it when it is run again. It ends with 0 or 1 when it is through.
resumable() {
  local name=$1 start=$SECONDS verdict=ok code before
  shift
  local log=$results/$name.log progress=$results/$name.progress
  : > "$log"
  : > "$progress"
  while true; do
    before=$(wc -l < "$progress")
    timeout -k 10 "$limit" "$@" --progress "$progress" >> "$log" 2>&1
    code=$?
    [ $code -eq 0 ] && break
    verdict=FAILED
    [ $code -eq 1 ] && break
    echo "a process with exit code $code ended in: $(tail -n 1 "$progress")" >> "$log"
    [ "$(wc -l < "$progress")" -gt "$before" ] || break
  done
  note $verdict "$name" $code $((SECONDS - start))
}

test_class() { part "tests-$1" "${blocking[@]}" "$here/IlgpuPeft.Tests" -class "IlgpuPeft.Tests.$1" -noColor; }

run() {
  local item shape count
  case $1 in
    kernels) resumable kernels "${blocking[@]}" "$here/perf" kernels --device "$device" ;;
    outputs) resumable outputs "${blocking[@]}" "$here/perf" outputs check --device "$device" --file "$here/emulator-outputs.safetensors" ;;
    device) resumable device "$here/perf" device --device "$device" --csv "$results/device.csv" "${shapes[@]}" ;;
    steps)
      for item in "${steps[@]}"; do
        read -r shape count <<< "$item"
        part "step-$shape" "$here/perf" device-step --device "$device" --shape "$shape" --tokens "$count" --csv "$results/steps.csv"
      done ;;
    ppo)
      for item in "${policies[@]}"; do
        read -r shape count <<< "$item"
        part "ppo-$shape" "$here/perf" ppo "$shape" "$count" "$device"
      done ;;
    tests)
      local -i running=0
      for item in "${classes[@]}"; do
        if [ $running -ge "$jobs" ]; then wait -n; running+=-1; fi
        test_class "$item" &
        running+=1
      done
      wait ;;
    peers)
      if [ "$device" = emulator ]; then
        echo "peers: left out, there is no GPU"
      elif ! python3 -c 'import torch; assert torch.cuda.is_available()' 2> /dev/null; then
        echo "peers: left out, python3 has no torch with CUDA"
      else
        part peers python3 -u "$here/peers.py" "$results/device.csv" "$results/steps.csv"
      fi ;;
  esac
}

nvidia-smi > "$results/nvidia-smi.txt" 2>&1
cp "$here/commit" "$results/commit"
"$here/ilgpu-peft" devices > "$results/devices.log" 2>&1
if ! grep -q "^$device *yes" "$results/devices.log"; then
  cat "$results/devices.log"
  echo "run-on-gpu.sh: $device does not open here" >&2
  exit 1
fi
for name in "${parts[@]}"; do run "$name"; done

mapfile -t failed < <(tail -n +$((earlier + 1)) "$summary" | awk '$1 == "FAILED" { print $2 }')
echo "failed: ${#failed[@]} (${failed[*]-}); results in $results"
[ "${#failed[@]}" -eq 0 ]
