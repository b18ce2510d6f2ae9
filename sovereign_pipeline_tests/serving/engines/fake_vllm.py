"""What stands for a vLLM server where only the engine's side of it is tested: the same paths on the same socket.

Run in place of vLLM's interpreter. It computes nothing: how an answer goes is in the prompt's last words, and each
request is noted in a file. Loading is by name alone, and a directory that is not there is refused as vLLM does.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from aiohttp import web

WORDS = [[40, 41], [42], [43]]
"""Tokens of three pieces; of the tiny tokenizer, each is a character."""


STAYS = """
import mmap, sys, time
with open(sys.argv[1], "r+b") as file:
    mapped = mmap.mmap(file.fileno(), 0)
time.sleep(600)
"""


class Server:
    def __init__(self, noted: Path, base: str) -> None:
        self.noted = noted
        self.names = {base}

    def note(self, path: str, body: Any) -> None:
        with self.noted.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps([path, body]) + "\n")

    async def health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def load(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.note(request.path, body)
        if body["lora_name"] in self.names:
            return web.json_response({"error": {"message": "has already been loaded"}}, status=400)
        if not (Path(body["lora_path"]) / "adapter_config.json").is_file():
            return web.json_response({"error": {"message": "No adapter found"}}, status=404)
        self.names.add(body["lora_name"])
        return web.Response(text="Success")

    async def unload(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.note(request.path, body)
        self.names.discard(body["lora_name"])
        return web.Response(text="Success")

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.note(request.path, body)
        if body["model"] not in self.names:
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        if not body.get("stream"):
            return web.json_response({"choices": []})
        return await self.stream(request, body["max_tokens"])

    async def stream(self, request: web.Request, tokens: int) -> web.StreamResponse:
        """Three words; 41 tokens and more say what goes wrong after the second one."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            for number in range(2):
                await response.write(event(WORDS[number], None))
            if tokens == 41:
                return response
            if tokens == 42:
                await response.write(b'data: {"error": {"message": "EngineCore died"}}\n\n')
                return response
            if tokens == 43:
                os.abort()
            if tokens == 44:
                await asyncio.sleep(3600)
            if tokens == 45:
                time.sleep(3600)  # nothing is answered any more
            if tokens == 46:
                await response.write(event([], "abort"))
            await response.write(event(WORDS[2], "length"))
            await response.write(b"data: [DONE]\n\n")
        except (asyncio.CancelledError, ConnectionError):
            self.note("given up", tokens)
            raise
        return response


def event(tokens: list[int], finish: str | None) -> bytes:
    """As vLLM writes it: the text is not what the tokens say."""
    choice = {"index": 0, "text": "The prompt.", "token_ids": tokens, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice]})}\n\n".encode()


def main() -> None:
    """Arguments: the file to note requests in, and vLLM's own."""
    noted, given = Path(sys.argv[1]), sys.argv[2:]
    base = given[given.index("--served-model-name") + 1]
    server, application = Server(noted, base), web.Application(handler_args=None)
    shared = Path("/dev/shm", f"of-a-stand-in-{os.getpid()}")  # between its processes vLLM passes prompts in such files
    shared.write_bytes(bytes(4096))
    server.note("started", {"arguments": given, "environment": dict(os.environ), "shared": str(shared)})
    application.add_routes(
        [
            web.get("/health", server.health),
            web.post("/v1/load_lora_adapter", server.load),
            web.post("/v1/unload_lora_adapter", server.unload),
            web.post("/v1/completions", server.complete),
        ]
    )
    subprocess.Popen([sys.executable, "-c", STAYS, str(shared)])  # vLLM is several processes; none looks after others
    socket = given[given.index("--uds") + 1]
    web.run_app(application, path=socket, print=None, handler_cancellation=True)


if __name__ == "__main__":
    main()
