"""A chat server around a model in this process that can be broken on purpose, in the ways that serving stacks are.

It shares nothing with the project's own path: transformers' processor resizes, renders and tokenizes, and its ``generate`` writes.
"""

import base64
import copy
import hashlib
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

SYSTEM = {"role": "system", "content": "You are a helpful assistant."}


class BreakableServer:
    """``fault`` names what is broken; empty for a server that works.

    Attributes:
        bodies: what it was asked.
        stop_after: requests after which it answers 503; None for never.
    """

    def __init__(self, folder: Path) -> None:
        self.processor = AutoProcessor.from_pretrained(folder)
        self.models = {"": AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()}
        self.fault, self.stop_after = "", None
        self.bodies: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._written: dict[Any, tuple[list[int], list[dict[str, Any]]]] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    outer.bodies.append(body)
                    status, answer = outer.answer(body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.handle_error = lambda *args: None  # type: ignore[method-assign]  # a client that gave up
        self.name = f"openai:tiny@http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @contextmanager
    def broken(self, fault: str, stop_after: int | None = None) -> Iterator[None]:
        self.fault, self.stop_after, self.bodies = fault, stop_after, []
        try:
            yield
        finally:
            self.fault, self.stop_after = "", None

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.stop_after is not None and len(self.bodies) > self.stop_after:
            return 503, {"error": {"message": "overloaded"}}
        if body["model"] != "tiny":
            return 404, {"error": {"message": f"The model {body['model']} does not exist."}}
        messages, images = self.read(body["messages"])
        if self.fault == "refuses logprobs" and "logprobs" in body:
            return 400, {"error": {"message": "logprobs is not supported"}}
        if self.fault == "one image" and len(images) > 1:
            return 400, {"error": {"message": "At most 1 image(s) may be provided in one prompt."}}
        inputs = self.encode(messages, images)
        prompt = inputs["input_ids"].shape[1]
        ids, scores = self.write(inputs, body["max_tokens"], body.get("top_logprobs", 0))
        tokenizer = self.processor.tokenizer
        if self.fault == "ends early":
            ids, scores = ids[:2], scores[:2]
        text = tokenizer.decode(ids, skip_special_tokens=True)
        if self.fault == "babbles":
            text, scores = "row \ud800 " * 200_000, []
        ended = "stop" if ids[-1] == tokenizer.eos_token_id else "length"
        choice: dict[str, Any] = {"index": 0, "finish_reason": ended, "message": {"role": "assistant", "content": text}}
        if body.get("logprobs") and self.fault not in ("no logprobs", "dropped, no logprobs", "rope, no logprobs"):
            choice["logprobs"] = {"content": scores}
        count = prompt + 7 * (self.fault == "counts otherwise")
        answer = {"object": "chat.completion", "model": "tiny", "choices": [choice]}
        if self.fault != "no usage":
            answer["usage"] = {"prompt_tokens": count, "completion_tokens": len(ids), "total_tokens": count + len(ids)}
        return 200, answer

    def write(self, inputs: Any, max_tokens: int, top: int) -> tuple[list[int], list[dict[str, Any]]]:
        """The response's tokens and their log-probabilities. The same tensors are computed once."""
        penalty = 1.5 if self.fault == "penalty" else 1.0
        content = [str(value.tolist()).encode() for _, value in sorted(inputs.items())]
        key = hashlib.sha256(b"|".join(content)).digest(), self.kind, penalty, max_tokens, top
        if key not in self._written:
            with torch.no_grad():
                written = self.model().generate(
                    **inputs,
                    do_sample=False,
                    max_new_tokens=max_tokens,
                    repetition_penalty=penalty,
                    return_dict_in_generate=True,
                    output_logits=True,
                )
            ids = written.sequences[0, inputs["input_ids"].shape[1] :].tolist()
            self._written[key] = ids, self.scores(ids, written.logits, top)
        return self._written[key]

    def read(self, messages: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Image.Image]]:
        """The messages as a template takes them, and their images, both as the broken server has them."""
        read, images = [], []
        for message in messages:
            content = message["content"]
            if not isinstance(content, str):
                parts = []
                for part in content:
                    if part["type"] == "text":
                        parts.append(part)
                    elif not self.fault.startswith("dropped") and not (self.fault == "first image" and images):
                        data = part["image_url"]["url"].partition(",")[2]
                        images.append(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
                        parts.append({"type": "image"})
                content = parts
            read.append({"role": message["role"], "content": content})
        if self.fault == "system prompt" and read[0]["role"] != "system":
            read.insert(0, SYSTEM)
        if self.fault == "reversed":
            images.reverse()
        return read, images

    def encode(self, messages: list[dict[str, Any]], images: list[Image.Image]) -> Any:
        start = self.fault != "no generation prompt"
        text = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=start)
        if self.fault == "double resize":
            images = [self.resized(image) for image in images]
        if self.fault == "blurred":
            images = [image.resize((image.width // 3, image.height // 3)).resize(image.size) for image in images]
        if self.fault == "mirrored":
            images = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images]
        if self.fault == "half size":
            images = [image.crop((0, 0, image.width, image.height // 2)) for image in images]
        return self.processor(text=[text], images=images or None, return_tensors="pt", add_special_tokens=False)

    def resized(self, image: Image.Image) -> Image.Image:
        """The image at the size to which the processor brings it, so that the processor resizes it once more."""
        _, rows, columns = self.processor.image_processor([image], return_tensors="pt")["image_grid_thw"][0].tolist()
        patch = self.processor.image_processor.patch_size
        return image.resize((columns * patch, rows * patch), Image.Resampling.BICUBIC)

    @property
    def kind(self) -> str:
        """Which weights the fault takes."""
        kind = self.fault.partition(",")[0]
        return kind if kind in ("quantized", "other weights", "rope", "quantized and rope") else ""

    def model(self) -> Any:
        if (kind := self.kind) not in self.models:
            self.models[kind] = model = copy.deepcopy(self.models[""])
            if "quantized" in kind:
                quantize(model)
            if kind == "other weights":
                shake(model)
            if "rope" in kind:
                model.model.get_rope_index = in_sequence
        return self.models[kind]

    def scores(self, ids: list[int], logits: tuple[torch.Tensor, ...], top: int) -> list[dict[str, Any]]:
        def entry(token: int, log_p: float) -> dict[str, Any]:
            text = self.processor.tokenizer.decode([token])
            return {"token": text, "logprob": log_p, "bytes": list(text.encode())}

        entries = []
        for token, row in zip(ids, logits, strict=True):
            log_p = row[0].float().log_softmax(-1)
            best = log_p.topk(top)
            ranked = [entry(*pair) for pair in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
            entries.append({**entry(token, float(log_p[token])), "top_logprobs": ranked})
        return entries

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def quantize(model: torch.nn.Module, bits: int = 6) -> None:
    """Round each row of the language model's layers to ``bits`` bits, in place."""
    most = 2 ** (bits - 1) - 1
    for layer in model.model.language_model.layers.modules():
        if isinstance(layer, torch.nn.Linear):
            step = layer.weight.data.abs().amax(dim=1, keepdim=True) / most
            layer.weight.data = (layer.weight.data / step).round() * step


def shake(model: torch.nn.Module) -> None:
    torch.manual_seed(0)
    for parameter in model.model.language_model.parameters():
        parameter.data += 0.5 * parameter.data.std() * torch.randn_like(parameter)


def in_sequence(input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of a model that has forgotten its mRoPE."""
    length = input_ids.shape[1]
    return torch.arange(length).expand(3, 1, length), torch.zeros(1, 1, dtype=torch.long)
