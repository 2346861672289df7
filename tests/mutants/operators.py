"""The changes that a machine can think of, at every branch and statement of a module: `OPERATORS`.

Only what runs is changed: not what an `assert` says (it states what cannot be, so that nothing may depend on it), not
the words of errors, not how things are shown (`__str__`), not constants and defaults.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Final

from tests.mutants.mutant import Mutant

OPERATORS: Final = {
    "negate": "the condition of an if, a while, a comprehension or an expression is turned round",
    "compare": "`<` becomes `<=`, `>=` becomes `>` and the like; elsewhere than in a condition `==` becomes `!=`",
    "logic": "`and` becomes `or`, `or` becomes `and`, `not` is left out",
    "operand": "a condition of several loses one",
    "number": "an integer becomes one more, or one less",
    "arithmetic": "`+` becomes `-`, `-` becomes `+`, `min` becomes `max`, `max` becomes `min`",
    "flag": "`True` becomes `False`, `False` becomes `True`",
    "drop": "a statement does nothing",
    "return": "a block begins with a return",
}
_WORDS_MAX: Final = 90
_COMPARE: Final = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">"}
_NEGATED: Final = {ast.Eq: "!=", ast.NotEq: "==", ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in"}
_ARITHMETIC: Final = {ast.Add: "-", ast.Sub: "+"}
_MIN_MAX: Final = {"min": "max", "max": "min"}
_SIMPLE: Final = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr, ast.Delete, ast.Raise, ast.Break, ast.Continue)
_NO_RETURN: Final = (ast.Return, ast.Raise, ast.Pass, ast.Break, ast.Continue)
_SHOWS: Final = frozenset({"__str__", "__repr__"})
_NOTHING: Final = {"None": "return", "bool": "return False", "int": "return 0"}  # by what the function gives
Function = ast.FunctionDef
Change = tuple[str, ast.expr | ast.stmt, str, str]  # operator, what is replaced, by which text, in words


def mutants(module: str, source: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its text."""
    places = _Places(source)
    found: list[Mutant] = []
    seen: Counter[str] = Counter()
    for where, function in _functions(ast.parse(source), module):
        for operator, node, text, words in _changes(function, source):
            start, end = places.span(node)
            if operator == "return":
                end = start
            name = f"{where}: {words}"
            seen[name] += 1
            if seen[name] > 1:
                name += f" ({seen[name]})"
            found.append(Mutant(name, module, operator, start, end, text))
    return found


class _Places:
    """Where the nodes of a syntax tree stand in the text. Its columns count bytes of UTF-8."""

    def __init__(self, source: str) -> None:
        self._lines = source.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """(start, end), in characters."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._at(node.lineno, node.col_offset), self._at(node.end_lineno, node.end_col_offset)

    def _at(self, line: int, column: int) -> int:
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())


def _functions(tree: ast.Module, module: str) -> Iterator[tuple[str, Function]]:
    for node in tree.body:
        if isinstance(node, Function):
            yield f"{module}.{node.name}", node
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, Function) and inner.name not in _SHOWS:
                    yield f"{module}.{node.name}.{inner.name}", inner


def _changes(function: Function, source: str) -> Iterator[Change]:
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    nothing = _NOTHING.get(ast.unparse(function.returns) if function.returns else "None", "return None")
    yield from _early_return(body, nothing)
    for statement in body:
        yield from _in_statement(statement, source, nothing, last=statement is body[-1])


def _in_statement(node: ast.stmt, source: str, nothing: str, *, last: bool = False) -> Iterator[Change]:
    """The changes of a statement and all in it. last: it is the end of the function."""
    if isinstance(node, ast.Assert):
        return
    if isinstance(node, _SIMPLE) or (isinstance(node, ast.Return) and not last):
        yield "drop", node, "pass", f"drop {_words(node)}"
    around = _words(getattr(node, "test", None) or getattr(node, "iter", None) or node)
    for part in ast.iter_child_nodes(node):
        if isinstance(part, ast.expr) and not isinstance(node, ast.Raise):
            decides = isinstance(node, ast.If | ast.While) and part is node.test
            yield from _in_expression(part, source, around, condition=decides)
    if isinstance(node, ast.AugAssign) and type(node.op) in _ARITHMETIC:
        sign = _ARITHMETIC[type(node.op)]
        text = f"{ast.unparse(node.target)} {sign}= {ast.unparse(node.value)}"
        yield "arithmetic", node, text, f"{_words(node)} -> {sign}="
    for block in _blocks(node):
        if not _is_elif(block, node):
            yield from _early_return(block, nothing)
        for statement in block:
            yield from _in_statement(statement, source, nothing)


def _blocks(node: ast.stmt) -> list[list[ast.stmt]]:
    inner = [part.body for part in (*getattr(node, "handlers", ()), *getattr(node, "cases", ()))]
    own = [getattr(node, name, []) for name in ("body", "orelse", "finalbody")]
    return [block for block in (*own, *inner) if block]


def _is_elif(block: list[ast.stmt], node: ast.stmt) -> bool:
    """An else of nothing but an if that stands where its own if does."""
    return isinstance(node, ast.If) and block is node.orelse and block[0].col_offset == node.col_offset


def _early_return(block: list[ast.stmt], nothing: str) -> Iterator[Change]:
    first = block[0] if block else ast.Pass()
    if not isinstance(first, _NO_RETURN):
        yield "return", first, f"{nothing}\n{' ' * first.col_offset}", f"{nothing} before {_words(first)}"


def _in_expression(node: ast.expr, source: str, around: str, *, condition: bool = False) -> Iterator[Change]:
    """The changes of an expression and all in it. around: what it stands in. condition: it decides what runs."""
    if isinstance(node, ast.JoinedStr):
        return
    if condition:
        text = f"(not ({ast.get_source_segment(source, node)}))"
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            text = f"({ast.get_source_segment(source, node.operand)})"
        yield "negate", node, text, f"not {_words(node)}"
    yield from _at_expression(node, around, condition=condition)
    for part in ast.iter_child_nodes(node):
        if isinstance(part, ast.expr):
            decides = isinstance(node, ast.IfExp) and part is node.test
            yield from _in_expression(part, source, around, condition=decides)
        elif isinstance(part, ast.comprehension):
            yield from _in_expression(part.iter, source, around)
            yield from chain.from_iterable(_in_expression(one, source, around, condition=True) for one in part.ifs)
        elif isinstance(part, ast.keyword):
            yield from _in_expression(part.value, source, around)


def _at_expression(node: ast.expr, around: str, *, condition: bool) -> Iterator[Change]:
    match node:
        case ast.Compare(left=left, ops=ops, comparators=rights):
            yield from _compare(node, left, ops, rights, condition=condition)
        case ast.BoolOp(op=op, values=values):
            text = f" {'or' if isinstance(op, ast.And) else 'and'} ".join(f"({ast.unparse(one)})" for one in values)
            yield "logic", node, f"({text})", f"{_words(node)} -> {text}"
            for at, dropped in enumerate(values):
                rest = ast.unparse(
                    ast.BoolOp(op, values[:at] + values[at + 1 :]) if len(values) > 2 else values[1 - at]
                )
                yield "operand", node, f"({rest})", f"{_words(node)} without {_words(dropped)}"
        case ast.UnaryOp(op=ast.Not(), operand=operand) if not condition:
            yield "logic", node, f"({ast.unparse(operand)})", f"{_words(node)} -> {_words(operand)}"
        case ast.Constant(value=bool() as value):
            yield "flag", node, str(not value), f"{value} -> {not value} in {around}"
        case ast.Constant(value=int() as value):
            for other in (value + 1, value - 1):
                yield "number", node, f"({other})" if other < 0 else str(other), f"{value} -> {other} in {around}"
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC and not isinstance(
            right, ast.Constant
        ):
            text = f"({ast.unparse(left)}) {_ARITHMETIC[type(op)]} ({ast.unparse(right)})"
            yield "arithmetic", node, f"({text})", f"{_words(node)} -> {text}"
        case ast.Call(func=ast.Name(id=name) as called) if name in _MIN_MAX:
            yield "arithmetic", called, _MIN_MAX[name], f"{_words(node)} -> {_MIN_MAX[name]}"


def _compare(
    node: ast.Compare, left: ast.expr, ops: list[ast.cmpop], rights: list[ast.expr], *, condition: bool
) -> Iterator[Change]:
    for at, op in enumerate(ops):
        negated = None if condition and len(ops) == 1 else _NEGATED.get(type(op))
        if (other := _COMPARE.get(type(op)) or negated) is None:
            continue
        text = f"({ast.unparse(left)})"
        for place, (one, right) in enumerate(zip(ops, rights, strict=True)):
            sign = other if place == at else ast.unparse(ast.Compare(ast.Name("a"), [one], [ast.Name("b")]))[2:-2]
            text += f" {sign} ({ast.unparse(right)})"
        yield "compare", node, f"({text})", f"{_words(node)} -> {other}" + (f" at {at + 1}" if len(ops) > 1 else "")


def _words(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= _WORDS_MAX else text[:_WORDS_MAX] + "..."
