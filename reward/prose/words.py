"""The words of the claim grammar: tokens with spans, and what each word stands for. English; British and American spelling."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from reward.number_words import ENGLISH_NUMBERS


def listed(text: str) -> frozenset[str]:
    """The words of a text as a set."""
    return frozenset(text.split())


COLOURS = listed("""red green blue yellow purple orange pink brown black white gray cyan magenta turquoise teal gold silver beige
    maroon navy""")
SHAPES = listed(
    """circle square triangle star cross rectangle diamond pentagon hexagon octagon oval ellipse heart arrow ring"""
)
_ALIASES = {
    **{"grey": "gray", "violet": "purple", "golden": "gold", "greenish": "green", "reddish": "red", "bluish": "blue"},
    **{"orangish": "orange", "yellowish": "yellow", "purplish": "purple", "disc": "circle", "disk": "circle"},
    **{"dot": "circle", "circular": "circle", "triangular": "triangle", "crosses": "cross", "plus": "cross"},
    **{
        f"{colour}s": colour
        for colour in ("red", "green", "blue", "yellow", "purple", "orange", "pink", "brown", "black", "white", "gray")
    },
    **{"rectangular": "rectangle", "boxes": "box", "axes": "axis"},
}
"""Word -> the word that stands for it in claims, and in facts when they are compared."""

THINGS = listed(
    "shape object thing item figure symbol element one piece icon mark marker drawing entry something anything"
)
"""Nouns for anything that is drawn."""
CELLS = listed("cell position place spot field slot box tile location space corner entry")
"""Nouns for a place of a grid."""
DIGITS = listed("digit number numeral")
IMAGE = listed("image picture grid chart figure scene photo diagram drawing graph plot table board layout")
"""Nouns for the whole image."""
ABSTRACT = listed("""answer question note statement problem solution option choice result reason way doubt need mistake error
    contradiction case rest point step task claim hint fact idea guess total sum difference order caption prompt user
    conclusion sense mismatch match issue condition rule chance thought evidence count check test confusion catch
    exception possibility calculation value comparison description""")
"""Nouns for what is no part of an image: nothing is claimed of them, whatever is said."""

NUMBERS = {**{word: value for word, value in ENGLISH_NUMBERS.items() if value < 100}, "single": 1, "nought": 0}
ORDINALS = {
    word: place
    for place, words in enumerate(
        ("first 1st", "second 2nd", "third 3rd", "fourth 4th", "fifth 5th", "sixth 6th", "seventh 7th"), start=1
    )
    for word in words.split()
}
TOP, BOTTOM, MIDDLE = (
    frozenset({"top", "upper", "topmost", "uppermost"}),
    frozenset({"bottom", "lower", "bottommost", "lowest"}),
    frozenset({"middle", "center", "centre", "central", "mid"}),
)
LEFT, RIGHT = frozenset({"left", "leftmost", "lefthand"}), frozenset({"right", "rightmost", "righthand"})

BE = listed("is are was were 's be being looks look appears appear seems seem remains stays")
HOLD = listed("""contains contain holds hold has have shows show displays display features feature includes include houses house
    had got carries bears contained held showed featuring containing holding showing with having comprises""")
STAND = listed("""sits sit lies lie stands stand appears appear located placed positioned found situated occupies occupy fills fill
    sitting lying standing rests resting goes comes drawn shown visible""")
READ = listed("reads read says say states spells shows show displays displaying reading saying")
NEGATIONS = listed("not n't never")
BOTH = listed("both all each every")
ADVERBS = listed("""also clearly just only indeed really definitely actually certainly now currently still again obviously
    already simply however therefore thus then so instead both all exactly precisely visibly plainly
    entirely completely totally fully in fact altogether surely evidently too either always alone
    here well okay ok yes right hmm ah oh finally next first lastly overall similarly likewise meanwhile
    right immediately directly""")
"""Words that a clause may have anywhere and that change no claim."""

HEDGES = listed("""might may maybe perhaps probably possibly could would should likely presumably unsure uncertain unclear
    guess suspect assume assuming suppose supposing imagine hopefully potentially supposedly allegedly apparently
    expect expected wonder hypothetically arguably must ought nearly almost hardly barely scarcely except apart besides excluding""")
"""Words with which a clause claims nothing."""
CONDITIONS = listed("if whether unless suppose supposing assuming whenever")
"""Words with which the rest of a sentence claims nothing."""
REPORTS = listed("note question statement claim caption hint prompt user option answer task problem")
"""What is reported of these is no claim about the image: ``the note says that B2 is red``."""
PLANS = listed("""let let's lets look check count recount start need want going try compare verify find determine see examine
    add consider remember recall list note go take scan inspect zoom focus confirm""")
"""First words of a plan or an instruction."""
NEUTRAL = (
    BE
    | HOLD
    | STAND
    | READ
    | NEGATIONS
    | BOTH
    | ADVERBS
    | IMAGE
    | listed(
        """a an the this that these those i we you they it my our there here what which who where how of to in on at by for from with up
    down out off over into through along across around within among do does did can will have has had been see find count get got
    spot notice observe make makes made making give gives giving go goes come comes coming turn turns start starts begin begins open
    opens end ends close closes finish finishes fill fills filled fills occupies occupied take takes taken reach reaches reaching
    rises occur occurs occurring show shown seen find finds found located placed called marked coloured colored painted drawn written
    printed present visible exist exists appear appears appearing total totals sum sums add adds together each other others another
    one two none only just both either neither every first next last then finally more less fewer many few much than as well too very
    top bottom left right middle order time times once twice once way side end row column reading looking now actually same whole
    so if all in front while being twice thrice equals equal value height tall high unit units level line measures
    stands arithmetic absent missing lacks lacking without nowhere"""
    )
)
"""Words that may stand in a clause beside what is read of it."""
CORRECTIONS = listed("wait actually correction sorry oops no scratch rather hold hmm mean")

RELATIONS = {
    "left of": "left of",
    "right of": "right of",
    "above": "above",
    "over": "above",
    "below": "below",
    "beneath": "below",
    "under": "below",
    "underneath": "below",
    "next to": "next to",
    "beside": "next to",
    "adjacent to": "next to",
    "near": "near",
    "between": "between",
    "behind": "behind",
    "in front of": "in front of",
    "inside": "inside",
}
OPPOSITES = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

_REAL = listed("""across range ranges while block grown fellow mellow bellow circled squared greed greet queen seconds
    riddle fiddle strange fewer start starts stare""")
_SPELT_WORDS = """yellow purple orange green circle circles triangle triangles square squares column columns second middle
bottom crosses contains"""
_SPELT = _SPELT_WORDS.split()

_WORD = re.compile(
    r"(?P<quoted>[\"“”][^\"“”\n]{1,80}[\"“”]|‘[^’\n]{1,80}’|(?<![A-Za-z0-9])'[^'\n]{1,80}'(?![A-Za-z0-9]))"
    r"|(?P<word>[A-Za-z]+?(?=n['’]t\b)|n['’]t\b|['’](?:s|re|m|ve|ll|d)\b|(?<![A-Za-z0-9])[A-Ja-j]\d(?![A-Za-z0-9])|\d{1,2}[xX×]\d{1,2}\b|\d{1,6}(?:st|nd|rd|th)\b|\d{1,9}(?:\.\d{1,6})?"
    r"|[A-Za-z]+)|(?P<mark>\.{3}|[^\w\s])"
)


class Word(NamedTuple):
    """A token: ``text`` as the grammar knows it, its characters [start, end), whether it is quoted, and whether it has a capital."""

    text: str
    start: int
    end: int
    quoted: bool = False
    capital: bool = False


def words_of(text: str, start: int = 0, end: int | None = None) -> list[Word]:
    """The tokens of a text between two places, in order. Linear in the length: every repetition is bounded or of one class."""
    found = []
    for match in _WORD.finditer(text, start, len(text) if end is None else end):
        if match["quoted"]:
            found.append(Word(match[0][1:-1], match.start(), match.end(), True))
        else:
            found.append(Word(known_word(match[0]), match.start(), match.end(), capital=match[0][0].isupper()))
    return found


@lru_cache(maxsize=4096)
def known_word(written: str) -> str:
    """A word as the grammar knows it: lower case, one spelling, singular if it is a noun of ours, small typing errors corrected."""
    word = written.lower().replace("’", "'")
    if not word.isalpha():
        return word
    word = _ALIASES.get(word, word)
    if word not in _VOCABULARY and 5 <= len(word) <= 12 and word not in _REAL:
        word = next((_TYPED[typed] for typed in _without_one(word) if typed in _TYPED), word)
    return _ALIASES.get(word, word)


def singular(word: str) -> str:
    """``stars`` -> ``star``; a word that is no plural is returned as it is."""
    if word in SHAPES or word in COLOURS or word in _ALIASES:
        return _ALIASES.get(word, word)
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return _ALIASES.get(word[:-1], word[:-1])
    return word


def plain_words(text: str) -> str:
    """Words of a fact or of a claim's value in the spelling in which they are compared."""
    return " ".join(_ALIASES.get(word, word) for word in text.casefold().split())


def _without_one(word: str) -> Iterable[str]:
    """The word, and the word without one of its letters."""
    yield word
    for place in range(len(word)):
        yield word[:place] + word[place + 1 :]


_VOCABULARY = frozenset({*COLOURS, *SHAPES, *_ALIASES, *_SPELT, *(f"{shape}s" for shape in SHAPES)})
# A word is a misspelt one of ours if the two are equal after each lost at most one letter: one omission, addition,
# replacement or exchange of neighbours.
_TYPED = {typed: word for word in _SPELT for typed in _without_one(word)}
