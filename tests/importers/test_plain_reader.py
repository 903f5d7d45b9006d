"""Whatever is read of a script is so: every one here is run by bash too, and what that starts is compared."""

import re

import pytest

from muxd.config.flags import Hole
from muxd.importers.plain_reader import PlainReader

from .bash import Bash, Started, write

#: What is in a word, in a variable, in an array: each is an argument list of one `python`.
WORDS = {
    "plain words": "python a b  c",
    "double quotes": 'python "a b" c"d e"f',
    "single quotes": "python 'a $X \"b\"' 'it'\\''s'",
    "escapes": 'python a\\ b \\"c "d\\"e\\$f\\g" \\\\',
    "ansi quotes": "python $'a\\tb\\x41\\'c\\n'",
    "a hash inside quotes or a word": "python 'a # b' \"c # d\" e#f # a comment",
    "a continued line": "python \\\n  --a 1 \\\n  --b=2",
    "a continued line in quotes": 'python "a\\\nb"',
    "a comment that ends a continued command": "python --a \\\n # --b \\\n\npython2=x",
    "an empty argument": "python '' \"\" $EMPTY \"$EMPTY\" x",
    "a variable": "X=5; python $X ${X} a${X}b \"$X\"",
    "a variable that is split": "X='a  b'; python $X \"$X\" x$X",
    "a variable that is split at other characters": "IFS=,; X=a,b; python $X",
    "a default": "python ${X:-1} ${X-2} ${EMPTY:-3} \"${EMPTY-4}\" ${GIVEN:-5}",
    "a default of several words": "python ${X:---a 1} \"${X:---a 1}\" ${X:-'a b' c}",
    "a default in a default": "python ${X:-${Y:-${GIVEN}}}",
    "a default that is assigned": ": ${X:=5} \"${Y=a b}\"; python $X \"$Y\"",
    "an alternative": "X=1; python ${X:+--x $X} ${Y:+--y} ${EMPTY:+a} ${EMPTY+b}",
    "quotes in a default": "python \"${X:-'a'}\" ${X:-'a'} \"${X:-\"b c\"}\"",
    "cut off": "X=/models/a.b.gguf; python ${X##*/} ${X#*/} ${X%.*} ${X%%.*} ${X%.gguf}",
    "replaced": "X=a/b/c; python ${X/\\//-} ${X//\\//-} ${X//[bc]/x} ${X/#a/y} ${X/%c/z} ${X//b}",
    "a section": "X=abcdef; python ${X:2} ${X:1:3} ${X: -2} ${X:0:-1}",
    "case and length": "X=aBc; python ${X^^} ${X,,} ${X^} ${#X}",
    "indirect": "X=5; Y=X; python ${!Y}",
    "arithmetic": "X=30000; python $((X + 1)) $(( (X-1)*2 / 3 % 7 )) $((-7/2)) $((010)) $((X>1&&0))",
    "arithmetic in bash's own words": "X=1; python $(($X+${X})) ${X}$((X))",
    "an array": "A=(--a 1 'b c'); python \"${A[@]}\" ${A[@]} \"${A[*]}\" ${#A[@]} ${A[1]} \"${A[-1]}\" $A",
    "an array over lines": "A=(\n  --a 1  # one\n  --b 'x y'\n)\npython \"${A[@]}\"",
    "an array that grows": "A=(a); A+=(b 'c d'); A[5]=e; python \"${A[@]}\" ${!A[@]}",
    "an empty array": "A=(); python \"${A[@]}\" x${A[@]}y ${A[@]+z} \"${A[@]:-w}\"",
    "an array with names": "declare -A P=([a]=1 [b c]=2); P[d]=3; K=d; python ${P[a]} \"${P[b c]}\" ${P[$K]}",
    "an array, each changed": "A=(a b); python \"${A[@]/#/--}\" \"${A[@]:1}\"",
    "appended": "X=a; X+=b; python $X",
    "the home": "HOME=/h; python ~ ~/x a~ '~' X=~ --m=~/y; Y=~/z; python $Y",
    "arguments of a script": "python \"$@\" $# ${1:-none} x\"$*\"y",
    "arguments that are set": "set -- a 'b c'; python \"$@\" $# $2; shift; python $1",
    "a pattern without files": "python *.nothing [x]y '*'",
    "a pattern with files": "python scri*.sh",
    "dirname": "python \"$(dirname \"$0\")\" $(basename /a/b.sh .sh) `basename /a/b`",
    "the folder of the script": 'D="$(cd "$(dirname "${BASH_SOURCE[0]}")" &> /dev/null && pwd)"; python "$D/x"',
    "two assignments on a line": "A=1 B=2; python $A $B",
    "an assignment for one command": "X=1; X=2 python $X; python $X",
    "an environment for one command": "PORT=5 MODEL_NAME='a b' python x; python y",
    "exported": "export PORT=1 MODEL_NAME=m; python; export -n PORT; unset MODEL_NAME; python",
    "exported later": "PORT=1; export PORT; python",
    "all exported": "set -a; PORT=1; set +a; CUDA_VISIBLE_DEVICES=2; python",
    "redirections": "python a >/dev/null 2>&1 b <<< text &>> log c 2> >(cat) < /dev/null",
    "a here-document": "cat > x <<EOF\npython not $(this)\nEOF\npython yes <<-'END'\n\tpython not\n\tEND\npython too",
    "a translated text": 'python $"hello"',
    "a dollar that means itself": 'python $ "$" a$ "$ x"',
    "a variable for a program": "P=python; $P a; exec \"${P}3\" b",
    "wrappers": "nohup python a; env PORT=9 python b; exec nice -n 5 python c",
    "assignments in the line before a pipe": 'B=1 P=""\nB=2   # x \\\npython "$A$B" x | cat',
    "an array that is not set": 'python a "${L[@]}" "$@" "x${L[@]}"',
    "exports that name each other": "A=0; export A=1 B=$A; python $A $B",
    "words behind redirections": "> log python a 2>&1 b <<< c d > log e",
    "a shell in a shell": "X=1; export PORT=2; bash -c 'python \"[$X]\" $PORT $0 $1' zero one",
    "eval": "X='python a \"b c\"'; eval \"$X\"; eval PORT=3; python $PORT",
}  # fmt: skip

#: Which commands are run, and with what variables.
FLOW = {
    "if, known": "if [ -z \"$X\" ]; then python a; else python b; fi",
    "if, elif, else": "X=2; if [ $X = 1 ]; then python 1; elif [[ $X == 2 ]]; then python 2; else python 3; fi",
    "tests of text": "[ a = a ] && python 1; [[ abc == a* ]] && python 2; [[ abc == \"a*\" ]] || python 3; "
                     "[ ! x ] || python 4",
    "tests of numbers": "[ 3 -gt 2 ] && python 1; [[ $GIVEN -eq 7 && 1 -lt 2 ]] && python 2; "
                        "(( GIVEN > 3 )) && python 3",
    "tests of files": "[ -d / ] && python 1; [ -f /nothing ] || python 2; [[ -e $0 && ! -x /nothing ]] && python 3",
    "a default by test": "[ -n \"${PORT:-}\" ] || PORT=5; python $PORT; [ -z \"$PORT\" ] && PORT=6; python $PORT",
    "and, or": "true && python 1; false && python 2; false || python 3; true || python 4; ! false && python 5",
    "case": "case abc in x) python 1;; a*|b) python 2;; *) python 3;; esac; case 1 in (2) python 4; esac; python 5",
    "for": "for x in a 'b c' $GIVEN; do python \"$x\"; done; A=(1 2); for x in \"${A[@]}\"; do python $x; done",
    "for over numbers kept in an array": "for i in 0 1; do ARGS+=(--gpu \"$i\"); done; python \"${ARGS[@]}\"",
    "while over arguments": "set -- --port 5 x; while [ $# -gt 0 ]; do case \"$1\" in --port) P=$2; shift 2;; "
                            "*) shift;; esac; done; python $P",
    "until": "X=a; until [ $X = aaa ]; do X+=a; done; python $X",
    "break and continue": "for x in 1 2 3 4; do [ $x = 2 ] && continue; [ $x = 4 ] && break; python $x; done",
    "a function": "f() { local X=$1; shift; python $X \"$@\"; }; X=o; f 1 'a b'; python $X $1",
    "a function in the other spelling": "function f { python $1; return 3; python not; }; f a || python b",
    "a function that sets": "f() { PORT=5; }; f; python $PORT",
    "a function over a program": "python() { command python wrapped \"$@\"; }; python a",
    "main at the end": "main() {\n  set -e\n  local args=(--port 5)\n  exec python \"${args[@]}\"\n}\nmain \"$@\"",
    "a subshell keeps its changes": "X=1; (X=2; cd /; python $X); python $X",
    "a group": "X=1; { X=2; }; python $X",
    "a pipe": "X=1; echo a | { X=2; cat; }; python $X 2>&1 | tee /dev/null",
    "in the background": "python a & wait; python b; wait",
    "exit": "python a; exit 0; python b",
    "exec ends": "exec python a\npython b",
    "exec for redirections does not": "exec > /dev/null 2>&1; python a",
    "set -e": "set -euo pipefail\n[ -d /nothing ] || python a\nif [ -d /nothing ]; then :; fi\n"
              "[ -d /nothing ]\npython b",
    "set -e in a condition": "set -e; f() { false; python in; }; if f; then python yes; fi; f || true",
    "set -u with defaults": "set -u; A=(); python ${X:-d} \"${X:+x}\" \"${A[@]}\" \"$@\"",
    "set -u ends": "set -u\npython a\npython $NOTHING\npython b",
    "an error for what is not set": "python a; : ${NOTHING:?must be set}; python b",
    "cd": "cd /usr; python $PWD; cd lib/..; python $PWD \"$(pwd)\"; cd /nothing; python $PWD",
    "a sourced file": "source ./more.env; python $PORT \"$MODEL_NAME\"; . ./more.env x",
    "a sourced file that is not there": "source ./nothing.sh; python a",
    "colon and trap": "trap 'python not' USR1; : python not; python a",
    "ulimit, mkdir, export PATH": "ulimit -n 512; mkdir -p logs; export PATH=$PATH:/opt/bin; python a",
    "printf and echo into variables": "X=$(echo a b); Y=$(printf '%s' \"$X\"); python \"$Y\" $Y",
    "a text in a here-string is not run": "read -r X <<< 'python a'; python b",
    "semicolons and lines": "python a; python b\n\n\n;: \npython c" .replace(";: ", ": "),
    "keywords as arguments": "python if then done } in; for in in in; do python $in; done",
    "readonly": "readonly PORT=4; declare -x MODEL_NAME=m; typeset -i N=3; python $PORT $N",
}  # fmt: skip

#: Real scripts: what sglangmux's users have.
SCRIPTS = {
    "sglangmux's own test": """\
#!/usr/bin/env bash
set -euo pipefail
MODEL_NAME='Qwen/Qwen3-0.6B'
PORT=30001
exec "python" --model "$MODEL_NAME" --port "$PORT" --startup-delay-ms 350
""",
    "sglangmux's contract": """\
#!/usr/bin/env bash
MODEL_NAME="Qwen/Qwen3-0.6B"
PORT=30001

python -V || true
python -m sglang.launch_server \\
  --model-path "$MODEL_NAME" \\
  --host 127.0.0.1 \\
  --port "$PORT" \\
  --enable-memory-saver \\
  --mem-fraction-static 0.7
""",
    "flags alone": """\
python3 -m sglang.launch_server --model-path=/models/llama --port=8000 --tp 2 --trust-remote-code
""",
    "a virtual environment": """\
#!/bin/bash
source /no/such/venv/bin/activate
export CUDA_VISIBLE_DEVICES=1,2
python -m sglang.launch_server \\
    --model-path /home/ivan/models/GLM-4.5-Air-AWQ-4bit \\
    --port 8001 --tensor-parallel-size 2 \\
    --served-model-name glm-4.5-air-awq-4bit
""",
    "arguments with defaults": """\
#!/bin/bash
# host is either $1 or 0.0.0.0
HOST=${1:-0.0.0.0}
PORT=${2:-30000}
TP_SIZE=${3:-1}
echo "Launching SGLang server with:
    HOST: $HOST
    PORT: $PORT
"
python -m sglang.launch_server \\
    --model-path Qwen/Qwen2.5-7B-Instruct \\
    --port $PORT \\
    --host $HOST \\
    --tp-size $TP_SIZE \\
    --enable-memory-saver \\

    # --decode-log-interval 1 \\
""",
    "logs and background": """\
echo "run sgl"
model_path=/data/models/Qwen3-0.6B
python3 -m sglang.launch_server \\
    --model-path $model_path \\
    --port 8000 \\
    2>&1 | tee log.serve.log &
wait
""",
}


#: What bash starts of these programs is taken for a server here.
SERVER = "-m sglang.launch_server"


def followed(bash: Bash, text: str) -> PlainReader:
    script = write(bash, text)
    reader = PlainReader.at_start(str(script), bash.environ, bash.folder, ())
    reader.read(text)
    return reader


def fits(words: list[object], started: Started) -> bool:
    """A Hole is anything; one that may be many words is any number of them."""
    names = [str(word) if isinstance(word, str) else "" for word in words]
    words = words[next((n for n, name in enumerate(names) if name.rpartition("/")[2].startswith("python")), 0) + 1 :]
    pattern = "".join(
        re.escape(word) + "\0" if isinstance(word, str) else ("(?s:.*)" if word.many else "[^\0]*") + "\0?"
        for word in words
        if isinstance(word, str | Hole)
    )
    return re.fullmatch(pattern, "".join(f"{word}\0" for word in started.argv[1:])) is not None


def with_servers(text: str) -> str:
    """Each `python` that is started is a server."""
    return re.sub(r"\bpython(?=[ \n;&)]|$)", f"python {SERVER}", text)


@pytest.mark.parametrize("text", [*WORDS.values(), *FLOW.values(), *SCRIPTS.values()],
                         ids=[*WORDS, *FLOW, *SCRIPTS])  # fmt: skip
def test_what_is_read_of_a_server_is_what_bash_starts(bash, text):
    text = with_servers(text)
    reader = followed(bash, text)
    truth = bash.run(bash.folder / "script.sh")
    if reader.dark or not truth:
        return
    may = reader.candidates
    assert any(fits(list(c.words), s) for c in may for s in truth) or not may, (may, truth)
    if len(may) == 1:
        assert fits(list(may[0].words), truth[0]), (may, truth)


#: What must be read to the last word, by its name in the tables.
PLAIN = (
    "plain words", "double quotes", "single quotes", "escapes", "a hash inside quotes or a word",
    "a continued line", "a continued line in quotes", "a comment that ends a continued command",
    "an empty argument", "a variable", "a variable that is split", "a default", "a default of several words",
    "a default in a default", "a default that is assigned", "an alternative", "an array over lines", "appended",
    "two assignments on a line", "an assignment for one command", "a variable for a program",
    "assignments in the line before a pipe", "an array that is not set", "exports that name each other",
)  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_written_plainly_is_read_to_the_last_word(bash, name):
    (first, *_) = followed(bash, with_servers(WORDS[name])).candidates
    assert all(isinstance(word, str) for word in first.words), first.words
