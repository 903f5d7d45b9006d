"""`muxd check`: report all faults of a configuration, and all that will keep it from working on this machine.

`verb` runs the verb and prints the report; `models` checks each model, `machine` what the models share, `scripts`
the text of launch scripts; `report` has the lines and their table.
"""
