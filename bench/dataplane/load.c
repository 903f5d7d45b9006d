/* Load for an OpenAI-style server or a proxy before one, and what its clients see.
 *
 *     load requests PORT [-c CONNECTIONS] [-d SECONDS] [-b PROMPT_BYTES] [-u]
 *     load streams PORT [-c STREAMS] [-n EVENTS] [-i INTERVAL_US] [-s EVENT_BYTES] [-g STAGGER_MS] [-l LIMIT_S]
 *
 * `requests`: each connection sends a request, reads the answer to its end and sends the next, on and on; after
 * SECONDS no new ones are sent, and those that are under way are waited for.  All of them count, so that CPU time that
 * was used for them divides by them.  Prompts differ in length from request to request, as those of a program do:
 * they have PROMPT_BYTES, or up to 7 times 37 more.  With -u each has an X-Request-Id of its own, so that no two heads
 * are alike.
 *
 * `streams`: each stream is one connection with one request; they begin evenly within STAGGER_MS.  Every event of
 * upstream.c tells by CLOCK_MONOTONIC when it was made.  After LIMIT_S, what still runs counts as cut off.
 *
 * Prints one line of JSON; times are microseconds but for "seconds".  `errors` are connections that were refused,
 * reset or ended within an answer, `refused` are answers that are no 200, `status` is the last such.
 *
 * One thread, one epoll, and a reader of HTTP answers that looks at each byte once.
 */
#include <errno.h>
#include <getopt.h>
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
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL /* in nanoseconds, as all times here */
#define ID "X-Request-Id: "
#define PATIENCE (60 * SECOND) /* for requests that are under way in the end */

/* ---- What is measured ---- */

struct samples {
    int64_t *values; /* nanoseconds */
    size_t count, size;
};

static struct samples latencies, first_events, delays;
static struct { long answers, refused, errors, cut, completed, events; int status; } seen;

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * SECOND + time.tv_nsec;
}

static void add(struct samples *s, int64_t value)
{
    if (s->count == s->size)
        s->values = realloc(s->values, (s->size = s->size ? 2 * s->size : 4096) * sizeof *s->values);
    if (!s->values)
        abort();
    s->values[s->count++] = value;
}

static int by_value(const void *one, const void *other)
{
    int64_t a = *(const int64_t *)one, b = *(const int64_t *)other;
    return (a > b) - (a < b);
}

static void print_samples(const char *name, struct samples *s)
{
    if (!s->count)
        return;
    qsort(s->values, s->count, sizeof *s->values, by_value);
    printf(",\"%s_p50\":%.1f,\"%s_p99\":%.1f,\"%s_max\":%.1f", name, s->values[(s->count - 1) / 2] / 1e3, name,
           s->values[(size_t)(0.99 * (s->count - 1))] / 1e3, name, s->values[s->count - 1] / 1e3);
}

/* ---- Connections ---- */

struct request {
    char *bytes;
    size_t length;
    char *id; /* ten digits of the head that are the request's own; NULL: none are */
};

enum part { HEAD, SIZED_BODY, CHUNK_SIZE, CHUNK_BODY, CHUNK_END, TRAILERS, BODY_TO_END, COMPLETE };

struct connection {
    int fd;           /* -1: none */
    int64_t began;    /* the request that is under way */
    const struct request *request;
    size_t sent;      /* bytes of it */
    bool wants_write;
    /* The answer, as far as it was read. */
    enum part part;
    char line[128];   /* of the head or before a chunk, cut to this */
    size_t line_length;
    long long left;   /* bytes of the body or chunk; -1: not known */
    int status;
    bool chunked, closes;
    /* What its body says. */
    int stamp_state;  /* bytes of "T=" that were matched; 3 and more: digits of a stamp */
    int64_t stamp;
    size_t done_matched;
    long events;
};

static const char DONE[] = "[DONE]";

static int epoll, port = 0;
static struct request requests[8]; /* one after the other */
static long kinds = 8, requests_begun;
static bool streaming, unique;
static long events_asked = 100;
static int64_t deadline; /* no further requests after it */
static long active;

static void watch(struct connection *c, int operation)
{
    struct epoll_event event = {.events = EPOLLIN | (c->wants_write ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll, operation, c->fd, &event);
}

static void hang_up(struct connection *c)
{
    if (c->fd >= 0) {
        close(c->fd);
        c->fd = -1;
    }
}

/* It is over, for this client. */
static void retire(struct connection *c)
{
    hang_up(c);
    active--;
}

static void fail(struct connection *c)
{
    seen.errors++;
    retire(c);
}

static void send_request(struct connection *c)
{
    const struct request *r = c->request;
    while (c->sent < r->length) {
        ssize_t count = send(c->fd, r->bytes + c->sent, r->length - c->sent, MSG_NOSIGNAL);
        if (count < 0 && errno != EAGAIN) {
            fail(c);
            return;
        }
        if (count < 0)
            break;
        c->sent += count;
    }
    if (c->wants_write != (c->sent < r->length)) {
        c->wants_write = !c->wants_write;
        watch(c, EPOLL_CTL_MOD);
    }
}

/* Begin a request, on a new connection where there is none. */
static void begin(struct connection *c)
{
    int fd = c->fd, on = 1;
    struct request *r = &requests[requests_begun++ % kinds];
    if (r->id) {
        char digits[24];
        snprintf(digits, sizeof digits, "%010ld", requests_begun);
        memcpy(r->id, digits, 10);
    }
    struct sockaddr_in address = {AF_INET, htons(port), {htonl(INADDR_LOOPBACK)}, {0}};
    *c = (struct connection){.fd = fd, .began = now(), .left = -1, .request = r};
    if (fd < 0) {
        c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (c->fd < 0 || (connect(c->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS)) {
            fail(c);
            return;
        }
        watch(c, EPOLL_CTL_ADD);
    }
    send_request(c);
}

/* ---- Reading answers ---- */

static void take_stamp(struct connection *c, int64_t time)
{
    add(&delays, time - c->stamp);
    if (!c->events++)
        add(&first_events, time - c->began);
    seen.events++;
}

/* Look for "T=DIGITS" and "[DONE]"; both may come in pieces. */
static void read_body(struct connection *c, const char *bytes, size_t count, int64_t time)
{
    for (size_t i = 0; i < count; i++) {
        char byte = bytes[i];
        if (c->stamp_state >= 2 && byte >= '0' && byte <= '9') {
            c->stamp = (c->stamp_state++ == 2 ? 0 : c->stamp * 10) + byte - '0';
        } else {
            if (c->stamp_state > 2 + 9)
                take_stamp(c, time);
            c->stamp_state = byte == 'T' ? 1 : byte == '=' && c->stamp_state == 1 ? 2 : 0;
        }
        if (c->done_matched < sizeof DONE - 1)
            c->done_matched = byte == DONE[c->done_matched] ? c->done_matched + 1 : byte == DONE[0];
    }
}

static void read_header(struct connection *c)
{
    if (!strncasecmp(c->line, "content-length:", 15))
        c->left = atoll(c->line + 15);
    else if (!strncasecmp(c->line, "transfer-encoding: chunked", 26))
        c->chunked = true;
    else if (!strncasecmp(c->line, "connection: close", 17))
        c->closes = true;
}

static enum part after_head(struct connection *c)
{
    return c->chunked ? CHUNK_SIZE : c->left > 0 ? SIZED_BODY : c->left == 0 ? COMPLETE : BODY_TO_END;
}

/* One line of what is made of lines; `line` has no end of line any more. */
static void read_line(struct connection *c)
{
    bool is_empty = !c->line_length;
    if (c->part == HEAD && !c->status)
        c->status = c->line_length > 9 ? atoi(c->line + 9) : 0;
    else if (c->part == HEAD && is_empty)
        c->part = after_head(c);
    else if (c->part == HEAD)
        read_header(c);
    else if (c->part == CHUNK_SIZE)
        c->part = (c->left = strtoll(c->line, NULL, 16)) ? CHUNK_BODY : TRAILERS;
    else if (c->part == CHUNK_END)
        c->part = CHUNK_SIZE;
    else if (c->part == TRAILERS && is_empty)
        c->part = COMPLETE;
}

static size_t take_line(struct connection *c, const char *bytes, size_t count)
{
    const char *end = memchr(bytes, '\n', count);
    size_t taken = end ? (size_t)(end - bytes) + 1 : count, kept = taken - (end != NULL);
    if (kept > sizeof c->line - 1 - c->line_length)
        kept = sizeof c->line - 1 - c->line_length;
    memcpy(c->line + c->line_length, bytes, kept);
    c->line_length += kept;
    if (end) {
        if (c->line_length && c->line[c->line_length - 1] == '\r')
            c->line_length--;
        c->line[c->line_length] = 0;
        read_line(c);
        c->line_length = 0;
    }
    return taken;
}

static size_t take_body(struct connection *c, const char *bytes, size_t count, int64_t time)
{
    size_t taken = c->part != BODY_TO_END && (long long)count > c->left ? (size_t)c->left : count;
    if (streaming)
        read_body(c, bytes, taken, time);
    if (c->part != BODY_TO_END && !(c->left -= taken))
        c->part = c->part == CHUNK_BODY ? CHUNK_END : COMPLETE;
    return taken;
}

static void take_bytes(struct connection *c, const char *bytes, size_t count, int64_t time)
{
    while (count && c->part != COMPLETE) {
        bool is_body = c->part == SIZED_BODY || c->part == CHUNK_BODY || c->part == BODY_TO_END;
        size_t taken = is_body ? take_body(c, bytes, count, time) : take_line(c, bytes, count);
        bytes += taken;
        count -= taken;
    }
}

static void end_answer(struct connection *c, int64_t time)
{
    add(&latencies, time - c->began);
    seen.answers++;
    if (c->status != 200) {
        seen.refused++;
        seen.status = c->status;
    } else if (c->done_matched == sizeof DONE - 1 && c->events == events_asked) {
        seen.completed++;
    }
    if (streaming || time >= deadline) {
        retire(c);
    } else {
        if (c->closes)
            hang_up(c);
        begin(c);
    }
}

static void receive(struct connection *c)
{
    static char bytes[1 << 18];
    ssize_t count = recv(c->fd, bytes, sizeof bytes, 0);
    int64_t time = now();
    if (count < 0 && errno == EAGAIN)
        return;
    if (count > 0)
        take_bytes(c, bytes, count, time);
    else if (!count && c->part == BODY_TO_END)
        c->part = COMPLETE;
    else {
        fail(c);
        return;
    }
    if (c->part == COMPLETE)
        end_answer(c, time);
}

/* ---- The loop ---- */

/* Begin all connections, evenly within `stagger`, and go on until they are done or `limit` has passed. */
static void run(struct connection *all, long count, int64_t stagger, int64_t limit)
{
    struct epoll_event events[512];
    int64_t start = now();
    for (long begun = 0; (begun < count || active) && now() - start < limit;) {
        int64_t next = start + stagger * begun / count, wait = (next - now()) / 1000000;
        if (begun < count && wait <= 0 && next <= now()) {
            active++;
            begin(&all[begun++]);
            wait = 0;
        }
        int ready = epoll_wait(epoll, events, 512, begun == count ? 100 : wait < 0 ? 0 : wait > 100 ? 100 : wait);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (c->fd >= 0 && events[i].events & EPOLLOUT)
                send_request(c);
            if (c->fd >= 0 && events[i].events & ~EPOLLOUT)
                receive(c);
        }
    }
    seen.cut = active;
}

/* A prompt of `padding` bytes, and the model's name after it, where it is hardest to find. */
static void write_request(struct request *request, const char *text, size_t padding)
{
    char *body = malloc(padding + 1024), head[512];
    int begun = sprintf(body, "{\"messages\":[{\"role\":\"system\",\"content\":\"You are a helpful assistant. ");
    memset(body + begun, 'x', padding);
    sprintf(body + begun + padding, "\"},{\"role\":\"user\",\"content\":\"%s\"}],\"model\":\"m1\",\"temperature\":0.7,"
            "\"max_tokens\":64,\"stream\":%s}", text, streaming ? "true" : "false");
    int head_length = sprintf(head, "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
            "Accept: application/json\r\nContent-Type: application/json\r\nUser-Agent: OpenAI/Python 2.8.0\r\n"
            "Authorization: Bearer sk-bench\r\nX-Stainless-Lang: python\r\n%sContent-Length: %zu\r\n\r\n",
            port, unique ? ID "0000000000\r\n" : "", strlen(body));
    request->length = head_length + strlen(body);
    request->bytes = malloc(request->length + 1);
    memcpy(request->bytes, head, head_length);
    strcpy(request->bytes + head_length, body);
    request->id = unique ? strstr(request->bytes, ID) + strlen(ID) : NULL;
    free(body);
}

int main(int argc, char **argv)
{
    long count = 32, padding = 700, interval_us = 20000, event_bytes = 205, stagger_ms = 1000;
    double seconds = 2, limit_s = 60;
    for (int option; (option = getopt(argc, argv, "c:d:b:n:i:s:g:l:u")) != -1;)
        switch (option) {
        case 'c': count = atol(optarg); break;
        case 'd': seconds = atof(optarg); break;
        case 'b': padding = atol(optarg); break;
        case 'n': events_asked = atol(optarg); break;
        case 'i': interval_us = atol(optarg); break;
        case 's': event_bytes = atol(optarg); break;
        case 'g': stagger_ms = atol(optarg); break;
        case 'l': limit_s = atof(optarg); break;
        case 'u': unique = true; break;
        default: return 2;
        }
    streaming = argc - optind == 2 && !strcmp(argv[optind], "streams");
    if (argc - optind != 2 || (!streaming && strcmp(argv[optind], "requests")) || count < 1) {
        fprintf(stderr, "usage: load requests|streams PORT [options]; see load.c\n");
        return 2;
    }
    port = atoi(argv[optind + 1]);
    char text[128] = "Hello";
    if (streaming)
        sprintf(text, "BENCH events=%ld interval_us=%ld bytes=%ld .", events_asked, interval_us, event_bytes);
    if (padding > 100000)
        kinds = 1; /* where it makes no difference, and takes memory */
    for (long i = 0; i < kinds; i++)
        write_request(&requests[i], text, (streaming ? 0 : padding) + 37 * i);
    struct connection *all = calloc(count, sizeof *all);
    for (long i = 0; i < count; i++)
        all[i].fd = -1;
    epoll = epoll_create1(0);
    int64_t start = now();
    deadline = start + (int64_t)(seconds * SECOND);
    run(all, count, streaming ? stagger_ms * 1000000 : 0,
        streaming ? (int64_t)(limit_s * SECOND) : deadline - start + PATIENCE);
    printf("{\"seconds\":%.6f,\"answers\":%ld,\"completed\":%ld,\"events\":%ld,\"refused\":%ld,\"status\":%d,"
           "\"errors\":%ld,\"cut\":%ld", (now() - start) / 1e9, seen.answers, seen.completed, seen.events,
           seen.refused, seen.status, seen.errors, seen.cut);
    print_samples("latency", &latencies);
    print_samples("first_event", &first_events);
    print_samples("delay", &delays);
    printf("}\n");
    return 0;
}
