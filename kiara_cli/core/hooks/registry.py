"""The hooks there are, by name: small functions and classes of four kinds, each with typed arguments and a docstring.

In: functions and classes, registered by a decorator. Out: `find`, `arguments_for` and `listing`.

| decorator    | what it registers                                                                                 |
|--------------|---------------------------------------------------------------------------------------------------|
| `@forward`   | `name(x, at, **arguments) -> Tensor or None`: what passes a point; None: it was only looked at    |
| `@backward`  | the same; the value stays and its gradient changes, through a `torch.autograd.Function`           |
| `@update`    | a class with any of `gradients`, `before_step`, `after_step`, each `(named, context)`             |
| `@auxiliary` | `name(context, **arguments) -> Tensor`: a number in nats per token that is added to the objective |

The objective gets an auxiliary loss times its weight, which Kiara takes from `with: {weight: 0.1}`; it is 1 unless
given. metrics.jsonl has both: `aux_<hook>` as it is added, `aux_<hook>_value` without the weight.

`x` is a tensor, `at` an `At`, `named` the parameters by name, `context` an `UpdateContext` or a `LossContext`: see
context.py. A class may stand where a function does: made once with the arguments and called like the function.
`state_dict()` and `load_state_dict(state)`, if it has them, carry its state over a resume. Arguments are keywords
with a type: int, float, bool, str, a Literal, a tuple of one of them, each also `| None`; one without a default has
to be given.
"""

from __future__ import annotations

import difflib
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints, overload

from kiara_cli.errors import KiaraError

Kind: TypeAlias = Literal["forward", "backward", "update", "auxiliary"]
Maker = TypeVar("Maker", bound=Callable[..., Any])

BUILT_IN = ("forward", "backward", "update", "auxiliary", "statistics")  # modules with the hooks of Kiara's own
GIVEN: dict[Kind, int] = {"forward": 2, "backward": 2, "update": 0, "auxiliary": 1}  # arguments that Kiara gives
CALLED_WITH = {"forward": "x, at", "backward": "x, at", "auxiliary": "context"}
METHODS = ("gradients", "before_step", "after_step")  # of an update hook, in the order in which they are called
WHERE = "kiara inspect --list-hooks shows all there are"


@dataclass(frozen=True)
class Argument:
    """One typed argument of a hook."""

    name: str
    hint: Any
    default: Any  # inspect.Parameter.empty: it has to be given

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def words(self) -> str:
        return words(self.hint)

    def __str__(self) -> str:
        return f"{self.name}: {self.words}" + ("" if self.required else f" = {self.default!r}")


@dataclass(frozen=True)
class Source:
    """A person's own file of hooks."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Registered:
    """A hook there is. `points` are patterns of the points that it is for; () for all of them."""

    name: str
    kind: Kind
    make: Callable[..., Any]
    arguments: Mapping[str, Argument]
    points: tuple[str, ...] = ()
    width: str | None = None  # forward: the argument that is a number, or as many as the last axis is long
    replaces: bool = False  # forward: what was there is gone, so two of them at one place conflict
    alone: bool = False  # update: it wraps the optimizer, so two of them conflict whatever their arguments
    source: Source | None = None

    @property
    def doc(self) -> str:
        return inspect.cleandoc(self.make.__doc__ or "")

    @property
    def built_in(self) -> bool:
        return self.source is None and self.make.__module__.startswith(f"{__package__}.")

    @property
    def is_class(self) -> bool:
        return isinstance(self.make, type)


_registry: dict[str, Registered] = {}
_loading: list[Source] = []  # the person's file that is being imported, if one is


@overload
def forward(make: Maker, /) -> Maker: ...
@overload
def forward(
    *, name: str | None = None, points: tuple[str, ...] = (), width: str | None = None, replaces: bool = False
) -> Callable[[Maker], Maker]: ...
def forward(make: Any = None, /, **options: Any) -> Any:
    """Register a function that reads or changes what passes a point."""
    return _decorate("forward", make, options)


@overload
def backward(make: Maker, /) -> Maker: ...
@overload
def backward(*, name: str | None = None, points: tuple[str, ...] = ()) -> Callable[[Maker], Maker]: ...
def backward(make: Any = None, /, **options: Any) -> Any:
    """Register a function that changes the gradient at a point."""
    return _decorate("backward", make, options)


@overload
def update(make: Maker, /) -> Maker: ...
@overload
def update(*, name: str | None = None, alone: bool = False) -> Callable[[Maker], Maker]: ...
def update(make: Any = None, /, **options: Any) -> Any:
    """Register a class that changes gradients or the optimizer's step."""
    return _decorate("update", make, options)


@overload
def auxiliary(make: Maker, /) -> Maker: ...
@overload
def auxiliary(*, name: str | None = None, reads: tuple[str, ...] = ()) -> Callable[[Maker], Maker]: ...
def auxiliary(make: Any = None, /, **options: Any) -> Any:
    """Register a loss that is added to the objective; `reads` are patterns of the points whose values it gets."""
    return _decorate("auxiliary", make, {"points" if key == "reads" else key: v for key, v in options.items()})


def find(name: str) -> Registered:
    """Return a hook by its name. Raises KiaraError with the nearest one there is."""
    _load_built_in()
    if name not in _registry:
        close = difflib.get_close_matches(name, _registry, n=1, cutoff=0.6)
        meant = f"did you mean '{close[0]}'? " if close else "if it is in a file of yours, give --hooks FILE; "
        raise KiaraError(f"there is no hook '{name}'", meant + WHERE)
    return _registry[name]


def listing() -> list[Registered]:
    """Return all hooks there are: Kiara's by kind, then those of the person's files."""
    _load_built_in()
    kinds = list(GIVEN)
    return sorted(_registry.values(), key=lambda hook: (hook.source is not None, kinds.index(hook.kind)))


def arguments_for(hook: Registered, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments to call a hook with, in their types. Raises KiaraError for a wrong or a missing one."""
    known = hook.arguments
    for name, value in given.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            takes = f"it takes {', '.join(map(str, known.values()))}" if known else "it takes none"
            raise KiaraError(
                f"with.{name}={value}: {hook.name} has no argument '{name}'",
                f"did you mean '{close[0]}'?" if close else takes,
            )
    missing = [argument for argument in known.values() if argument.required and argument.name not in given]
    if missing:
        raise KiaraError(f"{hook.name} needs the argument {missing[0]}", f"set with.{missing[0].name}")
    return {name: _typed(known[name], value) for name, value in given.items()}


def words(hint: Any) -> str:
    """Say in words which values a type allows."""
    names = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "null"}
    if hint in names:
        return names[hint]
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(words(part) for part in get_args(hint))
    return f"list of {words(get_args(hint)[0])}s"


def register_from(source: Source, names: Callable[[], Any]) -> list[Registered]:
    """Run `names`, which registers hooks of a person's file; return them. Raises whatever it raises."""
    _load_built_in()
    _loading.append(source)
    try:
        names()
    finally:
        _loading.pop()
    return [hook for hook in _registry.values() if hook.source == source]


def forget_files() -> None:
    """Drop the hooks of all persons' files."""
    for name in [name for name, hook in _registry.items() if hook.source is not None]:
        del _registry[name]


def _decorate(kind: Kind, make: Any, options: dict[str, Any]) -> Any:
    def register(made: Any) -> Any:
        _register(kind, made, options)
        return made

    return register if make is None else register(make)


def _register(kind: Kind, make: Callable[..., Any], options: dict[str, Any]) -> None:
    name = options.pop("name", None) or make.__name__
    source = _loading[-1] if _loading else None
    before = _registry.get(name)
    again = before is not None and (before.make is make or (source is None and not before.built_in))
    if before is not None and not again:
        whose = "by Kiara" if before.built_in else f"in {before.source.path if before.source else 'this program'}"
        raise KiaraError(f"a hook '{name}' is registered already, {whose}", "give it another name")
    if kind == "update":
        if not isinstance(make, type):
            raise KiaraError(f"the update hook '{name}' is no class", "write a class: see docs/hooks.md")
        if not any(callable(getattr(make, method, None)) for method in METHODS):
            raise KiaraError(f"the update hook '{name}' does nothing", f"write one of: {', '.join(METHODS)}")
    elif isinstance(make, type) and not any("__call__" in vars(base) for base in make.__mro__):
        raise KiaraError(f"the {kind} hook '{name}' cannot be called", f"write __call__(self, {CALLED_WITH[kind]})")
    _registry[name] = Registered(name, kind, make, dict(_arguments(name, kind, make)), source=source, **options)


def _arguments(name: str, kind: Kind, make: Callable[..., Any]) -> Iterator[tuple[str, Argument]]:
    """Read the typed arguments off a signature. Raises KiaraError for one that cannot be given in a config."""
    made: Any = make
    plain = isinstance(make, type) and made.__init__ is object.__init__
    function = made.__init__ if isinstance(make, type) else make
    parameters = [] if plain else list(inspect.signature(function).parameters.values())
    given = 1 if isinstance(make, type) else GIVEN[kind]
    try:
        hints = {} if plain else get_type_hints(function)
    except NameError as error:
        raise KiaraError(f"the hook '{name}' has a type that is not there: {error}", "import it") from None
    first = [
        one for one in parameters[:given] if one.kind is not one.KEYWORD_ONLY and not _is_allowed(hints.get(one.name))
    ]
    if not plain and len(first) < given:
        called = CALLED_WITH[kind] if function is make else "self"
        raise KiaraError(f"the {kind} hook '{name}' takes other arguments", f"it is called with {called}")
    for parameter in parameters[given:]:
        hint = hints.get(parameter.name)
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or not _is_allowed(hint):
            raise KiaraError(
                f"the hook '{name}' has the argument '{parameter.name}' without a type that a config can give",
                "use int, float, bool, str, Literal[...], tuple[int, ...], or one of them | None",
            )
        yield parameter.name, Argument(parameter.name, hint, parameter.default)


def _is_allowed(hint: Any) -> bool:
    if hint is None:
        return False
    if hint in (int, float, bool, str, type(None)) or get_origin(hint) is Literal:
        return True
    if get_origin(hint) in (Union, types.UnionType):
        return all(_is_allowed(part) for part in get_args(hint))
    return get_origin(hint) in (tuple, list) and _is_allowed(get_args(hint)[0])


def _typed(argument: Argument, value: Any) -> Any:
    """Return a value of the config in an argument's type. Raises KiaraError."""
    try:
        return _converted(argument.hint, value)
    except ValueError:
        default = "" if argument.required else f", {argument.default!r} unless given"
        raise KiaraError(
            f"with.{argument.name}={value} is not a valid value", f"expected {words(argument.hint)}{default}"
        ) from None


def _converted(hint: Any, value: Any) -> Any:
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
    elif get_origin(hint) in (Union, types.UnionType):
        for part in sorted(get_args(hint), key=lambda part: part is float):  # 1 is an int where both are welcome
            try:
                return _converted(part, value)
            except ValueError:
                continue
    elif get_origin(hint) in (tuple, list):
        items = value if isinstance(value, list | tuple) else [value]
        return get_origin(hint)(_converted(get_args(hint)[0], item) for item in items)
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ValueError(value)


def _load_built_in() -> None:
    for module in BUILT_IN:
        import_module(f"{__package__}.{module}")
