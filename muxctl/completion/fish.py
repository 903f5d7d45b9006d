"""Completion for fish: one `complete` command for each word that may be written."""

from muxctl.completion.outline import DIRECTORIES, FILES, MODELS, PROGRAM, Option, Program, Value

_HEAD = """\
# fish completion for %PROG%, printed by `%PROG% completion fish`.
# For this shell:   %PROG% completion fish | source
# For every shell:  %PROG% completion fish > ~/.config/fish/completions/%PROG%.fish

# The verb and its arguments so far: what is neither an option nor the value of one.
function __%PROG%_words
    set -l tokens (commandline -opc)
    set -l value no
    set -l may no
    for token in $tokens[2..-1]
        if test $value = yes
            set value no
            continue
        end
        if test $may = yes; and string match -qr '^[0-9]' -- $token
            set may no
            continue
        end
        set may no
        switch $token
"""

_FUNCTIONS = """\
            case '-*'
            case '*'
                echo $token
        end
    end
end

# __%PROG%_at COUNT [VERB]: so many words are there, and the first is the verb.
function __%PROG%_at
    set -l found (__%PROG%_words)
    test (count $found) -eq $argv[1]; and test "$argv[2]" = "$found[1]"
end

function __%PROG%_in
    set -l found (__%PROG%_words)
    test "$argv[1]" = "$found[1]"
end

function __%PROG%_models
    set -l tokens (commandline -opc)
    set -l socket
    if set -l at (contains -i -- --socket $tokens)
        set socket --socket $tokens[(math $at + 1)]
    end
    $tokens[1] $socket completion --models 2>/dev/null | string replace : \\t
end

complete -c %PROG% -f
"""


def script(program: Program) -> str:
    """Return the completion script."""
    outlines = {"": program.outline()} | {verb: program.outline(verb) for verb in program.verbs}
    lines = []
    for optional, variable in ((False, "value"), (True, "may")):
        flags = sorted({flag for usage in outlines.values() for flag in usage.flags(optional=optional)})
        lines.append(f"            case {' '.join(flags)}\n                set {variable} yes\n")
    lines.append(_FUNCTIONS)
    lines += [_complete("__%PROG%_at 0", f"-a {verb} -d {_quoted(text)}") for verb, text in program.verbs.items()]
    for verb, usage in outlines.items():
        where = f"__%PROG%_in {verb}" if verb else "__%PROG%_at 0"
        lines += [_complete(where, _option(option)) for option in usage.options]
        if usage.argument is not None and (proposed := _proposed(usage.argument)):
            lines += [_complete(f"__%PROG%_at 1 {verb}", words) for words in proposed]
    return "".join([_HEAD, *lines]).replace(PROGRAM, program.name)


def _complete(condition: str, arguments: str) -> str:
    return f"complete -c %PROG% -n {_quoted(condition)} {arguments}\n"


def _option(option: Option) -> str:
    flags = [f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags]
    needs = ""
    if option.value is not None and not option.value.optional:
        needs = " -r -F" if option.value.source in (FILES, DIRECTORIES) else " -x"
        needs += f" -a {_quoted(' '.join(option.value.words))}" if option.value.words else ""
    return f"{' '.join(flags)}{needs} -d {_quoted(option.meaning)}"


def _proposed(value: Value) -> list[str]:
    if value.source == MODELS:
        return ["-a '(__%PROG%_models)'"]
    return [f"-a {word}" + (f" -d {_quoted(meaning)}" if meaning else "") for word, meaning in value.words.items()]


def _quoted(text: str) -> str:
    """Quote a word for fish, in which only backslash and quote are special between single quotes."""
    text = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"
