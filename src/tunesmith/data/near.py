"""Texts that say almost the same, found among themselves: whoever splits rows keeps them on one side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tunesmith.data.duplicates import NUM_HASHES, jaccard, shingles_of
from tunesmith.data.split import Int64


def near_clusters(texts: Sequence[str], threshold: float) -> Int64:
    """(N,) int64: texts linked by a chain of near copies get one number; a text is alone where it has none.

    Two are near copies that share at least ``threshold`` of their runs of three words (Jaccard). Candidates come from
    MinHash and are compared in full: no false ones, and a few may be missed. Equal texts are never missed.
    """
    from datasketch import MinHash, MinHashLSH

    different, first, which_N = np.unique(np.array(texts, dtype=object), return_index=True, return_inverse=True)
    shingles = [shingles_of([str(text)]) for text in different]
    empty, links = MinHash(num_perm=NUM_HASHES, seed=1), []
    lsh = MinHashLSH(threshold=threshold, num_perm=NUM_HASHES, weights=(0.1, 0.9))
    for i, runs in enumerate(shingles):
        signature = empty.copy()
        signature.update_batch(runs)
        links += [(i, j) for j in lsh.query(signature) if jaccard(runs, shingles[j]) >= threshold]
        lsh.insert(i, signature, check_duplication=False)
    ends = np.array(links, np.int64).reshape(-1, 2)
    size = (len(first), len(first))
    _, label_U = connected_components(coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=size), False)
    return np.asarray(label_U, np.int64)[which_N]
