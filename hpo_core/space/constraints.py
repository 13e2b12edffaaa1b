"""Parses and evaluates constraints between parameters, which are expressions that never run as Python.

A study file may come from anywhere, so its expressions are parsed into a syntax tree and interpreted here. Only
arithmetic, comparisons, boolean operators and a few functions are accepted.
"""

from __future__ import annotations

import ast
import keyword
import math
import operator
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hpo_core.space.configuration import Scalar

_ARITHMETIC: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    # As floats: an integer power could fill the memory (9 ** 9 ** 9), while a float power overflows at once.
    ast.Pow: lambda base, exponent: math.pow(base, exponent),
}

_COMPARISONS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda item, items: item in items,
    ast.NotIn: lambda item, items: item not in items,
}

_FUNCTIONS: dict[str, Callable[..., Any]] = {"min": min, "max": max, "abs": abs, "log": math.log, "log2": math.log2}

_QUOTE = 'quote a parameter name that is not a plain identifier, such as "lambda" or "a.b"'

_MAX_LENGTH = 1000

_MAX_DEPTH = 100  # well below Python's recursion limit, however deep the caller's own stack is


def is_word(name: str) -> bool:
    """Whether an expression can use this name without quotes.

    >>> [is_word(name) for name in ("units", "lambda", "a.b", "my-param", "2nd")]
    [True, False, False, False, False]
    """
    return name.isidentifier() and not keyword.iskeyword(name) and unicodedata.normalize("NFKC", name) == name


@dataclass(frozen=True)
class Constraint:
    """One expression that a configuration must make true, such as ``"min_units <= max_units"``.

    A constraint that names an inactive parameter holds. A constraint whose arithmetic is undefined (a division by
    zero, an overflow, the logarithm of a negative number) does not hold.

    Args:
        text: The expression. It may use parameter names, numbers, strings, ``True``, ``False``, ``None``, tuples
            and lists of these, ``+ - * / // % **``, comparisons (chained too), ``in``, ``and``, ``or``, ``not`` and
            the functions ``min``, ``max``, ``abs``, ``log`` and ``log2``.
        quoted: The parameters whose names must be quoted because they are not plain identifiers. Any other quoted
            text is a string.

    Raises:
        ValueError: The text is not a valid expression.

    >>> Constraint("1 <= layers * units <= 64").holds({"layers": 2, "units": 16})
    True
    >>> Constraint('"lambda" + alpha <= 1', frozenset({"lambda"})).holds({"lambda": 0.5, "alpha": 0.75})
    False
    """

    text: str
    quoted: frozenset[str] = frozenset()
    names: frozenset[str] = field(init=False, repr=False, compare=False)
    _tree: ast.expr = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.text) > _MAX_LENGTH:
            raise ValueError(f"the constraint has {len(self.text)} characters; the limit is {_MAX_LENGTH}")
        try:
            tree = ast.parse(self.text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"{self.text!r} is not an expression ({error}); {_QUOTE}") from None
        names: set[str] = set()
        self._check(tree, names, 1)
        object.__setattr__(self, "names", frozenset(names))
        object.__setattr__(self, "_tree", tree)

    def _check(self, node: ast.AST, names: set[str], depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise ValueError(f"{self.text!r} is more than {_MAX_DEPTH} levels deep; write it as several constraints")
        match node:
            case ast.Constant(value=str(name)) if name in self.quoted:
                names.add(name)
            case ast.Constant(value=str() | int() | float() | bool() | None):
                return
            case ast.Name(id=name):
                names.add(name)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                self._check(left, names, depth + 1)
                self._check(right, names, depth + 1)
            case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd(), operand=operand):
                self._check(operand, names, depth + 1)
            case ast.BoolOp(values=values):
                for value in values:
                    self._check(value, names, depth + 1)
            case ast.Compare(left=left, ops=ops, comparators=comparators) if all(
                type(op) in _COMPARISONS for op in ops
            ):
                for value in (left, *comparators):
                    self._check(value, names, depth + 1)
            case ast.Tuple(elts=items) | ast.List(elts=items):
                for item in items:
                    self._check(item, names, depth + 1)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS and args:
                for arg in args:
                    self._check(arg, names, depth + 1)
            case _:
                part = ast.get_source_segment(self.text.strip(), node)  # ast.unparse recurses without a limit
                raise ValueError(
                    f"{self.text!r} uses {part!r}, which a constraint cannot use; write it with arithmetic, "
                    f"comparisons, and/or/not and {', '.join(sorted(_FUNCTIONS))}, and {_QUOTE}"
                )

    def holds(self, config: Mapping[str, Scalar]) -> bool:
        """Whether ``config`` (active parameters only) satisfies the constraint.

        Raises:
            ValueError: The expression mixes types that cannot be compared (``optimizer < 3``).
        """
        if not self.names <= config.keys():
            return True
        try:
            return bool(self._evaluate(self._tree, config))
        except (ZeroDivisionError, OverflowError):
            return False
        except TypeError as error:
            raise ValueError(f"{self.text!r} cannot be evaluated: {error}") from None
        except ValueError:  # math domain error
            return False

    def _evaluate(self, node: ast.AST, config: Mapping[str, Scalar]) -> Any:
        match node:
            case ast.Constant(value=str(name)) if name in self.quoted:
                return config[name]
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                return config[name]
            case ast.BinOp(left=left, op=op, right=right):
                operands = self._evaluate(left, config), self._evaluate(right, config)
                if any(isinstance(operand, str | list | tuple) for operand in operands):
                    raise TypeError("arithmetic needs numbers")  # "a" * 10**9 would fill the memory
                return _ARITHMETIC[type(op)](*operands)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self._evaluate(operand, config)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._evaluate(operand, config)
            case ast.UnaryOp(operand=operand):
                return +self._evaluate(operand, config)
            case ast.BoolOp(op=ast.And(), values=values):
                return all(self._evaluate(value, config) for value in values)
            case ast.BoolOp(values=values):
                return any(self._evaluate(value, config) for value in values)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                terms = [self._evaluate(term, config) for term in (left, *comparators)]
                return all(_COMPARISONS[type(op)](a, b) for op, a, b in zip(ops, terms[:-1], terms[1:], strict=True))
            case ast.Tuple(elts=items) | ast.List(elts=items):
                return [self._evaluate(item, config) for item in items]
            case ast.Call(func=ast.Name(id=name), args=args):
                return _FUNCTIONS[name](*(self._evaluate(arg, config) for arg in args))
        raise AssertionError(f"unchecked node {node!r}")
