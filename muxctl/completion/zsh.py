"""Completion for zsh, by means of its completion system."""

from shlex import quote

from muxctl.completion.outline import DIRECTORIES, FILES, MODELS, PROGRAM, Option, Outline, Program, Value

_HEAD = """\
#compdef %PROG%
# zsh completion for %PROG%, printed by `%PROG% completion zsh`.
# For this shell:   source <(%PROG% completion zsh)      after compinit
# For every shell:  %PROG% completion zsh > ~/.zfunc/_%PROG%
#                   and in ~/.zshrc, before compinit: fpath=(~/.zfunc $fpath)

_%PROG%_models() {
    local -a models
    [[ -n ${opt_args[--socket]} ]] && socket=(--socket ${(Q)opt_args[--socket]})
    models=(${(f)"$(${(Q)%PROG%} $socket completion --models 2>/dev/null)"})
    (( $#models )) && _describe -t models model models
}

_%PROG%() {
    local %PROG%=$words[1] curcontext=$curcontext state line
    local -a socket verbs
    local -A opt_args
"""

_TAIL = """\
    esac
}

if [[ ${funcstack[1]} == _%PROG% ]]; then
    _%PROG% "$@"
else
    compdef _%PROG% %PROG%
fi
"""


def script(program: Program) -> str:
    """Return the completion script."""
    verbs = " ".join(quote(f"{verb}:{meaning}") for verb, meaning in program.verbs.items())
    text = (
        f"{_HEAD}    verbs=({verbs})\n"
        f"    _arguments -C -S {_specs(program.outline())} '1: :->verb' '*:: :->rest' && return\n"
        "    [[ -n ${opt_args[--socket]} ]] && socket=(--socket ${(Q)opt_args[--socket]})\n"
        "    case $state in\n"
        "    verb) _describe -t verbs verb verbs ;;\n"
        "    rest)\n"
        "        case $words[1] in\n"
        f"{''.join(_case(program, verb) for verb in program.verbs)}"
        "        esac ;;\n"
        f"{_TAIL}"
    )
    return text.replace(PROGRAM, program.name)


def _case(program: Program, verb: str) -> str:
    usage = program.outline(verb)
    argument = "" if usage.argument is None else " " + quote(f"1:{usage.argument.name}:{_action(usage.argument)}")
    return f"        {verb}) _arguments -S {_specs(usage)}{argument} ;;\n"


def _specs(usage: Outline) -> str:
    return " ".join(_spec(option, flag) for option in usage.options for flag in option.flags)


def _spec(option: Option, flag: str) -> str:
    """Return a spec for _arguments: the flags that this flag excludes, the flag, its meaning, and its value."""
    value = option.value
    joined = "" if value is None else "=" if flag.startswith("--") else "+"
    wants = "" if value is None else f"{'::' if value.optional else ':'}{value.name}:{_action(value)}"
    return quote(f"({' '.join(option.flags)}){flag}{joined}[{_escaped(option.meaning)}]{wants}")


def _action(value: Value) -> str:
    actions = {MODELS: "_%PROG%_models", FILES: "_files", DIRECTORIES: "_files -/"}
    if value.source:
        return actions[value.source]
    if any(value.words.values()):
        return f"(({' '.join(word + chr(92) + ':' + quote(meaning) for word, meaning in value.words.items())}))"
    return f"({' '.join(value.words)})" if value.words else " "


def _escaped(meaning: str) -> str:
    for sign in "\\[]:":
        meaning = meaning.replace(sign, f"\\{sign}")
    return meaning
