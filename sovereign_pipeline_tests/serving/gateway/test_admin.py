"""What `/admin` tells whom."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.policy.serving import Role
from sovereign_pipeline.serving.engines.engine import EngineState
from sovereign_pipeline.serving.gateway.admin import HERE
from sovereign_pipeline.serving.gateway.messages import REFUSALS
from sovereign_pipeline.serving.rollout import hold
from sovereign_pipeline.serving.rollout.flag import Flag
from sovereign_pipeline_tests.serving.gateway.conftest import Client
from sovereign_pipeline_tests.serving.gateway.scripted import DAYS, PROXY, Bench, adapter, ask, named, try_out


def lines_of(client: Any) -> dict[str, Any]:
    return {each["line"]: each for each in client.get("/admin/state").json()["lines"]}


def test_it_says_what_is_loaded_who_gets_it_and_what_a_hold_lacks(bench: Bench, client: Client) -> None:
    try_out(bench)
    bench.admin["behind"] = lambda: {"lamps": "lamps-1.1.0 is not loaded"}
    del bench.engine.adapters[bench.served[1].digest]
    viewer = client(bench.token("INTERNAL", admin=True))
    answered = ask(viewer).json()
    viewer.post("/v1/feedback", json={"id": answered["id"], "thumb": "down", "severity": 3})
    bench.engine.lost_after = 1
    ask(viewer)
    state = viewer.get("/admin/state").json()
    (engine,) = state["engines"]
    assert (engine["name"], engine["base_model"], engine["computes"]) == ("local", "smollm2-135m-instruct", True)
    (line,) = state["lines"]
    production, staged = line["adapters"]
    assert (production["adapter"], production["stage"], production["is_loaded"]) == ("lamps-1.0.0", "production", True)
    assert (production["complete"], production["lost"], production["thumbs_down"]) == (1, 1, 1)
    assert production["digest"] == bench.served[0].digest[:12] and production["days"] == 40
    assert (staged["adapter"], staged["stage"], staged["is_loaded"]) == ("lamps-1.1.0", "staged", False)
    assert line["is_behind"] and line["rollout"]["share"] == 0.1 and line["rollout"]["groups"] == ["pilot-desk"]
    assert line["review"]["state"] == "due" and line["review"]["adapter"] == "lamps-1.1.0"
    hold = line["hold"]
    assert (hold["outcome"], hold["severe"], hold["rated"]) == ("open", 1, [24, 36])
    needed = {each["what"]: (int(each["there"]), each["needed"]) for each in hold["needed"]}
    assert needed["Days"] == (DAYS, 7) and needed["Users of the staged adapter"] == (12, 20)
    disliked = next(each for each in hold["compared"] if each["measure"] == "disliked")
    assert disliked["difference"] == "+11.1%" and disliked["margin"] == "2.0%"


@pytest.mark.security_case(
    "A caller requests /admin without the permission, or with a clearance below an adapter's level",
    "404 as for a missing page; adapters above the clearance are not mentioned",
)
def test_it_tells_nobody_of_what_is_beyond_their_reach(bench: Bench, client: Client) -> None:
    try_out(bench, staged_level="CONFIDENTIAL")
    for rights in ({}, {"metrics": True, "versions": True}):
        without = client(bench.token("SECRET", **rights))
        missing = without.get("/admin/nothing")
        refused = without.get("/admin/state")
        assert refused.status_code == missing.status_code == 404 and refused.content == missing.content
    low = client(bench.token("INTERNAL", admin=True)).get("/admin/state")
    (line,) = low.json()["lines"]
    assert [each["adapter"] for each in line["adapters"]] == ["lamps-1.0.0"]
    assert line["rollout"] is line["hold"] is line["review"] is None
    assert "1.1.0" not in low.text and "buoys" not in low.text
    high = lines_of(client(bench.token("SECRET", admin=True)))
    assert set(high) == {"lamps", "buoys"} and high["lamps"]["hold"] is not None
    assert set(lines_of(client(bench.token("SECRET", admin=True, lines=("buoys",))))) == {"buoys"}


def test_the_right_holds_for_the_lines_of_its_own_role_and_there_is_no_page_without_it(
    bench: Bench, client: Client
) -> None:
    try_out(bench)
    bench.behind_proxy(desk=Role(clearance="SECRET"), office=Role(clearance="SECRET", lines=("lamps",), admin=True))
    proxied = client(client=(PROXY, 5000))
    seen = {
        role: [proxied.get(path, headers=named("layla", role)).status_code for path in ("/admin", "/")]
        for role in ("desk", "office", "")
    }
    assert seen == {"desk": [404, 200], "office": [200, 200], "": [404, 200]}
    both = proxied.get("/admin/state", headers=named("layla", "desk,office")).json()
    assert [each["line"] for each in both["lines"]] == ["lamps"]


def test_engines_are_told_of_within_reach(bench: Bench, client: Client) -> None:
    try_out(bench)
    bench.served = [replace(each, base_model_digest="1" * 64 if each.line == "buoys" else "") for each in bench.served]
    bench.other_engines = [EngineState("vllm", "granite", "1" * 64, False, 0, "No room for it.", True)]
    low, high = (client(bench.token(level, admin=True)).get("/admin/state") for level in ("INTERNAL", "SECRET"))
    assert [each["base_model"] for each in low.json()["engines"]] == ["smollm2-135m-instruct"]
    assert "granite" not in low.text
    _, other = high.json()["engines"]
    assert other == {
        "name": "vllm",
        "base_model": "granite",
        "computes": False,
        "problem": "No room for it.",
        "is_of_others": True,
    }


def test_counts_that_cannot_be_read_hide_no_other_line(bench: Bench, client: Client) -> None:
    flag = try_out(bench)

    def damaged(_: Flag) -> None:
        raise IntegrityError("zirconium", "Remove the file.")

    bench.admin = {"flags": lambda: {"lamps": flag}, "hold": damaged}
    answer = client(bench.token("SECRET", admin=True)).get("/admin/state")
    lines = {each["line"]: each for each in answer.json()["lines"]}
    assert (lines["lamps"]["hold"], lines["lamps"]["is_readable"]) == (None, False)
    assert lines["buoys"]["is_readable"] and "zirconium" not in answer.text


def test_every_sentence_has_its_arabic() -> None:
    html = "".join(file.read_text() for file in HERE.glob("*.html"))
    said = {
        *re.findall(r'data-(?:say|hint|name)="([^"]+)"', html),
        *re.findall(r'Requirement\("([^"]+)"', Path(hold.__file__).read_text()),
        *(message for _, message, _ in REFUSALS.values()),
    }
    assert said - json.loads((HERE / "arabic.json").read_text()).keys() == set()


@pytest.mark.parametrize("path", ["/", "/admin"])
@pytest.mark.security_case(
    "An attacker injects a script or resource into a page of the gateway",
    "the content policy allows only the page's own scripts and styles by hash, and text is never markup",
)
def test_a_page_says_nothing_of_anybody_and_lets_nothing_else_run(bench: Bench, client: Client, path: str) -> None:
    bench.serve(adapter("lamps"))
    page = client().get(path)
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    (policy,) = page.headers.get_list("content-security-policy")
    assert "unsafe" not in policy and "default-src 'none'" in policy and "require-trusted-types-for 'script'" in policy
    assert policy.count("'sha256-") == 3 and "frame-ancestors 'none'" in policy
    assert page.headers["cache-control"] == "no-store" and page.headers["x-content-type-options"] == "nosniff"
    assert "lamps" not in page.text
    assert (
        re.findall(r"https?://|\bon[a-z]+=|innerHTML|insertAdjacent|document\.write|eval\(|localStorage", page.text)
        == []
    )
    assert client().post(path).status_code == 405
