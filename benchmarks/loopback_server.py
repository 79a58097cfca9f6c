"""An OpenAI-compatible chat server on loopback with fixed replies, a fixed delay, and faults on demand.

    python -m benchmarks.loopback_server --delay 0.4 --faults 0.2

prints the URL to give to ``openai:m@URL`` and serves until it is killed. It reads the role from the wording of
``data_construction/prompts/short`` and answers so that a count of 1 is concluded.
"""

import argparse
import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import Callable

FAULTS = ("delay", "drop", "429", "500", "half", "garbage", "no_choices", "empty", "huge", "braces", "bad_utf8")
HUGE = 10 * 2**20


def spoken(body: bytes) -> str:
    """The fixed reply to a request body."""
    if b"image_url" in body:
        return "row 1: red none blue"
    if b"Task: request" in body:
        return "Which colours are in row 1?"
    if b"Task: conclude" in body:
        return "row 1: red none blue, red 1. \\boxed{1}"
    return "row 1: red none blue, red 1."


def completion(text: str) -> bytes:
    """A chat completion as JSON."""
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(body).encode()


class Loopback:
    """The server.

    Args:
        delay: seconds before every reply.
        faults: share of the requests, in [0, 1], that are answered by a fault.
        kinds: which faults; see ``FAULTS``.
        say: the reply to a request body.

    Attributes:
        counts: how often each kind was sent (``ok`` for none); url: once it is started; most: of requests at once.
    """

    def __init__(
        self,
        delay: float = 0.0,
        faults: float = 0.0,
        kinds: tuple[str, ...] = FAULTS,
        seed: int = 0,
        say: Callable[[bytes], str] = spoken,
    ) -> None:
        self.delay, self.faults, self.kinds, self.say = delay, faults, kinds, say
        self.counts: Counter[str] = Counter()
        self.url, self.most, self._under_way = "", 0, 0
        self._rng = random.Random(seed)

    async def start(self, port: int = 0) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=2**20)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0"
                )
                body = await reader.readexactly(int(length.split(b":")[1]))
                self._under_way += 1
                self.most = max(self.most, self._under_way)
                try:
                    if not await self._answer(body, writer):
                        break
                finally:
                    self._under_way -= 1
        writer.close()

    async def _answer(self, body: bytes, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection stays open."""
        kind = self._rng.choice(self.kinds) if self._rng.random() < self.faults else "ok"
        self.counts[kind] += 1
        if self.delay:
            await asyncio.sleep(self.delay)
        data, status, headers, cut = completion(self.say(body)), 200, "", None
        match kind:
            case "delay":
                await asyncio.sleep(0.3)
            case "drop":
                return False
            case "429":
                data, status, headers = b'{"error": {"message": "slow down"}}', 429, "Retry-After: 0.05\r\n"
            case "500":
                data, status = b'{"error": {"message": "broken"}}', 500
            case "half":
                cut = len(data) // 2
            case "garbage":
                data = b"<html>a proxy</html>"
            case "no_choices":
                data = b'{"choices": []}'
            case "empty":
                data = completion("")
            case "huge":
                data = completion("red " * (HUGE // 4))
            case "braces":
                data = completion("{" * 100_000)
            case "bad_utf8":
                data = completion("R").replace(b'"R"', b'"\xff\xfe\xc3"')
        writer.write(
            f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{headers}Content-Length: {len(data)}\r\n\r\n".encode()
        )
        writer.write(data[:cut])
        await writer.drain()
        return cut is None


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0 chooses a free port")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before every reply")
    parser.add_argument("--faults", type=float, default=0.0, help="share of requests answered by a fault")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    loopback = Loopback(args.delay, args.faults, seed=args.seed)
    server = await loopback.start(args.port)
    print(loopback.url, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
