"""`muxd ui`: the console, a web page for operators, in a process of its own.

muxd answers no browser itself: this process speaks to browsers on one side and to the control socket on the other, with
no more right there than its user has.

    console_server  run_console: the server, and where it listens
    routes          what each address answers
    access          who may look, who may operate: keys, cookies, Host and Origin
    live_feed       one watch of muxd for all viewers, and the stream that each of them gets
    files           the page itself (static/), with its Content-Security-Policy
"""
