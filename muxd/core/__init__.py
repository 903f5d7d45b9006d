"""The decisions of muxd, with no I/O: events go in, commands come out.

Nothing here knows trio, the operating system, the clock, an engine or a GPU library.  From the floor up:

- words: `states`, `spec`, `events`, `commands`;
- one of each, with what is known of it: `worker`, `cost`, `lease`, `answer_book`, `order`, `validation`, `group`,
  `quorum`;
- the books of the host: `host_books`, and the memory among them: `ledger`;
- what is made of the books: who fits where is `placement`, with `clearing`, `eviction`, `spreading` and `impossible`;
  the clients are in `lease_book`;
- what can be done by them: `host_state`, `replicas`, `routers`, `standby`, `adoption`;
- whose turn it is: `policy` is arithmetic, `lineup` asks it for all who wait, each a `contender`, those alike as
  `rivals`, behind the same `blockers`; `operator_switch` goes ahead of them, `switching` decides and carries out;
- what else is brought forward after each event: `orders`, `validations`, `scaling`, `idling`, `loans`, `prefetching`,
  `shutdown`;
- what comes in: `scheduler`, with `worker_events`, `operator_requests` and `refusals`;
- what is read off it: `view`, `progress`.

`places`, which deals out the places of a `concurrency_limit`, stands apart: the supervisor has one for each model.
"""
