"""The option that an answer names: by its label, by its words, by both where they agree, alone or in a sentence.

In a sentence the words around the option must be known to add nothing (``reward.cues``); what is not understood names no option.
"""

import re
from collections.abc import Callable
from functools import lru_cache

from reward.cues import CLOSE, OPEN, Clause, Phrase, clauses_of, scan, tokens_of
from reward.parsing import plain, words
from reward.quantity import canonical, read_quantity
from reward.yes_no import read_yes_no
from vlm.labels import option_index

MAX_TOKENS = 60
"""Words of an option that are looked for inside a sentence; a longer option must be the whole answer, or have its label."""

_BARE_LABEL = re.compile(r"\(?([A-Z])\)?\.?")
_DRESSED_LABEL = re.compile(r"[(\[【<]\s*([A-Za-z]{1,2})\s*[)\]】>]|([A-Za-z]{1,2})\s*[)\]】]")
_LABEL_FIRST = re.compile(r"[(\[【<]?\s?([A-Za-z]{1,2})\s?(?:[)\]】>]\s?[.:,、=-]?|[.:,、=]|\s-\s)\s?(\S.*)", re.DOTALL)
_LABEL_LAST = re.compile(r"(.*\S)\s?[(\[【]\s?([A-Za-z]{1,2})\s?[)\]】]", re.DOTALL)
_TAG = re.compile(r"<(b|i|u|em|strong|p|span)>([^<>]*)</\1>")
_BULLET = re.compile(r"(?:[-*>•–→⇒]|=>|->|\d\.)\s(?=\D)")
_PAIRS = ("()", "[]", "{}", "【】", "“”", '""', "''", "``", "‘’", "«»", "「」", "『』", "《》", "<>", "**", "__")


def read_option(text: str, choices: list[str] | None) -> int | None:
    """The index of the option that ``text`` names by its label, by its words, or by both when the two agree."""
    options = tuple(choices or ())
    if (match := _BARE_LABEL.fullmatch(text.strip())) and not any(len(option) < 6 for option in options):
        return _in_range(match[1], options)  # the usual answer, and no option is short enough to read like it
    text = _TAG.sub(r"\2", plain(text)).strip()
    index, found = _match_words(text, options, _AS_WRITTEN)
    if found:
        return index
    text = _BULLET.sub("", text)
    bare = _without_wrapping(text)
    if match := _DRESSED_LABEL.fullmatch(_without_wrapping(text, brackets=False)):
        return _in_range(match[1] or match[2], options)
    if re.fullmatch(r"[A-Za-z]|[A-Z]{2}", bare) and (bare not in _option_forms(options, True)[0]):
        return _in_range(bare, options)
    # Before the words alone are compared: "A) cat" must not lose its label as if it were an article.
    index, found = _label_and_words(_without_wrapping(text, brackets=False), options)
    if not found:
        index, found = _match_words(bare, options, _AS_READ)
    return index if found else _read_sentence(text, options)


def read_gold_option(gold: str, choices: list[str]) -> int | None:
    """The index of the option that a gold answer is: by its exact words first, since these may look like another's label."""
    exact = [index for index, option in enumerate(choices) if option.strip() == gold.strip()]
    if len(exact) > 1:
        return None
    return exact[0] if exact else read_option(gold, choices)


def _in_range(label: str, options: tuple[str, ...]) -> int | None:
    index = option_index(label)
    return index if index < (len(options) or 26) else None


# The words of an option


def _without_wrapping(text: str, brackets: bool = True) -> str:
    """``text`` without the quotes and emphasis around the whole of it, and without the stop at its end."""
    for _ in range(4):
        text = text.strip().rstrip("。.!！,;；،").strip()
        pair = next((pair for pair in _PAIRS if len(text) > 2 and text[0] == pair[0] and text[-1] == pair[-1]), "")
        if not pair or (pair[0] in "([{【<" and not brackets) or pair[0] in text[1:-1] or pair[-1] in text[1:-1]:
            break
        text = text[1:-1]
    return text.strip()


def _unspaced(text: str) -> str:
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)  # "1 1/2" is not "11/2"


_FRACTION = re.compile(r"\\[dt]?frac\s?\{([^{}]{1,60})\}\s?\{([^{}]{1,60})\}")
_ROOT = re.compile(r"\\sqrt\s?\{([^{}]{1,60})\}")
_SYMBOLS = {"pi": "π", "leq": "≤", "le": "≤", "geq": "≥", "ge": "≥", "neq": "≠", "ne": "≠", "times": "×", "cdot": "·"}
_SYMBOLS |= {"infty": "∞", "to": "→", "rightarrow": "→", "uparrow": "↑", "downarrow": "↓", "alpha": "α", "beta": "β"}
_SYMBOLS |= {"theta": "θ", "lambda": "λ", "mu": "μ", "Omega": "Ω", "Delta": "Δ", "pm": "±", "div": "÷", "angle": "∠"}


def _notation(text: str) -> str:
    """Formulas in LaTeX and in signs alike: ``\\frac{\\pi}{6}`` is ``π/6``. What a bracket holds together stays so."""

    def held(inner: str) -> str:
        inner = _notation(inner)
        return inner if re.fullmatch(r"\d*\w|\d+", inner) else f"({inner})"

    text = _FRACTION.sub(lambda match: f"{held(match[1])}/{held(match[2])}", text)
    text = _ROOT.sub(lambda match: f"√{held(match[1])}", text)
    text = re.sub(r"\\([A-Za-z]+)\s?", lambda match: _SYMBOLS.get(match[1], match[0].strip()), text)
    text = text.replace("<=", "≤").replace(">=", "≥").replace("!=", "≠").replace("**", "^")
    return _unspaced(re.sub(r"\{(\w)\}", r"\1", re.sub(r"(?<=\d)[·*](?=[A-Za-zπ√])", "", text)))


Form = Callable[[str], str]
_AS_WRITTEN: tuple[Form, ...] = (lambda text: text, _unspaced, lambda text: _unspaced(text).casefold())
_AS_READ: tuple[Form, ...] = (
    *_AS_WRITTEN,
    _notation,
    words,
    canonical,
)


@lru_cache(maxsize=64)
def _option_forms(options: tuple[str, ...], read: bool) -> list[list[str]]:
    """Each option in each form; compared with answers in the same forms."""
    texts = [plain(option) for option in options]
    texts = [_without_wrapping(text) for text in texts] if read else texts
    return [list(map(form, texts)) for form in (_AS_READ if read else _AS_WRITTEN)]


def _match_words(text: str, options: tuple[str, ...], forms: tuple[Form, ...]) -> tuple[int | None, bool]:
    """(the option whose words ``text`` is, whether it is any's), in the strictest form in which it is one.

    ``Co`` is not ``CO`` where both are options, and ``100 cm`` not ``1 m``. Words of two options name neither.
    """
    if not text:
        return None, False
    for form, named in zip(forms, _option_forms(options, forms is _AS_READ), strict=True):
        wanted = form(text)
        if wanted and (count := named.count(wanted)):
            return (named.index(wanted) if count == 1 else None), True
    return _match_value(text, options) if forms is _AS_READ else (None, False)


def _match_value(text: str, options: tuple[str, ...]) -> tuple[int | None, bool]:
    """A number without its unit: ``20`` for ``20 cm``, or ``20 cm`` for ``20``, where no other option has the value."""
    got = read_quantity(text)
    if got is None or (got.unit is not None and got.unit.letter):
        return None, False
    same = []
    for index, option in enumerate(options):
        want = read_quantity(option)
        if want is None or want.value != got.value or (want.percent != got.percent and got.percent):
            continue
        if want.unit is None or got.unit is None:
            same.append(index)
    return (same[0], True) if len(same) == 1 else (None, False)


def _label_and_words(text: str, options: tuple[str, ...]) -> tuple[int | None, bool]:
    """(the option named by a label and by words beside it, whether ``text`` is both); None where the two disagree."""
    if match := _LABEL_FIRST.fullmatch(text):
        label, rest = match[1], match[2]
    elif match := _LABEL_LAST.fullmatch(text):
        label, rest = match[2], match[1]
    else:
        return None, False
    index = _in_range(label, options)
    if index is None:
        return None, False
    if not options:  # nobody can say whether the words agree
        marked = text[match.end(1)] in ")].:" if match.re is _LABEL_FIRST else False
        return (
            (index, True) if marked and not _label_options(scan(tokens_of(rest)), options) - {index} else (None, False)
        )
    named, found = _match_words(_without_wrapping(rest), options, _AS_READ)
    return (index if named == index else None, True) if found else (None, False)


# The option that a sentence names


def _read_sentence(text: str, options: tuple[str, ...]) -> int | None:
    own = _own_words(options)
    items = _with_labels(scan(tokens_of(text), own), options)
    if options and (polar := _polar(options)):
        label = items[0].option if items and items[0].kind == "label" else None
        rest = text if label is None else _LABEL_FIRST.sub(r"\2", text)
        side = read_yes_no(rest)
        if side is not None and (option := polar.get(side)) is not None:
            return option if label in (None, option) else None
    named = _affirmed(items)
    if named is None and options and not _mentions(items):
        # "The angle is 60 degrees": what stands behind the last "is" may be an option in another notation.
        tail = re.split(r"\b(?:is|are|equals|ist|est|es|é)\b|[=:：是为は]", text)[-1]
        before = scan(tokens_of(text.removesuffix(tail)))
        if tail != text and not any(item.kind in ("not", "except", "wrong", "no", "hedge", "doubt") for item in before):
            named = _match_words(_without_wrapping(tail), options, _AS_READ)[0]
    return named


def _polar(options: tuple[str, ...]) -> dict[bool, int] | None:
    """Side -> option, where the options are a yes and a no (``True``, ``False``; ``是``, ``否``)."""
    if len(options) > 4 or max(map(len, options)) > 20:
        return None
    sides = [(read_yes_no(option), index) for index, option in enumerate(options) if len(tokens_of(option)) <= 3]
    polar = {side: index for side, index in sides if side is not None}
    return polar if len(polar) == 2 == sum(side is not None for side, _ in sides) else None


@lru_cache(maxsize=64)
def _own_words(options: tuple[str, ...]) -> Callable[[list[str], int], tuple[int, int]]:
    """Finds the words of an option in a text, whatever the articles and the case, unless case tells two options apart."""
    table: dict[str, list[tuple[list[str], int]]] = {}
    for index, option in enumerate(options):
        tokens = [token for token in tokens_of(option) if token.casefold() not in _ARTICLES]
        if 0 < len(tokens) <= MAX_TOKENS and not re.fullmatch(r"[A-Za-z]", "".join(tokens)):
            table.setdefault(tokens[0].casefold(), []).append((tokens, index))

    def end(tokens: list[str], place: int, wanted: list[str]) -> int:
        """Where the words end that begin at ``place``; 0 where they are others."""
        for number, token in enumerate(wanted):
            while number and place < len(tokens) and tokens[place] in _ARTICLES:
                place += 1
            if place >= len(tokens) or tokens[place].casefold() != token.casefold():
                return 0
            place += 1
        return place

    def own(tokens: list[str], place: int) -> tuple[int, int]:
        found = [(end(tokens, place, one), one, index) for one, index in table.get(tokens[place].casefold(), ())]
        longest = max((stop for stop, _, _ in found), default=0)
        if not longest:
            return -1, 0
        same = [(one, index) for stop, one, index in found if stop == longest]
        if len(same) > 1:
            same = [(one, index) for one, index in same if one == tokens[place:longest]] or same
        return same[0][1] if len(same) == 1 else _SEVERAL, longest - place

    return own


_ARTICLES = {"the", "a", "an"}
_SEVERAL = -2
_BEHIND_A_WORD = ("stop", "link", "join", "because", "not", "but", "rather", "against", "except", "wrong", "so")


def _with_labels(items: list[Phrase], options: tuple[str, ...]) -> list[Phrase]:
    """The items with the labels among them found, and the brackets around a single option taken off."""
    letters = {plain(option).casefold(): index for index, option in enumerate(options) if len(plain(option)) == 1}
    found: list[Phrase] = []
    for place, item in enumerate(items):
        before = items[place - 1] if place else None
        after = items[place + 1] if place + 1 < len(items) else None
        if (
            _reads_as_label(item, before, after, len(options) > 26)
            and (index := _in_range(item.text, options)) is not None
        ):
            announced = (before and before.kind == "answer") or (after and after.text in tuple(CLOSE))
            if item.text.casefold() in letters and not announced:
                item = Phrase("own", item.text, letters[item.text.casefold()])
            else:
                item = Phrase("label", item.text, index)
        found.append(item)
    kept = []
    for place, item in enumerate(found):
        opens = item.text in tuple(OPEN) and _mentions(found[place + 1 : place + 2]) and _closes(found, place + 2)
        closes = _closes(found, place) and _mentions(found[place - 1 : place]) and place
        if not (opens or closes):
            kept.append(item)
    return kept


def _closes(items: list[Phrase], place: int) -> bool:
    return place < len(items) and items[place].text in tuple(CLOSE)


def _reads_as_label(item: Phrase, before: Phrase | None, after: Phrase | None, two: bool) -> bool:
    """Whether a letter is a label and not a word of the sentence, such as ``A`` in ``A cat`` or ``I`` in ``I think``."""
    if not re.fullmatch(r"[A-Za-z]|[A-Z]{2}" if two else r"[A-Za-z]", item.text) or item.kind == "own":
        return False
    if after is not None and after.text in tuple(CLOSE):
        return True
    if item.text.islower():
        ends = after is None or after.kind == "stop"
        return (before is None and after is not None and after.text in (".", ":", "、")) or (
            before is not None and (before.kind == "answer" or (before.kind == "link" and ends))
        )
    if item.kind == "other" or after is None:
        return True
    return (
        after.kind in _BEHIND_A_WORD
        or re.fullmatch("[A-Z]", after.text) is not None
        or after.text[0].isdigit()
        or not after.text.isascii()
    )


def _mentions(items: list[Phrase]) -> list[int]:
    """Places of the items that name an option."""
    return [place for place, item in enumerate(items) if item.kind in ("label", "own")]


def _label_options(items: list[Phrase], options: tuple[str, ...]) -> set[int]:
    items = _without_reasons(_with_labels(items, options))
    return {item.option for item in items if item.kind == "label"}


def _affirmed(items: list[Phrase]) -> int | None:
    """The one option that a text names and does not deny."""
    ends = [place for place, item in enumerate(items) if item.kind == "so"]
    if ends and _mentions(items[ends[-1] :]):
        named, _ = _weigh(clauses_of(_without_reasons(items[ends[-1] :])))
        if named:
            return named.pop() if len(named) == 1 else None
    named, understood = _weigh(clauses_of(_without_reasons(items)))
    return named.pop() if understood and len(named) == 1 and _SEVERAL not in named else None


def _without_reasons(items: list[Phrase]) -> list[Phrase]:
    """What stands before a reason; of a text that begins with its reason, what stands behind it."""
    while (begin := next((place for place, item in enumerate(items) if item.kind == "because"), None)) is not None:
        if _mentions(items[:begin]):
            return items[:begin]
        end = next(
            (place for place in range(begin, len(items)) if items[place].text in (",", "，", "、", ".")), len(items)
        )
        items = items[:begin] + items[end:]
    return items


_DENYING = ("not", "except", "wrong", "no", "rather", "against", "doubt")
_UNKNOWN = ("other", "join", "condition")
_PARTLY = ("partly", "partially", "half", "sometimes", "somewhat", "mostly")
_THAT = ("dass", "daß", "ob", "что", "that", "que", "che")


def _weigh(clauses: list[Clause]) -> tuple[set[int], bool]:
    """(the options that clauses name and none denies, whether every word beside them is understood)."""
    named: set[int] = set()
    denied: set[int] = set()
    loose = settled = doubted = False
    for items, end in clauses:
        kinds = [item.kind for item in items]
        mentioned = {items[place].option for place in _mentions(items)}
        if not mentioned:
            if named and not settled and not {*_UNKNOWN, *_DENYING}.isdisjoint(kinds):
                return named, False  # "B, wolf"; "B, no"
            loose = loose or not set(_UNKNOWN).isdisjoint(kinds)
        elif doubted and items[0].text.casefold() in _THAT:
            denied |= mentioned  # "Ich bezweifle, dass es B ist"
        elif not set(_DENYING).isdisjoint(kinds):
            if "wrong" in kinds and len(set(_DENYING) & set(kinds)) > 1:
                return named, False  # "B is not wrong"
            denied |= mentioned
        else:
            announced = not {"answer", "link", "frame", "so"}.isdisjoint(kinds)
            if (loose and not announced) or not _is_framed(items):
                return named | mentioned, False
            named |= mentioned
            settled = end in (".", "。", "!", "！") and not {"answer", "link"}.isdisjoint(kinds)
        doubted = "doubt" in kinds
    return named, not named & denied


def _is_framed(items: list[Phrase]) -> bool:
    """Whether only known words stand beside the options of a clause, or a subject before the ``is`` that leads to them."""
    places = _mentions(items)
    unknown = [place for place, item in enumerate(items) if item.kind in _UNKNOWN or item.text.casefold() in _PARTLY]
    if not unknown:
        return True
    if unknown[-1] > places[-1]:
        return False
    first = next(place for place in places if place > unknown[-1])
    return any(item.kind == "link" for item in items[unknown[-1] : first])
