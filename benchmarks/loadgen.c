/*
 * A WebSocket load generator: one thread, one epoll, one core.
 *
 * Why C: the server under test must be the bottleneck.  The program reports its
 * own CPU share, so that a run in which it was not can be thrown away.
 *
 * Source: RFC 6455.  Admitted deviations: every connection uses the key of
 * section 1.3 (its accept value is known, so no SHA-1 here), and one masking key
 * serves the whole run (section 5.3 wants a fresh one for each frame), so that
 * masking costs nothing here; the server cannot tell.  Compiled with -DTLS it knows
 * --tls, where no certificate is verified; with -DDEFLATE, --deflate (RFC 7692), where
 * what it sends itself is not compressed, as section 7.2 lets it.  It must not accept
 * anything doubtful: each echo is compared byte by byte, and a masked, fragmented,
 * reordered or missing frame, or one compressed unasked, ends the program with status 1.
 *
 * It prints one JSON object.  In order below: options, clocks, wire, I/O, modes.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifdef TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#endif

#ifdef DEFLATE
#include <zlib.h>
#endif

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

#define KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
#define OFFER /* a browser's */                                               \
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
#define SECOND 1000000000ull
#define STALL (10 * SECOND)  /* without any progress: give up */
#define HANDSHAKES 64        /* at once; below every server's listen backlog */
#define STAMP 16             /* bytes at the start of a payload that identify it */
#define JSON_STAMP 7         /* where it is in a JSON message: behind {"id":" */
#define JSON_LEAST 64        /* bytes of the shortest JSON message */
#define DEFLATED_FROM 1024   /* bytes of a message that servers compress */
#define MAX_WINDOW 64
#define MAX_SAMPLES (8u << 20)
#define EVENTS 1024
#define NAP 50000 /* ns between two looks at the sockets */
#define ECHO_PATH "/echo" /* of the connection that watches for gaps */
#define DEAF_WINDOW 4096  /* receive buffer of a connection that is never read */
#define DEAF_SEGMENT 1460 /* Ethernet's: loopback's 64 KiB let the server's kernel
                             keep megabytes for it, as for no peer elsewhere */
#define WOKEN_WINDOW 65536 /* of one that is read again at last */
#define QUIET (SECOND / 2) /* nothing has come for so long: nothing is under way */
#define TRY_LATER 1013     /* how a server closes what reads too slowly */
#define MAX_PROCESSES 64   /* of one server */
#define PROCESS "\r\nX-Process: " /* in a 101: the id of the process that serves */
#define TRIES 200          /* for each connection, until it meets a process with room */

enum opcode { TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };
enum state { HANDSHAKE, OPEN, CLOSING, CLOSED };

struct conn {
    int fd, id;
    enum state state;
    bool wants_write, deaf, stalled; /* not read now; not read during a storm */
    char *in, *out;
    size_t in_len, in_cap, out_pos, out_len, out_cap;
    uint32_t sent, received; /* messages of this connection */
    uint64_t sent_at[MAX_WINDOW], started_at;
    void *tls; /* OpenSSL's part, or NULL */
};

/* ---- Options ------------------------------------------------------------ */

static struct {
    const char *mode, *path;
    int port, connections, window, refill, size, warmup_count, sources, cpu, deaf;
    int spread, processes;
    bool binary, json, records, browser, lax_close, counted, tls, deflate, last;
    bool hold;
    double warmup, seconds, pace;
    uint64_t count;
    pid_t pids[MAX_PROCESSES]; /* the server's; memory is that of the first */
} opt = {.path = "/echo", .connections = 64, .window = 1, .size = 64,
         .warmup = 0.5, .seconds = 3, .warmup_count = 200, .sources = 1, .cpu = -1};

static void die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("loadgen: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static void read_pids(const char *value) {
    char *end;
    do {
        if (opt.processes == MAX_PROCESSES) die("--pid: at most 64 processes");
        opt.pids[opt.processes++] = (pid_t)strtol(value, &end, 10);
        value = end + 1;
    } while (*end == ',');
}

static void set_option(const char *name, const char *value) {
    if (!strcmp(name, "mode")) opt.mode = value;
    else if (!strcmp(name, "path")) opt.path = value;
    else if (!strcmp(name, "port")) opt.port = atoi(value);
    else if (!strcmp(name, "pid")) read_pids(value);
    else if (!strcmp(name, "connections")) opt.connections = atoi(value);
    else if (!strcmp(name, "window")) opt.window = atoi(value);
    else if (!strcmp(name, "refill")) opt.refill = atoi(value);
    else if (!strcmp(name, "size")) opt.size = atoi(value);
    else if (!strcmp(name, "binary")) opt.binary = true;
    else if (!strcmp(name, "json")) opt.json = true;
    else if (!strcmp(name, "records")) opt.records = true;
    else if (!strcmp(name, "browser")) opt.browser = true;
    else if (!strcmp(name, "lax-close")) opt.lax_close = true;
    else if (!strcmp(name, "deaf")) opt.deaf = atoi(value);
    else if (!strcmp(name, "counted")) opt.counted = true;
    else if (!strcmp(name, "tls")) opt.tls = true;
    else if (!strcmp(name, "deflate")) opt.deflate = true;
    else if (!strcmp(name, "spread")) opt.spread = atoi(value);
    else if (!strcmp(name, "last")) opt.last = true;
    else if (!strcmp(name, "hold")) opt.hold = true;
    else if (!strcmp(name, "pace")) opt.pace = atof(value);
    else if (!strcmp(name, "warmup")) opt.warmup = atof(value);
    else if (!strcmp(name, "warmup-count")) opt.warmup_count = atoi(value);
    else if (!strcmp(name, "seconds")) opt.seconds = atof(value);
    else if (!strcmp(name, "count")) opt.count = strtoull(value, NULL, 10);
    else if (!strcmp(name, "sources")) opt.sources = atoi(value);
    else if (!strcmp(name, "cpu")) opt.cpu = atoi(value);
}

static void read_options(int argc, char **argv) {
    static const struct option known[] = {
        {"mode", 1, 0, 0}, {"path", 1, 0, 0}, {"port", 1, 0, 0}, {"pid", 1, 0, 0},
        {"connections", 1, 0, 0}, {"window", 1, 0, 0}, {"refill", 1, 0, 0},
        {"size", 1, 0, 0}, {"binary", 0, 0, 0}, {"browser", 0, 0, 0},
        {"json", 0, 0, 0}, {"records", 0, 0, 0}, {"counted", 0, 0, 0},
        {"lax-close", 0, 0, 0}, {"deaf", 1, 0, 0}, {"tls", 0, 0, 0},
        {"deflate", 0, 0, 0}, {"pace", 1, 0, 0}, {"spread", 1, 0, 0}, {"last", 0, 0, 0},
        {"warmup", 1, 0, 0}, {"warmup-count", 1, 0, 0}, {"seconds", 1, 0, 0},
        {"count", 1, 0, 0}, {"sources", 1, 0, 0}, {"cpu", 1, 0, 0}, {"hold", 0, 0, 0},
        {0, 0, 0, 0}};
    int index, found;
    while ((found = getopt_long(argc, argv, "", known, &index)) != -1) {
        if (found != 0) exit(2);
        set_option(known[index].name, optarg);
    }
    if (!opt.mode || !opt.port || !opt.pids[0]) die("--mode, --port, --pid are needed");
    if (opt.window < 1 || opt.window > MAX_WINDOW) die("--window: 1 to 64");
    if (opt.size < STAMP || opt.size > 1 << 20) die("--size: 16 bytes to 1 MiB");
    if (opt.json && opt.size < JSON_LEAST) die("--json: at least 64 bytes");
    if (opt.sources < 1 || opt.sources > 200) die("--sources: 1 to 200");
    if (opt.seconds <= 0) die("--seconds: more than 0");
    if (opt.connections < 1) die("--connections: at least 1");
    if (!opt.refill) opt.refill = opt.window;
}

/* ---- Clocks: time, CPU time, memory ------------------------------------- */

static clockid_t server_clocks[MAX_PROCESSES];
static struct { uint64_t at, server, own, messages; } begun, ended;
static uint64_t messages; /* the unit of the mode: echoes, deliveries, cycles */
static uint32_t *samples; /* latencies in ns/16: 8 Mi of them, touched when used */
static size_t sample_count;
static bool counting;

static uint64_t read_clock(clockid_t clock) {
    struct timespec t;
    if (clock_gettime(clock, &t)) die("clock of the server: %s", strerror(errno));
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static uint64_t now(void) { return read_clock(CLOCK_MONOTONIC); }

/* Return the CPU time of all of the server's processes. */
static uint64_t read_server(void) {
    uint64_t sum = 0;
    for (int i = 0; i < opt.processes; i++) sum += read_clock(server_clocks[i]);
    return sum;
}

static void add_sample(uint64_t latency) {
    if (!counting || sample_count == MAX_SAMPLES) return;
    latency >>= 4;
    samples[sample_count++] = latency > UINT32_MAX ? UINT32_MAX : (uint32_t)latency;
}

static void begin_window(void) {
    counting = true;
    begun.messages = messages;
    begun.own = read_clock(CLOCK_PROCESS_CPUTIME_ID);
    begun.at = now();
    begun.server = read_server();
}

static void end_window(void) {
    ended.server = read_server();
    ended.at = now();
    ended.own = read_clock(CLOCK_PROCESS_CPUTIME_ID);
    ended.messages = messages;
    counting = false;
}

static FILE *open_proc(const char *name, const char *how) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)opt.pids[0], name);
    FILE *file = fopen(path, how);
    if (!file) die("%s: %s", path, strerror(errno));
    return file;
}

static long resident_bytes(void) {
    long total, resident = -1;
    FILE *file = open_proc("statm", "r");
    if (fscanf(file, "%ld %ld", &total, &resident) != 2) die("statm is strange");
    fclose(file);
    return resident * sysconf(_SC_PAGESIZE);
}

/* Let the peak of the server's resident set begin anew. */
static void forget_peak(void) {
    FILE *file = open_proc("clear_refs", "w");
    fputs("5", file);
    if (fclose(file)) die("clear_refs: %s", strerror(errno));
}

static long peak_bytes(void) {
    char line[256];
    long kib = -1;
    FILE *file = open_proc("status", "r");
    while (kib < 0 && fgets(line, sizeof line, file)) sscanf(line, "VmHWM: %ld", &kib);
    fclose(file);
    if (kib < 0) die("no VmHWM");
    return kib * 1024;
}

/* ---- Wire: requests, frames --------------------------------------------- */

static char *frame; /* one masked frame, whose stamp is rewritten for each use */
static size_t frame_header, frame_size;
static size_t stamp_at; /* where the stamp is in the payload */
static char *payload; /* the same, unmasked: what must come back */
static unsigned char mask[4];
static int deflated; /* connections on which permessage-deflate was agreed */

static int write_request(char *to, size_t room, const char *path, int id) {
    if (!opt.browser)
        return snprintf(to, room,
            "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: " KEY "\r\n"
            "Sec-WebSocket-Version: 13\r\n%s\r\n", path, opt.port,
            opt.deflate ? OFFER : "");
    return snprintf(to, room,
        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: Upgrade\r\n"
        "Pragma: no-cache\r\nCache-Control: no-cache\r\n"
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, "
        "like Gecko) Chrome/131.0.0.0 Safari/537.36\r\n"
        "Upgrade: websocket\r\nOrigin: %s://127.0.0.1:%d\r\n"
        "Sec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
        "Accept-Language: en-US,en;q=0.9\r\n"
        "Cookie: sessionid=%032x; csrftoken=%032x\r\n"
        "Sec-WebSocket-Key: " KEY "\r\n" OFFER "\r\n",
        path, opt.port, opt.tls ? "https" : "http", opt.port, 0x5eed0000 + id,
        0x70ce0000 + id);
}

static void check_response(const char *head) {
    if (strncmp(head, "HTTP/1.1 101", 12)) die("handshake refused:\n%s", head);
    if (!strcasestr(head, "\r\nSec-WebSocket-Accept: " ACCEPT "\r\n"))
        die("wrong Sec-WebSocket-Accept:\n%s", head);
    if (!strcasestr(head, "\r\nSec-WebSocket-Extensions:")) {
        if (opt.deflate) die("permessage-deflate was not agreed:\n%s", head);
        return;
    }
    if (!opt.browser && !opt.deflate)
        die("an extension that was not offered:\n%s", head);
    deflated++;
}

static size_t write_header(char *to, int opcode, size_t size) {
    size_t n = 2;
    to[0] = (char)(0x80 | opcode);
    if (size < 126) to[1] = (char)(0x80 | size);
    else if (size < 65536) {
        to[1] = (char)(0x80 | 126);
        for (int i = 1; i >= 0; i--) to[n++] = (char)(size >> (8 * i));
    } else {
        to[1] = (char)(0x80 | 127);
        for (int i = 7; i >= 0; i--) to[n++] = (char)(size >> (8 * i));
    }
    memcpy(to + n, mask, 4);
    return n + 4;
}

static void write_stamp(char *to, uint32_t id, uint32_t n) {
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < 8; i++) to[i] = digits[id >> (28 - 4 * i) & 15];
    for (int i = 0; i < 8; i++) to[8 + i] = digits[n >> (28 - 4 * i) & 15];
}

/* A small object whose compact encoding is itself, whoever encodes it. */
static void fill_json(void) {
    static const char head[] = "{\"id\":\"0123456789abcdef\",\"user\":42,"
                               "\"read\":false,\"text\":\"";
    memset(payload, 'x', (size_t)opt.size);
    memcpy(payload, head, sizeof head - 1);
    memcpy(payload + opt.size - 2, "\"}", 2);
    stamp_at = JSON_STAMP;
}

static unsigned int pick(unsigned int limit) {
    static uint32_t x = 1; /* the same numbers in every run */
    x = x * 1103515245u + 12345u;
    return (x >> 16 & 0x7fff) % limit;
}

/* Text as servers send it, of which compressing leaves about a quarter. */
static void fill_records(void) {
    char record[96];
    size_t done = 0, size = (size_t)opt.size;
    while (done < size) {
        unsigned int id = pick(90000), user = pick(1000), amount = pick(1000);
        size_t n = (size_t)snprintf(record, sizeof record,
            "{\"id\":%u,\"user\":\"u%u\",\"amount\":%u.%02u,\"open\":%s},",
            10000 + id, user, amount, pick(100), pick(2) ? "true" : "false");
        if (n > size - done) n = size - done;
        memcpy(payload + done, record, n);
        done += n;
    }
}

static void fill_plain(void) {
    for (int i = 0; i < opt.size; i++)
        payload[i] = opt.binary ? (char)(i * 167 + (i >> 8)) : (char)(' ' + i % 95);
}

static void prepare_frame(void) {
    if (getrandom(mask, sizeof mask, 0) != sizeof mask) die("no random mask");
    for (int i = 0; i < 4; i++) mask[i] |= 1; /* never zero: no server may skip it */
    payload = malloc((size_t)opt.size);
    frame = malloc((size_t)opt.size + 14);
    if (opt.json) fill_json();
    else if (opt.records) fill_records();
    else fill_plain();
    frame_header = write_header(frame, opt.binary ? BINARY : TEXT, (size_t)opt.size);
    frame_size = frame_header + (size_t)opt.size;
    for (int i = 0; i < opt.size; i++)
        frame[frame_header + (size_t)i] = (char)(payload[i] ^ mask[i & 3]);
}

static void stamp_frame(char *to, uint32_t id, uint32_t n) {
    char stamp[STAMP];
    write_stamp(stamp, id, n);
    to += stamp_at;
    for (size_t i = 0; i < STAMP; i++)
        to[i] = (char)(stamp[i] ^ mask[(stamp_at + i) & 3]);
}

static void check_payload(const char *data, size_t size, uint32_t id, uint32_t n) {
    char *stamp = payload + stamp_at;
    write_stamp(stamp, id, n);
    if (size != (size_t)opt.size) die("%zu bytes came back, not %d", size, opt.size);
    if (memcmp(data + stamp_at, stamp, STAMP))
        die("wrong message: %.16s instead of %.16s", data + stamp_at, stamp);
    if (memcmp(data, payload, size)) die("corrupt payload");
}

/* Return the number in the stamp of a message, to be checked with it. */
static uint32_t read_number(const char *data, size_t size) {
    char digits[9] = "";
    if (size >= stamp_at + STAMP) memcpy(digits, data + stamp_at + 8, 8);
    return (uint32_t)strtoul(digits, NULL, 16);
}

/* ---- Compression: what members of a broadcast share is inflated once ---- */

static uint64_t compressed_bytes, inflated_bytes; /* of what was inflated */

#ifdef DEFLATE
static z_stream inflater;
static struct { char *data, *text; size_t size; } seen[MAX_WINDOW];

static void start_deflate(void) {
    if (inflateInit2(&inflater, -MAX_WBITS) != Z_OK) die("no zlib");
    for (int i = 0; i < MAX_WINDOW; i++) {
        seen[i].text = malloc((size_t)opt.size + 1); /* one more than may come */
        seen[i].data = malloc((size_t)opt.size);
    }
}

/* Inflate a whole message (RFC 7692, section 7.2.2). */
static void inflate_to(char *text, const char *data, size_t size) {
    static unsigned char tail[] = {0, 0, 0xff, 0xff};
    inflateReset(&inflater);
    inflater.next_in = (unsigned char *)(uintptr_t)data;
    inflater.avail_in = (unsigned int)size;
    inflater.next_out = (unsigned char *)text;
    inflater.avail_out = (unsigned int)opt.size + 1;
    int first = inflate(&inflater, Z_SYNC_FLUSH);
    inflater.next_in = tail;
    inflater.avail_in = sizeof tail;
    int last = inflate(&inflater, Z_SYNC_FLUSH);
    if ((first != Z_OK && first != Z_BUF_ERROR) || last != Z_OK || inflater.avail_in)
        die("a message that cannot be inflated");
    if (inflater.total_out != (unsigned long)opt.size)
        die("%lu bytes after inflating, not %d", inflater.total_out, opt.size);
    compressed_bytes += size;
    inflated_bytes += inflater.total_out;
}

/* Return the text of a compressed message, and its size. */
static const char *inflated(uint32_t n, const char *data, size_t *size) {
    uint32_t slot = n % MAX_WINDOW;
    if (*size > (size_t)opt.size) die("compressing has made %zu bytes", *size);
    if (*size != seen[slot].size || memcmp(data, seen[slot].data, *size)) {
        inflate_to(seen[slot].text, data, *size);
        memcpy(seen[slot].data, data, *size);
        seen[slot].size = *size;
    }
    *size = (size_t)opt.size;
    return seen[slot].text;
}
#else
static void start_deflate(void) { die("compiled without DEFLATE"); }

static const char *inflated(uint32_t n, const char *data, size_t *size) {
    return (void)n, (void)size, data;
}
#endif

/* ---- TLS: the same calls as recv and send, over OpenSSL ----------------- */

static const char *cipher = ""; /* what every connection has agreed on */

#ifdef TLS
static SSL_CTX *context;

static void start_tls(void) {
    context = SSL_CTX_new(TLS_client_method());
    if (!context) die("no TLS");
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE); /* modes add up */
    SSL_CTX_set_mode(context, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    signal(SIGPIPE, SIG_IGN);
}

static void open_tls(struct conn *c) {
    SSL *tls = SSL_new(context);
    if (!tls || !SSL_set_fd(tls, c->fd)) die("no TLS on connection %d", c->id);
    SSL_set_connect_state(tls);
    c->tls = tls;
}

static void close_tls(struct conn *c) {
    SSL_free(c->tls);
    c->tls = NULL;
}

static void check_cipher(struct conn *c) {
    const char *name = SSL_get_cipher(c->tls);
    if (*cipher && strcmp(cipher, name)) die("both %s and %s", cipher, name);
    cipher = name;
}

static bool shakes(struct conn *c) { return c->tls && !SSL_is_init_finished(c->tls); }
static bool has_more(struct conn *c) { return c->tls && SSL_pending(c->tls); }

/* Turn what OpenSSL returned into what recv or send would have. */
static ssize_t tls_result(struct conn *c, int n) {
    if (n > 0) return n;
    int error = SSL_get_error(c->tls, n), cause = errno;
    if (error == SSL_ERROR_ZERO_RETURN) return 0;
    errno = error == SSL_ERROR_SYSCALL ? cause : EAGAIN;
    if (error != SSL_ERROR_SSL) return -1;
    unsigned long reason = ERR_get_error();
    if (ERR_GET_REASON(reason) == SSL_R_UNEXPECTED_EOF_WHILE_READING) return 0;
    die("TLS on connection %d: %s", c->id, ERR_reason_error_string(reason));
    return -1;
}

static ssize_t read_some(struct conn *c, char *to, size_t size) {
    if (!c->tls) return recv(c->fd, to, size, 0);
    ERR_clear_error();
    return tls_result(c, SSL_read(c->tls, to, (int)size));
}

static ssize_t write_some(struct conn *c, const char *data, size_t size) {
    if (!c->tls) return send(c->fd, data, size, MSG_NOSIGNAL);
    ERR_clear_error();
    return tls_result(c, SSL_write(c->tls, data, (int)size));
}
#else
static void start_tls(void) { die("compiled without TLS"); }
static void open_tls(struct conn *c) { (void)c; }
static void close_tls(struct conn *c) { (void)c; }
static void check_cipher(struct conn *c) { (void)c; }
static bool shakes(struct conn *c) { return (void)c, false; }
static bool has_more(struct conn *c) { return (void)c, false; }

static ssize_t read_some(struct conn *c, char *to, size_t size) {
    return recv(c->fd, to, size, 0);
}

static ssize_t write_some(struct conn *c, const char *data, size_t size) {
    return send(c->fd, data, size, MSG_NOSIGNAL);
}
#endif

/* ---- I/O: connections on one epoll -------------------------------------- */

static struct {
    const char *(*path)(int id);
    void (*on_open)(struct conn *);
    void (*on_message)(struct conn *, const char *, size_t);
    void (*on_closed)(struct conn *);
    void (*after_turn)(void);
} mode;

static int poller;
static uint64_t turn_at; /* the time at which the current events were read */
static uint64_t progress;
static int open_count;

static void watch(struct conn *c, int operation, bool write) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (write) event.events |= EPOLLOUT;
    c->wants_write = write;
    if (epoll_ctl(poller, operation, c->fd, &event)) die("epoll: %s", strerror(errno));
}

static char *reserve(struct conn *c, size_t size) {
    if (c->out_len + size > c->out_cap) {
        c->out_cap = c->out_len + size;
        c->out = realloc(c->out, c->out_cap);
        if (!c->out) die("out of memory");
    }
    char *at = c->out + c->out_len;
    c->out_len += size;
    return at;
}

static void flush_out(struct conn *c) {
    while (c->out_pos < c->out_len) {
        size_t left = c->out_len - c->out_pos;
        ssize_t n = write_some(c, c->out + c->out_pos, left);
        if (n < 0 && (errno == EAGAIN || errno == ENOTCONN)) break;
        if (n < 0) die("send on connection %d: %s", c->id, strerror(errno));
        c->out_pos += (size_t)n;
    }
    bool pending = c->out_pos < c->out_len;
    if (!pending) c->out_pos = c->out_len = 0;
    if (shakes(c)) pending = false; /* what is awaited then is the server's answer */
    if (pending != c->wants_write) watch(c, EPOLL_CTL_MOD, pending);
}

static void queue_control(struct conn *c, int opcode, const char *data, size_t size) {
    char *to = reserve(c, size + 6);
    to += write_header(to, opcode, size);
    for (size_t i = 0; i < size; i++) to[i] = (char)(data[i] ^ mask[i & 3]);
}

static void queue_message(struct conn *c, uint32_t n) {
    char *to = reserve(c, frame_size);
    memcpy(to, frame, frame_size);
    stamp_frame(to + frame_header, (uint32_t)c->id, n);
}

static void bind_source(struct conn *c) {
    int one = 1;
    struct sockaddr_in from = {.sin_family = AF_INET};
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + (uint32_t)(c->id % opt.sources));
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(c->fd, (struct sockaddr *)&from, sizeof from))
        die("bind: %s", strerror(errno));
}

/* Keep the kernels' buffers small for a connection that will not be read. */
static void narrow(struct conn *c) {
    int window = DEAF_WINDOW, segment = DEAF_SEGMENT;
    setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &window, sizeof window);
    setsockopt(c->fd, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment);
}

static void open_conn(struct conn *c, int id) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(opt.port)};
    int one = 1;
    c->id = id;
    c->state = HANDSHAKE;
    c->in_len = c->out_pos = c->out_len = 0;
    c->sent = c->received = 0;
    c->started_at = now();
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("socket: %s", strerror(errno));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (opt.sources > 1) bind_source(c);
    if (opt.deaf && id >= opt.connections) narrow(c);
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS)
        die("connect: %s", strerror(errno));
    if (opt.tls) open_tls(c);
    const char *path = mode.path ? mode.path(id) : opt.path;
    c->out_len = (size_t)write_request(reserve(c, 1024), 1024, path, id);
    watch(c, EPOLL_CTL_ADD, true);
}

/*
 * A server of several processes: each is to have its share of the connections.  Which
 * process accepts one is the kernel's choice, so one too many is dropped, and tried
 * again.
 */

static int shares[MAX_PROCESSES]; /* connections that each process has */
static long turned_away;

/* Return the place among the server's processes of the one that sent this 101. */
static int read_process(const char *head) {
    const char *found = strcasestr(head, PROCESS);
    if (!found) die("the server does not say which process it is:\n%s", head);
    pid_t pid = (pid_t)atoi(found + sizeof PROCESS - 1);
    for (int i = 0; i < opt.processes; i++)
        if (opt.pids[i] == pid) return i;
    die("process %d is not one of the server's", (int)pid);
    return -1;
}

/* Say whether a connection's process has room for it, and count it if so. */
static bool has_room(const char *head) {
    int *share = &shares[read_process(head)];
    if (*share == (opt.connections + opt.spread - 1) / opt.spread) return false;
    ++*share;
    return true;
}

/* Drop a connection without a trace, and try again. */
static void try_again(struct conn *c) {
    struct linger linger = {.l_onoff = 1};
    if (++turned_away > (long)TRIES * opt.connections)
        die("the kernel does not spread %d connections over %d processes",
            opt.connections, opt.spread);
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    if (c->tls) close_tls(c);
    close(c->fd);
    progress++;
    open_conn(c, c->id);
}

static void close_conn(struct conn *c) {
    if (c->state == OPEN) open_count--;
    c->state = CLOSED;
    if (c->tls) close_tls(c);
    close(c->fd);
    progress++;
    if (mode.on_closed) mode.on_closed(c);
}

static void start_close(struct conn *c) {
    queue_control(c, CLOSE, "\x03\xe8", 2);
    c->state = CLOSING;
    open_count--;
    flush_out(c);
}

static int shed; /* members that the server has closed, or cut, for not reading */

/* A member that was not read has come to what the server sent last. */
static void on_shed(struct conn *c) {
    shed++;
    start_close(c);
}

/* Take one control frame. A close is answered by the server's own end of TCP. */
static void on_control(struct conn *c, int opcode, const char *data, size_t size) {
    int code = size < 2 ? 0 : (unsigned char)data[0] << 8 | (unsigned char)data[1];
    if (opcode == PING) queue_control(c, PONG, data, size);
    if (opcode != CLOSE) return;
    if (c->stalled && c->state != CLOSING && code == TRY_LATER) {
        on_shed(c);
        return;
    }
    if (c->state != CLOSING)
        die("connection %d was closed with %d %.*s", c->id, code,
            size > 2 ? (int)size - 2 : 0, data + 2);
    if (code != 1000 && !opt.lax_close) die("close was answered with code %d", code);
}

static void on_frame(struct conn *c, int opcode, const char *data, size_t size) {
    if (opcode & 8) on_control(c, opcode, data, size);
    else if (opcode != (opt.binary ? BINARY : TEXT)) die("wrong opcode %d", opcode);
    else if (!mode.on_message) die("a message that nobody asked for");
    else mode.on_message(c, data, size);
}

static void on_compressed(struct conn *c, int opcode, const char *data, size_t size) {
    if (!opt.deflate) die("the server compresses");
    if (opcode & 8) die("a compressed control frame");
    data = inflated(c->received, data, &size);
    on_frame(c, opcode, data, size);
}

static void on_plain(struct conn *c, int opcode, const char *data, size_t size) {
    if (opt.deflate && size >= DEFLATED_FROM) die("the server does not compress");
    on_frame(c, opcode, data, size);
}

/* Parse one frame at `data`; return its length, or 0 if it is not complete. */
static size_t read_frame(struct conn *c, const unsigned char *data, size_t left) {
    if (left < 2) return 0;
    if (data[0] & 0x30) die("reserved bits are set: %02x", data[0]);
    if (!(data[0] & 0x80) || !(data[0] & 0x0f)) die("a fragmented message");
    if (data[1] & 0x80) die("a masked frame");
    size_t size = data[1], header = 2;
    if (size >= 126) {
        int bytes = size == 126 ? 2 : 8;
        header += (size_t)bytes;
        if (left < header) return 0;
        size = 0;
        for (int i = 0; i < bytes; i++) size = size << 8 | data[2 + i];
    }
    if (header + size > c->in_cap) die("a frame of %zu bytes", size);
    if (left < header + size) return 0;
    (data[0] & 0x40 ? on_compressed : on_plain)(c, data[0] & 0x0f,
                                                (const char *)data + header, size);
    return header + size;
}

/* Take the server's answer to the handshake; return its length, or 0. */
static size_t read_head(struct conn *c) {
    c->in[c->in_len] = 0;
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end) return 0;
    end[2] = 0;
    check_response(c->in);
    if (c->tls) check_cipher(c);
    if (opt.spread && !has_room(c->in)) {
        try_again(c);
        return 0;
    }
    c->state = OPEN;
    open_count++;
    if (mode.on_open) mode.on_open(c);
    return (size_t)(end + 4 - c->in);
}

static void parse(struct conn *c) {
    size_t done = 0, n = 0;
    if (c->state == HANDSHAKE && !(done = read_head(c))) return;
    while ((n = read_frame(c, (unsigned char *)c->in + done, c->in_len - done)))
        done += n;
    c->in_len -= done;
    if (done && c->in_len) memmove(c->in, c->in + done, c->in_len);
}

static void flush_rest(struct conn *c) {
    if (c->out_pos < c->out_len && !c->wants_write) flush_out(c);
}

static void read_once(struct conn *c) {
    ssize_t n = read_some(c, c->in + c->in_len, c->in_cap - c->in_len);
    if (n < 0 && errno == EAGAIN) {
        if (c->tls) flush_rest(c); /* the handshake may be over */
        return;
    }
    if (n <= 0 && c->stalled && c->state == OPEN) shed++;
    else if (n <= 0 && c->state != CLOSING)
        die("connection %d ended: %s", c->id, n ? strerror(errno) : "end of file");
    if (n <= 0) {
        close_conn(c);
        return;
    }
    c->in_len += (size_t)n;
    progress++;
    parse(c);
    flush_rest(c);
}

/* Read what there is; epoll does not see what OpenSSL has already taken. */
static void on_readable(struct conn *c) {
    do read_once(c);
    while (c->state != CLOSED && has_more(c));
}

/* Read a connection no more; epoll still tells of its end. */
static void stop_reading(struct conn *c) {
    struct epoll_event event = {.events = 0, .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event))
        die("epoll: %s", strerror(errno));
    c->deaf = c->stalled = true;
}

/* Read it again, and no longer a few bytes at a time. */
static void resume_reading(struct conn *c) {
    int window = WOKEN_WINDOW;
    setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &window, sizeof window);
    c->deaf = false;
    watch(c, EPOLL_CTL_MOD, false);
}

static uint64_t cut_at; /* when the server reset a connection that is not read */

static void on_cut(struct conn *c) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != ECONNRESET)
        die("the member that never reads was not reset: %s", strerror(error));
    cut_at = turn_at;
    shed++;
    close_conn(c);
}

/*
 * Sleep for a moment instead of in epoll_wait: there each message would wake us, and
 * the server pays for that in its send, which no client on another machine costs.
 */
static void nap(void) {
    struct timespec moment = {.tv_nsec = NAP};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, NULL);
}

static void turn(void) {
    struct epoll_event events[EVENTS];
    int n = epoll_wait(poller, events, EVENTS, 0);
    turn_at = now();
    for (int i = 0; i < n; i++) {
        struct conn *c = events[i].data.ptr;
        if (c->deaf) {
            on_cut(c);
            continue;
        }
        if (events[i].events & EPOLLOUT) flush_out(c);
        if (events[i].events & ~EPOLLOUT) on_readable(c);
    }
    if (mode.after_turn) mode.after_turn();
    if (n < EVENTS / 4) nap();
}

/* Run until `done` says so or, when there is a limit, until it has passed. */
static void run(bool (*done)(void), double seconds) {
    uint64_t until = now() + (uint64_t)(seconds * SECOND), seen = progress, moved = 0;
    while (!(done && done()) && !(seconds && now() >= until)) {
        turn();
        if (seen != progress || !moved) moved = turn_at;
        seen = progress;
        if (done && turn_at - moved > STALL)
            die("stalled: %d connections open, %" PRIu64 " messages", open_count,
                messages);
    }
}

/* ---- Modes -------------------------------------------------------------- */

static struct conn *conns;
static int opened, wanted;
static bool finishing; /* send nothing new */
static long rss_before, rss_after;

static struct conn *make_conns(int n, size_t room) {
    struct conn *made = calloc((size_t)n, sizeof *made);
    for (int i = 0; i < n; i++) {
        made[i].in_cap = room;
        made[i].in = malloc(room + 1);
        if (!made[i].in) die("out of memory");
    }
    return made;
}

static void open_next(struct conn *c) {
    (void)c;
    if (opened < wanted) {
        open_conn(&conns[opened], opened);
        opened++;
    }
}

static bool all_open(void) { return open_count == wanted; }
static bool none_open(void) { return messages == (uint64_t)wanted; }
static bool counted(void) {
    return opt.count && messages - begun.messages >= opt.count;
}

static void open_all(int n) {
    opened = open_count = 0;
    wanted = n;
    mode.on_open = open_next;
    for (int i = 0; i < HANDSHAKES; i++) open_next(NULL);
    run(all_open, 0);
    mode.on_open = NULL;
}

/* Measure, then wait for what is under way: a lost message must not go unseen. */
static void measure(bool (*all_back)(void)) {
    if (opt.warmup > 0) run(NULL, opt.warmup);
    begin_window();
    run(counted, opt.count ? 0 : opt.seconds);
    end_window();
    finishing = true;
    run(all_back, 0);
}

/* Echo: each connection keeps `window` messages in flight. */

static void send_burst(struct conn *c) {
    uint64_t at = now();
    while (c->sent - c->received < (uint32_t)opt.window) {
        c->sent_at[c->sent % MAX_WINDOW] = at;
        queue_message(c, c->sent++);
    }
    if (!c->wants_write) flush_out(c);
}

static void on_echo(struct conn *c, const char *data, size_t size) {
    check_payload(data, size, (uint32_t)c->id, c->received);
    add_sample(turn_at - c->sent_at[c->received % MAX_WINDOW]);
    c->received++;
    messages++;
    if (finishing) return;
    if (c->sent - c->received <= (uint32_t)(opt.window - opt.refill)) send_burst(c);
}

static bool echoes_back(void) {
    for (int i = 0; i < opt.connections; i++)
        if (conns[i].sent != conns[i].received) return false;
    return true;
}

static void run_echo(void) {
    conns = make_conns(opt.connections, 4096 + frame_size * (size_t)opt.window);
    open_all(opt.connections);
    mode.on_message = on_echo;
    for (int i = 0; i < opt.connections; i++) send_burst(&conns[i]);
    measure(echoes_back);
}

/* Broadcast: connection 0 sends, and every connection, 0 too, must receive. */

static int readers;             /* members that must get each broadcast */
static int copies = 1;          /* deliveries that a copy here stands for */
static int missing[MAX_WINDOW]; /* members that have not got broadcast n yet */
static uint32_t complete;

/* Check a member's copy and return when the broadcast was sent. */
static uint64_t take_copy(struct conn *c, const char *data, size_t size) {
    uint32_t slot = c->received % MAX_WINDOW;
    check_payload(data, size, 0, c->received++);
    if (!--missing[slot]) complete++;
    return conns[0].sent_at[slot];
}

static void on_delivery(struct conn *c, const char *data, size_t size) {
    uint32_t before = complete;
    if (c->id >= readers) die("a message to a member that only counts");
    uint64_t sent_at = take_copy(c, data, size);
    messages += (uint64_t)copies;
    if (complete != before) add_sample(now() - sent_at);
}

static void queue_broadcast(uint64_t at) {
    struct conn *sender = &conns[0];
    missing[sender->sent % MAX_WINDOW] = readers;
    sender->sent_at[sender->sent % MAX_WINDOW] = at;
    queue_message(sender, sender->sent++);
}

static void send_broadcasts(void) {
    struct conn *sender = &conns[0];
    uint64_t at = now();
    if (finishing || sender->sent - complete > (uint32_t)(opt.window - opt.refill))
        return;
    while (sender->sent - complete < (uint32_t)opt.window) queue_broadcast(at);
    if (!sender->wants_write) flush_out(sender);
}

/* Do not acknowledge each segment at once: that was most of what recv cost us. */
static void delay_acks(struct conn *c) {
    int off = 0;
    setsockopt(c->fd, IPPROTO_TCP, TCP_QUICKACK, &off, sizeof off);
}

static bool broadcasts_back(void) { return complete == conns[0].sent; }

/* Open the members that read and, after them, those that never will. */
static void open_members(int deaf) {
    int all = opt.connections + deaf;
    readers = opt.connections;
    conns = make_conns(all, 4096 + frame_size * (size_t)opt.window);
    open_all(all);
    for (int i = readers; i < all; i++) stop_reading(&conns[i]);
    run(NULL, 0.5); /* a 101 does not say that the member has joined */
    for (int i = 0; i < readers; i++) delay_acks(&conns[i]);
}

static void run_broadcast(void) {
    open_members(0);
    if (opt.counted) { /* all get it, but only the sender hears of that */
        copies = readers;
        readers = 1;
    }
    mode.on_message = on_delivery;
    mode.after_turn = send_broadcasts;
    measure(broadcasts_back);
}

/*
 * Paced: so many broadcasts a second, every copy timed, or only each broadcast's last;
 * one member may not be read.
 */

static void on_timed_copy(struct conn *c, const char *data, size_t size) {
    uint32_t before = complete;
    uint64_t sent_at = take_copy(c, data, size);
    messages++;
    if (!opt.last || complete != before) add_sample(now() - sent_at);
}

static void send_at_pace(void) {
    static uint64_t due;
    struct conn *sender = &conns[0];
    uint64_t at = now();
    if (finishing || at < due) return;
    if (sender->sent - complete >= (uint32_t)opt.window)
        die("%g broadcasts a second are more than the server can do", opt.pace);
    due = at + (uint64_t)(SECOND / opt.pace);
    queue_broadcast(at);
    if (!sender->wants_write) flush_out(sender);
}

static void run_paced(void) {
    if (opt.pace <= 0) die("--pace: more than 0");
    open_members(opt.deaf);
    mode.on_message = on_timed_copy;
    mode.after_turn = send_at_pace;
    measure(broadcasts_back);
    if (opt.deaf && (cut_at < begun.at || cut_at > ended.at))
        die("the member that never reads was not cut within the counted window");
}

/*
 * Storm: paced, and some do not read.  Then they read what is left for them, and one
 * more message, which must reach them; what they have missed is counted.
 */

static long growth; /* of the server's resident set, at its peak */
static uint64_t missed, quiet_at;

/* Take what a member gets that missed something; here `sent` is what may be next. */
static void on_late_copy(struct conn *c, const char *data, size_t size) {
    uint32_t n = read_number(data, size);
    check_payload(data, size, 0, n);
    if (n < c->sent || n >= conns[0].sent) die("message %u after %u", n, c->sent);
    c->sent = n + 1;
    c->received++;
}

static void on_storm_copy(struct conn *c, const char *data, size_t size) {
    if (c->stalled) on_late_copy(c, data, size);
    else on_timed_copy(c, data, size);
}

static bool quiet(void) {
    static uint64_t seen;
    if (seen != progress || !quiet_at) quiet_at = turn_at;
    seen = progress;
    return turn_at - quiet_at > QUIET;
}

static bool all_heard(void) {
    for (int i = readers; i < readers + opt.deaf; i++)
        if (conns[i].state == OPEN && conns[i].sent != conns[0].sent) return false;
    return broadcasts_back();
}

/* Wake those that did not read, and count what they have missed for good. */
static void hear_the_rest(void) {
    for (int i = readers; i < readers + opt.deaf; i++)
        if (conns[i].state == OPEN) resume_reading(&conns[i]);
    run(quiet, 0);
    queue_broadcast(now());
    flush_out(&conns[0]);
    run(all_heard, 0);
    for (int i = readers; i < readers + opt.deaf; i++)
        missed += conns[0].sent - conns[i].received;
}

static void run_storm(void) {
    if (opt.pace <= 0) die("--pace: more than 0");
    open_members(opt.deaf);
    mode.on_message = on_storm_copy;
    mode.after_turn = send_at_pace;
    run(NULL, opt.warmup);
    opt.warmup = 0;
    forget_peak();
    rss_before = resident_bytes();
    measure(broadcasts_back);
    growth = peak_bytes() - rss_before;
    hear_the_rest();
}

/* Gap: connection 0 broadcasts without a pause, connection 1 echoes meanwhile. */

static const char *gap_path(int id) { return id ? ECHO_PATH : opt.path; }

static void on_gap_message(struct conn *c, const char *data, size_t size) {
    if (c->id) on_echo(c, data, size);
    else take_copy(c, data, size);
}

static bool first_back(void) { return complete > 0; }

static bool gap_back(void) {
    return broadcasts_back() && conns[1].sent == conns[1].received;
}

static void run_gap(void) {
    conns = make_conns(2, 4096 + frame_size * (size_t)opt.window);
    readers = 1; /* whose copy is the last, after those that are not on the network */
    mode.path = gap_path;
    open_all(2);
    mode.on_message = on_gap_message;
    mode.after_turn = send_broadcasts;
    run(first_back, 0);
    send_burst(&conns[1]);
    measure(gap_back);
    if (complete < 3) die("only %" PRIu32 " broadcasts", complete);
}

/* Idle: what a connection costs in memory, after a warm-up of others. */

static void count_closed(struct conn *c) {
    (void)c;
    messages++;
}

static void run_idle(void) {
    int warmups = opt.warmup_count < opt.connections ? opt.warmup_count
                                                     : opt.connections;
    conns = make_conns(opt.connections, 4096);
    open_all(warmups);
    mode.on_closed = count_closed;
    for (int i = 0; i < warmups; i++) start_close(&conns[i]);
    run(none_open, 0);
    run(NULL, 1);
    rss_before = resident_bytes();
    messages = 0;
    deflated = 0;
    begin_window();
    open_all(opt.connections);
    messages = (uint64_t)opt.connections;
    end_window();
    run(NULL, 1);
    if (open_count != opt.connections) die("%d remained open", open_count);
    rss_after = resident_bytes();
}

/* Join: all ask at once to be in a group, and each is told when it is. */

static bool all_joined(void) { return messages == (uint64_t)opt.connections; }

static void run_join(void) {
    conns = make_conns(opt.connections, 4096);
    open_all(opt.connections);
    run(NULL, 0.5); /* those that were turned away are forgotten by now */
    mode.on_message = on_echo;
    finishing = true; /* one message each */
    begin_window();
    for (int i = 0; i < opt.connections; i++) send_burst(&conns[i]);
    run(all_joined, 0);
    end_window();
}

/* Connect: connect, handshake, close handshake, again. */

static uint64_t started;

static void end_cycle(struct conn *c) {
    messages++;
    add_sample(now() - c->started_at);
    open_conn(c, (int)started++);
}

static bool warm(void) { return messages >= (uint64_t)opt.warmup_count; }

static void run_connect(void) {
    conns = make_conns(opt.connections, 4096);
    mode.on_open = start_close;
    mode.on_closed = end_cycle;
    for (; started < (uint64_t)opt.connections; started++)
        open_conn(&conns[started], (int)started);
    run(warm, 0);
    begin_window();
    run(counted, opt.count ? 0 : opt.seconds);
    end_window();
}

/* ---- The report --------------------------------------------------------- */

static int compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double percentile(double share) {
    size_t at = (size_t)(share * (double)sample_count);
    if (!sample_count) return 0;
    return samples[at < sample_count ? at : sample_count - 1] * 16 / 1e3;
}

static void report(void) {
    double seconds = (double)(ended.at - begun.at) / SECOND;
    double n = (double)(ended.messages - begun.messages);
    if (!n) die("no message within the counted window");
    double server = (double)(ended.server - begun.server);
    qsort(samples, sample_count, sizeof *samples, compare);
    printf("{\"messages\": %.0f, \"seconds\": %.4f, \"rate\": %.1f, ", n, seconds,
           n / seconds);
    printf("\"cpu_us\": %.4f, \"server_share\": %.4f, ", server / n / 1e3,
           server / 1e9 / seconds);
    printf("\"own_share\": %.4f, ", (double)(ended.own - begun.own) / 1e9 / seconds);
    printf("\"p50_us\": %.1f, \"p99_us\": %.1f, ", percentile(0.5), percentile(0.99));
    printf("\"max_us\": %.1f, \"broadcasts\": %" PRIu32 ", ", percentile(1), complete);
    if (cut_at) printf("\"cut_after\": %.2f, ", (double)(cut_at - begun.at) / SECOND);
    printf("\"growth_bytes\": %ld, ", growth);
    if (opt.deaf) printf("\"missed\": %" PRIu64 ", \"shed\": %d, ", missed, shed);
    if (opt.spread) printf("\"turned_away\": %ld, ", turned_away);
    if (compressed_bytes)
        printf("\"compression\": %.2f, ",
               (double)inflated_bytes / (double)compressed_bytes);
    printf("\"cipher\": \"%s\", ", cipher);
    printf("\"deflated\": %d, \"rss_bytes\": %.1f}\n", deflated,
           (double)(rss_after - rss_before) / opt.connections);
}

/* Keep all connections until standard input ends; then none of them may have ended. */
static void hold(void) {
    int expected = open_count;
    fflush(stdout);
    while (getchar() != EOF) continue;
    run(NULL, 0.5);
    if (open_count != expected) die("%d of %d remained open", open_count, expected);
}

static void start(void) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(opt.cpu, &cpus);
    if (opt.cpu >= 0 && sched_setaffinity(0, sizeof cpus, &cpus))
        die("cannot run on core %d: %s", opt.cpu, strerror(errno));
    for (int i = 0; i < opt.processes; i++)
        if (clock_getcpuclockid(opt.pids[i], &server_clocks[i]))
            die("no process %d", opt.pids[i]);
    prctl(PR_SET_TIMERSLACK, 1ul);
    samples = malloc(MAX_SAMPLES * sizeof *samples);
    poller = epoll_create1(0);
    prepare_frame();
    if (opt.tls) start_tls();
    if (opt.deflate) start_deflate();
}

int main(int argc, char **argv) {
    read_options(argc, argv);
    start();
    if (!strcmp(opt.mode, "echo")) run_echo();
    else if (!strcmp(opt.mode, "broadcast")) run_broadcast();
    else if (!strcmp(opt.mode, "paced")) run_paced();
    else if (!strcmp(opt.mode, "storm")) run_storm();
    else if (!strcmp(opt.mode, "gap")) run_gap();
    else if (!strcmp(opt.mode, "idle")) run_idle();
    else if (!strcmp(opt.mode, "connect")) run_connect();
    else if (!strcmp(opt.mode, "join")) run_join();
    else die("unknown mode %s", opt.mode);
    report();
    if (opt.hold) hold();
    return 0;
}
