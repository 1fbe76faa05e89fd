"""Numbers of paths by depth, as polynomials {depth: count} to multiply."""

import collections


def times(*factors):
    """Of parts that follow each other."""
    product = {0: 1}
    for factor in factors:
        grown = collections.Counter()
        for depth, count in product.items():
            for other, number in factor.items():
                grown[depth + other] += count * number
        product = dict(sorted(grown.items()))
    return product


def power(factor, exponent):
    """Of equal parts that follow each other."""
    return times(*[factor] * exponent)
