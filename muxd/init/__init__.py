"""`muxd init`: a first configuration, from what is on this machine.

`search` finds models, by what `kinds` and `weights` say of a folder; `interpreters`
finds SGLang; `draft` decides names and GPUs; `text` is the file; `command` the verb.
"""
