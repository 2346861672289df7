"""Trees and a context into text.

Structures are walked by generators on a stack of our own, so that neither nesting nor a template that calls itself ends
in Python's stack; only parentheses recurse, and the parser limits those. Three limits keep a template from eating the
agent (P12): calls of templates within templates, steps, and the length of the text.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence

from agent.spec.template import nodes
from agent.spec.template.errors import TemplateError, ValueRefused
from agent.spec.template.functions import AND, FUNCTIONS, OR, Function, Type
from agent.spec.template.gofmt import TEXT_MAX, sprint
from agent.spec.template.gotime import GoTime
from agent.spec.template.literals import go_quote, printable
from agent.spec.template.methods import METHODS
from agent.spec.template.values import StringList, Value, from_context, items, sorted_keys, truth, type_name

DEPTH_MAX = 1_000
"""How deep templates may call templates. Go allows 100,000."""

STEPS_MAX = 500_000
"""How many nodes one rendering may evaluate; what a function builds costs a step for every 64 characters."""

_CHARACTERS_A_STEP = 64

_Place = nodes.Node | nodes.Operand | nodes.Command
_Walk = Generator["_Walk", None, None]


class _Missing:
    """The final argument where a pipeline's first command has none."""


_MISSING = _Missing()


class _BreakLoop(Exception):
    pass


class _ContinueLoop(Exception):
    pass


def execute(trees: nodes.Trees, name: str, context: Mapping[str, object]) -> str:
    """The text of the template `name`, not trimmed. Raises TemplateError where it cannot be rendered."""
    run = _Run(trees)
    _drive(_Frame(run, trees[name], context, depth=0).walk(trees[name].nodes, context))
    return printable("".join(run.output))


def _drive(walk: _Walk) -> None:
    """Runs a walk and those it yields, innermost first; break and continue pass outwards until a range takes them."""
    stack = [walk]
    signal: Exception | None = None
    while stack:
        try:
            inner = stack[-1].throw(signal) if signal is not None else next(stack[-1])
        except StopIteration:
            stack.pop()
            signal = None
        except (_BreakLoop, _ContinueLoop) as passed:
            stack.pop()
            signal = passed
        else:
            stack.append(inner)
            signal = None


class _Run:
    """One rendering: the templates it knows, what it has written, what it has used up."""

    def __init__(self, trees: nodes.Trees) -> None:
        self.trees = trees
        self.output: list[str] = []
        self._written = 0
        self._steps = 0

    def write(self, text: str) -> None:
        self._written += len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))
        if self._written > TEXT_MAX:
            raise ValueRefused(f"text longer than {TEXT_MAX >> 20} MiB")
        self.output.append(text)

    def spend(self, characters: int = 0) -> None:
        self._steps += 1 + characters // _CHARACTERS_A_STEP
        if self._steps > STEPS_MAX:
            raise ValueRefused(f"more than {STEPS_MAX} steps")


class _Frame:
    """One call of one template: its variables, and the node being evaluated, for error messages."""

    def __init__(self, run: _Run, tree: nodes.Tree, dot: Value, depth: int) -> None:
        self._run = run
        self._tree = tree
        self._depth = depth
        self._variables: list[tuple[str, Value]] = [("$", dot)]
        self._node: _Place = nodes.Text(0, "")

    def _error(self, message: str, key: str | None = None) -> TemplateError:
        source = self._tree.source
        line, column = source.place(self._node.position)
        context = "" if isinstance(self._node, nodes.Text | nodes.Branch) else f" at <{self._node}>"
        where = f"template: {source.name}:{line}:{column}: executing {go_quote(self._tree.name)}{context}"
        text = f"{where}: {message}"
        return TemplateError(text, name=source.name, line=line, column=column, message=message, key=key)

    # Structures

    def walk(self, body: Sequence[nodes.Node], dot: Value) -> _Walk:
        for node in body:
            self._node = node
            try:
                self._run.spend()
                if isinstance(node, nodes.Text):
                    self._run.write(node.text)
                    continue
                if isinstance(node, nodes.Action):
                    self._act(node, dot)
                    continue
            except ValueRefused as refused:
                raise self._error(refused.message, refused.key) from refused
            match node:
                case nodes.Break():
                    raise _BreakLoop
                case nodes.Continue():
                    raise _ContinueLoop
                case nodes.Invoke():
                    yield self._invoke(node, dot)
                case nodes.Branch() if node.keyword == "range":
                    yield self._range(node, dot)
                case _:
                    yield self._branch(node, dot)

    def _act(self, node: nodes.Action, dot: Value) -> None:
        value = self._pipeline(node.pipeline, dot)
        if not node.pipeline.declares:
            self._node = node
            text = "<no value>" if value is None else value if isinstance(value, str) else sprint([value])
            self._run.write(text)

    def _branch(self, node: nodes.Branch, dot: Value) -> _Walk:
        mark = len(self._variables)
        value = self._pipeline(node.pipeline, dot)
        if truth(value):
            yield self.walk(node.body, value if node.keyword == "with" else dot)
        elif node.otherwise is not None:
            yield self.walk(node.otherwise, dot)
        del self._variables[mark:]

    def _range(self, node: nodes.Branch, dot: Value) -> _Walk:
        before = len(self._variables)
        value = self._pipeline(node.pipeline, dot)
        mark = len(self._variables)
        empty = True
        for index, element in self._elements(node, value):
            empty = False
            self._set_loop_variables(node.pipeline, index, element)
            try:
                yield self.walk(node.body, element)
            except _ContinueLoop:
                continue
            except _BreakLoop:
                break
            finally:
                del self._variables[mark:]
        if empty and node.otherwise is not None:
            yield self.walk(node.otherwise, dot)
        del self._variables[before:]

    def _elements(self, node: nodes.Branch, value: Value) -> Generator[tuple[Value, Value], None, None]:
        """Index and element of each turn of a loop."""
        try:
            if isinstance(value, int) and not isinstance(value, bool):
                if len(node.pipeline.declares) > 1:
                    raise self._error(f"can't use {value} to iterate over more than one variable")
                pairs: Iterable[tuple[Value, Value]] = ((None, number) for number in range(value))
            elif isinstance(value, Mapping):
                pairs = ((key, from_context(value[key])) for key in sorted_keys(value))
            elif isinstance(value, list | tuple):
                pairs = enumerate(items(value))
            elif value is None:
                pairs = ()
            else:
                raise self._error(f"range can't iterate over {sprint([value])}")
            for pair in pairs:
                self._run.spend()
                yield pair
        except ValueRefused as refused:
            raise self._error(refused.message, refused.key) from refused

    def _set_loop_variables(self, pipeline: nodes.Pipeline, index: Value, element: Value) -> None:
        values = (element,) if len(pipeline.declares) == 1 else (index, element)
        for offset, (name, value) in enumerate(zip(pipeline.declares, values, strict=False)):
            if pipeline.assigns:
                self._assign(name, value)
            else:
                self._variables[len(self._variables) - len(pipeline.declares) + offset] = (name, value)

    def _invoke(self, node: nodes.Invoke, dot: Value) -> _Walk:
        tree = self._run.trees.get(node.name)
        if tree is None:
            raise self._error(f"template {go_quote(node.name)} not defined", key=node.name)
        if self._depth == DEPTH_MAX:
            raise self._error(f"exceeded maximum template depth ({DEPTH_MAX})")
        argument = None if node.pipeline is None else self._pipeline(node.pipeline, dot)
        yield _Frame(self._run, tree, argument, self._depth + 1).walk(tree.nodes, argument)

    # Variables

    def _assign(self, name: str, value: Value) -> None:
        for at in range(len(self._variables) - 1, -1, -1):
            if self._variables[at][0] == name:
                self._variables[at] = (name, value)
                return
        raise self._error(f"undefined variable: {name}", key=name)

    def _lookup(self, name: str) -> Value:
        for distance, (known, value) in enumerate(reversed(self._variables)):
            if known == name:
                self._run.spend(distance)
                return value
        raise self._error(f"undefined variable: {name}", key=name)

    # Pipelines

    def _pipeline(self, pipeline: nodes.Pipeline, dot: Value) -> Value:
        self._node = pipeline
        final: Value | _Missing = _MISSING
        try:
            for command in pipeline.commands:
                final = self._command(command, dot, final)
        except ValueRefused as refused:
            raise self._error(refused.message, refused.key) from refused
        assert not isinstance(final, _Missing), "the parser refuses a pipeline without commands"
        for name in pipeline.declares:
            if pipeline.assigns:
                self._assign(name, final)
            else:
                self._variables.append((name, final))
        return final

    def _command(self, command: nodes.Command, dot: Value, final: Value | _Missing) -> Value:
        first, *arguments = command.arguments
        self._node = first
        match first:
            case nodes.Identifier():
                return self._function(first, command, arguments, dot, final)
            case nodes.Field() | nodes.Chain():
                return self._field_operand(first, arguments, dot, final)
            case nodes.Variable() if first.path:
                return self._field_operand(first, arguments, dot, final)
        if arguments or final is not _MISSING:
            raise self._error(f"can't give argument to non-function {first}")
        if isinstance(first, nodes.Nil):
            raise self._error("nil is not a command")
        return self._operand(first, dot)

    def _operand(self, operand: nodes.Operand, dot: Value) -> Value:
        """The value of an operand that is no function's argument of a fixed type."""
        assert not isinstance(operand, nodes.Nil), "a literal nil is refused, or an argument, before it gets here"
        self._node = operand
        match operand:
            case nodes.Dot():
                return dot
            case nodes.Bool() | nodes.String():
                return operand.value
            case nodes.NumberLiteral():
                return self._number(operand)
            case nodes.Pipeline():
                return self._pipeline(operand, dot)
            case nodes.Identifier():
                return self._function(operand, operand, [], dot, _MISSING)
            case nodes.Variable() if not operand.path:
                return self._lookup(operand.name)
            case _:
                return self._field_operand(operand, (), dot, _MISSING)

    def _number(self, literal: nodes.NumberLiteral) -> Value:
        number = literal.value
        if number.is_float:
            return number.floating
        if number.integer is None:
            raise self._error(f"{number.text} overflows int")
        return number.integer

    # Fields

    def _field_operand(
        self,
        operand: nodes.Field | nodes.Chain | nodes.Variable,
        arguments: Sequence[nodes.Operand],
        dot: Value,
        final: Value | _Missing,
    ) -> Value:
        """A chain of fields; the last may be a method, which is given the arguments."""
        self._node = operand
        match operand:
            case nodes.Field():
                value = dot
            case nodes.Variable():
                value = self._lookup(operand.name)
            case _:
                value = self._operand(operand.operand, dot)
        *path, last = operand.path
        for at, name in enumerate(path):
            value = self._field(value, name, nested=at > 0)
        if isinstance(value, GoTime) and last in METHODS:
            return self._apply(METHODS[last], last, operand, arguments, dot, final, receiver=(value,))
        return self._field(value, last, nested=bool(path), has_arguments=bool(arguments) or final is not _MISSING)

    def _field(self, receiver: Value, name: str, *, nested: bool, has_arguments: bool = False) -> Value:
        if isinstance(receiver, GoTime) and name in METHODS:
            return self._apply(METHODS[name], name, self._node, (), None, _MISSING, receiver=(receiver,))
        if receiver is None:
            missing = f"nil data; no entry for key {go_quote(name)}"
            raise self._error(f"nil pointer evaluating interface {{}}.{name}" if nested else missing, key=name)
        if not isinstance(receiver, Mapping):
            found = "interface {}" if nested else type_name(receiver)
            raise self._error(f"can't evaluate field {name} in type {found}", key=name)
        if has_arguments:
            raise self._error(f"{name} is not a method but has arguments", key=name)
        if name not in receiver:
            raise self._error(f"map has no entry for key {go_quote(name)}", key=name)
        return from_context(receiver[name])

    # Functions

    def _function(
        self,
        identifier: nodes.Identifier,
        place: nodes.Command | nodes.Identifier,
        arguments: Sequence[nodes.Operand],
        dot: Value,
        final: Value | _Missing,
    ) -> Value:
        self._node = identifier
        name = identifier.name
        if name in (AND, OR):
            return self._short_circuit(name, arguments, dot, final)
        return self._apply(FUNCTIONS[name], name, place, arguments, dot, final)

    def _count(self, function: Function, name: str, arguments: Sequence[nodes.Operand], final: Value | _Missing) -> int:
        """How many arguments there are, if the function takes as many."""
        given = len(arguments) + (final is not _MISSING)
        wanted = len(function.parameters)
        if function.rest is not None and given < wanted:
            raise self._error(f"wrong number of args for {name}: want at least {wanted} got {len(arguments)}", key=name)
        if function.rest is None and given != wanted:
            raise self._error(f"wrong number of args for {name}: want {wanted} got {given}", key=name)
        return given

    def _apply(
        self,
        function: Function,
        name: str,
        place: _Place,
        arguments: Sequence[nodes.Operand],
        dot: Value,
        final: Value | _Missing,
        receiver: tuple[Value, ...] = (),
    ) -> Value:
        given = self._count(function, name, arguments, final)
        types = [*function.parameters, *[function.rest or Type.ANY] * (given - len(function.parameters))]
        values = [self._argument(argument, type_, dot) for argument, type_ in zip(arguments, types, strict=False)]
        if not isinstance(final, _Missing):
            values.append(self._checked(final, types[given - 1]))
        return self._call(function, name, [*receiver, *values], place)

    def _call(self, function: Function, name: str, values: Sequence[Value], place: _Place) -> Value:
        try:
            self._run.spend(sum(len(value) for value in values if isinstance(value, str)))
            result = function.call(*values)
        except ValueRefused as refused:
            self._node = place
            raise self._error(f"error calling {name}: {refused.message}", refused.key or name) from refused
        self._run.spend(len(result) if isinstance(result, str) else 0)
        return result

    def _short_circuit(
        self, name: str, arguments: Sequence[nodes.Operand], dot: Value, final: Value | _Missing
    ) -> Value:
        self._count(FUNCTIONS[name], name, arguments, final)
        values: list[Value] = []
        for argument in arguments:
            values.append(self._argument(argument, Type.REFLECT, dot))
            if truth(values[-1]) == (name == OR):
                break
        else:
            if not isinstance(final, _Missing):
                values.append(final)
        return FUNCTIONS[name].call(*values)

    def _argument(self, operand: nodes.Operand, wanted: Type, dot: Value) -> Value:
        self._node = operand
        self._run.spend()
        match operand:
            case nodes.Nil() if not wanted.nillable:
                raise self._error(f"cannot assign nil to {wanted}")
            case nodes.Nil():
                return StringList() if wanted is Type.STRINGS else None
            case nodes.Bool() | nodes.NumberLiteral() | nodes.String():
                return self._literal(operand, wanted)
        value = self._operand(operand, dot)
        typed = wanted not in (Type.ANY, Type.REFLECT)
        if value is None and typed and isinstance(operand, nodes.Field | nodes.Chain):
            raise self._error(f"wrong type for value; expected {wanted}; got interface {{}}")
        return self._checked(value, wanted)

    def _literal(self, operand: nodes.Bool | nodes.NumberLiteral | nodes.String, wanted: Type) -> Value:
        """A literal as a parameter of a type: an untyped number fits an int where its value does."""
        match wanted:
            case Type.STRING:
                if not isinstance(operand, nodes.String):
                    raise self._error(f"expected string; found {operand}")
            case Type.INT:
                if not isinstance(operand, nodes.NumberLiteral) or operand.value.integer is None:
                    raise self._error(f"expected integer; found {operand}")
                return operand.value.integer
            case Type.TIME | Type.STRINGS:
                raise self._error(f"can't handle {operand} for arg of type {wanted}")
        return self._number(operand) if isinstance(operand, nodes.NumberLiteral) else operand.value

    def _checked(self, value: Value, wanted: Type) -> Value:
        """The value, if it is of the type."""
        if wanted in (Type.ANY, Type.REFLECT):
            return value
        if value is None:
            if wanted is Type.STRINGS:
                return StringList()
            raise self._error(f"invalid value; expected {wanted}")
        if type_name(value) != wanted.value:
            raise self._error(f"wrong type for value; expected {wanted}; got {type_name(value)}")
        return value
