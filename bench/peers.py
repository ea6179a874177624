#!/usr/bin/env python3
"""Times of others at the same work: the published arithmetic and plain products in PyTorch, LAPACK through PyTorch,
scikit-learn. Prints one JSON line a measurement: {"name", "milliseconds"} (of tall matrices also "orthogonality")."""

import json
import time

import numpy
import torch


def best(function, seconds=1.0):
    """Shortest time of a call, in milliseconds, over about `seconds`."""
    shortest, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        function()
        shortest = min(shortest, time.perf_counter() - start)
    return 1e3 * shortest


def report(name, milliseconds, **more):
    print(json.dumps({"name": name, "milliseconds": milliseconds, **more}), flush=True)


def model_shapes():
    shapes = [(49152, 576), (576,)]
    for _ in range(30):
        shapes += [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536), (576,), (576,)]
    return shapes


def published_rule(gradients, bases):
    """Per tensor: coefficients on unit reference gradients by (regularised) Gram solve, and their sum subtracted."""
    for g, basis in zip(gradients, bases):
        flat = g.view(-1)
        if len(basis) == 1:
            h = basis[0]
            flat -= torch.dot(flat, h) / (torch.dot(h, h) + 1e-8) * h
            continue
        dots = torch.stack([torch.dot(flat, h) for h in basis])
        gram = torch.stack([torch.stack([torch.dot(a, b) for b in basis]) for a in basis])
        coefficients = torch.linalg.solve(gram + 1e-8 * torch.eye(len(basis)), dots)
        flat -= sum(c * h for c, h in zip(coefficients, basis))


def projection():
    gradients = [torch.randn(shape) for shape in model_shapes()]
    for k in (1, 2):
        bases = [[torch.nn.functional.normalize(torch.randn(g.numel()), dim=0) for _ in range(k)] for g in gradients]
        report(f"published arithmetic, PyTorch/K:{k}", best(lambda: published_rule(gradients, bases), 3))
        stacked = [torch.stack(basis, 1) for basis in bases]
        del bases

        def plain():
            for g, q in zip(gradients, stacked):
                flat = g.view(-1)
                torch.addmv(flat, q, q.T @ flat, alpha=-1, out=flat)

        report(f"g - Q (Q^T g), PyTorch/K:{k}", best(plain, 3))


def structured():
    for dtype in (torch.float32, torch.bfloat16):
        gradients = [torch.randn(s).to(dtype) for s in model_shapes() if len(s) == 2 and s[0] < 40000]
        sides = {n: torch.linalg.qr(torch.randn(n, -(-3 * n // 10)))[0].to(dtype) for n in (576, 1536)}

        def project():
            for g in gradients:
                m = sides[g.shape[1]]
                g -= (g @ m) @ m.T

        report(f"D - (D M) M^T, PyTorch {dtype}/share:30", best(project, 3))
    a = torch.randn(2048, 2048)
    report("product 2048, PyTorch float32", best(lambda: a @ a))


def tall():
    from scipy.linalg import qr
    from sklearn.decomposition import IncrementalPCA
    from sklearn.utils.extmath import randomized_svd

    def orthogonality(q):
        gram = sum((part.astype(numpy.float64).T @ part for part in numpy.array_split(numpy.asarray(q), len(q) // 50000 + 1)))
        return float(numpy.abs(gram - numpy.eye(gram.shape[0])).max())

    # Column-major, as LAPACK wants it, and kept: each copies it or reads it.
    sizes = [(n, m) for n in (10**5, 10**6, 10**7, 10**8) for m in (2, 4, 8, 16, 32, 64) if n * m <= 320e6]
    for n, m in sizes:
        a = torch.randn(m, n).T
        x = a.numpy()
        others = {"torch.linalg.qr": lambda: torch.linalg.qr(a)[0],
                  "torch.linalg.svd": lambda: torch.linalg.svd(a, full_matrices=False)[0]}
        if n * m <= 64e6:
            others["LAPACK geqrf + orgqr (SciPy)"] = lambda: qr(x, mode="economic", check_finite=False)[0]
            others["sklearn randomized_svd"] = lambda: randomized_svd(x, m, random_state=0)[0]
        for name, function in others.items():
            report(f"{name}/n:{n}/m:{m}", best(function, 2), orthogonality=orthogonality(function()))
        if m == 8 and n <= 10**6:
            pca = IncrementalPCA(n_components=m)
            pca.partial_fit(x.T.copy())
            column = numpy.random.randn(m, n).astype(numpy.float32)
            report(f"sklearn IncrementalPCA.partial_fit, {m} at once/n:{n}/m:{m}", best(lambda: pca.partial_fit(column), 2))


def eigenproblems():
    from scipy.linalg import eigh
    from sklearn.decomposition import IncrementalPCA

    for n in (576, 1536):
        x = torch.randn(n, n, dtype=torch.float64)
        a = x @ x.T
        report(f"torch.linalg.eigh/n:{n}", best(lambda: torch.linalg.eigh(a), 3))
        report(f"LAPACK dsyevd, SciPy/n:{n}", best(lambda: eigh(a.numpy(), driver="evd"), 3))
        for percent in (10, 30, 50):
            first = n - -(-percent * n // 100)
            report(f"LAPACK dsyevr, SciPy/n:{n}/percent:{percent}",
                   best(lambda: eigh(a.numpy(), driver="evr", subset_by_index=[first, n - 1]), 3))
    n, k = 18944, 128
    rows = numpy.random.randn(256, n).astype(numpy.float32)
    pca = IncrementalPCA(n_components=k)
    pca.partial_fit(rows)
    report(f"sklearn IncrementalPCA.partial_fit/n:{n}/k:{k}", best(lambda: pca.partial_fit(rows), 5))


if __name__ == "__main__":
    projection()
    structured()
    tall()
    eigenproblems()
