"""Claims in English prose about an image: ``There are three red stars in the second row``, ``the cell B2 holds a blue circle``.

A sentence is cut into chunks (``claim_chunks``), the chunks into clauses (here), and each clause is read by rules (``claim_rules``).
What is not known is skipped, and nothing looks back, so that a text takes linear time. Questions, plans, conditions, reports
(``the note says``) and hedges claim nothing.
"""

from itertools import pairwise
from typing import NamedTuple

from reward.claim_facts import Claim, Scene
from reward.prose.chunks import Chunk, Chunker
from reward.prose.clause import Context, Reading
from reward.prose.places import GRID, Size
from reward.prose.rules import Rules
from reward.prose.words import COLOURS, CONDITIONS, HEDGES, PLANS, REPORTS, STAND, listed, words_of
from vlm.response import split_sentences

MAX_SENTENCE = 600
"""Characters of a sentence that are read."""
MAX_READ_SENTENCES = 800
"""Sentences of a text that are read (the last ones): text of nothing but short ones would take longest."""

_ITEMS = ("things", "place")
_JOINING = listed("and then plus also n")
_REVIVING = listed("but however whereas while though although")
_REPORTING = listed(
    "says say claims states asks reads mentions suggests calls wants told said claimed stated describes lists : has"
)
_DOUBTS = frozenset(
    [
        *(("i", verb) for verb in ("think", "believe", "guess", "suppose", "wonder")),
        *(
            (no, word)
            for no in ("not", "n't", "cannot")
            for word in ("sure", "certain", "clear", "tell", "know", "say", "trust")
        ),
        ("hard", "to"),
        ("difficult", "to"),
        ("no", "idea"),
    ]
)
_ASKING = listed("what which who where how why do does did are am can")
_MOVES = listed(
    "i we you let me us 'll will need to have want should going go am 'm must please better 'd would first next now then so ok okay"
)
_SEEN = listed("see get have find count read spot notice observe obtain")
_ACTING = listed(
    "reaching being containing holding showing giving making having including leaving featuring namely totalling"
)
_LATER = listed("when once until before after till wherever whenever")
_CORRECTING = listed("wait actually correction sorry oops scratch rather hold hmm no")


class SentenceClaims(NamedTuple):
    """One sentence [start, end) and the claims in it; ``asserts`` is False for a question, a plan or a doubt, which claim nothing."""

    start: int
    end: int
    claims: tuple[Claim, ...]
    asserts: bool


def read_sentences(text: str, scene: Scene | None = None, size: Size = GRID) -> list[SentenceClaims]:
    """The sentences of a text, each with its claims in order.

    Args:
        scene: what the image is known to be. It decides what ``the last row`` and ``on the left`` name, and nothing else: no fact of it
            is read.
        size: (columns, rows) of the grid if there is no scene.
    """
    form = scene.form if scene is not None and scene.form != "other" else "grid"
    if scene is not None and scene.form == "grid":
        size = (scene.columns, scene.rows)
    found, context = [], Context()
    for start, end in split_sentences(text)[-MAX_READ_SENTENCES:]:
        chunker = Chunker(words_of(text, start, min(end, start + MAX_SENTENCE)), size, form)
        claims, asserts = _Reader(text, chunker, context).read(text[start:end].rstrip("\"')* ").endswith("?"))
        found.append(SentenceClaims(start, end, tuple(claims), asserts))
    return found


class _Reader:
    def __init__(self, text: str, chunker: Chunker, context: Context) -> None:
        self.text, self.chunker, self.context = text, chunker, context
        self.rules = Rules(chunker, context)

    def read(self, asks: bool) -> tuple[list[Claim], bool]:
        """(the claims of the sentence, whether it asserts anything)."""
        claims: list[Claim] = []
        dead, planned, asserted, correcting = asks, False, False, False
        for opening, clause in clauses(self.chunker.chunks()):
            texts = self._texts(clause)
            if not asks and opening & _REVIVING:
                dead = planned = False
            corrects, clause = self._correction(clause, opening)
            correcting = correcting or corrects
            texts = self._texts(clause)
            if not clause:
                continue
            if self._begins_death(opening, texts):
                dead = True
            plan = self._plans(texts)
            planned = planned and ":" not in opening
            planned = plan or (planned and not self._stands_alone(clause))
            alive = not (
                dead
                or planned
                or self._doubts(texts)
                or bool(_LATER & {*opening, *texts[:2]})
                or bool({"without", "like", "instead", "given"} & opening)
                or ("as" in opening and self._reports(texts))
            )
            readings = self.rules.read(_with_subject(clause), opening)
            corrects, correcting = correcting, False
            asserted = asserted or alive
            if not alive:
                continue
            if corrects and claims and (patched := self._patched(claims[-1], clause)):
                claims[-1] = patched
                continue
            claims += [self._claim(reading, clause) for reading in readings]
        return claims, asserted

    def _texts(self, clause: list[Chunk]) -> list[str]:
        return self.chunker.texts[clause[0].start : clause[-1].end] if clause else []

    def _claim(self, reading: Reading, clause: list[Chunk]) -> Claim:
        words = self.chunker.words
        start, end = words[clause[0].start].start, words[clause[-1].end - 1].end
        return Claim(*reading, start, end, self.text[start:end])

    # What a clause is not

    def _begins_death(self, opening: set[str], texts: list[str]) -> bool:
        """Whether the rest of the sentence claims nothing from here on: a condition, a report, an indirect question."""
        if CONDITIONS & {*opening, *texts} or "boxed" in texts:
            return True
        answers = texts[0] == "what" and len(texts) > 1 and texts[1] in {"i", "we", "you", *STAND}
        if texts[0] in _ASKING and not answers and "which" not in opening:
            return not (texts[0] in ("which", "where") and opening)
        return self._reports(texts) or "asked" in texts

    def _reports(self, texts: list[str]) -> bool:
        """``the note says``, ``according to the question``, ``as the note claims``."""
        i = 0
        told = texts[:2] == ["according", "to"]
        i += 2 if told else texts[0] == "as"
        i += texts[i : i + 1] in (["the"], ["this"], ["that"], ["my"])
        word = texts[i].removesuffix("s") if i < len(texts) else ""
        if word not in REPORTS:
            return False
        j = i + 1 + (i + 1 < len(texts) and texts[i + 1].isdigit())
        return told or j >= len(texts) or texts[j] in _REPORTING

    def _doubts(self, texts: list[str]) -> bool:
        return not HEDGES.isdisjoint(texts) or any(pair in _DOUBTS for pair in pairwise(texts))

    def _plans(self, texts: list[str]) -> bool:
        """``let me check``, ``I need to count``, ``look at B2``, ``counting the reds means``, ``to find the star``."""
        first = texts[0]
        if first == "to" and len(texts) > 1 and texts[1] not in ("the", "its", "their"):
            return True
        if len(first) > 5 and first.endswith("ing") and not first.endswith("thing") and first not in _ACTING:
            return not any(pair[0] in ("i", "we") and pair[1] in _SEEN for pair in pairwise(texts))
        i = 0
        while i < len(texts) and i < 7 and texts[i] in _MOVES:
            i += 1
        said, verb = texts[:i], texts[i] if i < len(texts) else ""
        intends = bool({"'ll", "will", "need", "to", "let", "want", "should", "must", "going", "better"} & set(said))
        if intends and {"i", "we", "you", "let", "me"} & set(said):
            return True
        if verb in _SEEN or verb == "note":
            return not said and verb not in ("note",) and texts[i + 1 : i + 2] != ["that"]
        return verb in PLANS

    def _stands_alone(self, clause: list[Chunk]) -> bool:
        """Whether a clause behind a plan has a subject and a verb of its own."""
        kinds = [chunk.kind for chunk in clause]
        if "there" in kinds:
            return True
        verbs = [place for place, kind in enumerate(kinds) if kind in ("be", "have", "compare", "same")]
        return bool(verbs) and any(kind in ("things", "place", "refer") for kind in kinds[: verbs[0]])

    # Corrections

    def _correction(self, clause: list[Chunk], opening: set[str]) -> tuple[bool, list[Chunk]]:
        """(whether the clause corrects the one before, the clause without the words that say so)."""
        place, corrects = 0, False
        while place < len(clause) and clause[place].kind in ("word", "joint", "not", "mark"):
            word = clause[place].text
            if word in _CORRECTING and (
                word != "rather" or "or" in opening or (place and clause[place - 1].text == "or")
            ):
                corrects = True
            elif (
                not (corrects and word in ("that", "on", "make", "i", "mean", "it", "or", "let", "me")) and word != "or"
            ):
                break
            place += 1
        return corrects, clause[place:] if corrects else clause

    def _patched(self, claim: Claim, clause: list[Chunk]) -> Claim | None:
        """The claim with what the clause puts in place of it: ``three stars, no, four``; ``B2, sorry, C2``."""
        new = self._claim((claim.kind, claim.subject, claim.value, claim.polarity), clause)
        chunk = clause[0]
        if len(clause) > 2 or any(one.kind in ("be", "have", "there", "refer") for one in clause):
            return None
        if chunk.kind == "place":
            return new._replace(subject=chunk.text) if claim.kind == "place" else None
        phrase = chunk.phrase
        if phrase is None:
            return None
        if phrase.refers or claim.kind == "count":
            return (
                new._replace(value=f"{phrase.bound}{phrase.number}")
                if phrase.number is not None and claim.kind in ("count", "text", "attribute")
                else None
            )
        if claim.kind == "place":
            words = claim.value.split()
            if phrase.colour and not phrase.shape and len(words) == 2 and words[0] in COLOURS:
                return new._replace(value=f"{phrase.colour} {words[1]}")
            return new._replace(value=phrase.content)
        if claim.kind == "attribute":
            return new._replace(value=phrase.colour or phrase.shape)
        return new._replace(subject=phrase.description) if claim.kind == "object" else None


# Clauses


def clauses(chunks: list[Chunk]) -> list[tuple[set[str], list[Chunk]]]:
    """The clauses of a sentence, each with the marks and conjunctions in front of it. Lists stay in one clause."""
    found: list[tuple[set[str], list[Chunk]]] = []
    opening: set[str] = set()
    clause: list[Chunk] = []
    i = 0
    while i < len(chunks):
        chunk = chunks[i]
        if chunk.kind not in ("mark", "joint"):
            clause.append(chunk)
            i += 1
            continue
        j = i
        while j < len(chunks) and chunks[j].kind in ("mark", "joint"):
            j += 1
        between = [one.text for one in chunks[i:j]]
        if clause and j < len(chunks) and _continues(clause, between, chunks, j):
            i = j
            continue
        if clause:
            found.append((opening, clause))
            opening, clause = set(), []
        opening = opening | set(between)
        i = j
    if clause:
        found.append((opening, clause))
    return found


def _continues(clause: list[Chunk], between: list[str], chunks: list[Chunk], j: int) -> bool:
    """Whether what follows the marks belongs to the same clause: the next item of a list, or what a lead-in introduces."""
    last, following = clause[-1], chunks[j]
    meaning = [one for one in clause if one.kind not in ("word",)]
    if set(between) <= {":"} or set(between) <= {"-"} or set(between) <= {"–"} or set(between) <= {"=", ">"}:
        if meaning and all(one.kind == "place" for one in meaning):
            return not any(one.text in ("i", "look", "check", "we") for one in clause)
        return len(meaning) == 1 and last.kind == "things" and (following.text == "number" or following.kind == "place")
    if set(between) <= {","} and meaning and meaning[-1].kind == "have":
        return True  # "row 3 contains, in order, ..."
    if set(between) <= {","} and [one.kind for one in clause] == ["place"] and following.kind == "things":
        return j + 1 >= len(chunks) or chunks[j + 1].kind == "mark"  # "then B2, a green cross"
    if set(between) <= {",", "("} and meaning:
        if all(one.kind == "place" for one in meaning) and clause[0].kind == "word":
            return True  # "in row 2, there is ..."
        if [one.kind for one in meaning] in (["relation", "things"], ["relation", "place"]):
            return True
    if set(between) == {"with"}:
        return (
            clause[-1].kind == "word"
            and (len(clause) == 1 or any(one.kind == "place" for one in clause))
            and last.text in ("starts", "opens", "begins", "ends", "closes", "filled")
        )
    if not set(between) <= {",", *_JOINING}:
        return False
    if last.kind == "digits" and following.kind == "digits":
        return True
    if last.kind not in _ITEMS or last.kind != following.kind:
        return False
    if "number" in (last.text, following.text):
        return last.text == following.text
    behind = chunks[j + 1] if j + 1 < len(chunks) else None
    if following.text == "nothing" and behind is not None and behind.kind == "word":
        return False
    spoken = any(
        one.kind in ("be", "have", "there", "compare", "same", "relation")
        or (one.kind == "word" and (_is_verb(one.text) or one.text in ("see", "find", "count", "next", "then")))
        for one in clause
    )
    if (
        behind is not None
        and last.kind == "things"
        and behind.kind == "place"
        and not behind.text.startswith(("row", "column"))
    ):
        return not spoken and behind.end < chunks[-1].end and len(clause) > 1 and clause[0].kind == "things"
    if (
        behind is not None
        and spoken
        and (
            behind.kind in ("be", "have", "compare", "same", "relation", "there", "not")
            or (behind.kind == "word" and _is_verb(behind.text))
        )
    ):
        return False
    return not (last.kind == "things" and behind is not None and behind.kind == "of")


def _is_verb(word: str) -> bool:
    return len(word) > 2 and word.endswith("s") and word not in ("plus", "across", "this", "as")


def _with_subject(clause: list[Chunk]) -> list[Chunk]:
    """A clause that begins with its verb has the subject of the one before."""
    if clause[0].kind in ("be", "have") or (clause[0].kind == "word" and _is_verb(clause[0].text) and len(clause) > 1):
        return [Chunk("refer", clause[0].start, clause[0].start, "it"), *clause]
    return clause
