#!/usr/bin/env python3
"""plot_tradeoff.py OUT.svg STAGE RUN...: safety against capability of runs of `ogpsa_align train` (needs matplotlib).

A run is a folder with a summary.json; runs of one method and form are joined by a line. To the lower left is better."""

import json
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

out, stage, *runs = sys.argv[1:]
arms, base = defaultdict(list), None
for run in runs:
    summary = json.loads((Path(run) / "summary.json").read_text())
    settings = json.loads((Path(run) / "settings.json").read_text())[stage]
    base = summary["base"]
    result = summary[stage]["evaluation"]
    protection, train = settings["protection"], settings["train"]
    method = protection["method"]
    if method.startswith("structured"):
        method += f", {protection['form']} side, {100 * protection['max_share']:.0f} %"
    if train["replay_ratio"] > 0:
        method = f"replay, {100 * train['replay_ratio'] / (1 + train['replay_ratio']):.0f} %"
    arms[method].append((train["learning_rate"], result["safety_loss"], result["general_loss"] - base["general_loss"]))

figure, axes = plt.subplots(figsize=(7, 4.5))
for (method, points), marker in zip(sorted(arms.items()), "osD^vPX*"):
    points.sort()
    axes.plot([p[1] for p in points], [p[2] for p in points], marker=marker, label=method, linewidth=1)
    for rate, x, y in points:
        axes.annotate(f"{rate:g}", (x, y), textcoords="offset points", xytext=(5, 4), fontsize=7)
axes.set_xlabel("loss of safe answers, held out (base: %.2f)" % base["safety_loss"])
axes.set_ylabel("rise of the general loss")
axes.axhline(0, color="grey", linewidth=0.5)
axes.legend(fontsize=8)
axes.grid(alpha=0.3)
figure.tight_layout()
figure.savefig(out, metadata={"Date": None})
