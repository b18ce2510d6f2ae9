"""Client libraries with their own defaults, run by the Python of `.venv-clients`, which lacks this package.

Arguments: a library, a gateway and a token. Prints the names of the cases, then a line of JSON for each case named on
stdin: the answer, or the errors that the library raised. `lamps` answers with a sentence, `forms` with a JSON object.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from pydantic import BaseModel

os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "*", "OPENAI_API_KEY": "not used"}
ASK = "The lamp is out."
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ASK}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [{"type": "function", "function": {"name": "find", "description": "Find a city.", "parameters": CITY}}]
Cases = dict[str, Callable[[], Any]]
elsewhere: list[str] = []


class Repair(BaseModel):
    """A repair of a lamp."""

    lamp: str
    is_mended: bool


def find(city: str) -> str:
    """Find a city."""
    return city


def arguments_of(message: Any) -> Any:
    return json.loads(message.tool_calls[0].function.arguments)


def joined(texts: Any) -> str:
    return "".join(text or "" for text in texts)


def openai_cases(url: str, token: str) -> Cases:
    from openai import OpenAI

    chat = OpenAI(base_url=f"{url}/v1", api_key=token).chat.completions
    format: Any = {"type": "json_object"}
    several: Any = {"model": "lamps", "messages": MESSAGES}

    def stream() -> str:
        return joined(each.choices[0].delta.content for each in chat.create(**several, stream=True))

    def streamed_call() -> Any:
        with chat.stream(**several, tools=TOOLS, tool_choice="required") as events:
            return arguments_of(events.get_final_completion().choices[0].message)

    def logprobs() -> str:
        choice = chat.create(**several, logprobs=True, top_logprobs=2).choices[0]
        return joined(each.token for each in choice.logprobs.content)

    return {
        "chat": lambda: chat.create(**several).choices[0].message.content,
        "chat, streamed": stream,
        "JSON object": lambda: json.loads(chat.create(**several, response_format=format).choices[0].message.content),
        "parse": lambda: dict(chat.parse(**several, response_format=Repair).choices[0].message.parsed or {}),
        "several choices": lambda: chat.create(**several, n=3, temperature=1).choices[2].message.content,
        "log-probabilities": logprobs,
        "tools, streamed": streamed_call,
        "tools": lambda: arguments_of(chat.create(**several, tools=TOOLS).choices[0].message),
    }


def litellm_cases(url: str, token: str) -> Cases:
    import litellm

    litellm.suppress_debug_info = True
    several: Any = {"model": "openai/lamps", "api_base": f"{url}/v1", "api_key": token, "messages": MESSAGES}

    def stream() -> str:
        return joined(each.choices[0].delta.content for each in litellm.completion(**several, stream=True))

    async def acompletion() -> Any:
        return (await litellm.acompletion(**several)).choices[0].message.content

    def text() -> Any:
        several_text = {key: value for key, value in several.items() if key != "messages"}
        several_text["model"] = "text-completion-openai/lamps"
        return litellm.text_completion(**several_text, prompt=ASK).choices[0].text

    return {
        "completion": lambda: litellm.completion(**several).choices[0].message.content,
        "completion, streamed": stream,
        "acompletion": lambda: asyncio.run(acompletion()),
        "text_completion": text,
        "response_format": lambda: json.loads(
            litellm.completion(**several, response_format=Repair).choices[0].message.content
        ),
        "tools": lambda: arguments_of(litellm.completion(**several, tools=TOOLS).choices[0].message),
        "unknown model": lambda: litellm.completion(**{**several, "model": "openai/unknown"}),
        "wrong token": lambda: litellm.completion(**{**several, "api_key": "wrong"}),
    }


def langchain_openai_cases(url: str, token: str) -> Cases:
    from langchain_core.output_parsers import PydanticOutputParser
    from langchain_openai import ChatOpenAI, OpenAI

    several: Any = {"model": "lamps", "base_url": f"{url}/v1", "api_key": token}
    chat, text = ChatOpenAI(**several), OpenAI(**several)
    forms = ChatOpenAI(**{**several, "model": "forms"})
    asked = [("system", "Be brief."), ("human", ASK)]

    def structured(method: Any) -> Callable[[], Any]:
        made = chat.with_structured_output(Repair, method=method)
        return lambda: made.invoke("A repair in JSON: " + ASK).model_dump()

    async def astream() -> str:
        return joined([each.content async for each in chat.astream(asked)])

    return {
        "ChatOpenAI.invoke": lambda: chat.invoke(asked).content,
        "ChatOpenAI.stream": lambda: joined(each.content for each in chat.stream(asked)),
        "ChatOpenAI.astream": lambda: asyncio.run(astream()),
        "ChatOpenAI.batch": lambda: chat.batch([asked])[0].content,
        "OpenAI.invoke": lambda: text.invoke(ASK),
        "OpenAI.stream": lambda: joined(text.stream(ASK)),
        "PydanticOutputParser": lambda: (forms | PydanticOutputParser(pydantic_object=Repair)).invoke(ASK).model_dump(),
        "with_structured_output": structured("json_schema"),
        "with_structured_output by a function": structured("function_calling"),
        "with_structured_output in JSON mode": structured("json_mode"),
        "bind_tools": lambda: chat.bind_tools([find]).invoke(asked).tool_calls[0]["args"],
    }


def llama_index_cases(url: str, token: str) -> Cases:
    from llama_index.core.llms import ChatMessage
    from llama_index.core.prompts import PromptTemplate
    from llama_index.core.tools import FunctionTool
    from llama_index.llms.openai_like import OpenAILike

    several: Any = {"model": "lamps", "api_base": f"{url}/v1", "api_key": token, "max_retries": 0}
    chat, text = OpenAILike(**several, is_chat_model=True), OpenAILike(**several)
    calling = OpenAILike(**several, is_chat_model=True, is_function_calling_model=True)
    forms = OpenAILike(**{**several, "model": "forms"}, is_chat_model=True)
    asked = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content=ASK)]
    prompt = PromptTemplate("Write the repair of {lamp}.")
    tool = FunctionTool.from_defaults(fn=find)

    async def achat() -> Any:
        return (await chat.achat(asked)).message.content

    def chat_with_tools() -> Any:
        answer = calling.chat_with_tools([tool], user_msg=ASK)
        return calling.get_tool_calls_from_response(answer)[0].tool_kwargs

    return {
        "chat": lambda: chat.chat(asked).message.content,
        "stream_chat": lambda: joined(each.delta for each in chat.stream_chat(asked)),
        "achat": lambda: asyncio.run(achat()),
        "complete": lambda: text.complete(ASK).text,
        "stream_complete": lambda: joined(each.delta for each in text.stream_complete(ASK)),
        "structured_predict by a prompt": lambda: forms.structured_predict(Repair, prompt, lamp="lamp").model_dump(),
        "structured_predict by a function": lambda: calling.structured_predict(
            Repair, prompt, lamp="lamp"
        ).model_dump(),
        "chat_with_tools": chat_with_tools,
    }


def instructor_cases(url: str, token: str) -> Cases:
    import instructor
    from openai import OpenAI

    client = OpenAI(base_url=f"{url}/v1", api_key=token)

    def made(mode: Any, **changes: Any) -> Callable[[], Any]:
        several: Any = {"model": "forms", "messages": MESSAGES, "response_model": Repair, **changes}

        def ask() -> Any:
            got = instructor.from_openai(client, mode=mode).chat.completions.create(**several)
            return got.model_dump() if isinstance(got, Repair) else got.choices[0].message.content

        return ask

    def partial() -> Any:
        asked: Any = {"model": "forms", "messages": MESSAGES, "response_model": Repair}
        *_, last = instructor.from_openai(client, mode=instructor.Mode.MD_JSON).create_partial(**asked)
        return last.model_dump()

    return {
        "without a model": made(instructor.Mode.TOOLS, model="lamps", response_model=None),
        "Mode.MD_JSON": made(instructor.Mode.MD_JSON),
        "Mode.MD_JSON, create_partial": partial,
        "Mode.TOOLS": made(instructor.Mode.TOOLS),
        "Mode.JSON": made(instructor.Mode.JSON),
        "Mode.JSON_SCHEMA": made(instructor.Mode.JSON_SCHEMA),
    }


def pydantic_ai_cases(url: str, token: str) -> Cases:
    from pydantic_ai import Agent, NativeOutput, PromptedOutput, Tool
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIModelProfile
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=f"{url}/v1", api_key=token)
    without_json = OpenAIModelProfile(supports_json_object_output=False)
    lamps = OpenAIChatModel("lamps", provider=provider)
    forms = OpenAIChatModel("forms", provider=provider, profile=without_json)

    def output_of(**options: Any) -> Callable[[], Any]:
        def ask() -> Any:
            output = Agent(**{"model": lamps, "instructions": "Be brief.", **options}).run_sync(ASK).output
            return output if isinstance(output, str) else output.model_dump()

        return ask

    async def stream() -> str:
        async with Agent(lamps).run_stream(ASK) as result:
            return joined([each async for each in result.stream_text(delta=True)])

    return {
        "Agent.run_sync": output_of(),
        "Agent.run_stream": lambda: asyncio.get_event_loop().run_until_complete(stream()),
        "PromptedOutput": output_of(output_type=PromptedOutput(Repair)),
        "PromptedOutput, profile without JSON mode": output_of(model=forms, output_type=PromptedOutput(Repair)),
        "NativeOutput": output_of(output_type=NativeOutput(Repair)),
        "output type by a function": output_of(output_type=Repair),
        "tools": output_of(tools=[Tool(find)]),
    }


LIBRARIES = {
    "openai": openai_cases,
    "litellm": litellm_cases,
    "langchain-openai": langchain_openai_cases,
    "llama-index": llama_index_cases,
    "instructor": instructor_cases,
    "pydantic-ai": pydantic_ai_cases,
}


def refuse_other_hosts(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: a connection or a name of another host raises, and is reported with the case."""
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = str(arguments[1][0])
    elif event == "socket.getaddrinfo":
        host = str(arguments[0])
    else:
        return
    try:
        is_here = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        is_here = False
    if not is_here:
        elsewhere.append(host)
        raise PermissionError(host)


def errors_of(error: BaseException | None) -> list[tuple[str, str | None]]:
    """Class and `param` of an error and of those that led to it."""
    found = []
    while error is not None:
        of = type(error)
        found.append((f"{of.__module__.partition('.')[0]}.{of.__qualname__}", getattr(error, "param", None)))
        error = error.__cause__ or error.__context__
    return found


def main() -> None:
    library, url, token = sys.argv[1:]
    sys.addaudithook(refuse_other_hosts)
    results, sys.stdout = sys.stdout, sys.stderr
    cases = LIBRARIES[library](url, token)
    results.write(json.dumps([*cases]) + "\n")
    results.flush()
    for line in sys.stdin:
        result: dict[str, Any] = {"answer": None, "errors": []}
        try:
            result["answer"] = cases[line.strip()]()
        except Exception as error:
            result["errors"] = errors_of(error)
        results.write(json.dumps({**result, "elsewhere": elsewhere}) + "\n")
        results.flush()


if __name__ == "__main__":
    main()
