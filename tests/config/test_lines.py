from muxd.config.lines import key_lines, line_of

TEXT = '''\
# models.qwen = 1
[muxd]
socket = "/a" # log_dir = 1
note = """
[models.inside]
port = 1
"""
other = 'it is [not] = a # header'

[models.qwen]
args = [
  "--a=b", # "[x]"
  "[models.y]",
]
memory = { weights = 1, kv = 2 }
env.A = "x"
[ models . "qwen2.5" ]
"port" = 1
[[many]]
x = 1
[[many]]
y = 1
x = 2
'''


def test_keys_and_headers_are_found_on_their_lines():
    assert key_lines(TEXT) == {
        ("muxd",): 2,
        ("muxd", "socket"): 3,
        ("muxd", "note"): 4,
        ("muxd", "other"): 8,
        ("models",): 10,
        ("models", "qwen"): 10,
        ("models", "qwen", "args"): 11,
        ("models", "qwen", "memory"): 15,
        ("models", "qwen", "env"): 16,
        ("models", "qwen", "env", "A"): 16,
        ("models", "qwen2.5"): 17,
        ("models", "qwen2.5", "port"): 18,
        ("many",): 19,
        ("many", "0"): 19,
        ("many", "0", "x"): 20,
        ("many", "1"): 21,
        ("many", "1", "y"): 22,
        ("many", "1", "x"): 23,
    }


def test_a_key_within_an_inline_table_has_the_line_of_the_table():
    assert line_of(("models", "qwen", "memory", "kv"), key_lines(TEXT)) == 15


def test_what_is_not_there_at_all_has_no_line():
    assert line_of(("policy", "wait_target"), key_lines(TEXT)) is None


def test_windows_line_ends_count_once():
    assert key_lines("[muxd]\r\nsocket = 1\r\n") == {("muxd",): 1, ("muxd", "socket"): 2}
