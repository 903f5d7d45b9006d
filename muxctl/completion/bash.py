"""Completion for bash 4 and later; it does not need the package bash-completion."""

from collections.abc import Mapping
from shlex import quote

from muxctl.completion.outline import DIRECTORIES, FILES, MODELS, PROGRAM, Option, Outline, Program, Value

_HEAD = """\
# bash completion for %PROG%, printed by `%PROG% completion bash`.
# For this shell:   source <(%PROG% completion bash)
# For every shell:  %PROG% completion bash > ~/.local/share/bash-completion/completions/%PROG%
#                   (needs the package bash-completion; without it, source that file in ~/.bashrc)

# _%PROG%_offer WORD:MEANING...: those that begin with $cur; what they mean only where a list is shown.
_%PROG%_offer() {
    local item
    local -a found=()
    for item in "$@"; do
        [[ ${item%%:*} == "$cur"* ]] && found+=("$item")
    done
    for item in "${found[@]}"; do
        if [[ ${COMP_TYPE-9} == 63 && ${#found[@]} -gt 1 && -n ${item#*:} ]]; then
            printf -v item '%-14s %s' "${item%%:*}" "${item#*:}"
            COMPREPLY+=("$item")
        else
            COMPREPLY+=("${item%%:*}")
        fi
    done
}

_%PROG%_models() {
    local -a models
    mapfile -t models < <("${COMP_WORDS[0]}" "${socket[@]}" completion --models 2>/dev/null)
    _%PROG%_offer "${models[@]}"
}

_%PROG%_paths() {  # -f or -d
    mapfile -t COMPREPLY < <(compgen "$1" -- "$cur")
    compopt -o filenames 2>/dev/null
}

_%PROG%() {
    local cur=${COMP_WORDS[COMP_CWORD]} verb= want= may= word i count=0
    local -a socket=()
    COMPREPLY=()
    [[ $cur == = ]] && cur=
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        [[ $word == = ]] && continue
        if [[ -n $want ]]; then
            [[ $want == --socket ]] && socket=(--socket "$word")
            want=
            continue
        fi
        if [[ -n $may && $word == [0-9]* ]]; then
            may=
            continue
        fi
        may=
        case "$verb $word" in
"""

_MIDDLE = """\
            *' '-*) ;;
            ' '*) verb=$word ;;
            *) ((count++)) ;;
        esac
    done
"""

_TAIL = """\
}

complete -F _%PROG% %PROG%
"""


def script(program: Program) -> str:
    """Return the completion script."""
    outlines = {"": program.outline()} | {verb: program.outline(verb) for verb in program.verbs}
    lines = [_flag_cases(verb, usage) for verb, usage in outlines.items()]
    lines += [_MIDDLE, '    case "$verb $want" in\n', "        *' ') ;;\n"]
    lines += [_value_case(verb, option) for verb, usage in outlines.items() for option in usage.options]
    lines += ["        *) return ;;\n", "    esac\n", '    [[ -n $want ]] && return\n    case "$verb" in\n']
    lines += [_word_case(program, verb, usage) for verb, usage in outlines.items()]
    return "".join([_HEAD, *lines, "    esac\n", _TAIL]).replace(PROGRAM, program.name)


def _flag_cases(verb: str, usage: Outline) -> str:
    """Return the cases for a verb's flags that take a value, or may take one."""
    cases = [("want=$word", usage.flags(optional=False)), ("may=1", usage.flags(optional=True))]
    return "".join(f"            {_patterns(verb, flags)}) {action} ;;\n" for action, flags in cases if flags)


def _patterns(verb: str, flags: list[str]) -> str:
    return " | ".join(quote(f"{verb} {flag}") for flag in flags)


def _value_case(verb: str, option: Option) -> str:
    proposed = _proposal(option.value)
    if option.value is None or option.value.optional or not proposed:
        return ""
    return f"        {_patterns(verb, list(option.flags))}) {proposed} ;;\n"


def _word_case(program: Program, verb: str, usage: Outline) -> str:
    """Return the case that proposes a verb's next word.

    After a dash, or if nothing else can be proposed, these are its options; else the verbs, or its argument.
    """
    options = _offer({flag: option.meaning for option in usage.options for flag in option.flags})
    proposed = _proposal(usage.argument) if verb else _offer(program.verbs)
    condition = "$cur != -*" + (" && $count == 0" if verb else "")
    body = f"if [[ {condition} ]]; then {proposed}; else {options}; fi" if proposed else options
    return f"        {quote(verb)}) {body} ;;\n"


def _proposal(value: Value | None) -> str:
    """Return the shell command that proposes a value; "" if nothing can be proposed."""
    if value is None:
        return ""
    commands = {MODELS: "_%PROG%_models", FILES: "_%PROG%_paths -f", DIRECTORIES: "_%PROG%_paths -d"}
    return commands.get(value.source) or (_offer(value.words) if value.words else "")


def _offer(words: Mapping[str, str]) -> str:
    return " ".join(["_%PROG%_offer", *(quote(f"{word}:{meaning}") for word, meaning in words.items())])
