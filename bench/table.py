#!/usr/bin/env python3
"""table.py FOLDER: one table of what bench/run.sh measured, with ratios against the limit and the peers of the same run."""

import json
import re
import sys
from pathlib import Path

folder = Path(sys.argv[1])
ours, rates, counters, peers, errors = {}, {}, {}, {}, {}
for path in sorted(folder.glob("*.json")):
    for row in json.loads(path.read_text())["benchmarks"]:
        name = row["name"].replace("/real_time", "")
        ours[name] = min(ours.get(name, float("inf")), row["real_time"])
        counters[name] = row
        for unit in ("GB/s", "GFLOP/s"):
            if unit in row:
                rates[name] = max(rates.get(name, 0), row[unit])
for line in (folder / "peers.jsonl").read_text().splitlines():
    row = json.loads(line)
    peers[row["name"]] = row["milliseconds"]
    if "orthogonality" in row:
        errors[row["name"]] = row["orthogonality"]


def table(title, header, rows):
    print(f"\n{title}\n")
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def ms(value):
    return f"{value:.3g} ms"


copy = rates["copy"]
rows = []
for name in ours:
    match = re.fullmatch(r"project<(float|bfloat16)>/K:(\d+)/known_finite:(\d)/layers:(\d+)", name)
    if not match:
        continue
    dtype, k, finite, layers = match.groups()
    others = [peers.get(f"published arithmetic, PyTorch/K:{k}"), peers.get(f"g - Q (Q^T g), PyTorch/K:{k}"),
              ours.get(f"eigen/K:{k}")] if dtype == "float" and layers == "30" else [None] * 3
    rows.append([dtype, k, layers, "yes" if finite == "1" else "no", ms(ours[name]), f"{100 * rates[name] / copy:.0f} %"]
                + [f"{peer / ours[name]:.1f}" if peer else "" for peer in others])
table(f"Projection of 135 million parameters; copying them reaches {copy:.0f} GB/s",
      ["gradients", "K", "layers of 30", "known finite", "time", "of the copy rate", "published, PyTorch: times our time",
       "g - Q (Q^T g), PyTorch", "Eigen"], rows)

rows = []
for name in ours:
    match = re.fullmatch(r"project_stored/K:(\d+)/storage:(\d)", name)
    if match:
        k, storage = match.groups()
        row = counters[name]
        rows.append([k, ("float", "bfloat16", "int8")[int(storage)], f"{row['bytes/parameter']:.4g}", ms(ours[name]),
                     f"{ours[f'project_stored/K:{k}/storage:0'] / ours[name]:.2f}", f"{row['angle']:.1e}"])
table("Bases in another storage: float gradients of 135 million parameters, known finite",
      ["K", "basis", "bytes per parameter", "time", "times faster than float", "largest rounding angle"], rows)

rows = []
product = rates["product"]
for name in ours:
    match = re.fullmatch(r"project<(float|bfloat16), Form::(\w+)(, Of::step)?>/share:(\d+)", name)
    if match:
        dtype, form, step, share = match.groups()
        torch_type = {"float": "torch.float32", "bfloat16": "torch.bfloat16"}[dtype]
        peer = peers.get(f"D - (D M) M^T, PyTorch {torch_type}/share:{share}")
        rows.append([dtype, form + (", exact step" if step else ""), share + " %", ms(ours[name]), f"{100 * rates[name] / product:.0f} %",
                     f"{peer / ours[name]:.2f}" if peer and form == "input" and not step else ""])
torch_rate = 2 * 2048**3 / peers["product 2048, PyTorch float32"] * 1e-6
table(f"Structured projection of its matrices; one large product of ours reaches {product:.0f} GFLOP/s, of PyTorch's "
      f"{torch_rate:.0f}, of Eigen's {rates['eigen_product']:.0f}",
      ["gradients", "side", "share", "time", "of our product's rate", "PyTorch: times our time"], rows)

rows = []
for name in ours:
    match = re.fullmatch(r"(estimate_subspace|update_by_one)/n:(\d+)/m:(\d+)", name)
    if not match:
        continue
    what, n, m = match.groups()
    others = {peer.split("/")[0]: time for peer, time in peers.items() if peer.endswith(f"/n:{n}/m:{m}")}
    others |= {other: ours[f"{other}/n:{n}/m:{m}"] for other in ("eigen_householder", "eigen_svd")
               if f"{other}/n:{n}/m:{m}" in ours}
    update = what == "update_by_one"
    chosen = {o: t for o, t in others.items() if ("IncrementalPCA" in o) == update}
    worst = [f"{e:.0e}" for peer, e in errors.items() if peer.endswith(f"/n:{n}/m:{m}") and not update]
    own = counters[name].get("orthogonality")
    rows.append([what, n, m, ms(ours[name]), f"{min(chosen.values()) / ours[name]:.1f}" if chosen else "",
                 ", ".join(f"{o} {t / ours[name]:.1f}" for o, t in chosen.items()),
                 f"{own:.0e}; {', '.join(worst)}" if own else ""])
table("Tall matrices in float", ["", "n", "m", "time", "fastest other: times our time", "all others", "largest element of Q^T Q - I: ours; others"], rows)

rows = []
for name in ours:
    if match := re.fullmatch(r"eigenvectors/n:(\d+)/percent:(\d+)", name):
        n, percent = match.groups()
        others = {peer.split("/")[0]: time for peer, time in peers.items()
                  if re.search(rf"(eigh|dsyevd.*)/n:{n}$|dsyevr.*/n:{n}/percent:{percent}$", peer)}
        rows.append([n, percent + " %", ms(ours[name]), ", ".join(f"{o} {t / ours[name]:.1f}" for o, t in others.items())])
    elif match := re.fullmatch(r"incremental_factor/n:(\d+)/k:(\d+)", name):
        n, k = match.groups()
        peer = peers[f"sklearn IncrementalPCA.partial_fit/n:{n}/k:{k}"]
        rows.append([n, f"{k}, kept from 256 more rows", ms(ours[name]), f"IncrementalPCA.partial_fit {peer / ours[name]:.1f}"])
table("Leading eigenvectors of a covariance (in double; PyTorch and dsyevd make all), and the incremental factor of a long "
      "side", ["n", "eigenvectors", "time", "others: times our time"], rows)
