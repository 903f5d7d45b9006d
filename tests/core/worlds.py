"""The models and GPUs of the random worlds, and what reloads make of them."""

from math import inf

from muxd.core.spec import DefaultGroup, Rung, Scaling

from .playbook import anywhere, replicas, single, spread

SPECS = (
    single("a", sleep_level=1, drain_timeout=20, preload=True),
    single("b", sleep_level=2, drain_timeout=inf, restart_limit=2),
    single("c", sleep_level=3, drain_timeout=5),
    single("d", gpus=frozenset({"1"})),
    single("e", gpus=frozenset({"0", "1"}), drain_timeout=10),
)

#: The same with sizes, on two GPUs of 80: some fit together, and sleepers keep some of it.
SIZED = (
    single("a", share=40, sleep_level=1, drain_timeout=20, preload=True),
    single("b", share=30, sleep_level=2, drain_timeout=inf, restart_limit=2),
    single("c", share=35, sleep_level=3, drain_timeout=5),
    single("d", gpus=frozenset({"1"}), share=20),
    single("e", gpus=frozenset({"0", "1"}), share=50, drain_timeout=10, launchable=frozenset({1, 2})),
    single("g", gpus=frozenset({"1"})),
)

#: The same where processes can sleep at several levels, and two leave their weights on the GPU if they may.
SHALLOW = (
    single(
        "a",
        share=40,
        sleep_level=0,
        levels=frozenset({0, 2}),
        launchable=frozenset({1}),
        resident=20,
        drain_timeout=20,
        preload=True,
    ),
    single("b", share=30, sleep_level=1, levels=frozenset({0, 1}), drain_timeout=inf, restart_limit=2),
    single("c", share=35, sleep_level=0, levels=frozenset({0, 2}), drain_timeout=5),
    single("d", gpus=frozenset({"1"}), share=20, sleep_level=0),
    single("e", gpus=frozenset({"0", "1"}), share=50, drain_timeout=10),
    single("g", gpus=frozenset({"1"}), sleep_level=0, levels=frozenset({0, 1})),
)

#: Groups of two replicas and a router: on two GPUs, on one, and each replica alone on its own.
GROUPS = (
    single("a", share=40, sleep_level=1, drain_timeout=20),
    single("d", gpus=frozenset({"1"}), share=20),
    replicas("r", frozenset({"0"}), frozenset({"1"}), share=50, drain_timeout=20, preload=True),
    replicas("s", frozenset({"0"}), frozenset({"0"}), share=30, sleep_level=3, drain_timeout=inf, restart_limit=2),
    replicas(
        "w",
        frozenset({"0"}),
        frozenset({"1"}),
        sleep_level=0,
        levels=frozenset({0, 1}),
        launchable=frozenset({2}),
        drain_timeout=5,
    ),
)

#: Groups whose replicas are scaled, by their load or by orders, on three GPUs of 80.
SCALED = (
    single("a", share=40, sleep_level=1, drain_timeout=20),
    single("d", gpus=frozenset({"1"})),
    replicas(
        "r",
        *(frozenset({gpu}) for gpu in "012"),
        share=30,
        drain_timeout=20,
        at_first=1,
        scaling=Scaling(0, 2.0, 3.0, 1.0, 5.0),
    ),
    replicas("s", frozenset({"0"}), frozenset({"1"}), share=30, sleep_level=3, drain_timeout=inf, restart_limit=2),
    replicas(
        "w",
        frozenset({"1"}),
        frozenset({"2"}),
        sleep_level=0,
        levels=frozenset({0, 1}),
        drain_timeout=5,
        scaling=Scaling(1, 3.0, 2.0, 0.0, 7.0),
    ),
)

#: The same with copies of weights in host RAM, of 45 in all.
SHORT = (
    single("a", share=40, sleep_level=1, copy=20, levels=frozenset({0, 1}), drain_timeout=20, preload=True),
    single("b", share=30, sleep_level=1, copy=20, drain_timeout=inf, restart_limit=2),
    single("c", share=35, sleep_level=1, copy=25, drain_timeout=5),
    single("d", gpus=frozenset({"1"}), share=20, sleep_level=1, copy=50),
    single("e", gpus=frozenset({"0", "1"}), share=50, copy=40, launchable=frozenset({1}), drain_timeout=10),
    single("g", gpus=frozenset({"1"}), sleep_level=1, copy=5),
)

#: The same where some leave for nobody: who does not fit beside them is refused.
PINNED = (
    single("a", share=40, sleep_level=0, levels=frozenset({0, 2}), resident=20, preload=True, pinned=True),
    single("b", share=30, sleep_level=1, copy=20, drain_timeout=inf),
    single("c", share=35, sleep_level=2, drain_timeout=5),
    single("d", gpus=frozenset({"1"}), pinned=True),
    single("e", gpus=frozenset({"0", "1"}), share=50, drain_timeout=10),
    single("g", gpus=frozenset({"1"})),
)

#: Most run on any of three GPUs; strangers come to these, and leave them.
ANYWHERE = (
    anywhere("a", 1, share=40, sleep_level=1, drain_timeout=20, preload=True),
    anywhere(
        "b", 1, share=50, sleep_level=0, levels=frozenset({0, 2}), resident=20, drain_timeout=inf, restart_limit=2
    ),
    anywhere("c", 2, share=60, sleep_level=3, drain_timeout=5),
    single("d", gpus=frozenset({"1"}), share=20),
    anywhere("e", 1, drain_timeout=10, preload=True),
    anywhere("g", 2, sleep_level=0, levels=frozenset({0, 1})),
    single("h", gpus=frozenset({"0", "2"}), share=30),
)

#: The same where unused models sleep deeper by themselves, some are kept for a while after a use, and one comes back.
IDLE = (
    single("a", share=40, sleep_level=0, levels=frozenset({0, 1, 2}), resident=20, ladder=(Rung(3, 0), Rung(9, 3))),
    single("b", share=30, sleep_level=1, ladder=(Rung(5, None),), drain_timeout=inf, restart_limit=2, priority=3),
    single("c", share=35, sleep_level=2, sheltered_for=8.0, drain_timeout=5),
    single("d", gpus=frozenset({"1"}), share=20, ladder=(Rung(2, 1), Rung(4, 2), Rung(6, 3)), sheltered_for=3.0),
    single("e", gpus=frozenset({"0", "1"}), share=50, drain_timeout=10, priority=-4),
    single("g", gpus=frozenset({"1"}), pinned=True, ladder=(Rung(1, None),)),
)

#: The same whose GPUs are lent again and again.
LENT = (
    anywhere("a", 1, "0", "1", share=40, sleep_level=1, drain_timeout=20, preload=True, ladder=(Rung(20, 3),)),
    single("b", share=30, sleep_level=0, levels=frozenset({0, 2}), resident=20, drain_timeout=inf, restart_limit=2),
    single("c", share=35, sleep_level=2, sheltered_for=8.0, drain_timeout=5),
    single("d", gpus=frozenset({"1"}), share=20, sleep_level=3, pinned=True),
    single("e", gpus=frozenset({"0", "1"}), share=50, drain_timeout=10),
)

#: Groups whose replicas come to any of three GPUs of 80, as they have room.
SPREAD = (
    single("a", share=40, sleep_level=1, drain_timeout=20),
    anywhere("b", 1, share=50, sleep_level=0, levels=frozenset({0, 2}), resident=20, restart_limit=2),
    single("d", gpus=frozenset({"1"})),
    spread("r", 3, 1, share=30, drain_timeout=20, at_first=1, scaling=Scaling(0, 2.0, 3.0, 1.0, 5.0)),
    spread("s", 2, 1, share=35, sleep_level=3, drain_timeout=inf, restart_limit=2),
    spread("t", 2, 2, share=25, drain_timeout=5),
    spread("w", 2, 1, sleep_level=0, levels=frozenset({0, 1}), drain_timeout=5, scaling=Scaling(1, 3.0, 2.0, 0.0, 7.0)),
)

#: Processes wait at gates, in host RAM of 45 that copies of weights need, too.
STANDBY = (
    single("a", share=40, sleep_level=3, standby=10, drain_timeout=20, preload=True, ladder=(Rung(3, 3),)),
    single("b", share=30, sleep_level=1, copy=30, drain_timeout=inf, restart_limit=2),
    single("c", share=35, sleep_level=3, standby=20, launchable=frozenset({1, 2}), drain_timeout=5),
    single("d", gpus=frozenset({"1"}), share=20, sleep_level=3, standby=10, pinned=True, restart_limit=2),
    single("e", gpus=frozenset({"0", "1"}), sleep_level=3, standby=10, drain_timeout=10),
    single("g", gpus=frozenset({"1"}), sleep_level=1, copy=5),
)

#: The worlds that every order of events is tried in, by name.
WORLDS = {"whole": SPECS, "sized": SIZED, "shallow": SHALLOW, "short": SHORT, "pinned": PINNED, "groups": GROUPS}
WORLDS |= {"anywhere": ANYWHERE, "spread": SPREAD, "scaled": SCALED, "idle": IDLE, "lent": LENT, "standby": STANDBY}

#: The default model of those worlds that have one.
DEFAULTS = {IDLE: DefaultGroup("c", 4.0), LENT: DefaultGroup("b", 2.0), SHALLOW: DefaultGroup("b", 1.0)}
DEFAULTS |= {STANDBY: DefaultGroup("c", 4.0)}

#: What the configuration may hold in place of each.
OTHERS = (
    single("a", sleep_level=3, gpus=frozenset({"1"}), drain_timeout=20),
    single("b", sleep_level=1, drain_timeout=3),
    single("f", gpus=frozenset({"0"}), preload=True),
)

#: The same, where there are groups.
OTHER_GROUPS = (*OTHERS, replicas("r", frozenset({"1"}), share=30), single("s"))

#: The same, where replicas are added to two groups, and one is taken from the third.
RESIZED = (
    *OTHERS,
    replicas("r", *(frozenset({gpu}) for gpu in "0120"), share=30, drain_timeout=20, at_first=2),
    replicas("s", *(frozenset({gpu}) for gpu in "012"), share=30, sleep_level=3, drain_timeout=inf, restart_limit=2),
    replicas("w", frozenset({"1"}), sleep_level=0, levels=frozenset({0, 1}), drain_timeout=5),
)
