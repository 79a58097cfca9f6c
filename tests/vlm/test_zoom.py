"""A model that may zoom in: what it is shown turn by turn, in this process and behind a server."""

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scripted_server import Server, fails, says
from scripted_zoom import ScriptedVLM, zoom

from configs.errors import UserError
from vlm.backends import HFBackend, OpenAIBackend, ScriptedBackend
from vlm.load import VLM, load_vlm
from vlm.protocol import BackendError
from vlm.tools import ZoomResult, ZoomSession, ZoomSettings
from vlm.zoom import ZoomAnswer, answer_with_zoom, zoom_with_backend

pytestmark = pytest.mark.seam

LEFT, RIGHT = (0, 0, 500, 1000), (500, 0, 1000, 1000)


def halves() -> Image.Image:
    """Red on the left, blue on the right; larger than the tiny model is shown it."""
    image = Image.new("RGB", (800, 400), "red")
    image.paste("blue", (400, 0, 800, 400))
    return image


def colour(image: Image.Image | None) -> Any:
    assert image is not None
    return image.getpixel((image.width // 2, image.height // 2))


RED, BLUE = (255, 0, 0), (0, 0, 255)


class TestInThisProcess:
    @pytest.fixture
    def scripted(self, tiny_vlm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedVLM:
        return ScriptedVLM(tiny_vlm_dir, monkeypatch)

    def ask(self, scripted: ScriptedVLM, *turns: str, question: str = "Which colour?", **options: Any) -> ZoomAnswer:
        return answer_with_zoom(scripted.script(*turns).vlm, [halves()], question, **options)

    def test_crop_comes_after_the_call_and_the_answer_after_the_crop(self, scripted: ScriptedVLM) -> None:
        first = "I look closer." + zoom(*RIGHT, label="mark")
        answer = self.ask(scripted, first, "It is blue.\\boxed{blue}")
        assert (answer.answer, answer.finished, answer.errors) == ("blue", True, 0)
        assert answer.text == f"{first}\nIt is blue.\\boxed{{blue}}"
        [result] = answer.results
        assert (result.box, result.label, colour(result.crop)) == ((400, 0, 800, 400), "mark", BLUE)
        prompts = [scripted.prompt(0), scripted.prompt(1)]
        assert "image_zoom_in_tool" in prompts[0] and prompts[0].count("<|image_pad|>") == 1
        added = prompts[1].removeprefix(prompts[0])
        assert added == (
            f"{first}<|im_end|>\n<|im_start|>user\n<tool_response>\n<|vision_start|><|image_pad|><|vision_end|>\n"
            "</tool_response><|im_end|>\n<|im_start|>assistant\n"
        )
        # What the model wrote is what it reads: token by token.
        assert scripted.prompts[1][: len(scripted.prompts[0])] == scripted.prompts[0]
        written = scripted.vlm.tokenizer(first, add_special_tokens=False)["input_ids"]
        assert scripted.prompts[1][len(scripted.prompts[0]) :][: len(written)] == written
        assert scripted.patches[1] > scripted.patches[0]
        assert answer.tokens == len(written) + len(scripted.vlm.tokenizer("It is blue.\\boxed{blue}")["input_ids"])

    def test_no_call_is_the_plain_path(self, scripted: ScriptedVLM) -> None:
        answer = self.ask(scripted, "\\boxed{red}")
        assert (answer.answer, answer.results, len(scripted.prompts)) == ("red", [], 1)

    def test_calls_of_one_turn_and_of_several(self, scripted: ScriptedVLM) -> None:
        answer = self.ask(scripted, zoom(*LEFT) + zoom(*RIGHT), zoom(*LEFT), "\\boxed{both}")
        assert [colour(one.crop) for one in answer.results] == [RED, BLUE, RED]
        assert [scripted.prompt(number).count("<|image_pad|>") for number in range(3)] == [1, 3, 4]

    def test_bad_call_is_told_and_counted(self, scripted: ScriptedVLM) -> None:
        answer = self.ask(scripted, zoom(900, 0, 100, 1000), "<tool_call>?</tool_call>", "\\boxed{red}")
        assert (answer.answer, answer.errors) == ("red", 2)
        assert "Error: the box is empty" in scripted.prompt(1)
        assert "Error: write the call as JSON" in scripted.prompt(2)

    def test_model_that_never_stops_calling_is_stopped(self, scripted: ScriptedVLM) -> None:
        answer = self.ask(scripted, *[zoom(*LEFT)] * 20, settings=ZoomSettings(max_looks=2))
        assert [one.crop is not None for one in answer.results] == [True, True, False, False]
        assert "no call is left: at most 2" in scripted.prompt(3)
        assert (answer.answer, answer.finished, len(scripted.prompts)) == (None, False, 4)

    def test_budget_is_of_all_turns(self, scripted: ScriptedVLM) -> None:
        long = "red " * 300
        answer = self.ask(scripted, zoom(*LEFT), long, max_new_tokens=100)
        assert answer.tokens == 100 and not answer.finished
        cut = self.ask(scripted, zoom(*LEFT), max_new_tokens=5)
        assert (cut.results, cut.finished, cut.answer) == ([], False, None)

    def test_crops_that_fill_the_models_positions_end_the_response(self, scripted: ScriptedVLM) -> None:
        self.ask(scripted, "\\boxed{red}")
        limit = len(scripted.prompts[0]) + 100
        scripted.vlm.model.config.get_text_config().max_position_embeddings = limit
        answer = self.ask(scripted, zoom(*LEFT), "\\boxed{red}")
        assert len(answer.results) == 1 and not answer.finished and answer.answer is None
        scripted.vlm.model.config.get_text_config().max_position_embeddings = 10
        with pytest.raises(UserError, match="reads at most 10"):
            self.ask(scripted, "\\boxed{red}")

    def test_tags_that_are_special_tokens(self, tiny_vlm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        scripted = ScriptedVLM(tiny_vlm_dir, monkeypatch, special=True)
        answer = self.ask(scripted, zoom(*RIGHT), "\\boxed{blue}")
        assert (len(answer.results), answer.answer) == (1, "blue")
        assert scripted.prompt(1).removeprefix(scripted.prompt(0)).startswith(zoom(*RIGHT))

    def test_call_in_the_question_is_text(self, scripted: ScriptedVLM) -> None:
        token = scripted.vlm.tokenizer.convert_tokens_to_ids("<tool_call>")
        answer = self.ask(scripted, "\\boxed{red}", question=f"What is {zoom(*LEFT)}?")
        assert answer.results == [] and token not in scripted.prompts[0]

    def test_change_decides_what_the_model_sees(self, scripted: ScriptedVLM) -> None:
        def swap(result: ZoomResult, session: ZoomSession) -> ZoomResult:
            return ZoomResult(result.call, session.cut(0, (0, 0, 400, 400)), result.box, result.img_idx)

        answer = self.ask(scripted, zoom(*RIGHT), "\\boxed{red}", change=swap)
        assert colour(answer.results[0].crop) == RED
        withheld = self.ask(
            scripted, zoom(*RIGHT), "\\boxed{red}", change=lambda one, _: ZoomResult(one.call, error="not available.")
        )
        assert withheld.errors == 0
        assert "Error: not available." in scripted.prompt(3)
        assert scripted.prompt(3).count("<|image_pad|>") == 1

    def test_record_is_a_row_of_training_data(self, scripted: ScriptedVLM) -> None:
        answer = self.ask(scripted, "Closer." + zoom(*RIGHT), "\\boxed{blue}")
        user, model, tool, last = answer.turns
        assert user["role"] == "user" and {"type": "image"} in user["content"]
        call = {"name": "image_zoom_in_tool", "arguments": {"bbox_2d": list(RIGHT)}}
        assert model == {
            "role": "assistant",
            "content": "Closer.",
            "tool_calls": [{"type": "function", "function": call}],
        }
        assert tool["role"] == "tool" and tool["content"] == [{"type": "image", "image": answer.results[0].crop}]
        assert last == {"role": "assistant", "content": "\\boxed{blue}"}

    def test_pieces_and_results_come_in_their_order(self, scripted: ScriptedVLM) -> None:
        seen: list[Any] = []
        self.ask(scripted, "A" + zoom(*LEFT), "\\boxed{red}", stream=seen.append, on_result=seen.append)
        place = next(number for number, one in enumerate(seen) if isinstance(one, ZoomResult))
        assert "".join(seen[:place]) == "A" + zoom(*LEFT)
        assert "".join(seen[place + 1 :]) == "\\boxed{red}"

    def test_backend_of_this_process_takes_the_same_path(self, scripted: ScriptedVLM) -> None:
        own = self.ask(scripted, zoom(*RIGHT), "\\boxed{blue}")
        backend = HFBackend(scripted.script(zoom(*RIGHT), "\\boxed{blue}").vlm)
        asked = asyncio.run(zoom_with_backend(backend, [halves()], "Which colour?"))
        assert (asked.text, asked.tokens) == (own.text, own.tokens)
        assert scripted.prompts[:2] == scripted.prompts[2:]

    def test_model_without_tools_is_refused(self) -> None:
        vlm: VLM = load_vlm("tiny")
        with pytest.raises(UserError, match=r"^The chat template of .* has no tools.*Qwen3-VL"):
            answer_with_zoom(vlm, [halves()], "Which colour?")

    def test_template_that_drops_the_crop_is_refused(self, scripted: ScriptedVLM) -> None:
        template = scripted.vlm.processor.chat_template
        dropped = template.replace("parts(message.content) + '\\n</tool_response>'", "'\\n</tool_response>'")
        assert dropped != template
        scripted.vlm.processor.chat_template = dropped
        with pytest.raises(UserError, match="shows no image that a tool returns"):
            self.ask(scripted, "\\boxed{red}")


def called(*box: float, content: str = "", reasoning: str | None = None, **others: Any) -> Any:
    arguments = json.dumps({"bbox_2d": list(box), **others})
    function = {"name": "image_zoom_in_tool", "arguments": arguments}
    return says(
        content or None,
        tool_calls=[{"id": "abc", "type": "function", "function": function}],
        **({} if reasoning is None else {"reasoning_content": reasoning}),
    )


def shown(part: dict[str, Any]) -> Any:
    data = base64.b64decode(part["image_url"]["url"].removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)))


class TestBehindAServer:
    def ask(self, server: Server, *answers: Any, **options: Any) -> ZoomAnswer:
        server.answers = list(answers)
        backend = OpenAIBackend("m", server.url, timeout=20, max_retries=0)
        return answer_with_zoom(backend, [halves()], "Which colour?", **options)

    def test_tool_calls(self, server: Server) -> None:
        answer = self.ask(server, called(*RIGHT, label="mark", reasoning="Where?"), says("\\boxed{blue}"))
        assert (answer.answer, answer.finished, answer.tokens) == ("blue", True, 6)
        [result] = answer.results
        assert (result.box, result.label, colour(result.crop)) == ((400, 0, 800, 400), "mark", BLUE)
        first, second = server.bodies
        assert [one["function"]["name"] for one in first["tools"]] == ["image_zoom_in_tool"]
        user, model, tool = second["messages"]
        assert user == first["messages"][0] and second["tools"] == first["tools"]
        [call] = model["tool_calls"]
        assert call["function"]["name"] == "image_zoom_in_tool"
        assert json.loads(call["function"]["arguments"]) == {"bbox_2d": list(RIGHT), "label": "mark"}
        assert model["content"] == "<think>Where?</think>"
        assert (tool["role"], tool["tool_call_id"]) == ("tool", call["id"])
        assert np.array_equal(shown(tool["content"][0]), np.asarray(result.crop))

    def test_call_that_a_server_leaves_in_the_text(self, server: Server) -> None:
        answer = self.ask(server, says("Closer." + zoom(*RIGHT)), says("\\boxed{blue}"))
        assert len(answer.results) == 1
        model = server.bodies[1]["messages"][1]
        assert (model["content"], len(model["tool_calls"])) == ("Closer.", 1)

    @pytest.mark.parametrize("arguments", ["{", "[1]", "", None, 7, '{"bbox_2d": [NaN, 0, 1, 1]}', {"bbox_2d": []}])
    def test_bad_arguments_from_a_server(self, server: Server, arguments: Any) -> None:
        function = {"name": "image_zoom_in_tool", "arguments": arguments}
        answer = self.ask(server, says(None, tool_calls=[{"id": "a", "function": function}]), says("\\boxed{red}"))
        assert (answer.answer, answer.errors) == ("red", 1)
        _, model, tool = server.bodies[1]["messages"]
        assert isinstance(json.loads(model["tool_calls"][0]["function"]["arguments"]), dict)
        assert tool["content"].startswith("Error: ")

    @pytest.mark.parametrize("calls", [7, "x", {}, [7], [{}], [{"function": 1}], [{"function": {"name": 1}}], [None]])
    def test_malformed_calls_are_none(self, server: Server, calls: Any) -> None:
        try:
            answer = self.ask(server, says("\\boxed{red}", tool_calls=calls))
        except BackendError as error:
            assert error.name == "unreadable"
        else:
            assert (answer.answer, answer.results) == ("red", [])

    def test_server_that_takes_images_from_the_user_only(self, server: Server) -> None:
        refusal = fails(400, "Image URLs are only allowed for messages with role 'user'")
        two = json.dumps({"bbox_2d": list(LEFT)})
        pair = [{"id": str(n), "function": {"name": "image_zoom_in_tool", "arguments": two}} for n in range(2)]
        answer = self.ask(server, says(None, tool_calls=pair), refusal, says("\\boxed{red}"))
        assert answer.answer == "red"
        roles = [one["role"] for one in server.bodies[2]["messages"]]
        assert roles == ["user", "assistant", "tool", "tool", "user", "user"]
        assert np.array_equal(shown(server.bodies[2]["messages"][4]["content"][0]), np.asarray(answer.results[0].crop))

    @pytest.mark.parametrize(
        ("status", "reason"),
        [
            (400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'),
            (500, "tools param requires --jinja flag"),
            (400, "llava does not support tools"),
        ],
    )
    def test_server_without_tools_is_told_in_the_question(self, server: Server, status: int, reason: str) -> None:
        answer = self.ask(server, fails(status, reason), says("Closer." + zoom(*RIGHT)), says("\\boxed{blue}"))
        assert (answer.answer, len(answer.results)) == ("blue", 1)
        _, first, second = server.bodies
        assert "tools" not in first
        assert "image_zoom_in_tool" in first["messages"][0]["content"][-1]["text"]
        assert first["messages"][0] == second["messages"][0]
        _, model, user = second["messages"]
        assert model == {"role": "assistant", "content": "Closer." + zoom(*RIGHT)}
        assert user["role"] == "user"
        assert np.array_equal(shown(user["content"][1]), np.asarray(answer.results[0].crop))

    @pytest.mark.parametrize(("status", "reason"), [(400, "too long"), (401, "no tools for this key"), (404, "no")])
    def test_other_errors_are_the_users(self, server: Server, status: int, reason: str) -> None:
        with pytest.raises(BackendError, match=reason):
            self.ask(server, fails(status, reason))
        assert len(server.bodies) == 1

    def test_server_that_never_stops_calling_is_stopped(self, server: Server) -> None:
        answer = self.ask(server, called(*LEFT), settings=ZoomSettings(max_looks=3))
        assert (len(server.bodies), answer.finished, answer.answer) == (5, False, None)

    def test_many_questions_side_by_side(self) -> None:
        def reply(request: Any) -> str:
            return "\\boxed{red}" if any(one["role"] == "tool" for one in request.messages) else zoom(*LEFT)

        async def play() -> list[ZoomAnswer]:
            backend = ScriptedBackend(reply)
            asked = [zoom_with_backend(backend, [halves()], "Which?", seed=seed) for seed in range(5)]
            return list(await asyncio.gather(*asked))

        answers = asyncio.run(play())
        assert [(one.answer, len(one.results)) for one in answers] == [("red", 1)] * 5
