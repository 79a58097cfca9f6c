"""Yes and no, true and false."""

from reward.parsing import words

_YES = {"yes", "true", "correct", "right"}
_NO = {"no", "false", "incorrect", "wrong"}


def read_yes_no(text: str) -> bool | None:
    """Yes or no, when the text begins with one of them and never says the other."""
    given = words(text).replace(".", " ").split()
    if given in (["y"], ["n"]):
        return given == ["y"]
    if (
        not given
        or (given[0] not in _YES and given[0] not in _NO)
        or given[1:2] == ["or"]
        or given[:2] == ["no", "idea"]
    ):
        return None
    strong_yes, strong_no = {"yes", "true"} & set(given), {"no", "false", "not"} & set(given)
    if strong_yes and strong_no:
        return None
    return given[0] in _YES
