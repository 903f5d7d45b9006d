"""sglang-router 0.3.2: which worker gets a request is its decision, which workers there are is muxd's."""

import re
import sys
from collections.abc import Iterator

from muxd.config.model_schema import Model
from muxd.config.router_options import RouterOptions
from muxd.engines import diagnosis
from muxd.engines.diagnosis import Diagnosis, Evidence
from muxd.engines.engine import LaunchContext
from muxd.engines.engine_client import EngineClient
from muxd.engines.engine_packages import EnginePackage
from muxd.engines.log_patterns import BAD_FLAGS, GENERAL_PATTERNS, UNKNOWN_FLAGS, LogPattern
from muxd.errors import BadFlag, EngineMissing
from muxd.ports import HOST, free_port

from .worker_api import WorkerApiRouter

#: The package as an interpreter has it.
PACKAGE = EnginePackage(
    "sglang_router",
    "sglang-router",
    imports="from sglang_router.router_args import RouterArgs",
    add="RouterArgs.add_cli_args(parser)",
    check="""
def check(found):
    from sglang_router.router import Router
    args = RouterArgs.from_cli_args(found)
    args.host = "no address"  # 0.3.2 looks at all that it was told, and ends before it starts anything
    try:
        Router.from_args(args).start()
    except (ValueError, OverflowError) as error:
        if "Incompatible configuration" not in str(error):  # one of the workers, of which it is told later
            raise ValueError(str(error))
    except BaseException:
        pass  # this is no address
""",
)

#: Bytes of its metrics page, at most; 20 KB were seen with two workers.
LARGEST_PAGE = 4 << 20

#: Seconds that a whole answer may take.  The default, half an hour, would cut long answers; the proxy has the limits.
NO_LIMIT = 365 * 24 * 3600

#: Addresses of nobody: unprivileged servers have no port 1 or 2, and those that would (tcpmux) are gone.
NOBODY = (f"http://{HOST}:1", f"http://{HOST}:2")

#: Flags of every router.
FLAGS = (
    *("--host", HOST),
    *("--prometheus-host", HOST),
    # muxd says who serves; the router's own checks find a worker that hangs, and one that has just been added.
    *("--health-check-interval-secs", "1", "--health-failure-threshold", "3", "--health-success-threshold", "1"),
    *("--worker-startup-check-interval", "1"),
    # Ten failures in a row keep requests off a worker: for a minute, the default, one that is back would idle.
    *("--cb-timeout-duration-secs", "2"),
    # The proxy asks again: it knows what the client has seen, and gives up a request that has killed two workers.
    "--disable-retries",
    *("--request-timeout-secs", str(NO_LIMIT)),
    *("--log-level", "warn"),  # "info" has four lines for each request, which the proxy's access log has already
)

_OWN_FLAGS = "correct router.args"

_PATTERNS = (
    LogPattern(BadFlag, UNKNOWN_FLAGS, "sglang-router does not know {flags}", _OWN_FLAGS),
    LogPattern(BadFlag, BAD_FLAGS, "sglang-router does not take its flags: {what}", _OWN_FLAGS),
    LogPattern(
        BadFlag,
        r"^(?:ValueError: Configuration error: |OverflowError: )(?P<what>[^\n]+)$",
        "sglang-router does not take its flags: {what}",
        _OWN_FLAGS,
    ),
    *GENERAL_PATTERNS,
)

_NOT_THERE = re.compile(r"(?:ModuleNotFoundError|ImportError): (?P<why>(?:\([^()\n]*\)|[^()\n]){1,200})")


class SGLangRouter(WorkerApiRouter):
    """The real router, in whatever environment has it."""

    _metrics_port = 0
    _is_told = True  # of its workers once it runs; else its flags have them, or it finds pods by itself

    def _choose(self, model: Model, context: LaunchContext) -> dict[str, str]:
        port = context.chosen.get("prometheus_port") or _options(model).prometheus_port or free_port()
        self._metrics_port = int(port)
        return {"prometheus_port": str(port)}

    def _argv(self, model: Model, context: LaunchContext) -> tuple[str, ...]:
        options = _options(model)
        ports = ("--port", str(context.port), "--prometheus-port", str(self._metrics_port))
        argv = (interpreter(model), "-m", "sglang_router.launch_router", *FLAGS, *ports)
        nobody = _nobody_flags(model) if self._is_told else ()
        more = self._flags_of_servers(model)
        return (*argv, *_flags(options), *_half_flags(model), *nobody, *more, *options.args)

    def _flags_of_servers(self, model: Model) -> Iterator[str]:
        """Yield what the router is told of its servers by flags; the user's own come after them."""
        yield from ()

    async def metrics(self, link: EngineClient) -> bytes | None:
        return await link.at(f"http://{HOST}:{self._metrics_port}").page("/metrics", LARGEST_PAGE)

    def diagnose(self, evidence: Evidence, model: Model) -> Diagnosis | None:
        if missing := _NOT_THERE.search(evidence.said):
            python = interpreter(model)
            remedy = f"run: {python} -m pip install 'muxd[router]'; or name the python of an environment that has it"
            message = f"{python} has no sglang-router that works ({missing['why']})"
            return Diagnosis(EngineMissing.code, message, remedy, refused=evidence.doing is None)
        known = diagnosis.of_log(evidence, _PATTERNS, model, {"engine": "sglang-router"})
        return known or super().diagnose(evidence, model)


def interpreter(model: Model) -> str:
    """Return the Python that is to run the model's router: muxd's own, unless `router` names another."""
    return _options(model).python or sys.executable


def _options(model: Model) -> RouterOptions:
    return model.router or RouterOptions()


def _half_flags(model: Model) -> Iterator[str]:
    """Yield the flags that say that some workers prefill for others, and the policies for each."""
    if model.prefill is None or model.decode is None:
        return
    yield "--pd-disaggregation"
    for flag, half in (("--prefill-policy", model.prefill), ("--decode-policy", model.decode)):
        if half.policy:
            yield from (flag, half.policy)


def _nobody_flags(model: Model) -> Iterator[str]:
    """Yield the flags for workers that are not there, where the policy is power_of_two.

    sglang-router 0.3.2 starts with that only if it knows of two workers (of each half) already.  It lists nobody who
    does not answer, so that these never get a request: nothing listens there.
    """
    halves = [half for half in (model.prefill, model.decode) if half is not None]
    if "power_of_two" not in (_options(model).policy, *(half.policy for half in halves)):
        return
    if halves:
        for flag in ("--prefill", "--decode"):
            yield from (word for url in NOBODY for word in (flag, url))
    else:
        yield from ("--worker-urls", *NOBODY)


def _flags(options: RouterOptions) -> Iterator[str]:
    """Yield the flags that say what the table `router` says."""
    said = {
        "--policy": options.policy,
        "--cache-threshold": options.cache_threshold,
        "--balance-abs-threshold": options.balance_abs_threshold,
        "--balance-rel-threshold": options.balance_rel_threshold,
        "--log-dir": options.log_dir,
    }
    for flag, value in said.items():
        if value is not None:
            yield from (flag, str(value))
    if options.request_id_headers:
        yield from ("--request-id-headers", *options.request_id_headers)
