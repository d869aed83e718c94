"""Conditions: the same as NumPy computes, whatever is written; and no text does any harm."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dcwrite import DataError
from dcwrite.tools.expression import MAX_DEPTH, MAX_LENGTH, parse_expression
from dcwrite.tools.program import FUNCTIONS

Columns = dict[str, npt.NDArray[Any]]

COLUMNS: Columns = {
    "deform": np.array([0.0, 0.05, 0.1, 0.2, np.nan, np.inf, -1.0, 3.0]),
    "area_um": np.array([51.0, 20.0, np.nan, 400.0, 50.0, 0.0, -np.inf, 7.5]),
    "frame": np.array([0, 1, 2, 3, 4, 5, 6, 2**40], dtype=np.uint64),
    "size_x": np.array([0.1, 0.2, 0.3, 0.5, 1.5, -0.1, 0.0, 2.5], dtype=np.float32),
    "nevents": np.array([1, 255, 3, 0, 7, 2, 2, 1], dtype=np.uint8),
}
N_EVENTS = 8


def met(text: str, columns: Columns | None = None) -> list[bool]:
    columns = COLUMNS if columns is None else columns
    expression = parse_expression(text, columns)
    n_events = len(next(iter(columns.values())))
    result = expression.evaluate(columns, n_events)
    assert result.shape == (n_events,)
    assert result.dtype == np.bool_
    return list(result.tolist())


# -- against NumPy --------------------------------------------------------------------------


@dataclass(frozen=True)
class Node:
    """An expression: its text, what NumPy computes, and how tightly its operator binds."""

    text: str
    rank: int
    compute: Callable[[Columns], Any]


def within(node: Node, rank: int) -> str:
    """The text as a part of something that binds with this rank."""
    return node.text if node.rank >= rank else f"({node.text})"


def numbers() -> st.SearchStrategy[Node]:
    literals = st.floats(0, 1e6, allow_nan=False).map(
        lambda x: Node(repr(x), 9, lambda _, x=x: np.float64(x))
    )
    features = st.sampled_from(sorted(COLUMNS)).map(
        lambda name: Node(name, 9, lambda c, name=name: c[name].astype(np.float64))
    )
    return st.recursive(literals | features, _more_numbers, max_leaves=8)


def _more_numbers(parts: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    def infix(sign: str, rank: int, compute: Any) -> st.SearchStrategy[Node]:
        # from left to right: the right part of the same rank needs parentheses
        return st.builds(
            lambda a, b: Node(
                f"{within(a, rank)}{sign}{within(b, rank + 1)}",
                rank,
                lambda c: compute(a.compute(c), b.compute(c)),
            ),
            parts,
            parts,
        )

    minus = parts.map(lambda a: Node(f"-{within(a, 7)}", 7, lambda c: np.negative(a.compute(c))))
    # from right to left, and what stands on the right may have a sign
    power = st.builds(
        lambda a, b: Node(
            f"{within(a, 9)} ** {within(b, 7)}",
            8,
            lambda c: np.power(a.compute(c), b.compute(c)),
        ),
        parts,
        parts,
    )
    function = st.builds(
        lambda name, a: Node(
            f"{name}({a.text})", 9, lambda c: FUNCTIONS[name].compute(a.compute(c))
        ),
        st.sampled_from(["abs", "floor", "log", "sqrt", "exp"]),
        parts,
    )
    return st.one_of(
        infix(" + ", 5, np.add),
        infix("-", 5, np.subtract),
        infix(" * ", 6, np.multiply),
        infix("/", 6, np.divide),
        infix(" % ", 6, np.mod),
        minus,
        power,
        function,
    )


COMPARE = {
    "<": np.less, "<=": np.less_equal, ">": np.greater,
    ">=": np.greater_equal, "==": np.equal, "!=": np.not_equal,
}  # fmt: skip


@st.composite
def comparisons(draw: st.DrawFn) -> Node:
    values = draw(st.lists(numbers(), min_size=2, max_size=4))
    signs = draw(st.lists(st.sampled_from(sorted(COMPARE)), min_size=3, max_size=3))
    text = within(values[0], 5)
    for sign, value in zip(signs, values[1:], strict=False):
        text += f" {sign} {within(value, 5)}"

    def compute(columns: Columns) -> Any:
        found = [value.compute(columns) for value in values]
        result: Any = np.bool_(True)
        for sign, left, right in zip(signs, found, found[1:], strict=False):
            result = result & COMPARE[sign](left, right)
        return result

    return Node(text, 4, compute)


def checks_of_values() -> st.SearchStrategy[Node]:
    return st.builds(
        lambda name, a: Node(
            f"{name}({a.text})", 9, lambda c: FUNCTIONS[name].compute(a.compute(c))
        ),
        st.sampled_from(["isnan", "isfinite", "isinf"]),
        numbers(),
    )


def conditions() -> st.SearchStrategy[Node]:
    def more(parts: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        def infix(signs: list[str], rank: int, compute: Any) -> st.SearchStrategy[Node]:
            return st.builds(
                lambda sign, a, b: Node(
                    f"{within(a, rank)} {sign} {within(b, rank + 1)}",
                    rank,
                    lambda c: compute(a.compute(c), b.compute(c)),
                ),
                st.sampled_from(signs),
                parts,
                parts,
            )

        negated = st.builds(
            lambda sign, a: Node(
                f"{sign}{within(a, 3)}", 3, lambda c: np.logical_not(a.compute(c))
            ),
            st.sampled_from(["~", "not "]),
            parts,
        )
        return st.one_of(
            infix(["|", "or"], 1, np.logical_or), infix(["&", "and"], 2, np.logical_and), negated
        )

    return st.recursive(comparisons() | checks_of_values(), more, max_leaves=5)


@given(conditions())
def test_like_numpy(condition: Node) -> None:
    """With no more parentheses than the grammar asks for."""
    with np.errstate(all="ignore"):
        expected = np.broadcast_to(condition.compute(COLUMNS), N_EVENTS)
    if len(condition.text) > MAX_LENGTH or not any(name in condition.text for name in COLUMNS):
        with pytest.raises(DataError):
            parse_expression(condition.text)
        return
    expression = parse_expression(condition.text, COLUMNS)
    # the columns as 64-bit floats, as the other side computes
    columns = {name: column.astype(np.float64) for name, column in COLUMNS.items()}
    assert expression.evaluate(columns, N_EVENTS).tolist() == expected.tolist(), condition.text


# -- what users write -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("deform < 0.1 & area_um > 50", "(deform < 0.1) & (area_um > 50)"),
        ("deform < 0.1 and area_um > 50", "(deform < 0.1) & (area_um > 50)"),
        ("deform < 0.1 | area_um > 50 & frame > 2", "deform < 0.1 | (area_um > 50 & frame > 2)"),
        ("~deform < 0.1 & frame > 2", "(~(deform < 0.1)) & (frame > 2)"),
        ("not deform < 0.1 or frame > 2", "(~(deform < 0.1)) | (frame > 2)"),
        ("1 < frame <= 4", "(1 < frame) & (frame <= 4)"),
        ("-deform ** 2 < 0", "-(deform ** 2) < 0"),
        ("2 ** 3 ** 2 == frame + 512", "2 ** 9 == frame + 512"),
        ("frame - 1 - 1 == 0", "(frame - 1) - 1 == 0"),
        ("deform/2*4 < 1", "(deform / 2) * 4 < 1"),
        ("2**-1 < frame", "0.5 < frame"),
        ("\tdeform<.1\n", "deform < 0.1"),
        ("max(deform, frame) > 1e0", "(deform > 1 | frame > 1) & ~isnan(deform)"),
        ("isfinite(deform) & deform > 0", "deform > 0 & deform < inf"),
        ("frame % 2 == 0", "frame / 2 == floor(frame / 2)"),
    ],
)
def test_forms_that_mean_the_same(text: str, same: str) -> None:
    assert met(text) == met(same)
    assert len(set(met(text))) == 2, "a condition that tells events apart"


def test_the_features_that_it_reads() -> None:
    assert parse_expression("b < 1 & isnan(a) | b > c").features == ("a", "b", "c")


def test_nan_compares_false() -> None:
    columns = {"x": np.array([np.nan, 1.0])}
    for sign in ("<", "<=", ">", ">=", "=="):
        assert met(f"x {sign} 1", columns)[0] is False
        assert met(f"1 {sign} x", columns)[0] is False
    assert met("x == x", columns) == [False, True]
    assert met("x != 1", columns) == [True, False], "as NumPy: not equal to anything"
    assert met("~(x < 1)", columns) == [True, True]
    assert met("isnan(x)", columns) == [True, False]


@pytest.mark.filterwarnings("error")
def test_a_division_by_zero_is_no_error() -> None:
    columns = {"x": np.array([0, 1, 2], np.uint8)}
    assert met("1 / x > 1e300", columns) == [True, False, False]
    assert met("isnan(x / 0)", columns) == [True, False, False]
    assert met("x % 0 == 0", columns) == [False, False, False]
    assert met("log(x) < 0", columns) == [True, False, False]
    assert met("isnan(sqrt(-x - 1))", columns) == [True, True, True]


def test_whole_numbers_do_not_wrap() -> None:
    """As the array itself would: 255 + 1 is 0 for NumPy's uint8."""
    columns = {"x": np.array([0, 255], np.uint8)}
    assert met("x + 1 > 255", columns) == [False, True]
    assert met("-x < 0", columns) == [False, True]
    assert met("x - 1 < 0", columns) == [True, False]
    assert met("x * x == 65025", columns) == [False, True]
    assert met("x >= -1 & x < 300", columns) == [True, True]


def test_a_feature_is_compared_in_its_own_precision() -> None:
    columns = {"x": np.array([0.1, 0.2], np.float32), "n": np.array([2**53, 2**53 + 1])}
    assert met("x == 0.1", columns) == [True, False]
    assert met("x <= 0.1", columns) == [True, False]
    assert met("-0.1 > -x", columns) == [True, True], "computed, so with 64 bits"
    assert met("n == 9007199254740993", columns) == [False, True]
    assert met("n > 9007199254740992", columns) == [False, True]
    assert met("n < 99999999999999999999999", columns) == [True, True]


def test_numbers_that_are_the_same_for_all_events() -> None:
    assert met("0.05 * 2 < deform | frame < 0") == met("deform > 0.1")
    assert met("pi > 3 & frame >= 0") == [True] * N_EVENTS


# -- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("deform", r"position 1: expected a condition such as 'deform < 0.1', got a number"),
        ("deform & frame", r"position 1: expected a condition"),
        ("deform < 1 & frame", r"position 14: expected a condition"),
        ("deform <", r"position 9: expected a feature, a number or '\(', got the end"),
        ("< 1", r"position 1: expected a feature, .* got '<'"),
        ("(deform < 1", r"position 12: expected '\)' for the '\(' at position 1, got the end"),
        ("deform < 1)", r"position 11: expected an operator .*, got '\)'"),
        ("deform < 1 frame", r"position 12: expected an operator .*, got 'frame'"),
        ("deform = 1", r"position 8: .* got '='; write '=='"),
        ("deform < 1 && frame > 1", r"position 12: .* write '&'"),
        ("deform < 1 || frame > 1", r"write '\|'"),
        ("!deform < 1", r"write '~'"),
        ("deform ^ 2 < 1", r"write '\*\*' for a power"),
        ("deform // 2 < 1", r"write floor\(a / b\)"),
        ("deform \u2264 1", r"write '<='"),
        ("deform < 1,5", r"position 11: expected an operator .*, got ','"),
        ("deform < 0x10", r"write numbers as 0\.5"),
        ("deform < 1_000", r"write numbers as"),
        ("deform < 1e999", r"expected a number up to 1\.8e308"),
        ("deform < \u0661", r"position 10: expected a feature"),
        ("d\u00e9form < 1", r"position 2: "),
        ("(deform < 1) + 1 > 2", r"position 1: expected a number or a feature, got a condition"),
        ("(deform < 1) == (frame < 1)", r"expected a number or a feature, got a condition"),
        ("-(deform < 1)", r"expected a number or a feature"),
        ("deform < not frame", r"position 10: expected a feature, .* got 'not'"),
        ("log(deform < 1) < 1", r"position 5: expected a number"),
        ("log(deform, 2) < 1", r"expected 1 values in the parentheses of 'log', got 2"),
        ("max(deform) < 1", r"expected 2 values"),
        ("log() < deform", r"position 5: expected a feature"),
        ("log(deform < 1", r"position 5"),
        ("log(deform", r"expected '\)' for the '\(' of 'log'"),
        ("logg(deform) < 1", r"one of the functions abs, .*, got 'logg'; did you mean log"),
        ("DEFORM < 1", r"got 'DEFORM'; did you mean deform"),
        ("xyz(deform) < 1", r"expected one of the functions abs, .*, got 'xyz' \("),
        ("log < 1", r"position 1: .*got 'log'; write log\(\.\.\.\) for the function"),
        ("abs deform < 1", r"got 'abs'; write abs\(\.\.\.\) for the function"),
        ("deform AND frame > 1", r"position 8: expected an operator .*, got 'AND'; write 'and'"),
        ("NOT deform < 1", r"position 1: .*got 'NOT'; write 'not'"),
        ("deform 1", r"position 8: expected an operator .*, got '1'"),
        ("deform if 1 else 2", r"position 8: expected an operator .*, got 'if'"),
        ("defrom < 1", r"position 1: .*got 'defrom'; did you mean deform"),
        ("quux < 1", r"got 'quux'; see them with `dcwrite info`"),
        ("1 < 2", r"expected at least one feature"),
        ("deform < 1 \x00", r"position 12"),
        ("deform < 'a'", r"position 10"),
        ('deform < "a"', r"position 10"),
        ("deform < [1]", r"write '\('"),
    ],
)
def test_what_is_not_understood(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        parse_expression(text, COLUMNS)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "__import__",
        "deform.__class__ < 1",
        "deform.real < 1",
        "().__class__",
        "exec(deform) < 1",
        "eval(deform) < 1",
        "open(deform) < 1",
        "lambda: deform < 1",
        "lambda x: x",
        "deform if deform else 1",
        "[x for x in deform]",
        "{deform}",
        "deform := 1",
        "deform; frame",
        "deform < 1 # comment",
        "deform @ frame < 1",
        "f'{deform}' < 1",
        "`deform` < 1",
        "deform < 1\\",
        "$(id) < 1",
        "deform[0] < 1",
        "abs.deform < 1",
        "abs(*deform) < 1",
        "abs(x=deform) < 1",
        "\u202edeform < 1",
        "\ufb01 < 1",
        "None < deform",
        "True",
    ],
)
def test_python_that_is_no_condition(text: str) -> None:
    with pytest.raises(DataError):
        parse_expression(text, COLUMNS)


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9 < deform",
        "9**9**9**9**9**9 < deform",
        "99999999 ** 99999999 > deform",
        "exp(exp(exp(9))) > deform",
        "9" * 300 + " > deform",
    ],
)
def test_huge_numbers_take_no_time(text: str) -> None:
    start = time.process_time()
    assert len(met(text)) == N_EVENTS
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "text",
    [
        "(" * 500 + "deform" + ")" * 500 + " < 1",
        "~" * 900 + "(deform < 1)",
        "not " * 400 + "deform < 1",
        "-" * 900 + "deform < 1",
        "2**" * 600 + "deform < 1",
        "abs(" * 400 + "deform",
        "(" * 1999,
    ],
)
def test_deep_nesting(text: str) -> None:
    with pytest.raises(DataError, match=f"expected at most {MAX_DEPTH} parentheses"):
        parse_expression(text, COLUMNS)


def test_what_is_just_deep_enough() -> None:
    text = "(" * (MAX_DEPTH - 1) + "-deform" + ")" * (MAX_DEPTH - 1) + " < 1"
    assert met(text) == met("deform > -1")


@pytest.mark.parametrize(
    "text",
    [
        "+".join(["frame"] * 330) + " > 600",
        " < ".join(["frame"] * 220),
        "|".join(["frame>7"] * 240),
    ],
    ids=["sum", "chain", "or"],
)
def test_long_conditions(text: str) -> None:
    assert len(met(text)) == N_EVENTS


def test_too_long() -> None:
    text = "deform < 1" + " & deform < 1" * MAX_LENGTH
    with pytest.raises(DataError, match=rf"at most {MAX_LENGTH} characters, got \d+; .*--index"):
        parse_expression(text, COLUMNS)


@given(st.text(max_size=60))
@example("deform\x0b< 1")
def test_any_text_is_understood_or_refused(text: str) -> None:
    try:
        expression = parse_expression(text, COLUMNS)
    except DataError:
        return
    expression.evaluate(COLUMNS, N_EVENTS)


@given(
    st.lists(
        st.sampled_from([
            "deform", "frame", "1", "0.5", "(", ")", "<", "==", "&", "|", "~", "-", "+", "*",
            "**", "/", "%", "abs", "isnan", ",", "not", "nan", "max", "lambda", ".", "=",
        ]),
        max_size=14,
    ).map(" ".join)
)  # fmt: skip
def test_any_words_are_understood_or_refused(text: str) -> None:
    try:
        expression = parse_expression(text, COLUMNS)
    except DataError:
        return
    assert expression.features
    expression.evaluate(COLUMNS, N_EVENTS)


@pytest.mark.parametrize("value", [None, 3, b"deform < 1", math.nan, ["deform < 1"]])
def test_what_is_no_text(value: Any) -> None:
    with pytest.raises(DataError, match="expected a text"):
        parse_expression(value)
