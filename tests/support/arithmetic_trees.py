"""Trees (operation, left, right): their values, and their form modulo commutativity and associativity."""

import ast
from collections import Counter
from fractions import Fraction


def brute_values(tree):
    """The values of all inner nodes, the root's last; nothing when it divides by zero."""
    if isinstance(tree, int):
        return [Fraction(tree)]
    operation, left, right = tree
    lefts, rights = brute_values(left), brute_values(right)
    if not lefts or not rights or (operation == "/" and rights[-1] == 0):
        return []
    x, y = lefts[-1], rights[-1]
    value = x + y if operation == "+" else x - y if operation == "-" else x * y if operation == "*" else x / y
    return [*lefts, *rights, value]


def counted(tree):
    """A tree modulo commutativity and associativity: the counts of its signed terms or factors."""
    if isinstance(tree, int):
        return tree
    additive = tree[0] in "+-"
    counts = Counter()

    def collect(node, sign):
        if not isinstance(node, int) and (node[0] in "+-") == additive:
            collect(node[1], sign)
            collect(node[2], -sign if node[0] in "-/" else sign)
        else:
            is_one = not additive and brute_values(node)[-1] == 1
            counts[1 if is_one else sign, counted(node)] += 1

    collect(tree, 1)
    return additive, frozenset(counts.items())


def tree_of(text):
    """The tree of a canonical text, as Python reads it."""
    symbols = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}

    def convert(node):
        if isinstance(node, ast.Constant):
            return node.value
        return symbols[type(node.op)], convert(node.left), convert(node.right)

    return convert(ast.parse(text, mode="eval").body)
