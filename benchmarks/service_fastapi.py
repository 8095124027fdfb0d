"""The FastAPI service that is measured: `/` answers."""

import os

from fastapi import FastAPI

app = FastAPI()

if os.environ.get("BENCH_AGENT") == "elastic":
    # Not zero-code: elasticapm-run sends nothing for FastAPI, which overrides the method that it patches.
    import elasticapm
    from elasticapm.contrib.starlette import ElasticAPM, make_apm_client

    app.add_middleware(ElasticAPM, client=elasticapm.get_client() or make_apm_client())


@app.get("/")
async def index() -> dict[str, str]:
    return {"hello": "world"}
