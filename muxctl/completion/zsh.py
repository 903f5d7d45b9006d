"""Completion for zsh, by means of its completion system."""

from shlex import quote

from muxctl.completion.outline import DIRECTORIES, FILES, MODELS, Option, Outline, Value, outline
from muxctl.verbs import VERBS

_HEAD = """\
#compdef muxctl
# zsh completion for muxctl, printed by `muxctl completion zsh`.
# For this shell:   source <(muxctl completion zsh)      after compinit
# For every shell:  muxctl completion zsh > ~/.zfunc/_muxctl
#                   and in ~/.zshrc, before compinit: fpath=(~/.zfunc $fpath)

_muxctl_models() {
    local -a models
    [[ -n ${opt_args[--socket]} ]] && socket=(--socket ${(Q)opt_args[--socket]})
    models=(${(f)"$(${(Q)muxctl} $socket completion --models 2>/dev/null)"})
    (( $#models )) && _describe -t models model models
}

_muxctl() {
    local muxctl=$words[1] curcontext=$curcontext state line
    local -a socket verbs
    local -A opt_args
"""

_TAIL = """\
    esac
}

if [[ ${funcstack[1]} == _muxctl ]]; then
    _muxctl "$@"
else
    compdef _muxctl muxctl
fi
"""


def script() -> str:
    """Return the completion script."""
    verbs = " ".join(quote(f"{verb}:{meaning}") for verb, meaning in VERBS.items())
    return (
        f"{_HEAD}    verbs=({verbs})\n"
        f"    _arguments -C -S {_specs(outline())} '1: :->verb' '*:: :->rest' && return\n"
        "    [[ -n ${opt_args[--socket]} ]] && socket=(--socket ${(Q)opt_args[--socket]})\n"
        "    case $state in\n"
        "    verb) _describe -t verbs verb verbs ;;\n"
        "    rest)\n"
        "        case $words[1] in\n"
        f"{''.join(_case(verb) for verb in VERBS)}"
        "        esac ;;\n"
        f"{_TAIL}"
    )


def _case(verb: str) -> str:
    usage = outline(verb)
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
    actions = {MODELS: "_muxctl_models", FILES: "_files", DIRECTORIES: "_files -/"}
    if value.source:
        return actions[value.source]
    if any(value.words.values()):
        return f"(({' '.join(word + chr(92) + ':' + quote(meaning) for word, meaning in value.words.items())}))"
    return f"({' '.join(value.words)})" if value.words else " "


def _escaped(meaning: str) -> str:
    for sign in "\\[]:":
        meaning = meaning.replace(sign, f"\\{sign}")
    return meaning
