#!/usr/bin/env python3
"""plot_tradeoff.py OUT.svg STAGE RUN...: safety against capability of runs of `ogpsa_align train` (needs matplotlib), and
a table of them in Markdown on the standard output.
plot_tradeoff.py OUT.svg HEADING TABLE.md: the same plot of the table in a Markdown file whose first column is HEADING.

A run is a folder with a summary.json. Runs that differ in their seeds alone are one point, with the standard deviation
over the seeds as its bars; points of one method and form are joined by a line. To the lower left is better."""

import json
import re
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt


def arm_of(settings, lora_r):
    """What a run differs in from others, the learning rate and the seed aside."""
    protection, train = settings["protection"], settings["train"]
    name = protection["method"]
    if name.startswith("structured"):
        name += f", {protection['form']} side" + ("s" if protection["form"] == "both" else "")
        name += ", soft" if protection["damping"] > 0 else f", {100 * protection['max_share']:.0f} %"
        name += ", streamed" if protection["streaming"] else ""
    if lora_r > 0:
        name += f", LoRA of rank {lora_r}"
    if train["replay_ratio"] > 0:
        name = f"replay, {100 * train['replay_ratio'] / (1 + train['replay_ratio']):.0f} %"
    return name


def read(runs, stage):
    """{(arm, learning rate): [result of each seed]}, and the result of the base."""
    points, base = defaultdict(list), None
    for run in runs:
        summary = json.loads((Path(run) / "summary.json").read_text())
        every = json.loads((Path(run) / "settings.json").read_text())
        settings = every[stage]
        base = summary["base"]
        points[arm_of(settings, every["lora"]["lora_r"]), settings["train"]["learning_rate"]].append(summary[stage]["evaluation"])
    return points, base


def mean_and_spread(results, key):
    values = [r[key] for r in results]
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def cell(results, key, scale, digits, base=None):
    mean, spread = mean_and_spread(results, key)
    text = f"{scale * mean:.{digits}f}" + (f" ±{scale * spread:.{digits}f}" if len(results) > 1 else "")
    return text + (f" ({mean - base:+.3f})" if base is not None else "")


COLUMNS = [("accuracy", 100, 1), ("refusals", 100, 0), ("false_refusals", 100, 0), ("safety_loss", 1, 3),
           ("preference_accuracy", 100, 1)]


def print_table(points, base):
    print("| arm | learning rate | seeds | general loss (tax) | accuracy | refuses harmful, % | refuses harmless, % |"
          " safety loss | prefers the safe answer, % |")
    print("|---|---|---|---|---|---|---|---|---|")
    row = " | ".join(cell([base], *c) for c in COLUMNS)
    print(f"| base | | | {cell([base], 'general_loss', 1, 3)} | {row} |")
    for (arm, rate), results in sorted(points.items()):
        row = " | ".join(cell(results, *c) for c in COLUMNS)
        print(f"| {arm} | {rate:g} | {len(results)} | {cell(results, 'general_loss', 1, 3, base['general_loss'])} | {row} |")


def marks_of(points, base):
    """{(arm, learning rate): ((safety loss, spread), (tax, spread))}"""
    marks = {}
    for point, results in points.items():
        loss, spread = mean_and_spread(results, "general_loss")
        marks[point] = mean_and_spread(results, "safety_loss"), (loss - base["general_loss"], spread)
    return marks


def marks_of_table(path, heading):
    """The same of a table, whose cells are "mean" or "mean ±spread", and the safety loss of its base."""
    marks, columns, base = {}, None, None
    for line in Path(path).read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == heading:
            columns = {name: i for i, name in enumerate(cells)}
        elif columns and not line.startswith("|"):
            break
        elif columns and cells[0].startswith("base"):
            base = float(cells[columns["safety loss"]])
        elif columns and not cells[0].startswith("-"):
            tax = re.search(r"\((.*)\)", cells[columns["general loss (tax)"]])[1]
            marks[cells[0], float(cells[columns["learning rate"]])] = tuple(
                (float(mean), float(spread or 0)) for mean, _, spread in
                (text.partition(" ±") for text in (cells[columns["safety loss"]], tax)))
    if not marks:
        sys.exit(f"plot_tradeoff.py: {path} has no table whose first column is '{heading}'; give the text of its first cell")
    return marks, base


def plot(marks, base_safety_loss, out):
    lines = defaultdict(list)
    for (arm, rate), (safety, tax) in marks.items():
        lines[arm].append((rate, safety, tax))
    figure, axes = plt.subplots(figsize=(9, 5.5))
    for i, (arm, line) in enumerate(sorted(lines.items())):
        line.sort()
        x, x_bars = zip(*(p[1] for p in line))
        y, y_bars = zip(*(p[2] for p in line))
        axes.errorbar(x, y, xerr=x_bars, yerr=y_bars, marker="osD^vPX*<>hd8p"[i % 14], color=f"C{i % 10}",
                      linestyle="--" if i >= 10 else "-", label=arm, linewidth=1, elinewidth=0.7)
        for (rate, *_), *point in zip(line, x, y):
            axes.annotate(f"{rate:.0e}".replace("e-0", "e-"), point, textcoords="offset points", xytext=(5, 4), fontsize=7)
    axes.set_xlabel(f"loss of safe answers, held out (base: {base_safety_loss:.2f})")
    axes.set_ylabel("rise of the general loss")
    axes.axhline(0, color="grey", linewidth=0.5)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    axes.margins(0.09)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    out, stage, *runs = sys.argv[1:]
    if Path(runs[0]).is_file():
        plot(*marks_of_table(runs[0], stage), out)
    else:
        points, base = read(runs, stage)
        print_table(points, base)
        plot(marks_of(points, base), base["safety_loss"], out)
