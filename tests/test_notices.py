"""What operators should mend is told once, and once more when it is over."""

from muxd.supervisor.notices import Notices


def test_each_notice_is_told_once_and_its_end_and_a_worker_that_is_gone_is_forgotten():
    told: list[dict[str, object]] = []
    notices = Notices(lambda kind, **facts: told.append({"kind": kind} | facts))
    for current in ({"a": "mend it", "b/0": ""}, {"a": "mend it", "b/0": "x"}, {"a": "another"}, {"a": ""}):
        notices.look(current)
    fact = {"kind": "notice", "worker": None}
    assert told == [
        fact | {"model": "a", "notice": "mend it"},
        fact | {"model": "b", "worker": "b/0", "notice": "x"},
        fact | {"model": "a", "notice": "another"},
        fact | {"model": "a", "notice": "another", "over": True},
    ]
