"""What `muxd check` says of launch scripts: what plain text shows before one is run."""

import pytest

SERVER = "-m sglang.launch_server --model-path o/a --port 30001"


@pytest.fixture
def told(report, tmp_path):
    """What is said of a model with this script, and of its interpreter."""

    def told(text):
        (tmp_path / "a.sh").write_text(text.replace("HERE", str(tmp_path)))
        status, lines = report("[models.a]\nscript = './a.sh'")
        return status, [(mark, text) for mark, subject, text in lines if subject in ("a", "python")]

    return told


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("MODEL_NAME=q\nif true; then\n PORT=3\n", 4, "unexpected end of file"),
        ('MODEL_NAME="q\nPORT=3\n', 1, "unexpected EOF while looking for matching"),
        (f"for i in 1 2; do echo\npython3 {SERVER}\n", 3, "unexpected end of file"),
        (f"python3 {SERVER}\n}}\n", 2, "near unexpected token"),
    ],
)
def test_a_syntax_error_is_told_alone_and_in_bashs_words(told, text, line, words):
    status, ((mark, said),) = told(text)
    assert (status, mark, words in said) == (2, "WRONG", True)
    assert said.startswith(f"a.sh:{line}: a syntax error to bash: ")
    assert "port" not in said


def test_bash_reads_a_script_and_runs_nothing(told, tmp_path, monkeypatch):
    monkeypatch.setenv("BASH_ENV", str(tmp_path / "env"))
    (tmp_path / "env").write_text("touch HERE/ran".replace("HERE", str(tmp_path)))
    told(f"touch HERE/ran\npython3 {SERVER}\n")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text", ["vllm serve q", "ollama serve", "tar czf x.tgz y", f"bash -c 'python {SERVER}'", "serve() { ./x; }\nserve"]
)
def test_of_a_script_that_starts_nothing_plainly_it_is_said_that_it_is_seen_once_it_runs(told, text):
    status, ((mark, said),) = told(f"#!/bin/bash\n{text}\n")
    assert (status, mark) == (0, "warn")
    assert said.startswith("a.sh:2: " if "launch_server" in text else "a.sh: ")
    assert "a command serves a, and what its server calls itself once it runs (or write served_names" in said


def test_the_name_of_another_engine_in_a_script_of_sglang_is_nothing(told, interpreter):
    interpreter()
    text = f"# as vllm serve did\npip uninstall vllm\necho vllm serve\nHERE/python {SERVER}\n"
    assert told(text)[1][-1][0] == "ok"


def test_files_that_a_script_needs_and_that_are_not_there(told, interpreter):
    interpreter()
    text = (
        "#!/opt/nosuch/bash\nsource /opt/nosuch/bin/activate\n. ./near.sh\n[ -f /opt/x.sh ] && . /opt/x.sh\n"
        "if [ -e /opt/y.sh ]; then\n  source /opt/y.sh\nfi\n"
        "HERE/python -m sglang.launch_server --port 30001 \\\n  --model-path /nowhere/a\n"
    )
    _, lines = told(text)
    assert [text for mark, text in lines if mark == "warn"] == [
        "a.sh:1: its first line names /opt/nosuch/bash, which is not there; muxd runs it with bash all the same: "
        "correct the line",
        "a.sh:2: /opt/nosuch/bin/activate is read by `source`, and is not there; correct the script",
        "a.sh:3: near.sh is read by `source`, and is not there; correct the script",
        "a.sh:9: nothing at /nowhere/a; correct the script",
    ]


def test_an_interpreter_by_its_name_is_looked_for_as_the_script_will(told, interpreter):
    interpreter("env/bin/python3", version="7")
    interpreter("python3", script="exit 0")
    assert told(f"python3 {SERVER}\n")[1][0] == (
        "warn",
        "a.sh:1: python3: no SGLang is installed in it (engine_missing); name the python of an environment that has "
        "SGLang, or install it there: python3 -m pip install sglang",
    )
    assert told(f"source HERE/env/bin/activate\npython3 {SERVER}\n")[1][0][0] == "warn"
    activate = interpreter("env/bin/activate")
    assert told(f"source {activate}\npython3 {SERVER}\n")[1][0][1].startswith("env/bin/python3: SGLang 7")
    for unseen in ("PATH=$(my-path)", "conda activate x", "eval $SET_UP"):
        assert not [text for _, text in told(f"{unseen}\npython3 {SERVER}\n")[1] if "SGLang is" in text]


def test_the_folder_of_a_model_is_looked_at_as_for_one_by_keys(told, interpreter, folder):
    interpreter()
    folder(**{"config.json": None})
    server = "HERE/python -m sglang.launch_server --model-path HERE/models/qwen --port 30001"
    assert told(f"{server}\n")[1][-1][1].startswith("a.sh:1: models/qwen: no config.json")
    assert told(f"ssh HERE\n{server}\n")[1][-1][0] == "ok"
    server = server.replace("models/qwen", "gone") + " --chat-template HERE/gone.jinja"
    assert [text for _, text in told(f"{server}\n")[1][1:]] == [
        "a.sh:1: --chat-template: nothing at gone.jinja; correct the path",
        "a.sh:1: nothing at gone; correct the script",
    ]


def test_a_virtual_environment_is_followed_by_its_variable(told, interpreter):
    interpreter("env/bin/python", version="7")
    head = 'PORT=30001\nVENV=HERE/env\nsource $VENV/bin/activate\ncd "$(dirname $0)"\n'
    server = "python -m sglang.launch_server --model-path o/a --port $PORT\n"
    assert ("warn", "a.sh:3: env/bin/activate is read by `source`, and is not there; correct the script") in told(
        head + server
    )[1]
    interpreter("env/bin/activate", script="hash -r")
    _, lines = told(head + server)
    assert lines[0] == ("ok", "env/bin/python: SGLang 7, torch 2.9.1 (CUDA 12.9)")
    assert "on port 30001" in lines[1][1], "what the script set before is still known"
    interpreter("env/bin/python", script="exit 0")
    assert [mark for mark, _ in told(head + server)[1]] == ["warn"], "no ok for a model without SGLang"


def test_programs_and_folders_that_are_not_there_are_told(told, interpreter):
    assert told("cd /nowhere || exit 1\nuv run python " + SERVER)[1] == [
        ("warn", "a.sh:1: /nowhere is where the script goes with `cd`, and is not there; correct the script"),
        ("warn", "a.sh:2: uv is not found in PATH; correct the script, or PATH in the model's env"),
    ]
    for tolerant in ("cd /nowhere || true", "mkdir -p /nowhere\ncd /nowhere", ". /nowhere/x 2>/dev/null || :"):
        assert not [text for _, text in told(f"{tolerant}\n/bin/python {SERVER}")[1] if "/nowhere" in text]


def test_the_flags_of_a_plain_command_are_compared_with_its_sglang(told, interpreter):
    interpreter(rejected={"a": "unrecognized arguments: --contxt-length"})
    said = "a.sh:1: the SGLang of python does not take its flags: it knows no --contxt-length; did you mean "
    assert told(f"HERE/python {SERVER} --contxt-length 5\n")[1][-1] == ("WRONG", f"{said}--context-length?")
    assert told(f"HERE/python {SERVER} --contxt-length $(nproc)\n")[1][-1][0] == "ok", "not all of it is plain"
    interpreter(rejected={"a": "unrecognized arguments: --max-model-len 5"})
    assert told(f"HERE/python {SERVER} --max-model-len 5\n")[1][1:] == [
        ("WRONG", "a.sh:1: --max-model-len is not SGLang's; it has --context-length")
    ], "one line for one fault"


def test_what_is_not_known_of_a_script_is_said(told, interpreter):
    interpreter()
    assert (
        "serves a, and what its server calls itself once it runs (or write served_names into its table), "
        "on a port that is found once it listens (or write port into its table)"
        in (told("HERE/python -m sglang.launch_server --model-path $(cat x) --port $(cat y)")[1][-1][1])
    )


def test_an_activation_makes_nothing_else_unknown(told, interpreter):
    text = f'MODEL_NAME=q\nPORT=30001\neval "$(conda shell.bash hook)"\nconda activate x\npython {SERVER}\n'
    lines = told(text)[1]
    (line,) = [text for mark, text in lines if mark == "ok"]
    assert "serves q on port 30001, " in line


def test_a_program_is_looked_for_in_the_path_that_the_script_writes_plainly(told, interpreter):
    text = f"export PATH=/nowhere\npython3 {SERVER}\n"
    assert ("warn", "a.sh:2: python3 is not found in PATH; correct the script, or PATH in the model's env") in told(
        text
    )[1]
    interpreter("bin/python3")
    assert ("ok", told(f"export PATH=HERE/bin:$PATH\npython3 {SERVER}\n")[1][-1][0]) == ("ok", "ok")


def test_a_relative_folder_of_a_script_is_looked_at_as_a_models(told, interpreter, folder):
    interpreter()
    text = "HERE/python -m sglang.launch_server --model-path models/phi --port 30001\n"
    (said,) = [text for _, text in told(text)[1] if "models/phi" in text]
    assert said.startswith("a.sh:1: nothing at ")
    folder("models/phi", **{"config.json": None})
    (said,) = [text for _, text in told(text)[1] if "models/phi" in text]
    assert "models/phi: no config.json" in said


def test_an_api_key_of_a_scripts_own_is_told(told, interpreter):
    interpreter()
    lines = told(f"HERE/python {SERVER} --api-key abc\n")[1]
    assert [text for mark, text in lines if mark == "warn" and "engine_locked" in text] == [
        "a.sh:1: gives its server an --api-key, and it will refuse muxd, too (engine_locked): "
        "take it out, and write [[keys]] for clients"
    ]
