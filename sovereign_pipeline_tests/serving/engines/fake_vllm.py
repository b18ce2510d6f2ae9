"""What stands for a vLLM server where only the engine's side of it is tested: the same paths on the same socket.

Run in place of vLLM's interpreter. It computes nothing: how an answer goes is in the prompt's last words, and each
request is noted in a file. Loading is by name alone, and a directory that is not there is refused as vLLM does.
"""

import asyncio
import itertools
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
print(flush=True)
time.sleep(600)
"""


class Server:
    def __init__(self, noted: Path, base: str, version: str, longest: int) -> None:
        self.noted, self.base = noted, base
        self.version, self.longest = version, longest
        self.paths: dict[str, str] = {}

    @property
    def names(self) -> set[str]:
        return {self.base, *self.paths}

    def note(self, path: str, body: Any) -> None:
        with self.noted.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps([path, body]) + "\n")

    async def health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def told_version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": self.version})

    async def models(self, request: web.Request) -> web.Response:
        bases = [{"id": self.base, "root": "/base", "parent": None, "max_model_len": self.longest}]
        adapters = [{"id": name, "root": path, "parent": self.base} for name, path in self.paths.items()]
        return web.json_response({"object": "list", "data": [*bases, *adapters]})

    async def load(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.note(request.path, body)
        if not body:
            return web.json_response({"error": {"message": "Field required"}}, status=400)
        if body["lora_name"] in self.names:
            return web.json_response({"error": {"message": "has already been loaded"}}, status=400)
        if not (Path(body["lora_path"]) / "adapter_config.json").is_file():
            return web.json_response({"error": {"message": "No adapter found"}}, status=404)
        self.paths[body["lora_name"]] = body["lora_path"]
        return web.Response(text="Success")

    async def unload(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.note(request.path, body)
        if self.paths.pop(body["lora_name"], None) is None:
            return web.json_response({"error": {"message": "cannot be found"}}, status=404)
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
    options = dict(itertools.pairwise(given))
    server = Server(noted, base, options.get("--version", "0.32.0"), int(options.get("--max-model-len", 4096)))
    application = web.Application(handler_args=None)
    shared = Path("/dev/shm", f"of-a-stand-in-{os.getpid()}")  # between its processes vLLM passes prompts in such files
    shared.write_bytes(bytes(4096))
    server.note("started", {"arguments": given, "environment": dict(os.environ), "shared": str(shared)})
    application.add_routes(
        [
            web.get("/health", server.health),
            web.get("/version", server.told_version),
            web.get("/v1/models", server.models),
            web.post("/v1/completions", server.complete),
        ]
    )
    if "--without-runtime-loading" not in given:
        application.add_routes(
            [
                web.post("/v1/load_lora_adapter", server.load),
                web.post("/v1/unload_lora_adapter", server.unload),
            ]
        )
    if "--uds" in options:  # vLLM is several processes; none looks after others
        stays = subprocess.Popen([sys.executable, "-c", STAYS, str(shared)], stdout=subprocess.PIPE)
        assert stays.stdout is not None and stays.stdout.readline()  # it has mapped the file
    where = {"path": options["--uds"]} if "--uds" in options else {"host": "127.0.0.1", "port": int(options["--port"])}
    web.run_app(application, **where, print=None, handler_cancellation=True)


if __name__ == "__main__":
    main()
