#!/usr/bin/env python3
"""plot.py FOLDER OUT: pictures of scaling.json in FOLDER, as OUT/scaling_n.svg and OUT/scaling_k.svg (needs matplotlib).
Points are medians of the repetitions. Others may share the memory, so that the limit, copying, is drawn as its median and
the range that was seen."""

import json
import re
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

folder, out = map(Path, sys.argv[1:])
copies, rates = [], defaultdict(list)
for row in json.loads((folder / "scaling.json").read_text())["benchmarks"]:
    if row["run_type"] != "iteration":  # a mean of repetitions
        continue
    if row["name"].startswith("copy"):
        copies.append(row["GB/s"])
    elif match := re.match(r"project/n:(\d+)/K:(\d+)", row["name"]):
        rates[tuple(map(int, match.groups()))].append(row["GB/s"])
limit = statistics.median(copies)
by_rank, by_size = defaultdict(list), defaultdict(list)
for (n, k), repetitions in rates.items():
    rate = statistics.median(repetitions)
    by_rank[k].append((n, rate))
    by_size[n].append((k, rate))


def plot(name, lines, x_name, base):
    figure, axes = plt.subplots(figsize=(7, 4))
    axes.axhspan(min(copies), max(copies), color="grey", alpha=0.15)
    axes.axhline(limit, color="grey", linestyle="--", label=f"copy: {limit:.0f} GB/s")
    for (label, points), marker in zip(lines, "osD^v"):
        points.sort()
        axes.plot(*zip(*points), marker=marker, label=label, linewidth=1)
    axes.set_xscale("log", base=base)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(x_name)
    axes.set_ylabel("(K + 2) n elements in GB/s")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(out / name, metadata={"Date": None})


plot("scaling_n.svg", [(f"K = {k}", by_rank[k]) for k in (1, 2)], "elements of a block", 10)
plot("scaling_k.svg", [(f"blocks of {n} elements", by_size[n]) for n in sorted(by_size) if len(by_size[n]) > 2],
     "K, elements of the basis", 2)
