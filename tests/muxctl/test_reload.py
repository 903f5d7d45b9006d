import json

import pytest

PLAN = {
    "applied": True,
    "files": ["/etc/muxd/muxd.toml", "/etc/muxd/models.d/b.toml"],
    "plan": [
        {"model": "qwen", "action": "restart", "changes": ["args", "gpus"]},
        {"model": "mistral-small", "action": "update", "changes": ["switch_timeout"]},
        {"model": "pair", "action": "update", "changes": ["replicas"], "workers": ["start pair/2"]},
        {"model": "pool", "action": "update", "changes": ["router"], "workers": ["restart pool/router"]},
        {"model": "old", "action": "remove", "changes": []},
        {"model": "new", "action": "add", "changes": []},
    ],
    "settings": ["muxd.log_level"],
    "unchanged": ["alpha", "beta"],
}
SHOWN = """\
MODEL          ACTION   CHANGES
qwen           restart  args, gpus
mistral-small  update   switch_timeout
pair           update   replicas
pool           update   router
old            remove   -
new            add      -

qwen: restarted after its requests have finished
mistral-small: changed while it runs; no request is disturbed
pair: start pair/2; its other workers stay as they are
pool: restart pool/router; its other workers stay as they are; new requests wait for its next router
old: stopped after its requests have finished, and not known any more
new: added; it may be asked for at once
muxd.log_level: takes its new value, no model is disturbed
unchanged: alpha, beta

"""


@pytest.fixture
def answers(muxd):
    def answers(value):
        muxd.scripts["POST /v1/reload"] = lambda talk: talk.json(value)
        return muxd

    return answers


def test_what_changes_is_a_table_and_what_that_means_is_told_in_words(answers, muxctl):
    muxd = answers(PLAN)
    assert muxctl("reload") == (0, f"{SHOWN}applied /etc/muxd/muxd.toml, /etc/muxd/models.d/b.toml\n", "")
    assert muxd.requests == [("POST /v1/reload", {"dry_run": False})]


def test_what_it_opens_is_a_warning_also_beside_a_plan_that_changes_nothing(answers, muxctl):
    door = "no API key is left: anybody who reaches the proxy may use the models"
    answers(PLAN | {"warnings": [door]})
    assert f"\nWARNING: {door}\n" in muxctl("reload", "--dry-run")[1]
    answers(PLAN | {"plan": [], "settings": [], "warnings": [door]})
    assert muxctl("reload")[1] == f"nothing to change\nWARNING: {door}\n"


def test_a_dry_run_says_that_nothing_was_changed(answers, muxctl):
    muxd = answers(PLAN | {"applied": False})
    code, out, _ = muxctl("reload", "--dry-run")
    assert (code, out.splitlines()[-1]) == (
        0,
        "nothing was changed yet; read /etc/muxd/muxd.toml, /etc/muxd/models.d/b.toml",
    )
    assert muxd.requests == [("POST /v1/reload", {"dry_run": True})]


def test_settings_alone_need_no_table(answers, muxctl):
    answers(PLAN | {"plan": [], "unchanged": []})
    assert muxctl("reload")[1].splitlines()[0] == "muxd.log_level: takes its new value, no model is disturbed"


def test_nothing_to_change_is_one_line(answers, muxctl):
    answers(PLAN | {"plan": [], "settings": []})
    assert muxctl("reload") == (0, "nothing to change\n", "")


def test_an_action_of_a_newer_muxd_is_shown_as_it_is(answers, muxctl):
    answers(PLAN | {"plan": [{"model": "qwen", "action": "move", "changes": ["gpus"]}]})
    assert "qwen: move\n" in muxctl("reload")[1]


def test_json_is_what_muxd_said(answers, muxctl):
    answers(PLAN)
    code, out, _ = muxctl("reload", "--json")
    assert (code, json.loads(out)) == (0, PLAN)


def test_every_problem_of_the_configuration_is_told_and_that_nothing_was_changed(muxd, muxctl):
    problems = ["muxd.toml:3: no such key: modle_path; did you mean model_path?", "muxd.toml: [models.a]: no gpus"]
    muxd.scripts["POST /v1/reload"] = lambda talk: talk.error(
        400, "config_invalid", "\n".join(problems), problems=problems
    )
    assert muxctl("reload") == (
        2,
        "",
        f"muxctl: the configuration has 2 problems; nothing was changed:\n  {problems[0]}\n  {problems[1]}\n",
    )


def test_what_needs_a_new_start_of_muxd_is_exit_1(muxd, muxctl):
    message = "proxy.listen and muxd.socket change only when muxd is restarted; nothing was changed"
    muxd.scripts["POST /v1/reload"] = lambda talk: talk.error(409, "needs_restart", message)
    assert muxctl("reload") == (1, "", f"muxctl: {message}\n")


def test_checking_a_configuration_may_take_longer_than_other_answers(answers, muxd, muxctl, monkeypatch):
    monkeypatch.setattr("muxctl.control_connection.ANSWER_TIMEOUT", 0.05)

    def script(talk):
        talk.connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            talk.connection.recv(1)
        talk.json(PLAN)

    muxd.scripts["POST /v1/reload"] = script
    assert muxctl("reload")[0] == 0


def test_a_model_under_another_name_is_said_to_be_loaded_for_nothing(muxd, muxctl):
    steps = [
        {"model": "qwen", "action": "remove", "changes": []},
        {"model": "qwen3", "action": "add", "changes": [], "was": "qwen"},
    ]
    names = [f"m{number}" for number in range(30)]
    answer = {"applied": True, "files": ["F"], "plan": steps, "settings": [], "unchanged": names}
    muxd.scripts["POST /v1/reload"] = lambda talk: talk.json(answer)
    out = muxctl("reload")[1]
    assert "qwen3: added; it may be asked for at once; it is qwen under another name: served_names gives" in out
    assert "m19 and 10 more\n" in out
