"""`muxd check`: everything that is wrong with a configuration, and what on this machine will keep it from working.

`command` is the verb and the report; `models` looks at each model, `machine` at what they share.
"""
