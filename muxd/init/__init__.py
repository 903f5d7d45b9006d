"""`muxd init`: a first configuration, from what is on this machine.

`muxd/host` finds models and SGLang; `draft` decides names and GPUs; `toml_text` makes the text and `file` puts it in
place; `verb` is the command.
"""
