"""Dates and times of day in the notations of several languages, as values that are equal for the same date or time."""

import re

Date = tuple[int | None, int, int | None]
"""Year, month and day; None for what is not named."""

_MONTHS = {
    name: number
    for number, names in enumerate(
        """january jan januar janvier enero janeiro gennaio
        february feb februar février fevrier febrero fevereiro febbraio
        march mar märz maerz mars marzo março
        april apr avril abril aprile
        may mai mayo maio maggio
        june jun juni juin junio junho giugno
        july jul juli juillet julio julho luglio
        august aug août aout agosto
        september sep sept septembre septiembre setembro settembre
        october oct oktober okt octobre octubre outubro ottobre
        november nov novembre noviembre novembro
        december dec dezember dez décembre decembre diciembre dezembro dicembre""".splitlines(),
        1,
    )
    for name in names.split()
}
_MONTH = "(?P<month>" + "|".join(sorted(_MONTHS, key=len, reverse=True)) + r")\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th|er|º)?\.?"
_YEAR = r"(?P<year>[12]\d{3})"
_NAMED = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_MONTH}\s*(?:the\s+)?{_DAY}(?:\s*,\s*|\s+){_YEAR}",
        rf"{_MONTH}\s*(?:the\s+)?{_DAY}",
        rf"(?:the\s+)?{_DAY}\s*(?:of\s+|de\s+|-)?{_MONTH}(?:\s*,\s*|\s+(?:de\s+|del\s+)?|-){_YEAR}",
        rf"(?:the\s+)?{_DAY}\s*(?:of\s+|de\s+)?{_MONTH}",
        rf"{_MONTH}\s*(?:,|of|de)?\s*{_YEAR}",
        rf"{_YEAR}\s*,?\s*{_MONTH}\s*{_DAY}",
        rf"(?:{_YEAR}\s*[年년]\s*)?(?P<month>\d{{1,2}})\s*[月월]\s*(?P<day>\d{{1,2}})\s*[日号號일]",
        rf"{_YEAR}\s*[年년]\s*(?P<month>\d{{1,2}})\s*[月월]",
        rf"{_YEAR}[-/.](?P<month>\d{{1,2}})[-/.](?P<day>\d{{1,2}})",
        rf"{_YEAR}[-/](?P<month>0[1-9]|1[0-2])",
        rf"(?P<month>0[1-9]|1[0-2])/{_YEAR}",
        rf"(?P<day>\d{{1,2}})\.\s?(?P<month>\d{{1,2}})\.\s?{_YEAR}",
    )
]
_BEFORE_DATE = re.compile(r"^(?:on|am|den|le|il|el)\s+", re.IGNORECASE)
_SLASHES = re.compile(rf"(\d{{1,2}})[/-](\d{{1,2}})[/-]{_YEAR}")

_CHINESE = {digit: value for value, digit in enumerate("〇一二三四五六七八九")} | {"零": 0}
_CHINESE_RUN = re.compile("[〇零一二三四五六七八九十]+(?=[年月日号號点點时時分])")

_BEFORE_NOON = r"in the morning|morgens|du matin|de la mañana|утра|a\.?\s?m\.?|上午|早上|凌晨|午前|오전"
_AFTER_NOON = (
    r"in the (?:afternoon|evening)|nachmittags|abends|du soir|de la tarde|вечера|p\.?\s?m\.?|下午|晚上|午後|오후"
)
_HALF = rf"(?P<am>{_BEFORE_NOON})|(?P<pm>{_AFTER_NOON})"
_TIME = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?P<hour>\d{1,2})(?:\s?[:.h]\s?|\s?[点點时時시]\s?)(?P<minute>\d{2})(?::(?P<second>\d{2}))?\s*[分분]?"
        rf"(?:\s*(?:{_HALF})|\s?(?:uhr|h|o['’]?clock|hours))?",
        rf"(?:{_HALF})\s*(?P<hour>\d{{1,2}})\s?[:点點时時시]\s?(?P<minute>\d{{1,2}})?\s?[分분]?",
        rf"(?P<hour>\d{{1,2}})\s*(?:{_HALF}|o['’]?clock|uhr)",
    )
]


def read_date(text: str, day_first: bool = False) -> Date | None:
    """Read ``March 5, 2019``, ``5 mars 2019``, ``2019-03-05``, ``3月5日``; the text has to hold nothing else.

    Args:
        day_first: ``3/5/2019`` is the third of May, not the fifth of March.
    """
    text = _BEFORE_DATE.sub("", _CHINESE_RUN.sub(_in_figures, text.strip().rstrip("。")))
    for pattern in _NAMED:
        if match := pattern.fullmatch(text):
            found = match.groupdict()
            month = _MONTHS.get(found["month"].casefold()) or int(found["month"])
            return _checked(found.get("year"), month, found.get("day"))
    if match := _SLASHES.fullmatch(text):
        first, second = int(match[1]), int(match[2])
        if first > 12 or (day_first and second <= 12):
            first, second = second, first
        return _checked(match["year"], first, str(second))
    return None


def names_day_first(text: str) -> bool:
    """Whether a date is written with its day in front of its month (``5 March 2019``)."""
    return re.match(r"\s*(?:the\s+)?\d{1,2}(?:st|nd|rd|th)?\.?[\s.-]", text) is not None


def _checked(year: str | None, month: int, day: str | None) -> Date | None:
    if not 1 <= month <= 12 or (day is not None and not 1 <= int(day) <= 31):
        return None
    return int(year) if year else None, month, int(day) if day else None


def _in_figures(match: re.Match[str]) -> str:
    tens, ten, ones = match[0].rpartition("十")
    if ten:
        return str((_CHINESE.get(tens, 1) if tens else 1) * 10 + (_CHINESE.get(ones, 0) if ones else 0))
    return "".join(str(_CHINESE[digit]) for digit in ones)


def read_time(text: str) -> int | None:
    """Seconds since midnight of ``3:45 p.m.``, ``15:45``, ``15h45``, ``下午3点45分``, ``noon``; nothing else may stand there.

    A time without a.m. or p.m. is read by the 24-hour clock.
    """
    text = _CHINESE_RUN.sub(_in_figures, text.strip().rstrip("。"))
    if text.casefold() in ("noon", "midday", "midnight"):
        return 0 if text.casefold() == "midnight" else 43200
    text = _told_in_figures(text)
    for pattern in _TIME:
        if match := pattern.fullmatch(text):
            found = match.groupdict()
            hour, minute, second = (int(found.get(part) or 0) for part in ("hour", "minute", "second"))
            if found.get("am") or found.get("pm"):
                if not 1 <= hour <= 12:
                    return None
                hour = hour % 12 + (12 if found.get("pm") else 0)
            return hour * 3600 + minute * 60 + second if hour < 24 and minute < 60 and second < 60 else None
    return None


_HOUR_NAMES = "one two three four five six seven eight nine ten eleven twelve"
_HOURS = {name: hour for hour, name in enumerate(_HOUR_NAMES.split(), 1)}
_MINUTES = {
    "quarter": 15,
    "half": 30,
    "five": 5,
    "ten": 10,
    "fifteen": 15,
    "twenty": 20,
    "twenty-five": 25,
    "thirty": 30,
}
_MINUTES |= {"thirty-five": 35, "forty": 40, "forty-five": 45, "fifty": 50, "fifty-five": 55, "o'clock": 0}
_HOUR, _MINUTE = "|".join(_HOURS), "|".join(sorted(_MINUTES, key=len, reverse=True))
_TOLD = re.compile(
    rf"(?:an? )?(?P<before>{_MINUTE})(?: minutes?)? (?P<way>past|after|to|before) (?P<hour>{_HOUR}|\d{{1,2}})\b"
    rf"|(?P<full>{_HOUR}) (?P<after>{_MINUTE})\b",
    re.IGNORECASE,
)


def _told_in_figures(text: str) -> str:
    """``quarter past ten in the morning`` as ``10:15 in the morning``."""
    match = _TOLD.match(text.replace("’", "'"))
    if match is None:
        return text
    hour = (match["hour"] or match["full"]).casefold()
    minutes = _MINUTES[(match["before"] or match["after"]).casefold()]
    at = (_HOURS.get(hour) or int(hour)) * 60 + (-minutes if match["way"] in ("to", "before") else minutes)
    at = at if at >= 60 else at + 720
    return f"{at // 60}:{at % 60:02d}{text[match.end() :]}"
