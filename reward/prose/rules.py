"""What a clause claims: rules over its chunks, tried in a fixed order, from the most special form to the plainest one."""

from collections.abc import Callable, Iterable

from reward.prose.chunks import Chunk
from reward.prose.clause import Reading
from reward.prose.phrases import is_abstract
from reward.prose.relation_rules import RelationRules
from reward.prose.words import NEUTRAL


class Rules(RelationRules):
    """Reads the claims of one clause after the other."""

    def read(self, clause: list[Chunk], opening: set[str]) -> list[Reading]:
        """The claims of a clause; what it speaks of is remembered whatever it claims.

        Args:
            opening: the marks and conjunctions in front of it.
        """
        clause = self.inherited(self.resolved(clause), opening)
        self.opening = opening
        self.begin(clause)
        subject = next((chunk for chunk in clause if chunk.kind in ("things", "place", "refer", "there")), None)
        rules = list(self._rules())
        if subject is not None and subject.phrase is not None and is_abstract(subject.phrase):
            measured = subject.phrase.noun in ("count", "total", "value", "amount")  # "the value of the red bar is 7"
            if not subject.phrase.known and not self.is_sum():
                rules = [self._number_of, self._height] if measured else []
        if any(phrase.noun in ("row", "column") and phrase.quantity == "all" for phrase in self.things):
            return []  # "each row has one star"
        found: list[Reading] = []
        for rule in rules:
            found = rule()
            if found:
                break
        self.remember(found)
        return [reading for reading in found if self._is_understood(reading)]

    def _is_understood(self, reading: Reading) -> bool:
        """Whether nothing of the clause is left over that could change the claim: a claim that was not made costs a reward more than one
        that is not read."""
        kind, subject, _, _ = reading
        unknown = [word for word in self.words if word.isalpha() and word not in NEUTRAL]
        if len(unknown) > (1 if kind in ("place", "relation") else 0):
            return False
        if kind in ("object", "count", "attribute"):
            related = any(chunk.kind in ("relation", "compare", "same") for chunk in self.clause)
            placed = bool(self.places) and " in " not in subject
            return not (related or placed)
        return True

    def _rules(self) -> Iterable[Callable[[], list[Reading]]]:
        yield from (
            self._quoted,
            self._likewise,
            self._only_one,
            self._namely,
            self._partitive,
            self._number_of,
            self._extreme,
            self._sum,
            self._digits,
            self._compare,
        )
        yield from (
            self._same,
            self._relation,
            self.frequency,
            self._height,
            self._in_order,
            self._in_positions,
            self._cells,
            self._place,
            self._plain,
            self._open,
        )
