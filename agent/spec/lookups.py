"""What templates ask by name and not all runs have: secrets, and outputs of tasks. These mappings see what is asked.

So an error can be told for what it is: a secret that nobody has set, an instance that comes later, an output that was
not written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from agent.spec.document import nearest

MASK: Final = "***"


class Masked(Mapping[str, str]):
    """Stands in for the secrets where something is shown or stored: `***` for each name that exists.

    names: None = any name exists (compiling without an agent).
    """

    def __init__(self, names: frozenset[str] | None = None) -> None:
        self._names = names

    def __getitem__(self, name: str) -> str:
        if self._names is not None and name not in self._names:
            raise KeyError(name)
        return MASK

    def __contains__(self, name: object) -> bool:
        return self._names is None or name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names or ())

    def __len__(self) -> int:
        return len(self._names or ())


class Secrets(Mapping[str, str]):
    """The secrets, and which of them a text has asked for in vain: what is missing is told by name, all of it at once.

    assumed: names that are answered with `***` although there is no such secret.
    """

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given
        self.assumed: set[str] = set()
        self._missed: str | None = None

    def __getitem__(self, name: str) -> str:
        return MASK if name in self.assumed else self._given[name]

    def __contains__(self, name: object) -> bool:
        if name in self.assumed or name in self._given:
            return True
        self._missed = str(name)
        return False

    def missed(self) -> str | None:
        """The last name that was asked for in vain since this was called last."""
        name, self._missed = self._missed, None
        return name

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)


@dataclass(frozen=True, slots=True)
class TaskOutputs:
    """What an instance of a run has put out. note: why there is nothing, or not all; "" = nothing is to be said."""

    values: Mapping[str, object]
    note: str = ""


@dataclass(slots=True)
class Asked:
    """What one text has asked of `.tasks`, for who has to judge an error in it.

    instance: the last that was asked for and is not before the one that is compiled.  output: the last of another
    instance (its name, the output's) that is not there.  guessed: a value was asked for that only a run has.
    """

    instance: str | None = None
    output: tuple[str, str] | None = None
    guessed: bool = False


class Tasks(Mapping[str, object]):
    """`.tasks`, as one instance finds it: those of its run that come before it, each with its outputs.

    asked: what was asked since it was last replaced.
    """

    def __init__(
        self,
        before: Callable[[], frozenset[str]],
        every: Callable[[], frozenset[str]],
        outputs: Mapping[str, TaskOutputs] | None,
    ) -> None:
        """before, every: the names of the instances before this one, and of all. outputs: None = there is no run yet.

        Where there is no run, any output is there, and its value is the text of the action that reads it.
        """
        self._before, self._every, self._outputs = before, every, outputs
        self.asked = Asked()

    def __getitem__(self, name: str) -> object:
        if name not in self._before():
            raise KeyError(name)
        if self._outputs is None:
            return {"outputs": _StandIns(name, self._guess)}
        return {"outputs": _Outputs(self._outputs[name].values, lambda key: self._lacks(name, key))}

    def __contains__(self, name: object) -> bool:
        if name in self._before():
            return True
        self.asked.instance = str(name)
        return False

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._before()))

    def __len__(self) -> int:
        return len(self._before())

    def _guess(self) -> None:
        self.asked.guessed = True

    def _lacks(self, name: str, key: str) -> None:
        self.asked.output = (name, key)

    def comes_too_late(self, key: str | None) -> str | None:
        """Why an error at this key of a text is one for now only: what it reads comes later. None where it is not so.

        Where `index` has found nothing, the key is that of the next step, `outputs`.
        """
        name = self.asked.instance
        if name is None or key not in (name, "outputs") or name not in self._every():
            return None
        return f"{name}, whose outputs it reads, does not come before it; before it: {', '.join(self) or 'none'}"

    def why(self, key: str | None) -> str:
        """The end of a message about an error at this key of a text; "" where it has nothing to do with outputs."""
        name = self.asked.instance
        if name is not None and key in (name, "outputs"):
            late = self.comes_too_late(key)
            return f"; {late}" if late else f"; the run has no instance {name!r}{nearest(name, self._every())}"
        if self.asked.output is None or self.asked.output[1] != key or self._outputs is None:
            return ""
        task = self.asked.output[0]
        found = self._outputs[task]
        return f"; {task} has no output {key!r}{nearest(key, found.values)}{f' ({found.note})' if found.note else ''}"


class _Outputs(Mapping[str, object]):
    """The outputs of an instance. missed: told of a name that is asked for in vain."""

    def __init__(self, values: Mapping[str, object], missed: Callable[[str], None]) -> None:
        self._values, self._missed = values, missed

    def __getitem__(self, name: str) -> object:
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        if name in self._values:
            return True
        self._missed(str(name))
        return False

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class _StandIns(Mapping[str, str]):
    """The outputs of an instance that nobody can know yet. asked: told of every look."""

    def __init__(self, task: str, asked: Callable[[], None]) -> None:
        self._task, self._asked = task, asked

    def __getitem__(self, name: str) -> str:
        self._asked()
        return f"{{{{ .tasks.{self._task}.outputs.{name} }}}}"

    def __contains__(self, name: object) -> bool:
        self._asked()
        return True

    def __iter__(self) -> Iterator[str]:
        self._asked()
        return iter(())

    def __len__(self) -> int:
        self._asked()
        return 0
