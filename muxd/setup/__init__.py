"""`muxd setup`: put what a service manager needs in its place, with the paths of this installation.

`conf_files` finds the files that muxd brings (conf/ of the project, `muxd/conf` of an installed package);
`service_files` decides which of them go where, and with which paths; `verb` writes, shows or removes them.
"""
