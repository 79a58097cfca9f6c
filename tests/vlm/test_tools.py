"""The zoom tool: boxes, bad arguments, and the calls in untrusted text."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from configs.errors import ConfigError
from vlm.chat import plain_text
from vlm.tools import (
    MAX_CALL,
    MAX_CALLS,
    MAX_LABEL,
    BadCall,
    ToolCall,
    ZoomResult,
    ZoomSession,
    ZoomSettings,
    pixel_box,
    read_tool_calls,
    tool_schemas,
    without_calls,
    write_tool_call,
)

NAME = "image_zoom_in_tool"
PROCESSOR = SimpleNamespace(patch_size=14, merge_size=2, size={"shortest_edge": 56 * 56, "longest_edge": 280 * 280})


def gradient(width: int, height: int) -> Image.Image:
    """An image in which every pixel of a row, and of a column, differs from its neighbours."""
    image = Image.new("RGB", (width, height))
    image.putdata([(x % 256, y % 256, x // 256 * 16 + y // 256) for y in range(height) for x in range(width)])
    return image


def hermes(arguments: Any, name: Any = NAME) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def call(*box: float, **others: Any) -> dict[str, Any]:
    return {"bbox_2d": list(box), **others}


class TestSchema:
    def test_it_is_that_of_the_typed_function(self) -> None:
        (schema,) = tool_schemas()
        function = schema["function"]
        assert function["name"] == NAME
        assert set(function) == {"name", "description", "parameters"}
        assert function["parameters"]["required"] == ["bbox_2d"]
        kinds = {key: one["type"] for key, one in function["parameters"]["properties"].items()}
        assert kinds == {"bbox_2d": "array", "img_idx": "integer", "label": "string"}
        assert all("\n" not in one["description"] for one in function["parameters"]["properties"].values())


class TestBox:
    @pytest.mark.parametrize(
        ("box", "size", "expected"),
        [
            ((0, 0, 1000, 1000), (400, 200), (0, 0, 400, 200)),
            ((250, 500, 750, 1000), (400, 200), (100, 100, 300, 200)),
            ((0.1, 0.1, 999.9, 999.9), (400, 200), (0, 0, 400, 200)),  # the whole pixels that hold it
            ((500, 500, 500.5, 500.5), (400, 200), (186, 86, 214, 114)),  # it grows around its centre
            ((0, 0, 1, 1000), (400, 200), (0, 0, 28, 200)),  # and is moved where it would leave the image
            ((999, 0, 1000, 1000), (400, 200), (372, 0, 400, 200)),
            ((0, 0, 1000, 10), (400, 20), (0, 0, 400, 20)),  # the image is smaller than the least box
        ],
    )
    def test_coordinates_are_thousandths_of_the_original(self, box: Any, size: Any, expected: Any) -> None:
        assert pixel_box(box, size, 28) == expected

    def test_crop_is_cut_from_the_original_pixel_by_pixel(self) -> None:
        original = gradient(400, 300)
        result = ZoomSession([original]).call(call(250, 100, 500, 400, label="mark"))
        assert result.box == (100, 30, 200, 120)
        assert result.crop is not None and result.crop.tobytes() == original.crop(result.box).tobytes()
        assert (result.error, result.img_idx, result.label) == (None, 0, "mark")
        assert result.content() == [{"type": "image", "image": result.crop}]

    def test_second_image(self) -> None:
        session = ZoomSession([Image.new("RGB", (100, 100), "red"), Image.new("RGB", (200, 100), "blue")])
        result = session.call(call(0, 0, 500, 500, img_idx=1))
        assert result.box == (0, 0, 100, 50)
        assert result.crop is not None and result.crop.getpixel((0, 0)) == (0, 0, 255)

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr"])
    def test_originals_of_any_mode(self, mode: str) -> None:
        result = ZoomSession([Image.new(mode, (100, 80))]).call(call(0, 0, 500, 500))
        assert result.crop is not None and (result.crop.mode, result.crop.size) == ("RGB", (50, 40))

    def test_original_in_a_file_is_turned_upright_first(self, tmp_path: Path) -> None:
        image, exif = Image.new("RGB", (100, 200), "red"), Image.Exif()
        exif[0x0112] = 6  # to be turned by a quarter
        image.paste("blue", (0, 0, 100, 50))
        image.save(tmp_path / "photo.png", exif=exif)
        result = ZoomSession([tmp_path / "photo.png"]).call(call(750, 0, 1000, 1000))
        assert result.box == (150, 0, 200, 100)
        assert result.crop is not None and result.crop.getcolors() == [(5000, (0, 0, 255))]


class TestSize:
    def test_small_crop_stays_as_it_is_without_a_processor(self) -> None:
        result = ZoomSession([gradient(400, 400)]).call(call(0, 0, 100, 100))
        assert result.crop is not None and result.crop.size == (40, 40)

    def test_pixel_budget_of_the_settings(self) -> None:
        result = ZoomSession([gradient(400, 400)], ZoomSettings(max_pixels=10_000)).call(call(0, 0, 1000, 1000))
        assert result.crop is not None and result.crop.size == (100, 100)

    @pytest.mark.parametrize(
        ("box", "most", "size"),
        [
            ((0, 0, 1000, 1000), None, (280, 280)),  # the processor's own largest image
            ((0, 0, 75, 75), None, (56, 56)),  # and its smallest
            ((0, 0, 1000, 1000), 100 * 100, (84, 84)),
        ],
    )
    def test_processor_sizes_a_crop_as_any_image(self, box: Any, most: int | None, size: Any) -> None:
        session = ZoomSession([gradient(400, 400)], ZoomSettings(max_pixels=most), processor=PROCESSOR)
        result = session.call(call(*box))
        assert result.crop is not None and result.crop.size == size

    def test_budget_below_the_processors_smallest_image_is_refused_at_once(self) -> None:
        with pytest.raises(ConfigError, match="max_pixels"):
            ZoomSession([gradient(40, 40)], ZoomSettings(max_pixels=100), processor=PROCESSOR)

    def test_long_thin_box_is_an_error_for_the_model(self) -> None:
        session = ZoomSession([Image.new("RGB", (3000, 20))], ZoomSettings(min_box=1), processor=PROCESSOR)
        result = session.call(call(0, 0, 1000, 50))
        assert result.crop is None and "too long and thin" in str(result.error)
        assert session.errors == 1


BAD_ARGUMENTS = [
    (None, "object"),
    ([1, 2, 3, 4], "object"),
    ("bbox_2d", "object"),
    ({}, "object"),
    ({"bbox_2d": None}, "four numbers"),
    ({"bbox_2d": "[0, 0, 1, 1]"}, "four numbers"),
    ({"bbox_2d": [0, 0, 1]}, "four numbers"),
    ({"bbox_2d": [[0, 0, 1, 1]]}, "four numbers"),
    ({"bbox_2d": list(range(100_000))}, "four numbers"),
    ({"bbox_2d": [0, 0, "500", 500]}, "four numbers"),
    ({"bbox_2d": [0, 0, True, True]}, "four numbers"),
    ({"bbox_2d": [0, 0, None, 500]}, "four numbers"),
    ({"bbox_2d": [0, 0, math.nan, 500]}, "outside"),
    ({"bbox_2d": [0, 0, math.inf, 500]}, "outside"),
    ({"bbox_2d": [0, 0, 10**400, 500]}, "outside"),
    ({"bbox_2d": [-1, 0, 500, 500]}, "outside"),
    ({"bbox_2d": [0, 0, 500, 1000.5]}, "outside"),
    ({"bbox_2d": [1200, 1200, 1400, 1400]}, "outside"),
    ({"bbox_2d": [500, 0, 500, 500]}, "empty"),
    ({"bbox_2d": [600, 0, 500, 500]}, "empty"),
    ({"bbox_2d": [0, 500, 500, 400]}, "empty"),
    (call(0, 0, 500, 500, img_idx=1), "from 0 to 0"),
    (call(0, 0, 500, 500, img_idx=-1), "from 0 to 0"),
    (call(0, 0, 500, 500, img_idx=False), "from 0 to 0"),
    (call(0, 0, 500, 500, img_idx="0"), "from 0 to 0"),
    (call(0, 0, 500, 500, img_idx=None), "from 0 to 0"),
    (call(0, 0, 500, 500, label=7), "label"),
    (call(0, 0, 500, 500, zoom=2), "no others"),
]


class TestBadArguments:
    @pytest.mark.parametrize(("arguments", "says"), BAD_ARGUMENTS)
    def test_short_error_for_the_model(self, arguments: Any, says: str) -> None:
        session = ZoomSession([gradient(40, 40)])
        result = session.call(arguments)
        assert result.crop is None and result.error is not None
        assert says in result.error and len(result.error) < 120
        assert result.content() == [{"type": "text", "text": f"Error: {result.error}"}]
        assert (session.calls, session.errors) == (1, 1)

    def test_question_without_images(self) -> None:
        assert ZoomSession([]).call(call(0, 0, 500, 500)).crop is None

    def test_long_label_is_cut(self) -> None:
        assert len(ZoomSession([gradient(40, 40)]).call(call(0, 0, 500, 500, label="a" * 10_000)).label) == MAX_LABEL

    def test_other_tool_and_unreadable_call(self) -> None:
        session = ZoomSession([gradient(40, 40)])
        assert NAME in str(session.answer(ToolCall("rm", {})).error)
        assert session.answer(BadCall("no JSON.")).error == "no JSON."
        assert (session.calls, session.errors) == (2, 2)

    def test_ten_thousand_calls(self) -> None:
        session = ZoomSession([gradient(40, 40)], ZoomSettings(max_looks=3))
        results = [session.call(call(0, 0, 500, 500)) for _ in range(10_000)]
        assert [one.crop is not None for one in results] == [True] * 3 + [False] * 9_997
        assert "at most 3" in str(results[3].error)
        assert (session.calls, session.errors) == (10_000, 9_997)

    def test_bad_calls_use_up_looks(self) -> None:
        session = ZoomSession([gradient(40, 40)], ZoomSettings(max_looks=1))
        session.call(None)
        assert "no call is left" in str(session.call(call(0, 0, 500, 500)).error)

    @pytest.mark.parametrize("key", ["max_looks", "max_pixels", "min_box"])
    def test_settings_are_checked(self, key: str) -> None:
        with pytest.raises(ValueError, match=key):
            ZoomSettings(**{key: 0})


class TestChange:
    def test_it_sees_every_result_and_decides_what_the_model_sees(self) -> None:
        seen = []

        def withhold(result: ZoomResult, session: ZoomSession) -> ZoomResult:
            seen.append((result, session))
            return ZoomResult(result.call, box=result.box, img_idx=result.img_idx, error="the image is not available.")

        session = ZoomSession([gradient(40, 40)], change=withhold)
        result = session.call(call(0, 0, 500, 500))
        session.call(None)
        assert result.crop is None and result.error == "the image is not available."
        assert [(one.crop is not None, told is session) for one, told in seen] == [(True, True), (False, True)]
        assert session.errors == 1, "an error that the audit makes is none of the model's"

    def test_another_box_of_the_same_image(self) -> None:
        def misplace(result: ZoomResult, session: ZoomSession) -> ZoomResult:
            return ZoomResult(result.call, session.cut(0, (0, 0, 20, 20)), result.box, 0)

        original = gradient(40, 40)
        result = ZoomSession([original], change=misplace).call(call(500, 500, 1000, 1000))
        assert result.crop is not None and result.crop.tobytes() == original.crop((0, 0, 20, 20)).tobytes()


class TestReadCalls:
    def test_call_and_its_characters(self) -> None:
        text = f"I look closer.\n{hermes(call(1, 2, 3, 4))}"
        (found,) = read_tool_calls(text)
        assert isinstance(found, ToolCall)
        assert (found.name, found.arguments) == (NAME, {"bbox_2d": [1, 2, 3, 4]})
        assert text[found.start : found.end] == hermes(call(1, 2, 3, 4))
        assert without_calls(text, [found]) == "I look closer."

    def test_several_calls_in_their_order(self) -> None:
        text = hermes(call(1, 2, 3, 4)) + "and" + hermes(None, "other") + hermes(call(5, 6, 7, 8))
        found = read_tool_calls(text)
        assert [one.name for one in found if isinstance(one, ToolCall)] == [NAME, "other", NAME]
        assert without_calls(text, found) == "and"

    def test_arguments_as_a_text(self) -> None:
        (found,) = read_tool_calls(hermes(json.dumps(call(1, 2, 3, 4))))
        assert isinstance(found, ToolCall) and found.arguments == call(1, 2, 3, 4)

    @pytest.mark.parametrize("label", ["</tool_call>", "<think>", 'a "mark"', "图\n片"])
    def test_written_call_is_read_again_whatever_its_label(self, label: str) -> None:
        text = write_tool_call(NAME, call(1, 2, 3, 4, label=label)) + write_tool_call(
            NAME, json.dumps(call(0, 0, 1, 1))
        )
        found = read_tool_calls(text)
        assert [one.arguments for one in found if isinstance(one, ToolCall)] == [
            call(1, 2, 3, 4, label=label),
            call(0, 0, 1, 1),
        ]

    def test_no_call(self) -> None:
        assert read_tool_calls("The mark is red. \\boxed{red}") == []
        assert read_tool_calls("") == []

    @pytest.mark.parametrize(
        ("text", "count"),
        [
            (f"<think>I could write {hermes(call(0, 0, 1, 1))}</think>Red.", 0),
            (f"I could write {hermes(call(0, 0, 1, 1))}</think>Red.", 0),  # the chat template opened the span
            (f"<think>I could write {hermes(call(0, 0, 1, 1))}", 0),
            (f"<think>Where?</think>{hermes(call(0, 0, 1, 1))}", 1),
            (f"Where?</think>{hermes(call(0, 0, 1, 1))}<think>Hm.", 1),
            (f"<think>a</think>{hermes(None)}<think>{hermes(None)}</think>{hermes(None)}", 2),
        ],
    )
    def test_thinking_holds_no_call(self, text: str, count: int) -> None:
        found = read_tool_calls(text)
        assert len(found) == count
        assert all(text[one.start :].startswith("<tool_call>") for one in found)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("<tool_call>", "no end"),
            ("<tool_call>{}", "no end"),
            (hermes(call(0, 0, 1, 1)).removesuffix(">"), "no end"),
            ("<tool_call></tool_call>", "JSON"),
            ("<tool_call>zoom in, please</tool_call>", "JSON"),
            ("<tool_call>[1]</tool_call>", "JSON"),
            ("<tool_call>{'name': 'a'}</tool_call>", "JSON"),
            ("<tool_call>__import__('os').abort()</tool_call>", "JSON"),
            (hermes({}, name=7), "JSON"),
            ("<tool_call>" + hermes({}), "JSON"),
            ("<tool_call>" + "[" * 5_000 + "</tool_call>", "JSON"),
            ("<tool_call>" + "[" * 4_000 + "]" * 4_000 + "</tool_call>", "JSON"),
            (hermes([[[[0]]]]), "JSON"),
            ("<tool_call>" + "9" * 5_000 + "</tool_call>", "JSON"),
            (hermes(call(0, 0, math.nan, 1)), "JSON"),
            (hermes(call(0, 0, math.inf, 1)), "JSON"),
            (hermes(call(0, 0, 1, 1)).replace("0, 0", "0, 1e999"), "JSON"),
            (hermes(call(*range(5_000))), "longer"),
            ("<tool_call>" + "x" * 10**6, "longer"),
        ],
    )
    def test_hostile_text_is_a_bad_call(self, text: str, says: str) -> None:
        (found,) = read_tool_calls(text)
        assert isinstance(found, BadCall) and says in found.error and len(found.error) < 120
        assert (found.start, found.end) == (0, len(text))

    def test_bad_call_does_not_spoil_the_next(self) -> None:
        found = read_tool_calls("<tool_call>?</tool_call>" + hermes(call(1, 2, 3, 4)))
        assert [type(one) for one in found] == [BadCall, ToolCall]

    def test_many_calls_are_bounded(self) -> None:
        text = hermes(call(0, 0, 1, 1)) * 10_000
        found = read_tool_calls(text)
        assert len(found) == MAX_CALLS + 1
        assert isinstance(found[-1], BadCall) and "too many" in found[-1].error and found[-1].end == len(text)

    def test_many_thinking_spans_are_read_in_one_go(self) -> None:
        assert len(read_tool_calls("<think>a</think>" * 20_000 + hermes(None))) == 1

    def test_form_of_the_models_own_template(self, tiny_tokenizer: Any) -> None:
        tiny_tokenizer.response_template = XML_FORM
        text = (
            "Closer.\n<tool_call>\n<function=image_zoom_in_tool>\n<parameter=bbox_2d>\n[1, 2, 3, 4]\n</parameter>\n"
            "</function>\n</tool_call>"
        )
        (found,) = read_tool_calls(text, tiny_tokenizer)
        assert isinstance(found, ToolCall)
        assert (found.name, found.arguments) == (NAME, {"bbox_2d": [1, 2, 3, 4]})
        assert text[found.start :].startswith("<tool_call>")
        assert isinstance(read_tool_calls(text)[0], BadCall), "without the tokenizer it is no JSON"
        assert isinstance(read_tool_calls("<tool_call>\n<call></tool_call>", tiny_tokenizer)[0], BadCall)

    def test_form_without_tags(self) -> None:
        def parse(text: str, **_: Any) -> dict[str, Any]:
            return {"tool_calls": [{"function": {"name": NAME, "arguments": json.dumps(call(1, 2, 3, 4))}}]}

        found = read_tool_calls("[call]", SimpleNamespace(response_template={}, parse_response=parse))
        assert found == [ToolCall(NAME, call(1, 2, 3, 4), 0, 6)]

    @pytest.mark.parametrize(
        "arguments", [call(0, 0, math.nan, 1), {"a": [[[[[]]]]]}, {"a": "x" * MAX_CALL}, "?", None]
    )
    def test_arguments_from_a_template_are_bounded_too(self, arguments: Any) -> None:
        def parse(text: str, **_: Any) -> dict[str, Any]:
            return {"tool_calls": [{"function": {"name": NAME, "arguments": arguments}}]}

        (found,) = read_tool_calls("[call]", SimpleNamespace(response_template={}, parse_response=parse))
        assert isinstance(found, ToolCall) and found.arguments is None

    def test_template_that_fails_finds_nothing(self) -> None:
        def parse(text: str, **_: Any) -> dict[str, Any]:
            raise RuntimeError("no such field")

        tokenizer = SimpleNamespace(response_template={}, parse_response=parse)
        assert read_tool_calls("Red.", tokenizer) == []
        assert read_tool_calls("x" * (MAX_CALL + 1), tokenizer) == []


XML_FORM = {
    "defaults": {"role": "assistant"},
    "start_anchor": "assistant\n",
    "fields": {
        "tool_calls": {
            "open_pattern": r"<tool_call>\s*<function=(?P<name>[^\n>]+)>",
            "close_pattern": r"</tool_call>\s*",
            "repeats": True,
            "content": "xml-inline",
            "content_args": {
                "tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\s*(?P<value>.*?)\s*</parameter>",
                "value_parser": {"name": "text"},
            },
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"content": "text"},
    },
}


@pytest.fixture
def tiny_tokenizer() -> Any:
    from transformers import AutoTokenizer

    from vlm.load import bundled_model

    return AutoTokenizer.from_pretrained(bundled_model("tiny"), local_files_only=True)


def test_call_in_the_text_of_a_user_is_no_token(tiny_tokenizer: Any) -> None:
    """Only what the model writes is read for calls; in a prompt, the tags of a user are ordinary text."""
    tiny_tokenizer.add_tokens(["<tool_call>", "</tool_call>"])
    tokens = tiny_tokenizer.convert_tokens_to_ids(["<tool_call>", "</tool_call>"])
    text = hermes(call(0, 0, 1, 1))
    assert set(tokens) <= set(tiny_tokenizer(text)["input_ids"])
    assert not set(tokens) & set(tiny_tokenizer(plain_text(text, tiny_tokenizer))["input_ids"])
