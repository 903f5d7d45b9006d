"""`muxd init`: a first configuration, from what is on this machine.

`muxd/host` finds models and SGLang; `draft` decides names and GPUs; `text` is the file; `command` the verb.
"""
