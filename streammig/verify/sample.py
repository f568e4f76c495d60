"""Which units a sample takes, and what it proves about all."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, lgamma, log, log1p
from random import Random

CONFIDENCE = 0.95


def chosen(sizes: Sequence[int], count: int, rng: Random) -> dict[int, set[int]]:
    """A sample of `count` units from batches of these sizes: by index of the batch, the numbers of its units from 0.

    The units of all batches, in order, are cut into `count` equal stretches, and one unit of each is drawn. So the
    sample is spread over all batches by their size. Where there are no more than `count` units, all are taken.
    """
    whole, found = sum(sizes), dict[int, set[int]]()
    if count >= whole:
        return {at: {*range(size)} for at, size in enumerate(sizes) if size}
    at = behind = 0
    for nth in range(count):
        unit = rng.randrange(nth * whole // count, (nth + 1) * whole // count)
        while unit >= behind + sizes[at]:
            behind += sizes[at]
            at += 1
        found.setdefault(at, set()).add(unit - behind)
    return found


def at_most(failed: int, looked: int, confidence: float = CONFIDENCE) -> float:
    """The upper bound, with this confidence, of the share of all that fails, where `failed` of `looked` did.

    The exact upper bound of the binomial distribution (Clopper and Pearson, Biometrika 26, 1934); where none failed it
    is 1 - (1 - confidence)^(1/looked), about 3/looked (the rule of three: Hanley and Lippman-Hand, JAMA 249, 1983). A
    sample that is spread in proportion proves no less than one drawn from all (Hoeffding, Annals of Mathematical
    Statistics 27, 1956).
    """
    if failed >= looked:
        return 1.0
    low, high = failed / looked, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _up_to(failed, looked, middle) > 1 - confidence else (low, middle)
    return high


def _up_to(failed: int, looked: int, share: float) -> float:
    """The probability that at most `failed` of `looked` fail where this share of all does."""
    if not 0 < share < 1:
        return 1.0 if share <= 0 else 0.0
    ways = (lgamma(looked + 1) - lgamma(k + 1) - lgamma(looked - k + 1) for k in range(failed + 1))
    return sum(exp(way + k * log(share) + (looked - k) * log1p(-share)) for k, way in enumerate(ways))
