"""The API starts, says what is missing and stays polite while every engine is away."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from api.app import create_app
from api.settings import ApiSettings
from tests.integration.api_client import ApiClient
from tests.integration.test_api_resources import refused

AWAY = "127.0.0.1:1"


@pytest.fixture
def settings() -> ApiSettings:
    return ApiSettings(
        kafka_bootstrap=AWAY,
        postgres_url=SecretStr(f"postgresql://nobody@{AWAY}/none"),
        clickhouse_url=SecretStr(f"http://{AWAY}"),
    )


def test_api_answers_503_until_the_engines_are_there(settings: ApiSettings) -> None:
    with ApiClient(create_app(settings)) as api:
        assert api.get("/healthz").status_code == 200
        assert api.get("/api/swagger.json").status_code == 200
        ready = api.get("/readyz")
        assert (ready.status_code, ready.json()) == (503, {"postgres": False, "kafka": False, "balances": False})
        for path in ("/api/v1/meters", "/api/v1/customers/acme/entitlements/gpu/value", "/api/v1/debug/metrics"):
            answer = api.get(path)
            refused(answer, 503)
            assert int(answer.headers["retry-after"]) >= 1
        refused(api.post("/api/v1/meters", json={"slug": "m", "eventType": "e", "aggregation": "COUNT"}), 503)
