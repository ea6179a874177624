#!/usr/bin/env bash
# Checks that every code block that names its source, "<!-- from examples/x.cpp -->", stands in that file, line for line.
set -euo pipefail
cd "$(dirname "$0")/.."
status=0
for page in README.md docs/*.md examples/align/*.md; do
  [ -e "$page" ] || continue
  awk -v page="$page" '
    /^<!-- from .* -->$/ { source = $3; next }
    source != "" && /^```/ && !inside { inside = 1; block = ""; next }
    inside && /^```/ {
      text = ""
      while ((getline line < source) > 0) text = text line "\n"
      close(source)
      if (text == "" || index(text, block) == 0) {
        print page ": a code block is not in " source ":\n" block
        bad = 1
      }
      inside = 0
      source = ""
      next
    }
    inside { block = block $0 "\n" }
    END { exit bad }' "$page" || status=1
done
exit $status
