"""What the routes of the control API answer to who has not every right."""

import json
import os

import pytest

from muxd.control import Rights

from .conftest import Desk, NoRights, until


class TestWithoutAnyRight:
    @pytest.fixture
    def rights(self) -> Rights:
        return NoRights(own_uid=-1, others_read=False)

    async def test_no_metrics_are_told(self, desk: Desk) -> None:
        status, _, body = await desk.ask("GET", "/metrics")
        assert (status, json.loads(body)["error"]["code"]) == (403, "permission_denied")

    async def test_nothing_is_answered(self, desk: Desk) -> None:
        for target in ("/v1/version", "/v1/nonsense", "/v1/shutdown"):
            status, _, body = await desk.ask("POST", target)
            assert (status, json.loads(body)["error"]["code"]) == (403, "permission_denied")
        assert desk.office.asked == []


class TestAStranger:
    @pytest.fixture
    def rights(self) -> Rights:
        return NoRights(own_uid=-1, others_read=True)

    async def test_reads_and_no_more(self, desk: Desk) -> None:
        assert (await desk.ask("GET", "/v1/status"))[0] == 200
        assert (await desk.ask("GET", "/metrics"))[0] == 200
        ended = json.loads((await desk.ask("GET", "/v1/models/odd"))[2])["last_exit"]
        assert ended == {"reason": "out of memory", "log_tail": []}, "logs are for operators"
        for method, target, deed in (
            ("GET", "/v1/models/qwen/logs", "read the models' logs"),
            ("POST", "/v1/shutdown", "shut muxd down"),
            ("POST", "/v1/reload", "reload the configuration"),
            ("POST", "/v1/models/qwen/switch", "switch models"),
            ("POST", "/v1/models/qwen/start", "start models"),
            ("POST", "/v1/models/qwen/stop", "stop models"),
            ("POST", "/v1/models/qwen/restart", "restart models"),
            ("POST", "/v1/models/qwen/sleep", "put models to sleep"),
            ("POST", "/v1/models/qwen/validate", "validate models"),
            ("GET", "/v1/proxy", "read the proxy's settings"),
            ("GET", "/v1/session", "hold leases"),
        ):
            status, _, body = await desk.ask(method, target)
            error = json.loads(body)["error"]
            assert (status, error["code"]) == (403, "permission_denied")
            assert error["message"].startswith(f"your user may not {deed}: ")
        assert desk.office.asked == []


class TestAnAdministrator:
    @pytest.fixture
    def rights(self) -> Rights:
        return NoRights(own_uid=-1, admin_gid=os.getegid(), others_read=False)

    async def test_operates_but_holds_no_lease(self, desk: Desk) -> None:
        assert (await desk.ask("GET", "/v1/status"))[0] == 200
        assert (await desk.ask("GET", "/v1/models/qwen/logs"))[0] == 200
        ended = json.loads((await desk.ask("GET", "/v1/models/odd"))[2])["last_exit"]
        assert ended["log_tail"] == ["api_key='secret'"]
        assert (await desk.ask("POST", "/v1/shutdown"))[0] == 202
        assert (await desk.ask("GET", "/v1/session"))[0] == 403


class TestTheProxysUser:
    @pytest.fixture
    def rights(self) -> Rights:
        return NoRights(own_uid=-1, proxy_uid=os.geteuid(), others_read=False)

    async def test_holds_leases_but_does_not_operate(self, desk: Desk) -> None:
        await until(await desk.begin_session(), b"101 Switching Protocols")
        assert (await desk.ask("GET", "/v1/status"))[0] == 200
        assert (await desk.ask("POST", "/v1/shutdown"))[0] == 403
