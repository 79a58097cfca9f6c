"""The parts of the page that explain it: what will be seen, before there is an answer, and what each test does."""

from markupsafe import Markup

from vlm.reasoning import CUE

ABOUT_TESTS = {
    "again": Markup("A re-look: its reasoning is continued with <q>{}</q>").format(CUE),
    "swap": Markup("In the middle of its reasoning, the other image replaces the image."),
    "blank": Markup("In the middle of its reasoning, the image becomes a grey one."),
}


def tabs() -> str:
    """The two pages of a demo that was given a run. The viewer is a page of its own, with a policy that forbids more."""
    return (
        '<nav class="tabs" aria-label="Pages"><a href="./" aria-current="page">Ask</a>'
        '<a href="rows/">Traces, rollouts and curves of the run</a></nav>'
    )


def heading() -> str:
    """The first lines of the page."""
    return Markup(
        "<h1>Reflection-V</h1><p>Where does a vision-language model look while it reasons, and does its answer depend on it? "
        "Choose an example, or ask about an image of your own.</p>"
    )


def introduction() -> str:
    """What will stand where the first answer comes."""
    parts = [
        (
            "The response, sentence by sentence",
            '<span class="sentence" style="--heat:1">row 1: red purple green<small>31%</small></span> '
            '<span class="sentence" style="--heat:.45">So the answer is 1.<small>14%</small></span>',
            "The colour is the <b>attention mass</b>: the share of the model’s attention that is on the image while it writes "
            "the sentence.",
        ),
        (
            "A heat map for each sentence",
            '<span class="scale wide" aria-hidden="true"></span>',
            "Choose a sentence, and the map shows <b>where in the image</b> that attention is: from none to the most.",
        ),
        (
            "A curve over the whole response",
            '<span class="key mass">attention on the image</span> <span class="key even">uniform attention</span> '
            '<span class="key relook">first re-look</span>',
            "A <b>re-look</b> is a place where the response goes back to the image.",
        ),
        (
            "Three tests of the answer",
            "<b>Look again</b> · <b>Swap image</b> · <b>Blank image</b>",
            "Each continues the response from its own reasoning. Does the answer follow the image?",
        ),
    ]
    items = Markup("").join(
        Markup('<li><h3>{}</h3><div>{}</div><div class="about">{}</div></li>').format(
            title, Markup(shown), Markup(text)
        )
        for title, shown, text in parts
    )
    return Markup('<section class="introduction"><h2>What you will see</h2><ul>{}</ul></section>').format(items)


def about_tests(pair: tuple[str, str] | None) -> str:
    """The heading of the tests."""
    whose = Markup(" Of two responses, that of <b>{}</b> is tested.").format(pair[1]) if pair is not None else ""
    return Markup(
        '<h2>Test this answer</h2><p class="hint">The model continues its own response, and both stand side by side.{}</p>'
    ).format(whose)


def about_test(kind: str) -> str:
    """What one test does."""
    return Markup('<p class="hint">{}</p>').format(ABOUT_TESTS[kind])
