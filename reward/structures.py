"""Pairs, sequences, sets and orders: JSON, or items that signs, words or lines set apart.

A gold answer is read strictly. An answer is read in the ways in which people write the same thing: bullets, code fences, LaTeX, other
languages' signs, sentences of words that say nothing. Whatever is left over beyond these makes it another answer.

Every reader returns ``None`` or an empty list for what it cannot read; none of them raises on any text of at most
``parsing.MAX_CHARACTERS``, and all of them take linear time.
"""

import re
from collections.abc import Callable, Collection, Iterable, Sequence

from reward.notation import MAX_CELLS, cell_name, open_brackets, read_json, split_outside, undress, without_numbers
from reward.parsing import plain, words
from reward.phrases import (
    CONJUNCTION,
    EMPTY,
    FILLERS,
    comparisons_as_signs,
    is_head,
    names_place,
    strip_frame,
    strip_label,
)
from reward.quantity import canonical

_STRONG = re.compile(r"[;\n]|。|(?<=[^\W\d_]{3})\.(?= )")
_WEAK = re.compile(rf"{CONJUNCTION}|,(?!\d)|(?<!\d),")
_LIST_COMMA, _SPACED_COMMA = ",", r",(?!\d{3}(?!\d))"

# Pairs

_MARK = re.compile(r"\s?(?::=|[=→]|(?<!\d):|:(?!\d))\s?|\s(?:is|at)\s")
LOOSE_MARK = re.compile(
    r"\s?(?::=|[=:→≡])\s?|\s(?:[-–—|]|is|at|has|have|are|gets|ist|hat|est|es|tiene|é|ha|a pour)\s|\t|[是为は]"
)
_TRUTH = {
    "t": "true",
    "f": "false",
    "1": "true",
    "0": "false",
    "yes": "true",
    "no": "false",
    "真": "true",
    "假": "false",
}
Pairs = dict[str, str]


def read_pairs(text: str) -> Pairs | None:
    """``A = knight, B: knave``, ``A is knight and B is knave`` or a JSON object, as canonical keys and values."""
    return _name_pairs(raw_pairs(text, _MARK), cell_name, cell_name)


def answer_pairs(text: str, gold: str) -> Pairs:
    """The pairs of an answer, in the words of the gold answer where they say the same; empty if there are none."""
    wanted = read_pairs(gold) or {}

    def key_name(key: str) -> str:
        return _as_wanted(key, wanted)

    def value_name(value: str) -> str:
        return _as_wanted(value, values)

    values = set(wanted.values())
    first: Pairs | None = None
    numbered = re.sub(r"(?m)^\s{0,9}\(?(\d{1,2})[.)] ?(?=[^\s\d])", r"\1: ", text) if "1" in wanted else text
    for candidate in dict.fromkeys((text, strip_frame(text), numbered)):
        for mark in (_MARK, LOOSE_MARK):
            found = _name_pairs(raw_pairs(candidate, mark), key_name, value_name)
            if found == wanted:
                return found
            first = found if first is None else first
    text = _without_head(text)
    return wanted if tells_pairs(text, wanted, either_way=not re.search("[:→]", undress(gold))) else first or {}


def _without_head(text: str) -> str:
    """A table without the line that names its columns, if a rule or a usual name of the first column shows that it is one."""
    lines = undress(text).splitlines()
    if len(lines) > 2 and (not set(lines[1]) - set("|-: ") or is_head(re.split("[,;|\t]", lines[0].strip("|")))):
        return "\n".join(line for line in lines[1:] if set(line) - set("|-: "))
    return text


def _name_pairs(
    pairs: list[tuple[str, object]] | None, key_name: Callable[[str], str], value_name: Callable[..., str]
) -> Pairs | None:
    found: Pairs = {}
    for key, value in pairs or []:
        name = key_name(key)
        if name in found:
            return None
        found[name] = value_name(value) if isinstance(value, str) else cell_name(value)
    return found or None


def raw_pairs(text: str, mark: re.Pattern[str] = _MARK) -> list[tuple[str, object]] | None:
    """The pairs of a text as they are written, also those whose key comes twice."""
    data = read_json(text)
    if isinstance(data, dict):
        return list(data.items())[:MAX_CELLS]
    if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        rows = [list(row.items()) if len(row) == 1 else [tuple(row.values())] for row in data]
        return (
            [row[0] for row in rows if len(row[0]) == 2][:MAX_CELLS] if all(len(row[0]) == 2 for row in rows) else None
        )
    found: list[tuple[str, object]] = []
    for piece in split_outside(open_brackets(undress(text)), _STRONG):
        line: list[tuple[str, str, str]] = []
        for part in split_outside(piece, _WEAK):
            match = mark.search(part)
            # "row 2: x=5, y=3" and "row 2: red, blue" are one pair each: what follows belongs to its value.
            inside = line and line[0][1].strip() in (":", "→") and re.search("[=:]", line[0][2])
            if match is None or inside:
                if not line or line[-1][1].strip().isalpha():
                    return None
                key, sign, value = line[-1]
                line[-1] = (key, sign, f"{value}, {part}")
                continue
            key, value = part[: match.start()].strip(), part[match.end() :].strip()
            if not key or not value or len(key) > 80 or len(value) > 400:
                return None
            line.append((key, match[0], value))
        found += [pair for key, _, value in line for pair in _tuple_pairs(key, value)]
    return found[:MAX_CELLS] or None


def _tuple_pairs(key: str, value: str) -> list[tuple[str, object]]:
    """``(x, y) = (2, 3)`` as two pairs."""
    keys, values = (open_brackets(side) for side in (key, value))
    if keys != key and values != value and keys.count(",") == values.count(","):
        return list(zip(keys.split(","), values.split(","), strict=True))
    return [(key, value)]


_NAMED = re.compile(r"\A\s*[A-Za-z]\w{0,20}\s?=(?!=)\s?")


def _as_wanted(text: str, wanted: Collection[str]) -> str:
    """The name of ``text`` in ``wanted`` if it says the same as one of them, else its own."""
    name = cell_name(text)
    if name in wanted:
        return name
    framed = strip_frame(text)
    stripped = cell_name(strip_label(framed))
    forms = [
        cell_name(framed),
        stripped,
        stripped.removesuffix("s"),
        _TRUTH.get(name, "") if {"true", "false"} & set(wanted) else "",
    ]
    if len(wanted) == 1 and "=" not in "".join(wanted) and "?" not in text:
        forms.append(canonical(_NAMED.sub("", text)))  # "x = 5" for 5
    return next((form for form in forms if form and form in wanted), name)


def tells_pairs(text: str, wanted: Pairs, either_way: bool = False) -> bool:
    """Whether a text names each key with its value and says nothing else: ``I am at B3, and there is a red star``.

    Keys may share a value (``A and C are knights``).

    Args:
        either_way: the pairs are equations, so that a value may also stand before its keys (``knights: A, C``).
    """
    keys = {tuple(key.split()) for key in wanted}
    values = {tuple(value.split()) for value in wanted.values()}
    if (
        keys & values
        or not all(keys)
        or not all(values)
        or re.search(r"[~¬]|\bso on\b|\betc\b|→[^,;\n]*→", undress(text))
    ):
        return False  # "A → B → C" is no list of pairs
    key_words = {token for name in keys for token in name}
    tokens = _tokens(text, key_words | {token for name in values for token in name}, key_words)
    if _parse_told(tokens, keys, values) == wanted:
        return True
    if either_way and "→" not in undress(text) and _parse_told(tokens[::-1], keys, values, backwards=True) == wanted:
        return True
    # One pair may stand the other way round: "a red star at B3".
    (key, value), *more = zip(wanted, wanted.values(), strict=True)
    near = re.search(r"\b(?:at|in|on)\b", text.casefold()) and not re.search(r"[=:→]", text)
    return not more and bool(near) and tokens == [*value.split(), *key.split()]


def _parse_told(
    tokens: list[str], keys: set[tuple[str, ...]], values: set[tuple[str, ...]], backwards: bool = False
) -> Pairs | None:
    """Pairs from keys that are each followed by their value; None if anything else is there."""
    names = {name: name for name in (*keys, *values)}
    names |= {(*name[:-1], name[-1] + "s"): name for name in values if name[-1].isalpha()}  # "A and C are knights"
    if backwards:
        names = {written[::-1]: name for written, name in names.items()}
    found: Pairs = {}
    waiting: list[str] = []
    at = 0
    while at < len(tokens):
        written = _longest(tokens, at, names)
        if written is None:
            return None
        at += len(written)
        name = " ".join(names[written])
        if names[written] in keys:
            waiting.append(name)
        elif not waiting or not set(waiting).isdisjoint(found) or len(set(waiting)) < len(waiting):
            return None
        else:
            found |= dict.fromkeys(waiting, name)
            waiting = []
    return None if waiting else found


def _longest(tokens: list[str], at: int, names: Iterable[tuple[str, ...]]) -> tuple[str, ...] | None:
    found = [name for name in names if tuple(tokens[at : at + len(name)]) == name]
    return max(found, key=len, default=None)


def _tokens(text: str, known: set[str], owners: set[str]) -> list[str]:
    """The words of a text without those that say nothing and are not ``known``. Only ``owners`` lose a possessive ``'s``."""
    raw = re.split(r"[\s,;:()\[\]{}|\"“”=→]+", plain(undress(text).replace("\n", " ; ").rstrip("!")).replace("!=", "≠"))
    named = "a" in known and "A" in raw  # then "a" is the article
    tokens = [token.strip(".'’") for token in raw if not (named and token == "a")]
    short = [(token.casefold(), re.sub("['’](?:s|m|re)$", "", token.casefold())) for token in tokens if token]
    tokens = [base if base in owners or base in FILLERS else token for token, base in short]
    return [token for token in tokens if token in known or token not in FILLERS]


# Sequences, sets and orders


def read_sequence(text: str) -> list[str]:
    """An ordered list: JSON, or items set apart by ``,`` ``;`` ``>`` ``->``, "and" or line ends."""
    return [cell_name(item) for item in raw_sequence(text)]


def answer_sequence(text: str, wanted: Sequence[str], ordered: bool = False) -> list[str]:
    """The items of an answer, in the words of the gold answer where they say the same.

    Args:
        ordered: words for places are read ("first A, then B"), and a list of single words may have spaces alone between them.
    """
    items = raw_sequence(text)
    if len(items) == 1 and isinstance(items[0], str) and (inner := _list_inside(items[0])) != items[0]:
        items = raw_sequence(inner)
    if ordered and len(items) == 1 and len(wanted) > 1 and isinstance(items[0], str):
        only = strip_frame(items[0])
        if words(only) == " ".join(wanted) and "?" not in only:
            return list(wanted)  # "(2, 3) facing north"
        items = list(only.split()) if len(only.split()) == len(wanted) else items
    if ordered:
        if all(isinstance(item, str) for item in items):
            items = list(without_numbers([str(item) for item in items]))
        items = [_without_place(item, index, len(items)) for index, item in enumerate(items)]
    return [_as_wanted(item, wanted) if isinstance(item, str) else cell_name(item) for item in items]


def says_none(text: str) -> bool:
    """Whether a text says that no item is the answer: ``none of them``, ``∅``."""
    return EMPTY.fullmatch(undress(text).strip(" .。!").casefold()) is not None


def raw_sequence(text: str) -> list[object]:
    """The items of a list as they are written."""
    data = read_json(text)
    if isinstance(data, list):
        return [item for item in data if str(item).strip()][:MAX_CELLS]
    text = open_brackets(undress(text))
    # The comma of a number sets nothing apart: "1,234; 5", "1,234, 5".
    comma = r",(?!\d)|(?<!\d)," if ";" in text else _SPACED_COMMA if ", " in text else _LIST_COMMA
    return list(split_outside(text, _sequence_separator(comma)))


def _sequence_separator(comma: str) -> re.Pattern[str]:
    return re.compile(rf"→|[;>\n]| \| |{CONJUNCTION}|{comma}")  # re keeps the few patterns that there are


def _list_inside(item: str) -> str:
    """``The output is [1, 2].`` and ``a = [1, 2]`` as ``1, 2``; other items as they are."""
    framed = strip_frame(item)
    named = re.match(r"[A-Za-z_]\w{0,20} ?:?= ?(?=[\[({])", framed)
    closed = strip_label(framed[named.end() :] if named else framed)
    opened = open_brackets(closed)
    return item if opened == closed else opened


_PLACE_BEFORE = re.compile(r"(?:the )?(\w{1,9})(?: (?:is|comes|was)|,|:)? (?=\S)", re.IGNORECASE)
_PLACE_AFTER = re.compile(
    r"(?: (?:is|comes|was|came|finishes|finished))?(?: in)?(?: the)? \(?(\w{1,9})(?: place)?\)?$", re.IGNORECASE
)


def _without_place(item: object, index: int, count: int) -> object:
    """An item without the word for its place, if that is its place: ``first A``, ``A comes second``."""
    if not isinstance(item, str):
        return item
    match = _PLACE_BEFORE.match(item)
    if match and names_place(match[1], index, count):
        return item[match.end() :]
    match = _PLACE_AFTER.search(item)
    return item[: match.start()] if match and names_place(match[1], index, count) else item


def read_order(text: str) -> list[str] | None:
    """An order written with ``>``, ``<`` or arrows, from the first (or greatest) on; None if there is no such sign.

    ``A > B, B > C`` is one order. An empty list: the signs do not give one order (``A > B, C``).
    """
    text = comparisons_as_signs(open_brackets(undress(text)))
    if not re.search("[<>→]", text):
        return None
    chains: list[list[str]] = []
    for clause in split_outside(text, re.compile(rf"[,;\n]|{CONJUNCTION}")):
        signs = set(re.findall("[<>→]", clause))
        items = [strip_frame(item) for item in re.split("[<>→]", clause)]
        if len(signs) != 1 or not all(items):
            return []
        chains.append([cell_name(strip_label(item)) for item in (items[::-1] if "<" in signs else items)])
    order = chains.pop(0)
    while chains:
        chain = next(
            (one for one in chains if order[-1] == one[0] or order[0] == one[-1] or set(one) <= set(order)), None
        )
        if chain is None:
            return []
        chains.remove(chain)
        if order[-1] == chain[0]:
            order += chain[1:]
        elif order[0] == chain[-1]:
            order = chain[:-1] + order
        elif [item for item in order if item in chain] != chain:
            return []
    return order if len(set(order)) == len(order) else []


def answer_order(text: str, wanted: Sequence[str]) -> list[str]:
    """The order that an answer gives: with signs, or as a bare list (``first A, then B``)."""
    order = read_order(text)
    if order is None:
        return answer_sequence(text, wanted, ordered=True)
    return order
