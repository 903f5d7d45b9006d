"""muxd-proxy.service and its socket under real systemd: nobody is refused, whatever happens to the proxy."""

import pytest

from tests.end_to_end.muxd import eventually
from tests.systemd.booted_host import CONFIG, MUXD, PORT, PROXY


def test_while_the_proxy_is_down_clients_wait_and_are_answered(booted):
    booted.ask("alpha")
    old = booted.main_pid(PROXY)
    booted.run(f"kill -KILL {old}")
    assert booted.ask("alpha", count=20, at_once=20) == ["200 alpha"] * 20
    assert booted.main_pid(PROXY) not in (0, old)


def test_a_restart_under_load_loses_no_request(booted):
    booted.ask("alpha")
    old = booted.main_pid(PROXY)
    with booted.asking("alpha", count=200, at_once=4) as asking:
        first = [asking.stdout.readline().strip() for _ in range(20)]
        booted.run(f"systemctl restart {PROXY}")
        rest = asking.stdout.read().splitlines()
    assert first + rest == ["200 alpha"] * 200
    assert booted.main_pid(PROXY) not in (0, old)


@pytest.mark.parametrize("stream", ["", "stream"])
def test_a_restart_lets_the_request_in_flight_finish_and_refuses_nobody(booted, stream):
    """It has 6 s to go when the restart begins; who comes meanwhile waits at the socket."""
    booted.ask("alpha")
    old = booted.main_pid(PROXY)
    with booted.asking("alpha", 1, 1, f"3000 {stream}") as asking:
        eventually(lambda: booted.status("alpha")["in_flight"] == 1, "it is in flight")
        restart = booted.guest.start(f"systemctl restart {PROXY}")
        eventually(lambda: booted.show("ActiveState", PROXY) == "deactivating", "the proxy drains")
        assert booted.ask("alpha", count=20, at_once=20) == ["200 alpha"] * 20
        assert asking.stdout.read().splitlines() == ["200 alpha"]
    assert restart.communicate() == ("", None)
    assert booted.main_pid(PROXY) not in (0, old)
    assert booted.show("NRestarts", PROXY) == "0", "it ended by itself"


def test_a_proxy_killed_under_load_loses_only_what_it_was_answering(booted):
    booted.ask("alpha")
    with booted.asking("alpha", count=200, at_once=4) as asking:
        first = [asking.stdout.readline().strip() for _ in range(20)]
        booted.run(f"kill -KILL {booted.main_pid(PROXY)}")
        rest = asking.stdout.read().splitlines()
    answers = first + rest
    assert len(answers) == 200
    lost = [answer for answer in answers if answer != "200 alpha"]
    assert len(lost) <= 4, lost
    assert all(answer.startswith("cut") for answer in lost), lost


def test_where_the_proxy_hangs_it_is_restarted_by_the_watchdog(booted):
    assert booted.show("WatchdogUSec", PROXY) == "30s"
    impatient = f"/run/systemd/system/{PROXY}.d/impatient.conf"
    booted.guest.write(impatient, "[Service]\nWatchdogSec=2\n")
    booted.run(f"systemctl daemon-reload && systemctl restart {PROXY}")
    try:
        booted.ask("alpha")
        old = booted.main_pid(PROXY)
        booted.run(f"kill -STOP {old}")
        booted.until_active_again(old, PROXY)
        assert booted.ask("alpha") == ["200 alpha"]
    finally:
        booted.run(f"rm {impatient} && systemctl daemon-reload")


def test_streams_and_leases_go_on_while_muxd_is_killed(booted):
    """Wants= and not Requires=: the proxy is not restarted with muxd."""
    booted.ask("alpha")
    muxd, proxy = booted.main_pid(), booted.main_pid(PROXY)
    booted.run(f"kill -KILL {muxd}")
    booted.until_active_again(muxd)
    assert booted.main_pid(PROXY) == proxy
    assert booted.ask("beta") == ["200 beta"]
    booted.run(f"systemctl stop {MUXD}")
    assert booted.main_pid(PROXY) == proxy
    assert booted.ask("beta")[0].startswith("503 ")


def test_a_proxy_whose_configuration_is_bad_keeps_its_clients_until_it_is_corrected(booted):
    booted.run(f"systemctl stop {PROXY}", check=False)
    booted.guest.write("/etc/muxd/muxd.toml", CONFIG.replace("[proxy]", "[proxy]\nmax_bodi = 1"))
    with booted.asking("alpha", count=2, at_once=2) as asking:
        eventually(lambda: int(booted.show("NRestarts", PROXY)) >= 2, "it was started and failed")
        assert any("max_bodi" in entry["MESSAGE"] for entry in booted.journal(unit=PROXY))
        assert booted.show("ActiveState", PORT) == "active"
        booted.guest.write("/etc/muxd/muxd.toml", CONFIG)
        assert asking.stdout.read().splitlines() == ["200 alpha"] * 2


def test_its_access_log_is_in_the_journal(booted):
    assert booted.ask("alpha") == ["200 alpha"]
    line = eventually(lambda: logged(booted), "the request is logged")
    assert (line["PRIORITY"], line["_TRANSPORT"]) == ("6", "stdout")


def logged(booted):
    lines = booted.journal(unit=PROXY)
    return next((line for line in lines if " POST /v1/chat/completions " in line["MESSAGE"]), None)


def test_its_access_log_can_be_in_files_and_its_metrics_at_a_port_of_their_own(booted):
    keys = 'access_log_dir = "/var/log/muxd-proxy"\nmetrics_listen = "127.0.0.1:30101"\n'
    booted.begin_anew(CONFIG.replace("[proxy]\n", f"[proxy]\n{keys}"))
    assert booted.ask("alpha") == ["200 alpha"]
    counted = 'muxd_requests_total{model="alpha",route="/v1/chat/completions",status="200"} 1.0'
    assert counted in booted.metrics().splitlines()
    in_files = "cat /var/log/muxd-proxy/access-*.log"
    eventually(lambda: " POST /v1/chat/completions " in booted.run(in_files).stdout, "the request is logged")
    assert logged(booted) is None
    assert booted.run("stat --format='%U %a' /var/log/muxd-proxy").stdout == "muxd-proxy 750\n"


@pytest.mark.parametrize("how", ["restart", "kill --kill-whom=all --signal=KILL"])
def test_nobody_takes_its_ports_or_is_refused_while_it_is_away(booted, how):
    booted.begin_anew(CONFIG.replace("[proxy]\n", '[proxy]\nmetrics_listen = "127.0.0.1:30101"\n'))
    assert booted.ask("alpha") == ["200 alpha"]
    assert "muxd_up 1.0" in booted.metrics()
    old = booted.main_pid(PROXY)
    with booted.squatting() as seen:
        booted.run(f"systemctl {how} {PROXY}")
        booted.until_active_again(old, PROXY)
        assert booted.ask("alpha") == ["200 alpha"]
    eventually(lambda: "muxd_up 1.0" in booted.metrics(), "metrics are served")
    assert (seen["taken"], seen["refused"]) == (0, 0), seen


def test_an_access_log_where_the_unit_lets_it_not_write_is_told(booted):
    booted.begin_anew(CONFIG.replace("[proxy]\n", '[proxy]\naccess_log_dir = "/var/log/muxd/access"\n'))
    booted.run(f"systemctl start {PROXY}")
    told = "the access log cannot be written in /var/log/muxd/access"
    eventually(lambda: any(told in entry["MESSAGE"] for entry in booted.journal(unit=PROXY)), told)


def test_a_socket_unit_with_two_addresses_is_told(booted):
    """It would bind an address of its own otherwise, which is in use: by the socket unit."""
    drop_in = "/run/systemd/system/muxd-proxy.socket.d/two.conf"
    booted.guest.write(drop_in, "[Socket]\nListenStream=127.0.0.1:30101\n")
    try:
        booted.run(f"systemctl daemon-reload && systemctl restart {PORT}")
        booted.run(f"systemctl start {PROXY}")
        told = "the proxy was passed 2 sockets and takes one"
        eventually(lambda: any(told in entry["MESSAGE"] for entry in booted.journal(unit=PROXY)), told)
    finally:
        booted.run(f"rm {drop_in} && systemctl daemon-reload")


def test_without_the_socket_there_is_no_door(booted):
    booted.ask("alpha")
    booted.run(f"systemctl stop {PORT}")
    assert booted.show("ActiveState", PROXY) == "inactive"
    assert booted.ask("alpha") == ["refused"]


@pytest.mark.parametrize("name", ["muxd.toml", "muxd.env"])
def test_the_proxy_needs_no_secrets(booted, name):
    """muxd.env is for root's eyes only, and neither the proxy nor the models' other users read it."""
    booted.guest.write("/etc/muxd/muxd.env", "HF_TOKEN=hf_secret\n")
    booted.run("chmod 600 /etc/muxd/muxd.env")
    booted.run(f"systemctl restart {MUXD}")
    assert booted.ask("alpha") == ["200 alpha"]
    may_read = booted.run(f"cat /etc/muxd/{name}", user="muxd-proxy", check=False).returncode == 0
    assert may_read == (name == "muxd.toml")
    environ = booted.guest.path(f"/proc/{booted.status('alpha')['pid']}/environ").read_bytes()
    assert b"HF_TOKEN=hf_secret" in environ.split(b"\0")
    booted.run("rm /etc/muxd/muxd.env")


def test_a_key_of_the_install_page_opens_the_door_and_shuts_it_again(booted):
    """Its file must be readable to muxd and to the proxy, whoever they are."""
    secret = booted.run("muxctl keys add carol --models alpha --expires 90d").stdout.strip()
    try:
        eventually(lambda: booted.ask("alpha", key="wrong")[0].startswith("401 "), "the proxy has heard of it")
        assert booted.ask("alpha", key=secret) == ["200 alpha"]
        assert booted.ask("beta", key=secret)[0].startswith("403 ")
        booted.run(f"systemctl restart {PROXY}")
        assert booted.ask("alpha", key=secret) == ["200 alpha"]
        assert "carol" in booted.run("muxctl keys list").stdout
        booted.run("muxctl keys revoke carol")
        eventually(lambda: booted.ask("alpha", key=secret)[0].startswith("401 "), "the proxy has heard of it")
    finally:
        booted.run("rm -r /etc/muxd/muxd.d")


def test_a_key_whose_secret_is_in_the_environment_is_known_to_both_and_no_model_sees_it(booted):
    booted.guest.write("/etc/muxd/keys.env", "CAROLS_KEY=carols-secret\n")
    booted.run("chmod 600 /etc/muxd/keys.env")
    try:
        booted.begin_anew(CONFIG + '[[keys]]\nname = "carol"\nsecret_env = "CAROLS_KEY"\n')
        assert booted.ask("alpha", key="carols-secret") == ["200 alpha"]
        assert booted.ask("alpha", key="wrong")[0].startswith("401 ")
        environ = booted.guest.path(f"/proc/{booted.status('alpha')['pid']}/environ").read_bytes()
        assert b"carols-secret" not in environ
        assert b"CAROLS_KEY" not in environ
    finally:
        booted.run("rm /etc/muxd/keys.env")
