#!/usr/bin/env bash
# Packs tests, perf suite and command line tool with the .NET runtime for a GPU host that has neither an SDK nor a network: artifacts/gpu-bundle.tar.xz.
# On the host: tar xf gpu-bundle.tar.xz && gpu-bundle/run-on-gpu.sh RESULTS_FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."
export DOTNET_NOLOGO=1 DOTNET_CLI_TELEMETRY_OPTOUT=1

bundle=artifacts/gpu-bundle
rm -rf "$bundle" "$bundle.tar.xz"
mkdir -p "$bundle"

# One folder for all three: they share the runtime and the libraries.
for project in tests perf src/IlgpuPeft.Cli; do
  dotnet publish "$project" -c Release -r linux-x64 --self-contained -o "$bundle" \
    -p:DebugType=none -p:RunAnalyzers=false -p:PublishDocumentationFile=false -p:PublishReferencesDocumentationFiles=false
done

cp perf/run-on-gpu.sh perf/peers.py "$bundle/"
# What the rows of the results are named after: of files that no commit has, it says so.
echo "$(git rev-parse HEAD)$([ -z "$(git status --porcelain)" ] || echo -dirty)" > "$bundle/commit"

# What the emulator computes here, for the GPU to be held to.
"$bundle/perf" outputs save --device emulator --file "$bundle/emulator-outputs.safetensors"

tar -C artifacts -c gpu-bundle | xz -T0 -6 > "$bundle.tar.xz"
size=$(stat -c %s "$bundle.tar.xz")
echo "$bundle.tar.xz: $((size / 1000000)) MB"
if [ "$size" -ge 60000000 ]; then
  echo "the bundle has $size bytes, expected under 60,000,000" >&2
  exit 1
fi
