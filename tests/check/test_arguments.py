"""What `muxd check` says of a model's arguments, and of those of its halves."""

import json

import pytest


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--max-model-len", "32768"], "--max-model-len is not SGLang's; it has --context-length"),
        (["--gpu-memory-utilization=0.9"], "--gpu-memory-utilization is not SGLang's; it has --mem-fraction-static"),
        (["--device", "cuda:1"], "--device cuda:1: which GPU it is, gpus says; write --device cuda, or leave it out"),
        (["--nnodes", "2"], "--nnodes 2: muxd starts a server on this host alone; "),
    ],
)
def test_args_that_are_odd_are_told_whether_sglang_is_there_or_not(told, folder, args, words):
    folder()
    ((mark, text),) = told(f"model_path = './models/qwen'\nargs = {json.dumps(args)}")
    assert (mark, text.startswith("muxd.toml:6: "), words in text) == ("warn", True, True)


@pytest.mark.parametrize(
    ("args", "rejected", "said"),
    [
        (
            "'--trust-remote-code', 'true'",
            "true",
            '--trust-remote-code takes no value, and true is one; write "--trust-remote-code" alone',
        ),
        ("'--enable-metrics', 'False'", "False", "--enable-metrics takes no value, and False is one; leave both out"),
        ("'-c', '5'", "-c 5", "-c is not SGLang's; it has --context-length"),
        ("'--max-model-len', '5'", "--max-model-len 5", "--max-model-len is not SGLang's; it has --context-length"),
        ("'--max-model-len=5'", "--max-model-len=5", "--max-model-len is not SGLang's; it has --context-length"),
        (
            "'--enable-prefix-caching'",
            "--enable-prefix-caching",
            "--enable-prefix-caching is not SGLang's; SGLang does that unasked: remove it",
        ),
        ("'--model-id', 'a/b'", "--model-id a/b", "--model-id is not SGLang's; use the key model_path"),
        ("'-ngl', '99'", "-ngl 99", "-ngl is not SGLang's; it has nothing like it: remove it"),
    ],
)
def test_one_fault_of_the_arguments_is_one_line(report, interpreter, folder, args, rejected, said):
    interpreter(rejected={"a": f"unrecognized arguments: {rejected}"})
    folder()
    status, lines = report(f"[models.a]\npython = './python'\nmodel_path = './models/qwen'\nargs = [{args}]")
    (told,) = [(mark, text) for mark, subject, text in lines if subject == "a"]
    assert (status, told) == (2, ("WRONG", f"muxd.toml:6: {said}"))


def test_each_fault_of_the_arguments_is_told_at_once(report, interpreter, folder):
    interpreter(
        rejected={
            "a": [
                "argument --trust-remote-code: ignored explicit argument 'true'",
                "argument --dtype: invalid choice: 'fp16' (choose from 'half', 'float16')",
                "unrecognized arguments: --max-model-len 8 --contxt-length 5",
            ]
        }
    )
    folder()
    args = ["--trust-remote-code=true", "--dtype", "fp16", "--max-model-len", "8", "--contxt-length", "5"]
    _, lines = report(f"[models.a]\npython = './python'\nmodel_path = './models/qwen'\nargs = {json.dumps(args)}")
    python = "the SGLang of python does not take args:"
    assert [text.removeprefix("muxd.toml:6: ") for _, subject, text in lines if subject == "a"] == [
        '--trust-remote-code takes no value, and true is one; write "--trust-remote-code" alone',
        "--max-model-len is not SGLang's; it has --context-length",
        f"{python} --dtype: fp16 is no value of it; did you mean float16? There are half, float16",
        f"{python} it knows no --contxt-length; did you mean --context-length?",
    ]


def test_a_file_that_the_arguments_name_and_that_is_not_there_is_wrong(told, folder, tmp_path):
    folder()
    there, gone = tmp_path / "there.jinja", tmp_path / "gone"
    there.touch()
    good = ["--chat-template", str(there), "--lora-paths", f"a={tmp_path}", "org/b", "--file-storage-path", str(gone)]
    model = "model_path = './models/qwen'\nargs = "
    assert told(f"{model}{json.dumps(good)}")[0][0] == "ok"
    bad = [f"--chat-template={gone}/t.jinja", "--lora-paths", "org/b", f"c={gone}/c", str(gone)]
    assert [(mark, text.replace(f"{tmp_path}/", "")) for mark, text in told(f"{model}{json.dumps(bad)}")] == [
        ("WRONG", "muxd.toml:6: --chat-template: nothing at gone/t.jinja; correct the path"),
        ("WRONG", "muxd.toml:6: --lora-paths: nothing at gone/c; correct the path"),
        ("WRONG", "muxd.toml:6: --lora-paths: nothing at gone; correct the path"),
    ]


HALVES = """\
[models.a]
model_path = "{folder}"
python = "{python}"
gpus = [0, 1]
prefill = {{ args = {prefill} }}
decode = {{ args = ["--context-length", "x"] }}
"""


def test_what_the_engine_refuses_of_one_half_is_told_with_its_line(report, interpreter, folder):
    said = "argument --context-length: invalid int value: x"
    python = interpreter(rejected={"a/decode": said})
    status, lines = report(HALVES.format(folder=folder(), python=python, prefill=[]), gpus=(140, 140))
    assert status == 2
    (text,) = [text for mark, subject, text in lines if (mark, subject) == ("WRONG", "a")]
    assert text == f"muxd.toml:8: the SGLang of {python.name} does not take decode.args: {said}"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--port", "1"], "--port is muxd's own; use the key port"),
        (["--disaggregation-mode", "decode"], "is muxd's own; leave it out: prefill and decode say it"),
        (["--disaggregation-bootstrap-port=9"], "each server that prefills has a port of its own"),
        (["chunked"], '"chunked" belongs to no flag'),
    ],
)
def test_flags_of_a_half_that_are_muxds_own_are_refused(report, interpreter, folder, flags, said):
    text = HALVES.format(folder=folder(), python=interpreter(), prefill=flags)
    status, lines = report(text, gpus=(140, 140))
    (found,) = [text for mark, subject, text in lines if (mark, subject) == ("WRONG", "a") and ":7: " in text]
    assert (status, found.startswith("muxd.toml:7: models.a.prefill.args: ")) == (2, True)
    assert said in found
