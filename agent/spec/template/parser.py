"""Tokens into trees.

Control structures are kept on a stack of our own, not on Python's: only parentheses nest by recursion, and those are
limited. Source: https://pkg.go.dev/text/template (Actions, Pipelines, Variables, Nested template definitions).
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

from agent.spec.template import nodes
from agent.spec.template.errors import TemplateError, ValueRefused
from agent.spec.template.lexer import LEFT, RIGHT, Kind, Lexer, Token
from agent.spec.template.literals import go_quote, parse_number, parse_rune, unquote

PARENTHESES_MAX = 50
"""How deep parentheses may nest. Go allows 10,000; each level here costs frames of Python's stack."""

NESTING_MAX = 1_000
"""How deep if, with, range and block may nest. Go has no limit but its memory."""

_OPERANDS = frozenset(
    {Kind.BOOL, Kind.RUNE, Kind.COMPLEX, Kind.DOT, Kind.FIELD, Kind.IDENTIFIER, Kind.NUMBER, Kind.NIL, Kind.RAW_STRING}
    | {Kind.STRING, Kind.VARIABLE, Kind.LEFT_PAREN}
)
_CONTROLS = frozenset({Kind.IF, Kind.WITH, Kind.RANGE})
_NOT_CALLABLE = nodes.Bool | nodes.Dot | nodes.Nil | nodes.NumberLiteral | nodes.String


def parse_source(text: str, name: str, functions: Container[str]) -> dict[str, nodes.Tree]:
    """The template `name` and what it defines. Raises TemplateError where the text is no template."""
    return _Parser(nodes.Source(name, text), functions).run()


class _Scope:
    """The variables of one template that are known at this point; a name may be declared again inside."""

    def __init__(self) -> None:
        self._names = ["$"]
        self._counts = {"$": 1}

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: str) -> bool:
        return self._counts.get(name, 0) > 0

    def declare(self, name: str) -> None:
        self._names.append(name)
        self._counts[name] = self._counts.get(name, 0) + 1

    def forget(self, count: int) -> None:
        """Back to the first `count` names."""
        while len(self._names) > count:
            self._counts[self._names.pop()] -= 1


@dataclass(slots=True)
class _Block:
    """A structure that is still open: its nodes so far, and what is needed to close it."""

    kind: Kind | None  # None: the whole text
    name: str = ""  # of a definition or block
    position: int = 0
    pipeline: nodes.Pipeline | None = None
    content: list[nodes.Node] = field(default_factory=list)
    body: tuple[nodes.Node, ...] | None = None  # set once `else` has been met
    chained: bool = False  # opened by `else if` or `else with`: the outer one's `end` closes it
    scope: _Scope = field(default_factory=_Scope)
    known_before: int = 0  # variables of the scope that outlive the structure
    ranges: int = 0  # how many ranges are open around here


class _Parser:
    def __init__(self, source: nodes.Source, functions: Container[str]) -> None:
        self._source = source
        self._functions = functions
        self._lexer = Lexer(source.text)
        self._pushed: list[Token] = []
        self._last = Token(Kind.EOF, 0, "", 1)  # the token read last: errors name its line
        self._action_line = 0
        self._parentheses = 0
        self._blocks = [_Block(None, name=source.name)]
        self._trees: dict[str, nodes.Tree] = {}

    # Tokens

    def _next(self) -> Token:
        if self._pushed:
            return self._pushed.pop()
        self._last = self._lexer.next()
        return self._last

    def _next_non_space(self) -> Token:
        token = self._next()
        while token.kind is Kind.SPACE:
            token = self._next()
        return token

    def _back(self, token: Token) -> None:
        self._pushed.append(token)

    def _peek(self) -> Token:
        token = self._next()
        self._back(token)
        return token

    def _peek_non_space(self) -> Token:
        token = self._next_non_space()
        self._back(token)
        return token

    def _expect(self, kind: Kind, context: str) -> Token:
        token = self._next_non_space()
        if token.kind is not kind:
            raise self._unexpected(token, context)
        return token

    # Errors

    def _error(self, message: str, *, at: Token | None = None, key: str | None = None) -> TemplateError:
        line = self._last.line
        column = self._source.place((at or self._last).position)[1]
        text = f"template: {self._source.name}:{line}: {message}"
        return TemplateError(text, name=self._source.name, line=line, column=column, message=message, key=key)

    def _unexpected(self, token: Token, context: str) -> TemplateError:
        if token.kind is not Kind.ERROR:
            return self._error(f"unexpected {token} in {context}", at=token)
        message = str(token)
        if self._action_line not in (0, token.line):
            started = f"started at {self._source.name}:{self._action_line}"
            message += f" {started}" if message.endswith(" action") else f" in action {started}"
        return self._error(message, at=token)

    # The text

    def run(self) -> dict[str, nodes.Tree]:
        while True:
            token = self._next()
            if token.kind is Kind.EOF:
                break
            if token.kind is Kind.TEXT:
                self._top.content.append(nodes.Text(token.position, token.text))
            elif token.kind is Kind.LEFT_DELIM:
                self._action_line = token.line
                self._action()
                self._action_line = 0
            else:
                raise self._unexpected(token, "input")
        if len(self._blocks) > 1:
            raise self._error("unexpected EOF", at=token)
        self._add(self._top)
        return self._trees

    @property
    def _top(self) -> _Block:
        return self._blocks[-1]

    def _add(self, block: _Block) -> None:
        """Files a definition. Of two with one name the one that is not empty counts; two such are an error."""
        tree = nodes.Tree(block.name, self._source, tuple(block.content))
        known = self._trees.get(block.name)
        if known is None or known.empty:
            self._trees[block.name] = tree
        elif not tree.empty:
            raise self._error(f"template: multiple definition of template {go_quote(block.name)}")

    def _action(self) -> None:
        token = self._next_non_space()
        match token.kind:
            case Kind.BLOCK:
                self._block_control()
            case Kind.DEFINE if len(self._blocks) == 1:
                self._define_control()
            case Kind.BREAK | Kind.CONTINUE:
                self._loop_control(token)
            case Kind.ELSE:
                self._else_control()
            case Kind.END:
                self._expect(Kind.RIGHT_DELIM, "end")
                self._close()
            case Kind.IF | Kind.WITH | Kind.RANGE:
                self._open(token)
            case Kind.TEMPLATE:
                self._template_control()
            case _:
                self._back(token)
                pipeline = self._pipeline("command", Kind.RIGHT_DELIM)
                self._top.content.append(nodes.Action(token.position, pipeline))

    # Control structures

    def _push(self, block: _Block) -> None:
        if len(self._blocks) >= NESTING_MAX:
            raise self._error(f"nested deeper than {NESTING_MAX} levels")
        self._blocks.append(block)

    def _open(self, token: Token, *, chained: bool = False) -> None:
        outer = self._top
        known_before = len(outer.scope)
        pipeline = self._pipeline(token.text, Kind.RIGHT_DELIM)
        ranges = outer.ranges + (1 if token.kind is Kind.RANGE else 0)
        block = _Block(token.kind, "", pipeline.position, pipeline, chained=chained, ranges=ranges)
        block.scope, block.known_before = outer.scope, known_before
        self._push(block)

    def _else_control(self) -> None:
        token = self._peek_non_space()
        chains = token.kind in (Kind.IF, Kind.WITH)
        if not chains:
            self._expect(Kind.RIGHT_DELIM, "else")
        block = self._top
        if block.kind is None:
            raise self._error(f"unexpected {LEFT}else{RIGHT}")
        if block.kind not in _CONTROLS:
            raise self._error(f"unexpected {LEFT}else{RIGHT} in {block.kind} clause")
        if block.body is not None:
            raise self._error(f"expected end; found {LEFT}else{RIGHT}")
        block.body, block.content = tuple(block.content), []
        if block.kind is Kind.RANGE:
            block.ranges -= 1
        if chains:
            self._next_non_space()
            if token.kind is not block.kind:
                raise self._unexpected(token, "input")
            self._open(token, chained=True)

    def _close(self) -> None:
        """Closes the innermost structure, and with a chain of `else if` all of the chain."""
        block = self._top
        if block.kind is None:
            raise self._error(f"unexpected {LEFT}end{RIGHT}")
        while True:
            self._blocks.pop()
            self._finish(block)
            if not block.chained:
                return
            block = self._top

    def _finish(self, block: _Block) -> None:
        if block.kind in (Kind.DEFINE, Kind.BLOCK):
            self._add(block)
            if block.kind is Kind.BLOCK:
                self._top.content.append(nodes.Invoke(block.position, block.name, block.pipeline))
            return
        assert block.kind is not None, "the whole text is never closed"
        assert block.pipeline is not None, "an open control structure has one"
        block.scope.forget(block.known_before)
        body, otherwise = (tuple(block.content), None) if block.body is None else (block.body, tuple(block.content))
        branch = nodes.Branch(block.position, block.kind.value, block.pipeline, body, otherwise)
        self._top.content.append(branch)

    def _define_control(self) -> None:
        name = self._template_name("define clause")
        self._expect(Kind.RIGHT_DELIM, "define clause")
        self._push(_Block(Kind.DEFINE, name))

    def _block_control(self) -> None:
        position = self._peek_non_space().position
        name = self._template_name("block clause")
        pipeline = self._pipeline("block clause", Kind.RIGHT_DELIM)
        self._push(_Block(Kind.BLOCK, name, position, pipeline))

    def _template_control(self) -> None:
        position = self._peek_non_space().position
        name = self._template_name("template clause")
        pipeline = None
        token = self._next_non_space()
        if token.kind is not Kind.RIGHT_DELIM:
            self._back(token)
            pipeline = self._pipeline("template clause", Kind.RIGHT_DELIM)
        self._top.content.append(nodes.Invoke(position, name, pipeline))

    def _template_name(self, context: str) -> str:
        token = self._next_non_space()
        if token.kind not in (Kind.STRING, Kind.RAW_STRING):
            raise self._unexpected(token, context)
        return self._unquoted(token)

    def _loop_control(self, token: Token) -> None:
        self._expect(Kind.RIGHT_DELIM, f"{LEFT}{token.text}{RIGHT}")
        if not self._top.ranges:
            raise self._error(f"{LEFT}{token.text}{RIGHT} outside {LEFT}range{RIGHT}")
        node = nodes.Break if token.kind is Kind.BREAK else nodes.Continue
        self._top.content.append(node(token.position))

    # Pipelines

    def _pipeline(self, context: str, end: Kind) -> nodes.Pipeline:
        start = self._peek_non_space()
        declares, assigns = self._declarations(context)
        commands: list[nodes.Command] = []
        while True:
            token = self._next_non_space()
            if token.kind is end:
                break
            if token.kind not in _OPERANDS:
                raise self._unexpected(token, context)
            self._back(token)
            commands.append(self._command())
        if not commands:
            raise self._error(f"missing value for {context}", at=start)
        for stage, command in enumerate(commands[1:], start=2):
            if isinstance(command.arguments[0], _NOT_CALLABLE):
                raise self._error(f"non executable command in pipeline stage {stage}", at=start)
        return nodes.Pipeline(start.position, declares, assigns, tuple(commands))

    def _declarations(self, context: str) -> tuple[tuple[str, ...], bool]:
        """`$x :=`, `$x =`, and in a range `$i, $x :=`; the variables are known from here on."""
        declares: list[str] = []
        while True:
            variable = self._peek_non_space()
            if variable.kind is not Kind.VARIABLE:
                return tuple(declares), False
            self._next_non_space()
            after = self._next()
            following = self._next_non_space() if after.kind is Kind.SPACE else after
            comma = following.kind is Kind.CHAR and following.text == ","
            if following.kind not in (Kind.ASSIGN, Kind.DECLARE) and not comma:
                self._back(following)
                if after.kind is Kind.SPACE:
                    self._back(after)
                self._back(variable)
                return tuple(declares), False
            declares.append(variable.text)
            self._top.scope.declare(variable.text)
            if not comma:
                return tuple(declares), following.kind is Kind.ASSIGN
            if context != "range" or len(declares) == 2:
                raise self._error(f"too many declarations in {context}", at=following)
            if self._peek_non_space().kind not in (Kind.VARIABLE, Kind.RIGHT_DELIM, Kind.RIGHT_PAREN):
                raise self._error("range can only initialize variables", at=following)

    def _command(self) -> nodes.Command:
        start = self._peek_non_space()
        arguments: list[nodes.Operand] = []
        while True:
            operand = self._operand()
            if operand is not None:
                arguments.append(operand)
            token = self._next()
            if token.kind is Kind.SPACE:
                continue
            if token.kind in (Kind.RIGHT_DELIM, Kind.RIGHT_PAREN):
                self._back(token)
            elif token.kind is not Kind.PIPE:
                raise self._unexpected(token, "operand")
            return nodes.Command(start.position, tuple(arguments))

    def _operand(self) -> nodes.Operand | None:
        """A term and the fields taken of it; None where no term follows."""
        term = self._term()
        if term is None or self._peek().kind is not Kind.FIELD:
            return term
        position = self._peek().position
        path: list[str] = []
        while self._peek().kind is Kind.FIELD:
            path.append(self._next().text[1:])
        match term:
            case nodes.Field():
                return nodes.Field(position, (*term.path, *path))
            case nodes.Variable():
                return nodes.Variable(position, term.name, (*term.path, *path))
            case nodes.Pipeline() | nodes.Identifier():
                return nodes.Chain(position, term, tuple(path))
        raise self._error(f"unexpected . after term {go_quote(str(term))}")

    def _term(self) -> nodes.Operand | None:
        token = self._next_non_space()
        position = token.position
        match token.kind:
            case Kind.IDENTIFIER:
                if token.text not in self._functions:
                    raise self._error(f"function {go_quote(token.text)} not defined", at=token, key=token.text)
                return nodes.Identifier(position, token.text)
            case Kind.DOT:
                return nodes.Dot(position)
            case Kind.NIL:
                return nodes.Nil(position)
            case Kind.VARIABLE:
                if token.text not in self._top.scope:
                    raise self._error(f"undefined variable {go_quote(token.text)}", at=token, key=token.text)
                return nodes.Variable(position, token.text, ())
            case Kind.FIELD:
                return nodes.Field(position, (token.text[1:],))
            case Kind.LEFT_PAREN:
                return self._parenthesised(token)
        return self._literal(token)

    def _literal(self, token: Token) -> nodes.Operand | None:
        match token.kind:
            case Kind.BOOL:
                return nodes.Bool(token.position, token.text == "true")
            case Kind.NUMBER | Kind.RUNE | Kind.COMPLEX:
                try:
                    number = parse_rune(token.text) if token.kind is Kind.RUNE else parse_number(token.text)
                except ValueRefused as refused:
                    raise self._error(refused.message, at=token) from refused
                return nodes.NumberLiteral(token.position, number)
            case Kind.STRING | Kind.RAW_STRING:
                return nodes.String(token.position, token.text, self._unquoted(token))
        self._back(token)
        return None

    def _parenthesised(self, token: Token) -> nodes.Pipeline:
        if self._parentheses >= PARENTHESES_MAX:
            raise self._error(
                f"max expression depth exceeded: parentheses nested deeper than {PARENTHESES_MAX} levels", at=token
            )
        self._parentheses += 1
        pipeline = self._pipeline("parenthesized pipeline", Kind.RIGHT_PAREN)
        self._parentheses -= 1
        return pipeline

    def _unquoted(self, token: Token) -> str:
        try:
            return unquote(token.text)
        except ValueRefused as refused:
            raise self._error(refused.message, at=token) from refused
