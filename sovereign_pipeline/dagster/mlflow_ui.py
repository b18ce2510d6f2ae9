"""Serve MLflow's web UI on loopback without its assistant, gateway and external links. The assistant runs a shell and
cannot be switched off, so its paths are rejected before they reach MLflow."""

import json
import os
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.pages import LOOPBACK, App, Receive, Send, for_hosts, listen, refuse, serve_app
from sovereign_pipeline.base.pages import Scope as Scope
from sovereign_pipeline.base.processes import keep_private
from sovereign_pipeline.base.settings import Settings, go_offline

REFUSED = ("assistant", "gateway", "gateway-proxy", "jobs", "mcp", "mcp-servers", "webhooks")
"""Segments of rejected paths, in any letter case. The response is 404. Web sockets are also closed, because MLflow's
pages do not use them."""

POLICY = (
    b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self'; form-action 'self'; "
    b"base-uri 'self'; frame-ancestors 'self'"
)
"""Content security policy. The policy allows inline scripts and styles, because MLflow's pages need them. It restricts
connections to this server."""


HIDDEN = (
    "[data-assistant-ui]",
    "[data-component-id*='assistant']",
    "[data-component-id='mlflow.home.telemetry-alert']",
    "[data-component-id^='mlflow.home.demo-banner']",
    "a[href*='mcp']",
    f"a[href^='http']:not([href^='http://{LOOPBACK}']):not([href^='http://localhost'])",
)
"""CSS selectors of elements that are hidden in MLflow's pages."""

# Browser storage keys of MLflow 3.17.
_SETTLED = {
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.settings.telemetry.enabled_v1": "false",
    "mlflow.workflowType_v1": '"machine_learning"',
}

_NEWEST = {"max_results": 1, "order_by": ["last_update_time DESC"], "filter": "name != 'Default'"}
_OPENED = f"""
if (["", "#/"].includes(location.hash)) fetch("ajax-api/2.0/mlflow/experiments/search", {{
  method: "POST", headers: {{"Content-Type": "application/json"}}, body: {json.dumps(json.dumps(_NEWEST))}
}}).then(answer => answer.json()).then(({{experiments}}) => {{
  if (experiments) location.hash = `#/experiments/${{experiments[0].experiment_id}}/runs`;
}});
"""
"""Script that opens MLflow on the runs of the newest experiment instead of its empty start page."""

INSERTED = (
    f"<style>html body :is({','.join(HIDDEN)}){{display:none!important}}</style>"
    f"<script>for(const [key,value] of Object.entries({json.dumps(_SETTLED)}))localStorage.setItem(key,value)</script>"
    f"<script>{_OPENED}</script>"
)
"""HTML that is inserted into the head of MLflow's page. The CSS selectors need a higher specificity than MLflow's own
rules, which are also `!important`."""


def environment(settings: Settings, port: int) -> dict[str, str]:
    """Return the variables that MLflow's server reads at import. The database URL may contain a password, so it is not
    passed on a command line."""
    return {
        "MLFLOW_ENABLE_AI_GATEWAY": "false",
        "MLFLOW_ENABLE_REMOTE_ASSISTANT": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_SERVER_JOB_ENABLE_PERIODIC_TASKS": "false",
        "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS": "false",
        # MLflow expects host names with and without a port. Before MLflow, `base/pages.py` filters requests by host.
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(f"{host},{host}:*" for host in sorted(settings.ui_hosts)),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(
            f"http://{host}:*,https://{host}:*,https://{host}" for host in sorted(settings.ui_hosts)
        ),
        "_MLFLOW_SERVER_FILE_STORE": settings.mlflow_url,
        "_MLFLOW_SERVER_REGISTRY_STORE": settings.mlflow_url,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": settings.mlflow_artifacts.as_uri(),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
    }


def guarded(app: App, page: bytes) -> App:
    """Wrap an application: reject the blocked paths and add the policy to every response. `page`: the start page to
    serve."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                kept = [each for each in message.get("headers", []) if each[0].lower() != b"content-security-policy"]
                message = {**message, "headers": [*kept, (b"content-security-policy", POLICY)]}
            await send(message)

        is_page = scope["type"] == "http" and scope["path"] == "/" and scope["method"] == "GET"
        if scope["type"] == "websocket" or set(scope.get("path", "").lower().split("/")) & set(REFUSED):
            await refuse(scope, send_with_policy, 404, b"Off in this installation.")
        elif is_page:
            headers = [(b"content-type", b"text/html; charset=utf-8"), (b"cache-control", b"no-cache")]
            await send_with_policy({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": page})
        else:
            await app(scope, receive, send_with_policy)

    return answer


def create_app(variables: Mapping[str, str]) -> App:
    """Build MLflow's own application with the guards. Sets `variables` in this process."""
    os.environ.update(variables)
    from mlflow import server
    from mlflow.server.fastapi_app import app

    index = Path(server.__file__).parent / server.REL_STATIC_DIR / "index.html"
    return guarded(app, index.read_bytes().replace(b"<head>", b"<head>" + INSERTED.encode(), 1))


def main() -> None:
    keep_private()
    go_offline()
    port, settings = int(sys.argv[1]), Settings.from_environment()
    with listen(port, "--mlflow-port") as held:
        serve_app(for_hosts(create_app(environment(settings, port)), settings.ui_hosts), held)


if __name__ == "__main__":
    main()
