"""The letters by which the options of a question are named: A to Z, then AA, AB, as the columns of a spreadsheet."""


def option_label(index: int) -> str:
    """The label of the option at ``index`` (from 0), as the prompt writes it."""
    label = ""
    index += 1
    while index:
        index, digit = divmod(index - 1, 26)
        label = chr(ord("A") + digit) + label
    return label


def option_index(label: str) -> int:
    """The index (from 0) of the option with this label of Latin letters, in either case."""
    index = 0
    for letter in label.upper():
        index = 26 * index + ord(letter) - ord("A") + 1
    return index - 1
