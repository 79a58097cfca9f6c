"""What kind of thing a mathematical answer is: a value, an equation, a set, a tuple, intervals or inequalities, a ratio.

Reading is by form alone; the algebra system sees only the values inside (``reward.expression``).
"""

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from reward.hedges import spans
from reward.mathtext import closing, is_prose, math_text, split_top
from reward.quantity import read_quantity
from reward.sentence import is_denied

MAX_ITEMS = 12

Piece = tuple[str, bool, str, bool]
"""An interval: lower end, whether it is open, upper end, whether it is open."""

_OR = re.compile(r"(?<![A-Za-z\\])or(?![A-Za-z])")
_AND = re.compile(r"(?<![A-Za-z\\])and(?![A-Za-z])")
_COMMA = re.compile(r"[,;]")
_LIST = re.compile(r"[,;]\s*(?:and(?![A-Za-z]))?|(?<![A-Za-z\\])and(?![A-Za-z])")
_UNION = re.compile("∪")
_RELATION = re.compile("[<>≤≥≠]")
_EQUALS = re.compile("=")
_MEMBER = re.compile("∈")
_COLON = re.compile(":")
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")

_GREEK = r"\\(?:alpha|beta|gamma|delta|epsilon|theta|lambda|mu|rho|sigma|tau|phi|omega|Delta|Omega)"
_SUB = r"(?:_\{[^{}]*\}|_\w)?'*"
NAME = re.compile(rf"(?:[A-Za-z]|{_GREEK})\s?{_SUB}")
_BUILDER = re.compile(rf"(?:{NAME.pattern})\s*(?:∈\s*\\mathbb\{{R\}}\s*)?(?:[|:]|\\mid)\s*(.*)")
_FUNCTION = re.compile(rf"(?:[A-Za-z]|{_GREEK}){_SUB}(?:\^\{{[^{{}}]*\}})?\s*\(.*\)")
_LABEL_WORDS = re.compile(
    r"\\(?:angle|triangle|overline|overrightarrow|vec|widehat|hat|bar|mathbf|square|odot|sin|cos|tan|cot|Delta)(?![a-z])|[{}|'()\s]"
)
_NONE = re.compile(
    r"\\emptyset|\\\{\s*\\\}|(?:there (?:is|are) |(?:the )?(?:equation|system|inequality) has )?no (?:real )?solutions?(?: exists?)?"
    r"|(?:the )?empty set|无解|無解|解なし|해가 없다|keine lösung|aucune solution|(?:no hay|sin) solución",
    re.IGNORECASE,
)
_POINT = re.compile(r"(?:(?:点|點|점|the point|[Pp]oint|Punkt|punto|точка)\s*)?(?:[A-Z](?:_\{\w+\}|')?)?\s*(?=\()")


_DISTANCE = re.compile(rf"\|\s*({NAME.pattern})\s*((?:[-+]\s*[\d./]+)?)\s*\|")
_ROOT = re.compile(r"\d*\\(?:sqrt\{\d+\}|pi)")
_TURNED = str.maketrans("<>≤≥", "><≥≤")


@dataclass(frozen=True)
class Form:
    """``kind``: value, equation, set, list, tuple, ranges, relation, ratio, or words.

    ``items`` are texts of values, or forms within a set, list or tuple. ``label`` is the name in front (``x`` of ``x = 5``), and
    ``sides`` are those of an equation, solved or not. ``pieces`` are intervals: ``(1, 2)`` may be one or a tuple.
    """

    kind: str
    items: tuple["str | Form", ...] = ()
    label: str = ""
    sides: tuple[str, ...] = ()
    pieces: tuple[Piece, ...] = ()


@lru_cache(maxsize=512)
def read_form(text: str) -> Form:
    """The form of an answer."""
    return _read_text(math_text(text))


def _read_text(text: str) -> Form:
    if text.startswith("{") and closing(text, 0) == len(text) - 1 and split_top(text[1:-1], _COMMA)[1:]:
        text = f"\\{text[:-1]}\\}}"  # {2,3,5}, its backslashes lost
    text = _strip_outer(text)
    if _NONE.fullmatch(text):
        return Form("set")
    if (builder := _BUILDER.fullmatch(text)) and _RELATION.search(builder[1]):
        return _read_text(builder[1])
    for separator, join in ((_OR, _join_or), (_UNION, _join_or)):
        parts = split_top(text, separator)[0::2]
        if len(parts) > 1:
            forms = [_read_text(part) for part in parts if part]
            return join(forms) or Form("words", (text,))
    ungrouped = _without_groups(text)
    parts = split_top(ungrouped, _LIST)
    if len(parts) > 1:
        return _join_list(
            [_read_text(part) for part in parts[0::2] if part], text, conjunction="and" in "".join(parts[1::2])
        )
    text = ungrouped
    if (members := split_top(text, _MEMBER)[0::2]) and len(members) == 2:
        return replace(_read_text(members[1]), label=members[0])
    relation = split_top(text, _RELATION)
    if len(relation) > 1:
        return _relation(relation, text)
    sides = split_top(text, _EQUALS)[0::2]
    if len(sides) > 1:
        return _equation(sides, text)
    if bracketed := _bracketed(text):
        return bracketed
    ratio = split_top(text, _COLON)[0::2]
    if len(ratio) > 1:
        return Form("ratio", tuple(ratio)) if all(ratio) and not is_prose(text) else Form("words", (text,))
    prose = _without_unit_words(text)
    worded = prose != text and (is_denied(text) or spans(prose, "", text.removeprefix(prose)))
    if not text or worded or (is_prose(prose) and read_quantity(text) is None):
        return Form("words", (text,))
    if text.count("±") == 1:
        return Form("set", tuple(Form("value", (text.replace("±", sign).strip().removeprefix("+"),)) for sign in "+-"))
    return Form("value", (text,))


def _without_unit_words(text: str) -> str:
    """The text without a last word after a number or a bracket, which may be a unit (``6\\pi cm^{2}``, ``5 apples``)."""
    return (
        re.sub(r"(?<=[\d)}\s°])\s*[^\W\d_]+(?:[\s/·^{}\d-]+[^\W\d_]*)?$", "", text)
        if re.match(r"[^A-Za-z]*(?:\\|\d|$)", text)
        else text
    )


def _strip_outer(text: str) -> str:
    text = text.strip(" .;,")
    while text.startswith(("(", "{")) and closing(text, 0) == len(text) - 1 and not split_top(text[1:-1], _COMMA)[1:]:
        text = text[1:-1].strip()
    return text


def _without_groups(text: str) -> str:
    """``1,024`` as one number where it stands outside brackets; ``(1, 024)`` and ``1, 2`` stay."""
    if not _GROUPED.search(text):
        return text
    depth, pieces, begin = 0, [], 0
    for match in _GROUPED.finditer(text):
        depth += sum((letter in "([{") - (letter in ")]}") for letter in text[begin : match.start()])
        pieces += [text[begin : match.start()], match[0].replace(",", "") if depth == 0 else match[0]]
        begin = match.end()
    return "".join([*pieces, text[begin:]])


def _join_or(forms: list[Form]) -> Form | None:
    """Alternatives: a union of intervals, or a set of solutions."""
    if len(forms) > MAX_ITEMS:
        return None
    if all((form.pieces and form.kind != "tuple") or (form.kind == "tuple" and form.pieces) for form in forms):
        labels = {form.label for form in forms if form.label}
        return (
            Form("ranges", label=min(labels, default=""), pieces=tuple(p for form in forms for p in form.pieces))
            if len(labels) < 2
            else None
        )
    values: list[Form] = []
    for form in forms:
        values += (
            [one for one in form.items if isinstance(one, Form)] if form.kind == "set" and not form.sides else [form]
        )
    # "x = 2 or -2": the first name holds for all.
    names = {form.label for form in forms if form.label}
    if len(names) > 1 or any(form.kind not in ("value", "set", "tuple", "list") for form in forms):
        return None
    return Form("set", tuple(_unlabelled(one) for one in values), label=min(names, default=""))


def _unlabelled(form: Form) -> Form:
    return replace(form, label="", sides=())


def _join_list(forms: list[Form], text: str, conjunction: bool) -> Form:
    if len(forms) == 1:
        return forms[0]
    if not forms or len(forms) > MAX_ITEMS or any(form.kind == "words" for form in forms):
        return Form("words", (text,))
    if all(form.kind == "ranges" for form in forms):
        both = _intersection(forms) if conjunction or len(forms) == 2 else None
        return both or Form("words", (text,))
    if forms[0].label and forms[0].kind in ("value", "set") and not any(form.label or form.sides for form in forms[1:]):
        values = [*(forms[0].items if forms[0].kind == "set" else [forms[0]]), *forms[1:]]  # x = 1, 2
        return Form("set", tuple(_unlabelled(one) for one in values if isinstance(one, Form)), label=forms[0].label)
    return Form("list", tuple(forms))


def _intersection(forms: list[Form]) -> Form | None:
    """``x > 1 and x < 3``."""
    first, second = forms[0], forms[1]
    if len(forms) != 2 or first.label != second.label or len(first.pieces) != 1 or len(second.pieces) != 1:
        return None
    low, high = first.pieces[0], second.pieces[0]
    if low[0] == "-\\infty":
        low, high = high, low
    if low[2] != "\\infty" or high[0] != "-\\infty" or low[0] == "-\\infty":
        return None
    return Form("ranges", label=first.label, pieces=((low[0], low[1], high[2], high[3]),))


def _relation(parts: list[str], text: str) -> Form:
    sides, signs = parts[0::2], parts[1::2]
    if not all(sides) or is_prose(text):
        return Form("words", (text,))
    if len(sides) == 2:
        left, right, sign = *sides, signs[0]
        if NAME.fullmatch(right) and not NAME.fullmatch(left):
            left, right, sign = right, left, sign.translate(_TURNED)
        if NAME.fullmatch(left) and not NAME.fullmatch(right) and not mentions(right, left):
            pieces: tuple[Piece, ...]
            if sign == "≠":
                pieces = (("-\\infty", True, right, True), (right, True, "\\infty", True))
            elif sign in "<≤":
                pieces = (("-\\infty", True, right, sign == "<"),)
            else:
                pieces = ((right, sign == ">", "\\infty", True),)
            return Form("ranges", (left, right, sign), label=left, pieces=pieces)
        if distance := _distance(left, right, sign) or _distance(right, left, sign.translate(_TURNED)):
            return distance
        return Form("relation", (*sides, *signs))
    if len(sides) == 3 and NAME.fullmatch(sides[1]):
        low, name, high = sides
        if set(signs) <= set(">≥"):
            low, high, signs = high, low, signs[::-1]
        elif not set(signs) <= set("<≤"):
            return Form("words", (text,))
        return Form("ranges", label=name, pieces=((low, signs[0] in "<>", high, signs[1] in "<>"),))
    return Form("relation", (*sides, *signs))


def _distance(left: str, right: str, sign: str) -> Form | None:
    """``|x| < 3`` and ``|x - 1| ≥ 2`` as intervals; None for a distance that is not a positive number, and for other relations."""
    inside, radius = _DISTANCE.fullmatch(left), read_quantity(right)
    if inside is not None and not inside[2] and sign in "<>≤≥" and _ROOT.fullmatch(right):
        return _within(inside[1], f"-{right}", right, sign)
    if inside is None or sign not in "<>≤≥" or radius is None or radius.unit or radius.percent or radius.value <= 0:
        return None
    centre = read_quantity(inside[2].replace(" ", "") or "0")
    if centre is None or centre.unit or centre.percent:
        return None
    return _within(inside[1], str(-centre.value - radius.value), str(-centre.value + radius.value), sign)


def _within(name: str, low: str, high: str, sign: str) -> Form:
    pieces: tuple[Piece, ...] = ((low, sign == "<", high, sign == "<"),)
    if sign in ">≥":
        pieces = (("-\\infty", True, low, sign == ">"), (high, sign == ">", "\\infty", True))
    return Form("ranges", label=name, pieces=pieces)


def mentions(text: str, name: str) -> bool:
    return re.search(rf"(?<![A-Za-z\\]){re.escape(name)}(?![A-Za-z])", re.sub(r"\\[A-Za-z]+", " ", text)) is not None


def is_label(text: str) -> bool:
    """Whether a text names a quantity: ``x``, ``S_{ABC}``, ``f(x)``, ``AB``, ``m\\angle B``, ``P(A ∪ B)``, ``\\sin A``."""
    if NAME.fullmatch(text) or (_FUNCTION.fullmatch(text) and closing(text, text.index("(")) == len(text) - 1):
        return True
    if re.fullmatch(r"\\frac\{\s*d\w?\s*\}\{\s*d\w\s*\}", text):
        return True
    bare = re.sub(_SUB[:-2], "", _LABEL_WORDS.sub("", text))
    return re.fullmatch(r"m?[A-Z]{1,4}|[A-Za-z]", bare) is not None or (
        is_prose(text)
        and re.fullmatch(r"[^\W\d_]+", bare) is not None
        and not is_denied(re.sub(r"\b[A-Za-z]\b", "", text))  # circle O
    )


def _equation(sides: list[str], text: str) -> Form:
    """An equation. With a label on its left, it is the form on its right under that label."""
    if not all(sides):
        return Form("words", (text,))
    if len(sides) == 2:
        left, right = sides
        if not is_label(left) and NAME.fullmatch(right):
            left, right = right, left
        names = _bracketed(left)
        values = _read_text(right)
        if names and names.kind == "tuple" and values.kind == "tuple" and len(names.items) == len(values.items):
            return Form(
                "list",
                tuple(replace(_form(v), label=_item_text(n)) for n, v in zip(names.items, values.items, strict=True)),
            )
        if values.kind == "words":
            return values
        if is_label(left) and not (NAME.fullmatch(left) and mentions(right, left)):
            return replace(values, label=left, sides=(left, right) if values.kind == "value" else ())
    if is_prose(text):
        return Form("words", (text,))
    return Form("equation", sides=tuple(sides))


def _form(item: "str | Form") -> Form:
    return item if isinstance(item, Form) else Form("value", (item,))


def _item_text(item: "str | Form") -> str:
    return item if isinstance(item, str) else str(item.items[0]) if item.items else ""


def _bracketed(text: str) -> Form | None:
    """A set in braces, a tuple, an interval (``[1,2)``, ``]1,2[``), a point ``P(1,2)``; the real numbers."""
    if re.fullmatch(r"\\mathbb\{R\}|all real numbers|R", text):
        return Form("ranges", pieces=(("-\\infty", True, "\\infty", True),)) if text != "R" else None
    if text.startswith("\\{") and text.endswith("\\}"):
        inside = text[2:-2]
        if builder := _BUILDER.fullmatch(inside.strip()):
            return _read_text(builder[1])
        items = split_top(inside, _COMMA)[0::2]
        return Form("set", tuple(map(_read_text, items))) if len(items) <= MAX_ITEMS else None
    if text.startswith("]") or (text.endswith("[") and text.startswith("[")):
        text = ("(" if text[0] == "]" else "[") + text[1:-1] + (")" if text[-1] == "[" else text[-1])
    if point := _POINT.match(text):
        text = text[point.end() :]
    if len(text) < 2 or text[0] not in "([" or text[-1] not in ")]" or closing(text, 0) != len(text) - 1:
        return None
    items = split_top(text[1:-1], _COMMA)[0::2]
    if not 2 <= len(items) <= MAX_ITEMS or not all(items):
        return None
    pieces: tuple[Piece, ...] = ((items[0], text[0] == "(", items[1], text[-1] == ")"),) if len(items) == 2 else ()
    if (text[0], text[-1]) not in (("(", ")"), ("[", "]")) or any("\\infty" in item for item in items):
        return Form("ranges", pieces=pieces) if pieces else None
    return Form("tuple", tuple(map(_read_text, items)), pieces=pieces)
