"""muxd-proxy.service and its socket under real systemd: nobody is refused, whatever happens to the proxy."""

import pytest

from tests.end_to_end.muxd import eventually
from tests.systemd.booted_host import CONFIG, MUXD, PORT, PROXY


def test_while_the_proxy_is_down_clients_wait_and_are_answered(house):
    house.ask("alpha")
    old = house.main_pid(PROXY)
    house.run(f"kill -KILL {old}")
    assert house.ask("alpha", count=20, at_once=20) == ["200 alpha"] * 20
    assert house.main_pid(PROXY) not in (0, old)


def test_a_restart_under_load_loses_no_request(house):
    house.ask("alpha")
    old = house.main_pid(PROXY)
    with house.asking("alpha", count=200, at_once=4) as asking:
        first = [asking.stdout.readline().strip() for _ in range(20)]
        house.run(f"systemctl restart {PROXY}")
        rest = asking.stdout.read().splitlines()
    assert first + rest == ["200 alpha"] * 200
    assert house.main_pid(PROXY) not in (0, old)


@pytest.mark.parametrize("stream", ["", "stream"])
def test_a_restart_lets_the_request_in_flight_finish_and_refuses_nobody(house, stream):
    """It has 6 s to go when the restart begins; who comes meanwhile waits at the socket."""
    house.ask("alpha")
    old = house.main_pid(PROXY)
    with house.asking("alpha", 1, 1, f"3000 {stream}") as asking:
        eventually(lambda: house.status("alpha")["in_flight"] == 1, "it is in flight")
        restart = house.guest.start(f"systemctl restart {PROXY}")
        eventually(lambda: house.show("ActiveState", PROXY) == "deactivating", "the proxy drains")
        assert house.ask("alpha", count=20, at_once=20) == ["200 alpha"] * 20
        assert asking.stdout.read().splitlines() == ["200 alpha"]
    assert restart.communicate() == ("", None)
    assert house.main_pid(PROXY) not in (0, old)
    assert house.show("NRestarts", PROXY) == "0", "it ended by itself"


def test_a_proxy_killed_under_load_loses_only_what_it_was_answering(house):
    house.ask("alpha")
    with house.asking("alpha", count=200, at_once=4) as asking:
        first = [asking.stdout.readline().strip() for _ in range(20)]
        house.run(f"kill -KILL {house.main_pid(PROXY)}")
        rest = asking.stdout.read().splitlines()
    answers = first + rest
    assert len(answers) == 200
    lost = [answer for answer in answers if answer != "200 alpha"]
    assert len(lost) <= 4, lost
    assert all(answer.startswith("cut") for answer in lost), lost


def test_streams_and_leases_go_on_while_muxd_is_killed(house):
    """Wants= and not Requires=: the proxy is not restarted with muxd."""
    house.ask("alpha")
    muxd, proxy = house.main_pid(), house.main_pid(PROXY)
    house.run(f"kill -KILL {muxd}")
    house.until_active_again(muxd)
    assert house.main_pid(PROXY) == proxy
    assert house.ask("beta") == ["200 beta"]
    house.run(f"systemctl stop {MUXD}")
    assert house.main_pid(PROXY) == proxy
    assert house.ask("beta")[0].startswith("503 ")


def test_a_proxy_whose_configuration_is_bad_keeps_its_clients_until_it_is_corrected(house):
    house.run(f"systemctl stop {PROXY}", check=False)
    house.guest.write("/etc/muxd/muxd.toml", CONFIG.replace("[proxy]", "[proxy]\nmax_bodi = 1"))
    with house.asking("alpha", count=2, at_once=2) as asking:
        eventually(lambda: int(house.show("NRestarts", PROXY)) >= 2, "it was started and failed")
        assert any("max_bodi" in entry["MESSAGE"] for entry in house.journal(unit=PROXY))
        assert house.show("ActiveState", PORT) == "active"
        house.guest.write("/etc/muxd/muxd.toml", CONFIG)
        assert asking.stdout.read().splitlines() == ["200 alpha"] * 2


def test_its_access_log_is_in_the_journal(house):
    assert house.ask("alpha") == ["200 alpha"]
    line = eventually(lambda: logged(house), "the request is logged")
    assert (line["PRIORITY"], line["_TRANSPORT"]) == ("6", "stdout")


def logged(house):
    lines = house.journal(unit=PROXY)
    return next((line for line in lines if " POST /v1/chat/completions " in line["MESSAGE"]), None)


def test_its_access_log_can_be_in_files_and_its_metrics_at_a_port_of_their_own(house):
    keys = 'access_log_dir = "/var/log/muxd-proxy"\nmetrics_listen = "127.0.0.1:30101"\n'
    house.begin_anew(CONFIG.replace("[proxy]\n", f"[proxy]\n{keys}"))
    assert house.ask("alpha") == ["200 alpha"]
    counted = 'muxd_requests_total{model="alpha",route="/v1/chat/completions",status="200"} 1.0'
    assert counted in house.metrics().splitlines()
    in_files = "cat /var/log/muxd-proxy/access-*.log"
    eventually(lambda: " POST /v1/chat/completions " in house.run(in_files).stdout, "the request is logged")
    assert logged(house) is None
    assert house.run("stat --format='%U %a' /var/log/muxd-proxy").stdout == "muxd-proxy 750\n"


@pytest.mark.parametrize("how", ["restart", "kill --kill-whom=all --signal=KILL"])
def test_nobody_takes_its_ports_or_is_refused_while_it_is_away(house, how):
    house.begin_anew(CONFIG.replace("[proxy]\n", '[proxy]\nmetrics_listen = "127.0.0.1:30101"\n'))
    assert house.ask("alpha") == ["200 alpha"]
    assert "muxd_up 1.0" in house.metrics()
    old = house.main_pid(PROXY)
    with house.squatting() as seen:
        house.run(f"systemctl {how} {PROXY}")
        house.until_active_again(old, PROXY)
        assert house.ask("alpha") == ["200 alpha"]
    eventually(lambda: "muxd_up 1.0" in house.metrics(), "metrics are served")
    assert (seen["taken"], seen["refused"]) == (0, 0), seen


def test_an_access_log_where_the_unit_lets_it_not_write_is_told(house):
    house.begin_anew(CONFIG.replace("[proxy]\n", '[proxy]\naccess_log_dir = "/var/log/muxd/access"\n'))
    house.run(f"systemctl start {PROXY}")
    told = "the access log cannot be written in /var/log/muxd/access"
    eventually(lambda: any(told in entry["MESSAGE"] for entry in house.journal(unit=PROXY)), told)


def test_a_socket_unit_with_two_addresses_is_told(house):
    """It would bind an address of its own otherwise, which is in use: by the socket unit."""
    drop_in = "/run/systemd/system/muxd-proxy.socket.d/two.conf"
    house.guest.write(drop_in, "[Socket]\nListenStream=127.0.0.1:30101\n")
    try:
        house.run(f"systemctl daemon-reload && systemctl restart {PORT}")
        house.run(f"systemctl start {PROXY}")
        told = "the proxy was passed 2 sockets and takes one"
        eventually(lambda: any(told in entry["MESSAGE"] for entry in house.journal(unit=PROXY)), told)
    finally:
        house.run(f"rm {drop_in} && systemctl daemon-reload")


def test_without_the_socket_there_is_no_door(house):
    house.ask("alpha")
    house.run(f"systemctl stop {PORT}")
    assert house.show("ActiveState", PROXY) == "inactive"
    assert house.ask("alpha") == ["refused"]


@pytest.mark.parametrize("name", ["muxd.toml", "muxd.env"])
def test_the_proxy_needs_no_secrets(house, name):
    """muxd.env is for root's eyes only, and neither the proxy nor the models' other users read it."""
    house.guest.write("/etc/muxd/muxd.env", "HF_TOKEN=hf_secret\n")
    house.run("chmod 600 /etc/muxd/muxd.env")
    house.run(f"systemctl restart {MUXD}")
    assert house.ask("alpha") == ["200 alpha"]
    may_read = house.run(f"cat /etc/muxd/{name}", user="muxd-proxy", check=False).returncode == 0
    assert may_read == (name == "muxd.toml")
    environ = house.guest.path(f"/proc/{house.status('alpha')['pid']}/environ").read_bytes()
    assert b"HF_TOKEN=hf_secret" in environ.split(b"\0")
    house.run("rm /etc/muxd/muxd.env")


def test_a_key_of_the_install_page_opens_the_door_and_shuts_it_again(house):
    """Its file must be readable to muxd and to the proxy, whoever they are."""
    secret = house.run("muxctl keys add carol --models alpha --expires 90d").stdout.strip()
    try:
        eventually(lambda: house.ask("alpha", key="wrong")[0].startswith("401 "), "the proxy has heard of it")
        assert house.ask("alpha", key=secret) == ["200 alpha"]
        assert house.ask("beta", key=secret)[0].startswith("403 ")
        house.run(f"systemctl restart {PROXY}")
        assert house.ask("alpha", key=secret) == ["200 alpha"]
        assert "carol" in house.run("muxctl keys list").stdout
        house.run("muxctl keys revoke carol")
        eventually(lambda: house.ask("alpha", key=secret)[0].startswith("401 "), "the proxy has heard of it")
    finally:
        house.run("rm -r /etc/muxd/muxd.d")


def test_a_key_whose_secret_is_in_the_environment_is_known_to_both_and_no_model_sees_it(house):
    house.guest.write("/etc/muxd/keys.env", "CAROLS_KEY=carols-secret\n")
    house.run("chmod 600 /etc/muxd/keys.env")
    try:
        house.begin_anew(CONFIG + '[[keys]]\nname = "carol"\nsecret_env = "CAROLS_KEY"\n')
        assert house.ask("alpha", key="carols-secret") == ["200 alpha"]
        assert house.ask("alpha", key="wrong")[0].startswith("401 ")
        environ = house.guest.path(f"/proc/{house.status('alpha')['pid']}/environ").read_bytes()
        assert b"carols-secret" not in environ
        assert b"CAROLS_KEY" not in environ
    finally:
        house.run("rm /etc/muxd/keys.env")
