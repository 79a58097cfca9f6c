"""How well claims about an image are found in prose, and how well they are judged by the scene's facts, by kind of claim.

    python benchmarks/claims.py [--json] [--part dev|frozen|all] [--show KIND]

The work: the sentences of ``benchmarks/sentences`` (its README says how they were written). The half ``dev`` was read while the grammar
was written; nobody looks at ``frozen`` while it is changed, and ``--show`` lists ``dev`` only.

``extraction``: precision and recall of the claims that ``reward.claims`` finds. A claim is found if its kind, subject, value and
polarity are those of the annotation, in one notation (``canonical``), and the two spans overlap. ``marked`` is the recall of kind and
span alone. ``false_alarms`` is the share of sentences without a claim in which one is found.

``verification``: the annotated claims themselves, judged by the facts: ``true_judged_false``, ``false_judged_true``, ``cannot_tell``
(of those whose truth the facts decide), and ``judged_anyway`` (of those whose truth they do not).

``end_to_end``: the same with the claims as they are found: of the annotated claims that are true or false, how many are found and
judged ``right`` or ``wrong``, and how many ``not_found``; ``spurious_false`` are found claims that nobody annotated and that are judged
false, each of which lowers a reward.

No model is asked: the figures are those of the grammar alone, without an extractor and a responder.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.reporting import report, surroundings
from configs.jsonl import read_jsonl
from reward.claim_facts import KINDS, Claim
from reward.claim_truth import claim_is_true
from reward.claims import final_claims, is_true, read_claims

SENTENCES = Path(__file__).parent / "sentences" / "sentences.jsonl"
SPLITS = {"dev": ("dev",), "frozen": ("frozen",), "all": ("dev", "frozen")}
MUST_HOLD = {
    "dev_precision": lambda share: share is None or share >= 0.9,
    "dev_recall": lambda share: share is None or share >= 0.9,
    "frozen_precision": lambda share: share is None or share >= 0.65,
    "frozen_recall": lambda share: share is None or share >= 0.55,
}
_TURNED = {"right of": "left of", "below": "above", "fewer than": "more than", "shorter than": "taller than"}
_MUTUAL = ("same", "next to", "as many as", "as tall as")

Row = Mapping[str, Any]


def annotated(row: Row) -> list[Claim]:
    """The claims of a row, in the order of the annotation."""
    return [
        Claim(one["type"], one["subject"], one["value"], one["polarity"], *one["span"], one["words"])
        for one in row["claims"]
    ]


def found(row: Row) -> list[Claim]:
    """The claims that the code finds in a row's sentence."""
    return final_claims(read_claims(row["text"], row["facts"]))


def canonical(claim: Claim) -> tuple[str, str, str, bool]:
    """A claim in one of the notations in which it can be said: ``A right of B`` is ``B left of A``, ``not occupied`` is ``none``."""
    kind, subject, value, polarity = claim[:4]
    if kind == "place":
        value = re.sub(r" (?:bar|shape)$", "", value)
        contents = value.split(", ")
        if len(contents) > 1 and len(set(contents)) == 1:
            value = f"all {contents[0]}"
        if value == "occupied":
            value, polarity = "none", not polarity
    if kind == "attribute" and subject in ("highest bar", "lowest bar"):
        value = value.removesuffix(" bar")
    if kind == "relation":
        for one, other in _TURNED.items():
            read = re.fullmatch(rf"(directly )?{one} (.+)", value)
            if read and not subject.startswith(("some ", "none")) and not read[2].startswith("some "):
                subject, value = read[2], f"{read[1] or ''}{other} {subject}"
                break
        mutual = re.fullmatch(rf"((?:{'|'.join(_MUTUAL)})(?: \w+)*? ?(?:as|to)?) ((?:some )?\S.*)", value)
        if mutual and value.startswith(_MUTUAL):
            first, second = sorted((subject, _other(value)))
            subject, value = first, value.removesuffix(_other(value)) + second
    return kind, subject, value, polarity


def _other(value: str) -> str:
    """What a mutual relation names behind it."""
    return re.sub(r"^(?:same(?: \w+)? as|next to|as \w+ as) ", "", value)


def matches(gold: Sequence[Claim], read: Sequence[Claim]) -> list[tuple[Claim, Claim]]:
    """Pairs of an annotated claim and the found one that says the same, each used once."""
    rest, pairs = list(read), []
    for claim in gold:
        same = next((one for one in rest if canonical(one) == canonical(claim) and _overlap(one, claim)), None)
        if same is not None:
            rest.remove(same)
            pairs.append((claim, same))
    return pairs


def _overlap(one: Claim, two: Claim) -> bool:
    return one.start < two.end and two.start < one.end


def share(part: int, whole: int) -> float | None:
    return round(part / whole, 3) if whole else None


def extraction(rows: Sequence[Row]) -> dict[str, Any]:
    """Precision and recall by kind, and over all kinds."""
    gold, read, right, marked = (Counter[str]() for _ in range(4))
    quiet = [row for row in rows if not row["claims"]]
    for row in rows:
        wanted, got = annotated(row), found(row)
        gold.update(one.kind for one in wanted)
        read.update(one.kind for one in got)
        right.update(one.kind for one, _ in matches(wanted, got))
        marked.update(one.kind for one in wanted if any(one.kind == two.kind and _overlap(one, two) for two in got))
    table = {
        kind: {
            "precision": share(right[kind], read[kind]),
            "recall": share(right[kind], gold[kind]),
            "marked": share(marked[kind], gold[kind]),
            "annotated": gold[kind],
            "found": read[kind],
        }
        for kind in KINDS
    }
    table["all"] = {
        "precision": share(right.total(), read.total()),
        "recall": share(right.total(), gold.total()),
        "marked": share(marked.total(), gold.total()),
        "annotated": gold.total(),
        "found": read.total(),
    }
    alarms = sum(bool(found(row)) for row in quiet)
    return {**table, "false_alarms": {"share": share(alarms, len(quiet)), "n": len(quiet)}}


def verification(rows: Sequence[Row]) -> dict[str, Any]:
    """What the facts say of the annotated claims, by kind, in numbers of claims."""
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in (*KINDS, "all")}
    for row in rows:
        for claim, marks in zip(annotated(row), row["claims"], strict=True):
            verdict, holds = claim_is_true(claim, row["facts"]), marks["holds"]
            error = (
                ("judged_anyway" if verdict is not None else "")
                if holds is None
                else "cannot_tell"
                if verdict is None
                else ""
                if verdict is holds
                else "true_judged_false"
                if holds
                else "false_judged_true"
            )
            for kind in (claim.kind, "all"):
                counts[kind].update([f"n_{holds}".lower(), *([error] if error else [])])
    names = ("n_true", "n_false", "n_none", "true_judged_false", "false_judged_true", "cannot_tell", "judged_anyway")
    return {kind: {name: counted[name] for name in names} for kind, counted in counts.items()}


def end_to_end(rows: Sequence[Row]) -> dict[str, Any]:
    """The verdicts that a reward sees, by kind, in numbers of claims."""
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    for row in rows:
        wanted, got = annotated(row), found(row)
        pairs = matches(wanted, got)
        for claim, marks in zip(wanted, row["claims"], strict=True):
            read = next((two for one, two in pairs if one is claim), None)
            if marks["holds"] is not None:
                verdict = None if read is None else is_true(read, row["facts"])
                outcome = "not_found" if read is None else "right" if verdict is marks["holds"] else "wrong"
                counts[claim.kind].update([outcome if verdict is not None or read is None else "cannot_tell"])
        used = [id(two) for _, two in pairs]
        for claim in got:
            if id(claim) not in used:
                counts[claim.kind].update(["spurious", f"spurious_{is_true(claim, row['facts'])}".lower()])
    names = ("right", "wrong", "cannot_tell", "not_found", "spurious", "spurious_false")
    table = {kind: {name: counted[name] for name in names} for kind, counted in counts.items()}
    total = sum(counts.values(), Counter())
    return {**table, "all": {name: total[name] for name in names}}


def show(rows: Sequence[Row], kind: str) -> None:
    """List what is missed and what is found beside the annotation, of the half that may be read."""
    for row in rows:
        if row["split"] != "dev":
            continue
        wanted, got = annotated(row), found(row)
        pairs = matches(wanted, got)
        missed = [one for one in wanted if not any(one is claim for claim, _ in pairs)]
        spurious = [two for two in got if not any(two is claim for _, claim in pairs)]
        if any(kind in (one.kind, "all") for one in (*missed, *spurious)):
            print(f"{row['id']} {row['text']}")
            for label, claims in (("missed", missed), ("spurious", spurious)):
                for one in claims:
                    print(f"    {label}: {one.kind} | {one.subject} | {one.value}{'' if one.polarity else ' | denied'}")


def print_table(part: str, figures: Mapping[str, Any]) -> None:
    """One table a half, in Markdown."""
    print(f"\n{part}: {figures['sentences']} sentences")
    print("| kind | annotated | found | precision | recall | true judged false | false judged true | cannot tell |")
    print("|---|---|---|---|---|---|---|---|")
    for kind in (*KINDS, "all"):
        read, judged = figures["extraction"][kind], figures["verification"][kind]
        cells = [read["annotated"], read["found"], read["precision"], read["recall"]]
        errors = [
            f"{judged['true_judged_false']} of {judged['n_true']}",
            f"{judged['false_judged_true']} of {judged['n_false']}",
            judged["cannot_tell"],
        ]
        print(f"| {' | '.join(map(str, [kind, *cells, *errors]))} |")
    print(f"end to end: {figures['end_to_end']['all']}; false alarms: {figures['extraction']['false_alarms']}")


def read_rows(part: str) -> list[Row]:
    return [row for row in read_jsonl(SENTENCES) if row["split"] in SPLITS[part]]


def measure(rows: Sequence[Row]) -> dict[str, Any]:
    """All figures over some rows."""
    return {
        "sentences": len(rows),
        "extraction": extraction(rows),
        "verification": verification(rows),
        "end_to_end": end_to_end(rows),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    parser.add_argument("--part", choices=SPLITS, default="all", help="sentences to read (default: all)")
    parser.add_argument(
        "--show", choices=(*KINDS, "all"), help="list the errors of a kind in the half that may be read"
    )
    given = parser.parse_args(arguments)
    rows = read_rows(given.part)
    if given.show:
        show(rows, given.show)
    parts = {part: measure([row for row in rows if row["split"] == part]) for part in SPLITS[given.part]}
    if not given.json:
        for part, figures in parts.items():
            print_table(part, figures)
    dev = parts.get("dev", {}).get("extraction", {}).get("all", {})
    frozen = parts.get("frozen", {}).get("extraction", {}).get("all", {})
    return report(
        {
            "dev_precision": dev.get("precision"),
            "dev_recall": dev.get("recall"),
            "frozen_precision": frozen.get("precision"),
            "frozen_recall": frozen.get("recall"),
            "parts": parts,
            **surroundings(None),
        },
        MUST_HOLD,
        True,
    )


if __name__ == "__main__":
    sys.exit(main())
