"""Serve the readable files of artifacts and `/registry` on loopback. Each file is verified against its manifest
first."""

import re
import sys
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles

from sovereign_pipeline.base.errors import IntegrityError, NotFoundError
from sovereign_pipeline.base.hosts import for_hosts, listen, serve_app
from sovereign_pipeline.base.pages import HEADERS, hash_of
from sovereign_pipeline.base.processes import keep_private
from sovereign_pipeline.base.settings import PROJECT_ROOT, Settings
from sovereign_pipeline.record.manifest import READABLE, Manifest
from sovereign_pipeline.record.sealing import open_store
from sovereign_pipeline.record.store import ArtifactStore
from sovereign_pipeline.web.rendering import STYLE, document_page
from sovereign_pipeline.web.routes import RegistryPages, router

MEDIA_TYPES = {".json": "application/json", ".png": "image/png"}

POLICY = (
    f"default-src 'none'; style-src {hash_of(STYLE)}; img-src data:; base-uri 'none'; form-action 'none'; "
    f"frame-ancestors 'none'; sandbox allow-same-origin"
)
"""Content security policy of a report: inline pictures, and no scripts, frames or external resources."""

SITE = PROJECT_ROOT / "site"
"""Directory of the documentation site, which `make docs` builds. The site's own scripts may run; nothing external is
loaded."""
SITE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_DIGEST = re.compile(r"[0-9a-f]{64}")


def create_app(settings: Settings) -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(for_hosts, hosts=settings.ui_hosts)
    store = open_store(settings)

    @app.middleware("http")
    async def with_headers(request: Request, call_next):  # type: ignore[no-untyped-def]
        response = await call_next(request)
        policy = SITE_POLICY if request.url.path.startswith("/docs/") else POLICY
        for name, value in {**HEADERS, "Content-Security-Policy": policy}.items():
            response.headers.setdefault(name, value)  # the registry's pages set their own headers
        return response

    @app.exception_handler(NotFoundError)
    async def not_found(request: Request, error: NotFoundError) -> Response:
        return Response("There is no such page.", 404, media_type="text/plain")

    @app.exception_handler(IntegrityError)
    async def changed(request: Request, error: IntegrityError) -> Response:
        return Response(str(error), 409, media_type="text/plain")

    app.state.registry_pages = RegistryPages(settings)
    app.include_router(router)

    @app.get("/")
    def root() -> Response:
        return RedirectResponse("/registry")

    @app.get("/ready")
    def ready() -> Response:
        return Response("ready", media_type="text/plain")

    if SITE.is_dir():
        app.mount("/docs", StaticFiles(directory=SITE, html=True))

    @app.get("/{digest}/{name}")
    def page(digest: str, name: str) -> Response:
        manifest, content = read_verified(store, digest, name)
        if name.endswith((".html", ".md")):
            return HTMLResponse(document_page(manifest, name, content.decode("utf-8")))
        return Response(content, media_type=MEDIA_TYPES[Path(name).suffix])

    return app


def read_verified(store: ArtifactStore, digest: str, name: str) -> tuple[Manifest, bytes]:
    """Return an artifact's manifest and the bytes of one of its readable files. Raises NotFoundError if the artifact
    has no readable file of this name, and IntegrityError if the bytes changed."""
    if not _DIGEST.fullmatch(digest):
        raise NotFoundError("There is no such artifact.")
    ref = store.ref_of(digest)
    manifest = store.read_manifest(ref)
    if name not in READABLE.get(manifest.kind, {}):
        raise NotFoundError("There is no such file.")
    return manifest, store.read_file(ref, manifest, name)


def main() -> None:
    keep_private()
    port = int(sys.argv[1])
    app = create_app(Settings.from_environment())
    with listen(port, "--pages-port") as held:
        serve_app(app, held)


if __name__ == "__main__":
    main()
