"""Conditions on features, as a user writes them: ``deform < 0.1 & area_um > 50``.

Alone here: the grammar. A text becomes a short program for a stack of arrays; nothing of it is
ever handed to Python. Invariant: any text ends in an `Expression` or in a `DataError` that names
the position, within a bounded depth of calls.

Grammar, from what binds loosest to what binds tightest (not Python's: there `&` binds tighter than
`<`, and the condition above would mean something else)::

    condition   either { ("|" | "or") either }
    either      negated { ("&" | "and") negated }
    negated     ("~" | "not") negated | comparison
    comparison  sum { ("<" | "<=" | ">" | ">=" | "==" | "!=") sum }      a chain: 1 < x <= 2
    sum         product { ("+" | "-") product }
    product     signed { ("*" | "/" | "%") signed }
    signed      ("+" | "-") signed | power
    power       atom [ "**" signed ]
    atom        number | feature | function "(" condition { "," condition } ")"
                | "(" condition ")"
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ..format.text import did_you_mean
from .program import (
    ARITHMETIC,
    COMPARISONS,
    CONSTANTS,
    FUNCTIONS,
    Apply,
    Compare,
    Kind,
    Operand,
    Step,
    run_steps,
)

__all__ = ["MAX_DEPTH", "MAX_LENGTH", "Expression", "parse_expression"]

AnyArray = npt.NDArray[Any]

#: Longer texts are no conditions that somebody wrote.
MAX_LENGTH: Final = 2000
#: Parentheses, signs and powers within each other; each takes up to ten frames of Python's stack.
MAX_DEPTH: Final = 40

_TOKEN: Final = re.compile(
    r"(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?![A-Za-z0-9_.])"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<sign>\*\*|<=|>=|==|!=|[-+*/%<>&|~(),])"
)
#: What users of other languages write.
_MEANT: Final = {
    "&&": "'&'", "||": "'|'", "<>": "'!='", "=": "'=='", "!": "'~'", "^": "'**' for a power",
    "//": "floor(a / b)", "[": "'('", "{": "'('", "\u2264": "'<='", "\u2265": "'>='",
    "\u2260": "'!='",
}  # fmt: skip
_WORDS: Final = {"and": "&", "or": "|", "not": "~"}


class _Token(NamedTuple):
    """A part of the text; kind "end" behind the last one."""

    kind: Literal["number", "name", "sign", "end"]
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Expression:
    """A condition on the features of an event.

    Attributes
    ----------
    text
        As it was written.
    features
        Names of the features that it reads, sorted.
    """

    text: str
    features: tuple[str, ...]
    _steps: tuple[Step, ...]

    def evaluate(self, columns: Mapping[str, AnyArray], n_events: int) -> npt.NDArray[np.bool_]:
        """Whether each event meets the condition.

        A feature that is compared with a number is compared in its own precision, as NumPy does
        (a 0.1 that is stored with 32 bits equals 0.1); everything else is computed with 64-bit
        floats. A division by zero gives inf or nan, never an error. A comparison with nan is
        false, but for ``!=``, which is true.

        Parameters
        ----------
        columns
            Feature names to arrays of shape (n_events,), real numbers.
        n_events
            Number of events.

        Returns
        -------
        ndarray of bool, shape (n_events,)
        """
        return run_steps(self._steps, columns, n_events)


def parse_expression(text: str, known: Iterable[str] | None = None) -> Expression:
    """Understand a condition.

    Parameters
    ----------
    text
        At most 2000 characters.
    known
        Names of the features that there are; None: any name is one.

    Raises
    ------
    DataError
        The text is no condition; the message names the position (from 1) and what was expected.
    """
    parser = _Parser(text, None if known is None else frozenset(known))
    return Expression(text, *parser.parse())


class _Parser:
    """Recursive descent, one method per line of the grammar; each returns what it left behind."""

    def __init__(self, text: str, known: frozenset[str] | None) -> None:
        if not isinstance(text, str):
            raise DataError(f"condition: expected a text, got {text!r} ({type(text).__name__})")
        if len(text) > MAX_LENGTH:
            raise DataError(
                f"condition: expected at most {MAX_LENGTH} characters, got {len(text)}; select "
                f"the events in Python, and pass their numbers (--index)"
            )
        self._text = text
        self._known = known
        self._tokens = self._split()
        self._position = 0
        self._depth = 0
        self._steps: list[Step] = []
        self._features: set[str] = set()

    def parse(self) -> tuple[tuple[str, ...], tuple[Step, ...]]:
        first = self._tokens[0]
        if first.kind == "end":
            raise DataError("condition: expected one such as 'deform < 0.1', got an empty text")
        kind = self._condition()
        if self._next.kind != "end":
            self._refuse("an operator such as '<' or '&', or the end")
        self._require("condition", kind, first)
        if not self._features:
            raise DataError(
                f"condition: expected at least one feature, got {self._text[:60]!r}, which is the "
                f"same for all events"
            )
        return tuple(sorted(self._features)), tuple(self._steps)

    # -- the text ---------------------------------------------------------------------------

    def _split(self) -> list[_Token]:
        tokens: list[_Token] = []
        position = 0
        while True:
            while position < len(self._text) and self._text[position] in " \t\r\n":
                position += 1
            if position == len(self._text):
                return [*tokens, _Token("end", "", position, position)]
            found = _TOKEN.match(self._text, position)
            if self._text[position : position + 2] in _MEANT:
                found = None  # "&&" is not two "&"
            if found is None:
                self._refuse_character(position)
            kind: Any = found.lastgroup
            part = found.group()
            if part in _WORDS:
                kind, part = "sign", _WORDS[part]
            tokens.append(_Token(kind, part, position, found.end()))
            position = found.end()

    def _refuse_character(self, position: int) -> NoReturn:
        wide = self._text[position : position + 2]
        part = wide if wide in _MEANT else wide[:1]
        meant = _MEANT.get(part)
        number = re.match(r"[.]?[0-9][\w.]*", self._text[position:], re.ASCII)
        if number is not None:
            part, meant = number.group()[:30], "numbers as 0.5 or 1e-3"
        self._fail(
            position,
            f"expected a feature, a number or an operator, got {part!r}"
            + (f"; write {meant}" if meant else ""),
        )

    @property
    def _next(self) -> _Token:
        return self._tokens[self._position]

    def _take(self, *signs: str) -> str | None:
        """The next sign, if it is one of these."""
        token = self._next
        if token.kind != "sign" or token.text not in signs:
            return None
        self._position += 1
        return token.text

    def _fail(self, position: int, message: str) -> NoReturn:
        before, after = self._text[:position], self._text[position:]
        shown = f"{before[-30:].rstrip()} >>> {after[:30].lstrip()}".strip()
        raise DataError(f"condition, position {position + 1}: {message} (at '>>>' in: {shown})")

    def _refuse(self, expected: str) -> NoReturn:
        token = self._next
        word = self._text[token.start : token.end][:60]
        got = "the end" if token.kind == "end" else f"'{word}'"
        if token.kind == "name" and word.lower() in _WORDS:
            got += f"; write '{word.lower()}'"
        self._fail(token.start, f"expected {expected}, got {got}")

    def _require(self, kind: Kind, got: Kind, token: _Token) -> None:
        if kind == got:
            return
        if kind == "condition":
            self._fail(
                token.start, "expected a condition such as 'deform < 0.1', got a number or feature"
            )
        self._fail(token.start, "expected a number or a feature, got a condition")

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail(
                self._next.start,
                f"expected at most {MAX_DEPTH} parentheses, signs and powers within each other",
            )

    # -- the grammar ------------------------------------------------------------------------

    def _condition(self) -> Kind:
        return self._joined(("|",), self._either, np.logical_or)

    def _either(self) -> Kind:
        return self._joined(("&",), self._negated, np.logical_and)

    def _joined(
        self, signs: tuple[str, ...], part: Callable[[], Kind], compute: Callable[..., Any]
    ) -> Kind:
        """Conditions with the same operator between them."""
        first = self._next
        kind = part()
        while self._next.kind == "sign" and self._next.text in signs:
            self._require("condition", kind, first)
            self._take(*signs)
            first = self._next
            kind = part()
            self._require("condition", kind, first)
            self._steps.append(Apply(compute, 2))
        return kind

    def _negated(self) -> Kind:
        if self._take("~") is None:
            return self._comparison()
        self._enter()
        first = self._next
        self._require("condition", self._negated(), first)
        self._depth -= 1
        self._steps.append(Apply(np.logical_not, 1))
        return "condition"

    def _comparison(self) -> Kind:
        first = self._next
        kind = self._sum()
        signs = []
        while self._next.kind == "sign" and self._next.text in COMPARISONS:
            self._require("number", kind, first)
            signs.append(self._next.text)
            self._position += 1
            first = self._next
            kind = self._sum()
            self._require("number", kind, first)
        if not signs:
            return kind
        self._steps.append(Compare(tuple(signs)))
        return "condition"

    def _sum(self) -> Kind:
        return self._computed(("+", "-"), self._product)

    def _product(self) -> Kind:
        return self._computed(("*", "/", "%"), self._signed)

    def _computed(self, signs: tuple[str, ...], part: Callable[[], Kind]) -> Kind:
        """Numbers with operators of the same rank between them, from left to right."""
        first = self._next
        kind = part()
        while self._next.kind == "sign" and self._next.text in signs:
            self._require("number", kind, first)
            sign = self._take(*signs)
            first = self._next
            kind = part()
            self._require("number", kind, first)
            self._steps.append(Apply(ARITHMETIC[str(sign)], 2))
        return kind

    def _signed(self) -> Kind:
        sign = self._take("+", "-")
        if sign is None:
            return self._power()
        self._enter()
        first = self._next
        self._require("number", self._signed(), first)
        self._depth -= 1
        if sign == "-":
            self._negate()
        return "number"

    def _negate(self) -> None:
        """A negative number stays a number as it was written, for `_compare`."""
        last = self._steps[-1]
        if isinstance(last, Operand) and last.feature is None:
            self._steps[-1] = Operand(None, -last.number)
        else:
            self._steps.append(Apply(np.negative, 1))

    def _power(self) -> Kind:
        first = self._next
        kind = self._atom()
        if self._take("**") is None:
            return kind
        self._require("number", kind, first)
        self._enter()
        first = self._next
        self._require("number", self._signed(), first)
        self._depth -= 1
        self._steps.append(Apply(ARITHMETIC["**"], 2))
        return "number"

    def _atom(self) -> Kind:
        token = self._next
        if token.kind == "number":
            self._position += 1
            self._steps.append(Operand(None, self._number(token)))
            return "number"
        if token.kind == "name":
            self._position += 1
            return self._name(token)
        if self._take("(") is None:
            self._refuse("a feature, a number or '('")
        self._enter()
        kind = self._condition()
        self._depth -= 1
        if self._take(")") is None:
            self._refuse(f"')' for the '(' at position {token.start + 1}")
        return kind

    def _number(self, token: _Token) -> float:
        value: float = float(token.text)
        if not math.isfinite(value):
            self._fail(token.start, f"expected a number up to 1.8e308, got {token.text[:30]!r}")
        if token.text.isdigit() and value < 2**63:
            return int(token.text)  # exact in comparisons with integers
        return value

    def _name(self, token: _Token) -> Kind:
        name = token.text
        if self._next.kind == "sign" and self._next.text == "(":
            return self._call(token)
        if name in CONSTANTS:
            self._steps.append(Operand(None, CONSTANTS[name]))
            return "number"
        if self._known is not None and name not in self._known:
            hint = did_you_mean(name, [*self._known, *FUNCTIONS])
            if name in FUNCTIONS:
                hint = f"write {name}(...) for the function"
            elif name.lower() in _WORDS:
                hint = f"write '{name.lower()}' for the operator"
            self._fail(
                token.start,
                f"expected a scalar feature of the recording, got '{name[:60]}'; "
                f"{hint or 'see them with `dcwrite info`'}",
            )
        self._features.add(name)
        self._steps.append(Operand(name))
        return "number"

    def _call(self, token: _Token) -> Kind:
        function = FUNCTIONS.get(token.text)
        if function is None:
            hint = did_you_mean(token.text, FUNCTIONS)
            self._fail(
                token.start,
                f"expected one of the functions {', '.join(FUNCTIONS)}, got '{token.text[:60]}'"
                + (f"; {hint}" if hint else ""),
            )
        self._take("(")
        self._enter()
        n_args = 0
        while True:
            first = self._next
            self._require("number", self._condition(), first)
            n_args += 1
            if self._take(",") is None:
                break
        self._depth -= 1
        if self._take(")") is None:
            self._refuse(f"')' for the '(' of '{token.text}'")
        if n_args != function.n_args:
            self._fail(
                token.start,
                f"expected {function.n_args} values in the parentheses of '{token.text}', got "
                f"{n_args}",
            )
        self._steps.append(Apply(function.compute, function.n_args))
        return function.result
