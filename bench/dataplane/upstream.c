/* A model server that costs next to nothing, to stand behind a proxy that is measured.
 *
 *     upstream PORT
 *
 * POST /v1/chat/completions and /v1/completions are answered as an SGLang server would, at once, with a body of 664
 * bytes.  With "stream":true the answer is an SSE stream, as the words in a message's text ask for it (in the text,
 * as proxies drop fields that they do not know):
 *
 *     BENCH events=100 interval_us=20000 bytes=205
 *
 * The first event leaves at once, each further one an interval after the one before.  Every event carries "T=" and
 * CLOCK_MONOTONIC in nanoseconds: that clock is the same for all processes, so whoever reads the event knows how long
 * it was on its way.  GET /stats tells what this server has done so far; everything else is what a proxy asks a server
 * before it trusts it (/health, /model_info, /v1/loads ...).
 *
 * One thread.  All sockets are in one epoll, and so is a timerfd, set to the event that is due first: the timeout of
 * epoll_wait counts in milliseconds, which is too coarse.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL /* in nanoseconds, as all times here */
#define MOST_EVENT_BYTES 65536

#define CHUNK "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000," \
              "\"model\":\"m1\",\"choices\":[{\"index\":0,\"delta\":{"
#define FOX "The quick brown fox jumps over the lazy dog. "

static const char JSON_HEAD[] = "HTTP/1.1 %s\r\ndate: Tue, 14 Nov 2023 22:13:20 GMT\r\nserver: upstream\r\n"
                                "content-length: %zu\r\ncontent-type: application/json\r\n\r\n";
static const char STREAM_HEAD[] = "HTTP/1.1 200 OK\r\ndate: Tue, 14 Nov 2023 22:13:20 GMT\r\nserver: upstream\r\n"
                                  "content-type: text/event-stream; charset=utf-8\r\n"
                                  "transfer-encoding: chunked\r\n\r\n";
static const char EVENT_BEGIN[] = CHUNK "\"content\":\"T=%lld ";
static const char EVENT_END[] = "\"},\"finish_reason\":null}]}\n\n";
static const char LAST_EVENTS[] = CHUNK "},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
static const char COMPLETION[] =
    "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"m1\",\"choices\":"
    "[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"" FOX FOX FOX FOX FOX
    "The quick brown fox jumps over the lazy dog.\",\"reasoning_content\":null,\"tool_calls\":null},\"logprobs\":null,"
    "\"finish_reason\":\"stop\",\"matched_stop\":151645}],\"usage\":{\"prompt_tokens\":13,\"total_tokens\":77,\"completion_tokens\":64,"
    "\"prompt_tokens_details\":null},\"metadata\":{\"weight_version\":\"default\"}}";
_Static_assert(sizeof COMPLETION - 1 == 664, "the reply that every proxy is measured with has 664 bytes");

/* What proxies ask: a path's beginning, and the answer. */
static const struct { const char *path, *json; } PROBES[] = {
    {"/v1/models", "{\"object\":\"list\",\"data\":[{\"id\":\"m1\",\"object\":\"model\",\"created\":1700000000,"
                   "\"owned_by\":\"sglang\",\"root\":\"m1\",\"max_model_len\":32768}]}"},
    {"/model_info", "{\"model_path\":\"m1\",\"tokenizer_path\":\"m1\",\"is_generation\":true}"},
    {"/get_model_info", "{\"model_path\":\"m1\",\"tokenizer_path\":\"m1\",\"is_generation\":true}"},
    {"/server_info", "{\"model_path\":\"m1\",\"served_model_name\":\"m1\",\"tp_size\":1,\"dp_size\":1}"},
    {"/get_server_info", "{\"model_path\":\"m1\",\"served_model_name\":\"m1\",\"tp_size\":1,\"dp_size\":1}"},
    {"/", "{\"success\":true,\"status\":\"ok\"}"},
};

struct buffer { /* it holds bytes[begin] up to bytes[end] */
    char *bytes;
    size_t begin, end, size;
};

struct connection {
    int fd;                        /* -1 once it is closed */
    struct buffer in, out;
    bool waits_to_write;
    bool closes;                   /* after this answer, as its request wants it */
    bool streams;
    long events_left, event_bytes;
    int64_t interval, due;
    struct connection *earlier, *later; /* while it streams: in the order in which events are due */
};

static int epoll, timer;
static struct connection *first, *last; /* of those that stream */
static struct connection *closed;       /* chained by `later`; freed when no event from epoll can be theirs any more */
static struct { long requests, streams, completed, abandoned; } stats;

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * SECOND + time.tv_nsec;
}

/* ---- The streams, by when their next event is due ---- */

/* One that has just sent an event is due last of all, where all have one interval: no list is walked, then. */
static void schedule(struct connection *c)
{
    struct connection *before = last;
    while (before && before->due > c->due)
        before = before->earlier;
    c->earlier = before;
    c->later = before ? before->later : first;
    *(c->earlier ? &c->earlier->later : &first) = c;
    *(c->later ? &c->later->earlier : &last) = c;
}

static void unschedule(struct connection *c)
{
    *(c->earlier ? &c->earlier->later : &first) = c->later;
    *(c->later ? &c->later->earlier : &last) = c->earlier;
}

static void set_timer(void)
{
    struct itimerspec when = {0}; /* all zero: off */
    if (first)
        when.it_value = (struct timespec){first->due / SECOND, first->due % SECOND};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

/* ---- Bytes in and out ---- */

static void reserve(struct buffer *b, size_t more)
{
    size_t held = b->end - b->begin;
    if (b->end + more > b->size || !held) {
        memmove(b->bytes, b->bytes + b->begin, held);
        b->begin = 0;
        b->end = held;
    }
    if (held + more > b->size && !(b->bytes = realloc(b->bytes, b->size = 2 * held + more)))
        abort();
}

static void append(struct buffer *b, const char *bytes, size_t count)
{
    reserve(b, count);
    memcpy(b->bytes + b->end, bytes, count);
    b->end += count;
}

static void watch(struct connection *c, int operation)
{
    struct epoll_event event = {.events = EPOLLIN | (c->waits_to_write ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll, operation, c->fd, &event);
}

static void close_connection(struct connection *c)
{
    if (c->streams) {
        unschedule(c);
        stats.abandoned++;
    }
    close(c->fd);
    c->fd = -1;
    c->later = closed;
    closed = c;
}

static void flush(struct connection *c)
{
    while (c->out.begin < c->out.end) {
        ssize_t sent = send(c->fd, c->out.bytes + c->out.begin, c->out.end - c->out.begin, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) {
            close_connection(c);
            return;
        }
        if (sent < 0)
            break;
        c->out.begin += sent;
    }
    bool waits = c->out.begin < c->out.end;
    if (waits != c->waits_to_write) {
        c->waits_to_write = waits;
        watch(c, EPOLL_CTL_MOD);
    }
    if (!waits && c->closes && !c->streams)
        close_connection(c);
}

/* ---- Answers ---- */

static void answer(struct connection *c, const char *status, const char *json)
{
    char head[256];
    append(&c->out, head, snprintf(head, sizeof head, JSON_HEAD, status, strlen(json)));
    append(&c->out, json, strlen(json));
}

static void append_chunk(struct buffer *out, const char *bytes, size_t count)
{
    char size[20];
    append(out, size, snprintf(size, sizeof size, "%zx\r\n", count));
    append(out, bytes, count);
    append(out, "\r\n", 2);
}

static void append_event(struct connection *c)
{
    static char event[MOST_EVENT_BYTES + 512];
    long length = snprintf(event, sizeof event, EVENT_BEGIN, (long long)now());
    for (long text = c->event_bytes - (long)strlen(EVENT_END); length < text; length++)
        event[length] = 'x';
    strcpy(event + length, EVENT_END);
    append_chunk(&c->out, event, strlen(event));
    c->events_left--;
}

static void next_event(struct connection *c)
{
    unschedule(c);
    if (c->events_left > 0) {
        append_event(c);
        c->due += c->interval;
        schedule(c);
        return;
    }
    append_chunk(&c->out, LAST_EVENTS, strlen(LAST_EVENTS));
    append(&c->out, "0\r\n\r\n", 5);
    c->streams = false;
    stats.completed++;
}

/* The number after a word of the text, such as "events="; `otherwise` where the word is not there. */
static long asked(const char *text, size_t length, const char *word, long otherwise)
{
    const char *found = text ? memmem(text, length, word, strlen(word)) : NULL;
    return found ? atol(found + strlen(word)) : otherwise;
}

static void begin_stream(struct connection *c, const char *body, size_t length)
{
    const char *text = memmem(body, length, "BENCH ", 6);
    size_t rest = text ? body + length - text : 0;
    c->events_left = asked(text, rest, " events=", 10);
    c->interval = asked(text, rest, " interval_us=", 1000) * 1000;
    c->event_bytes = asked(text, rest, " bytes=", 205);
    if (c->events_left < 1 || c->interval < 1 || c->event_bytes > MOST_EVENT_BYTES) {
        answer(c, "400 Bad Request", "{\"message\":\"at least one event, after at least 1 us, of at most 64 KiB\"}");
        return;
    }
    stats.streams++;
    append(&c->out, STREAM_HEAD, strlen(STREAM_HEAD));
    append_event(c);
    c->due = now() + c->interval;
    c->streams = true;
    schedule(c);
}

static void answer_loads(struct connection *c)
{
    char json[200];
    struct timespec time; /* since the epoch: SGLang's scheduler stamps each of its steps */
    clock_gettime(CLOCK_REALTIME, &time);
    snprintf(json, sizeof json, "{\"loads\":[{\"num_running_reqs\":%d,\"num_waiting_reqs\":0,\"timestamp\":%lld.%03ld}]}",
             first != NULL, (long long)time.tv_sec, time.tv_nsec / 1000000);
    answer(c, "200 OK", json);
}

static void answer_stats(struct connection *c)
{
    char json[200];
    snprintf(json, sizeof json, "{\"requests\":%ld,\"streams\":%ld,\"completed\":%ld,\"abandoned\":%ld}",
             stats.requests, stats.streams, stats.completed, stats.abandoned);
    answer(c, "200 OK", json);
}

/* ---- Requests ---- */

static bool begins(const char *text, const char *with)
{
    return !strncasecmp(text, with, strlen(with));
}

/* The value of a header, by "name: "; NULL where the head does not have it. */
static const char *header(const char *head, const char *name)
{
    for (const char *line = strchr(head, '\n'); line; line = strchr(line, '\n'))
        if (begins(++line, name))
            return line + strlen(name);
    return NULL;
}

static void answer_request(struct connection *c, const char *head, const char *body, size_t length)
{
    const char *connection = header(head, "connection: "), *blank = strchr(head, ' '), *path = blank ? blank + 1 : "/";
    c->closes = connection && begins(connection, "close");
    if (begins(path, "/v1/chat/completions") || begins(path, "/v1/completions")) {
        stats.requests++;
        if (memmem(body, length, "\"stream\":true", 13) || memmem(body, length, "\"stream\": true", 14))
            begin_stream(c, body, length);
        else
            answer(c, "200 OK", COMPLETION);
    } else if (begins(path, "/stats")) {
        answer_stats(c);
    } else if (begins(path, "/v1/loads")) {
        answer_loads(c);
    } else {
        size_t i = 0;
        while (!begins(path, PROBES[i].path) && strcmp(PROBES[i].path, "/"))
            i++;
        answer(c, "200 OK", PROBES[i].json);
    }
}

/* Answer one request of those that have arrived.  False: no whole one is here, or one is still being answered. */
static bool take_request(struct connection *c)
{
    char *head = c->in.bytes + c->in.begin;
    size_t held = c->in.end - c->in.begin;
    char *end = held && c->fd >= 0 && !c->streams ? memmem(head, held, "\r\n\r\n", 4) : NULL;
    if (!end)
        return false;
    end[2] = 0; /* so that the head is a string */
    const char *said = header(head, "content-length: ");
    size_t whole = end + 4 - head + (said ? strtoul(said, NULL, 10) : 0);
    if (header(head, "transfer-encoding: ")) { /* no proxy here sends such; if one does, it shall be seen */
        answer(c, "501 Not Implemented", "{\"message\":\"this server reads no chunked requests\"}");
        c->closes = true;
        c->in.begin = c->in.end;
    } else if (held < whole) {
        end[2] = '\r';
        reserve(&c->in, whole - held);
        return false;
    } else {
        c->in.begin += whole;
        answer_request(c, head, end + 4, head + whole - (end + 4));
    }
    flush(c);
    return true;
}

static void receive(struct connection *c)
{
    reserve(&c->in, 2048);
    ssize_t count = recv(c->fd, c->in.bytes + c->in.end, c->in.size - c->in.end, 0);
    if (count < 0 && errno == EAGAIN)
        return;
    if (count <= 0) {
        close_connection(c);
        return;
    }
    c->in.end += count;
    while (take_request(c))
        ;
}

/* ---- The loop ---- */

static void accept_all(int listener)
{
    int on = 1;
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        struct connection *c = calloc(1, sizeof *c);
        if (!c)
            abort();
        c->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        watch(c, EPOLL_CTL_ADD);
    }
}

static void send_what_is_due(void)
{
    for (int64_t time = now(); first && first->due <= time;) {
        struct connection *c = first;
        next_event(c);
        flush(c);
        while (take_request(c)) /* that came while it streamed */
            ;
    }
}

static void free_closed(void)
{
    for (struct connection *c; (c = closed);) {
        closed = c->later;
        free(c->in.bytes);
        free(c->out.bytes);
        free(c);
    }
}

static int listen_at(int port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in address = {AF_INET, htons(port), {htonl(INADDR_LOOPBACK)}, {0}};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096)) {
        perror("upstream: cannot listen");
        exit(1);
    }
    return fd;
}

int main(int argc, char **argv)
{
    if (argc != 2 || atoi(argv[1]) <= 0) {
        fprintf(stderr, "usage: upstream PORT\n");
        return 2;
    }
    struct connection listener = {.fd = listen_at(atoi(argv[1]))}, alarm = {.fd = -1};
    epoll = epoll_create1(0);
    alarm.fd = timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    watch(&listener, EPOLL_CTL_ADD);
    watch(&alarm, EPOLL_CTL_ADD); /* it only ends the wait: set anew, it is no longer readable */
    for (struct epoll_event events[512];;) {
        set_timer();
        int count = epoll_wait(epoll, events, 512, -1);
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (c == &listener)
                accept_all(c->fd);
            if (c == &listener || c == &alarm)
                continue;
            if (c->fd >= 0 && events[i].events & EPOLLOUT)
                flush(c);
            if (c->fd >= 0 && events[i].events & ~EPOLLOUT)
                receive(c);
        }
        send_what_is_due();
        free_closed();
    }
}
