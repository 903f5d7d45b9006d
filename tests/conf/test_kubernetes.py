"""The manifests of conf/kubernetes: Kubernetes takes them, they fit each other, and muxd starts as they start it."""

import re
from pathlib import Path

import pytest
import yaml

from muxd.arguments import command_line
from muxd.config.load import load_config, read_config
from muxd.engines.registry import kind_of
from muxd.importers.router_flags import RouterCommand

PROJECT = Path(__file__).parents[2]
MANIFESTS = {file.stem: list(yaml.safe_load_all(file.read_text())) for file in PROJECT.glob("conf/kubernetes/*.yaml")}
OBJECTS = {(each["kind"], each["metadata"]["name"]): each for objects in MANIFESTS.values() for each in objects}
WORKLOADS = {name: each for (kind, name), each in OBJECTS.items() if kind in ("Deployment", "DaemonSet")}
ENVIRON = {"HOME": "/tmp", "PATH": "/nowhere", "MUXD_API_KEY": "sk-of-a-client"}


def pod(name):
    return WORKLOADS[name]["spec"]["template"]


def container(name):
    (found,) = pod(name)["spec"]["containers"]
    return found


def config(name, tmp_path, environ=ENVIRON):
    """What the pods of a workload run with: their ConfigMap's file, or their command line."""
    verb, *flags = container(name)["args"]
    if verb == "router":
        return load_config(None, environ | {"XDG_STATE_HOME": str(tmp_path)}, RouterCommand.of(flags))
    options = command_line().parse_args([verb, *flags])
    mounts = {mount["mountPath"]: mount["name"] for mount in container(name)["volumeMounts"]}
    (volume,) = (each for each in pod(name)["spec"]["volumes"] if each["name"] == mounts[str(options.config.parent)])
    file = tmp_path / options.config.name
    file.write_text(OBJECTS["ConfigMap", volume["configMap"]["name"]]["data"][options.config.name])
    found, problems = read_config(file, environ, host=False)
    problems.raise_any()
    return found


MUXD = ("muxd-node", "muxd-front", "qwen-router")


def test_every_object_says_what_it_is_and_none_has_the_name_of_another():
    assert len(OBJECTS) == sum(map(len, MANIFESTS.values())) >= 10
    for each in OBJECTS.values():
        assert each["apiVersion"]
        assert each["metadata"]["namespace"] == "muxd"


@pytest.fixture(scope="module")
def kubernetes_validate():
    """The schemas of every Kubernetes, strict: a field that it does not have is wrong."""
    return pytest.importorskip("kubernetes_validate", reason="install the group dev again")


@pytest.mark.parametrize("version", ["1.28", "1.37"])
@pytest.mark.parametrize("key", OBJECTS, ids="-".join)
def test_every_object_is_as_the_schema_of_kubernetes_has_it(key, version, kubernetes_validate):
    kubernetes_validate.validate(OBJECTS[key], version, strict=True)


def test_the_schema_finds_a_field_that_is_none(kubernetes_validate):
    spoilt = {**OBJECTS["Service", "muxd"], "spec": {**OBJECTS["Service", "muxd"]["spec"], "selectors": {}}}
    with pytest.raises(kubernetes_validate.ValidationError, match="selectors"):
        kubernetes_validate.validate(spoilt, "1.37", strict=True)


@pytest.mark.parametrize("name", MUXD)
def test_muxd_starts_and_is_reached_at_the_port_that_the_pod_names(name, tmp_path):
    found = config(name, tmp_path)
    (port,) = container(name)["ports"]
    assert (found.proxy.host, found.proxy.port) == ("0.0.0.0", port["containerPort"])
    for probe in ("readinessProbe", "livenessProbe"):
        assert container(name)[probe]["httpGet"] == {"path": "/health", "port": port["name"]}


@pytest.mark.parametrize("name", MUXD)
def test_a_stop_has_the_time_that_muxd_takes(name, tmp_path):
    found = config(name, tmp_path)
    least = found.daemon.shutdown_timeout + max(model.stop_timeout for model in found.models)
    assert pod(name)["spec"]["terminationGracePeriodSeconds"] > least


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_selects_its_own_pods_and_mounts_what_it_has(name):
    assert pod(name)["metadata"]["labels"].items() >= WORKLOADS[name]["spec"]["selector"]["matchLabels"].items()
    mounted = {mount["name"] for mount in container(name).get("volumeMounts", ())}
    assert mounted == {volume["name"] for volume in pod(name)["spec"].get("volumes", ())}


@pytest.mark.parametrize("name", ["muxd-front", "qwen-router"])
def test_a_router_finds_the_pods_that_are_meant(name, tmp_path):
    (model,) = config(name, tmp_path).models
    found = model.engine_options.discovery
    assert found.namespace == "muxd"
    assert model.any_name, "clients name the models as the nodes do"
    assert not kind_of(model).capabilities.uses_gpus
    targets = {"muxd-front": ["muxd-node"], "qwen-router": ["qwen-prefill", "qwen-decode"]}[name]
    selectors = [each for each in (found.selector, found.prefill_selector, found.decode_selector) if each]
    for target, selector in zip(targets, selectors, strict=True):
        chosen = [each for each in WORKLOADS if pod(each)["metadata"]["labels"].items() >= selector.items()]
        assert chosen == [target]
        assert found.port in [port["containerPort"] for port in container(target)["ports"]]


def test_who_watches_pods_may():
    (rule,) = OBJECTS["Role", "muxd-router"]["rules"]
    assert rule == {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    binding = OBJECTS["RoleBinding", "muxd-router"]
    assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) == ("Role", "muxd-router")
    (subject,) = binding["subjects"]
    assert ("ServiceAccount", subject["name"]) in OBJECTS
    for name in ("muxd-front", "qwen-router"):
        assert pod(name)["spec"]["serviceAccountName"] == subject["name"]


def test_the_front_asks_for_keys_and_only_it_reaches_the_nodes(tmp_path):
    front, node = config("muxd-front", tmp_path), config("muxd-node", tmp_path)
    assert [key.name for key in front.keys] == ["default"]
    assert not front.proxy.allow_anonymous
    policy = OBJECTS["NetworkPolicy", "muxd-node"]["spec"]
    assert policy["podSelector"]["matchLabels"] == pod("muxd-node")["metadata"]["labels"]
    (rule,) = policy["ingress"]
    assert [peer["podSelector"]["matchLabels"] for peer in rule["from"]] == [pod("muxd-front")["metadata"]["labels"]]
    assert [port["port"] for port in rule["ports"]] == [node.proxy.port]
    with pytest.raises(Exception, match="MUXD_API_KEY is not set"):
        config("muxd-front", tmp_path, {"HOME": "/tmp", "PATH": "/nowhere"})


def test_the_secret_that_is_read_is_the_one_that_the_readme_makes():
    readme = (PROJECT / "conf/kubernetes/README.md").read_text()
    (made,) = re.findall(r"create secret generic (\w+) (.+)", readme)
    keys = re.findall(r"--from-literal=(\w+)=", made[1])
    sources = [env["valueFrom"]["secretKeyRef"] for name in MUXD for env in container(name).get("env", ()) if
               "valueFrom" in env]  # fmt: skip
    assert {(source["name"], source["key"]) for source in sources} == {(made[0], key) for key in keys}


def test_a_service_leads_to_a_muxd():
    for (kind, _), each in OBJECTS.items():
        if kind == "Service":
            (name,) = (n for n in MUXD if pod(n)["metadata"]["labels"].items() >= each["spec"]["selector"].items())
            assert each["spec"]["ports"][0]["targetPort"] == container(name)["ports"][0]["name"]


def test_prefill_says_its_bootstrap_port_to_the_router_as_to_sglang():
    args = container("qwen-prefill")["args"]
    said = pod("qwen-prefill")["metadata"]["annotations"]["sglang.ai/bootstrap-port"]
    assert args[args.index("--disaggregation-bootstrap-port") + 1] == said
    assert int(said) in [port["containerPort"] for port in container("qwen-prefill")["ports"]]


def test_a_pod_that_reads_no_key_gets_no_token_of_the_cluster():
    assert pod("muxd-node")["spec"]["automountServiceAccountToken"] is False


def test_the_readme_names_every_file_and_the_image_takes_its_arguments():
    readme = (PROJECT / "conf/kubernetes/README.md").read_text()
    assert set(re.findall(r"`(\S+)\.yaml`", readme)) == MANIFESTS.keys()
    dockerfile = (PROJECT / "conf/docker/Dockerfile").read_text()
    arguments = re.findall(r"--build-arg '?(\w+)=", readme)
    assert len(arguments) == 2
    assert all(f"ARG {name}=" in dockerfile for name in arguments)
