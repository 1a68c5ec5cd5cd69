/*
 * WebSocket frames (RFC 6455, section 5) and the heads of requests in C: the hot
 * paths of frames.py and grammar.py.
 *
 * What every function here means is written in those two, which have the same in
 * pure Python; the tests run over both and compare them. Like all of wire/ this
 * file knows bytes and nothing else: no I/O, no clock, no hub.
 *
 * A complete, unfragmented data frame is unmasked straight from the caller's
 * buffer into the str or bytes object that is returned. Everything else (a part
 * of a frame, a fragment) is unmasked into an accumulator that grows with what
 * has arrived, is checked for UTF-8 there, and is freed with its message. What is
 * compressed is inflated by a Python function, when all of it has come.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>

#define MAX_HEADER 14
#define MAX_CONTROL 125
#define MAX_EMPTY 1000
#define NO_LIMIT PY_SSIZE_T_MAX
#define RSV1 0x40
#define ASCII_BITS UINT64_C(0x8080808080808080)

enum opcode { CONT = 0, TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };

enum close_code {
    PROTOCOL_ERROR = 1002,
    INVALID_TEXT = 1007,
    POLICY_VIOLATION = 1008,
    TOO_BIG = 1009,
};

static const char BAD_TEXT[] = "text is not valid UTF-8";

typedef struct {
    PyObject *remote_protocol_error;
} State;

static struct PyModuleDef module_def;

/* ---- Masking (section 5.3) ---- */

/*
 * XOR n bytes of src with the key into dst, and return a number with a bit of
 * ASCII_BITS set if one of the results is not ASCII.
 */
static uint64_t
mask_into(uint8_t *dst, const uint8_t *src, size_t n, const uint8_t key[4])
{
    uint64_t wide_key, word, seen = 0;
    size_t i = 0;

    memcpy(&wide_key, key, 4);
    memcpy((uint8_t *)&wide_key + 4, key, 4);
    for (; i + 8 <= n; i += 8) {
        memcpy(&word, src + i, 8);
        word ^= wide_key;
        seen |= word;
        memcpy(dst + i, &word, 8);
    }
    for (; i < n; i++) {
        dst[i] = src[i] ^ key[i & 3];
        seen |= dst[i];
    }
    return seen & ASCII_BITS;
}

/* Turn the key so that it fits the byte `by` places further on. */
static void
rotate_key(uint8_t key[4], size_t by)
{
    uint8_t old[4];

    memcpy(old, key, 4);
    for (size_t i = 0; i < 4; i++) {
        key[i] = old[(i + by) & 3];
    }
}

/* ---- UTF-8 as it arrives (RFC 3629, section 4) ---- */

typedef struct {
    uint8_t needed;   /* continuation bytes that the character still lacks */
    uint8_t low;      /* least value that the next of them may have */
    uint8_t high;     /* and its greatest */
} Utf8;

/* Begin a character with its first byte; false if none begins so. */
static bool
utf8_begin(Utf8 *utf8, uint8_t byte)
{
    if (byte < 0xC2 || byte > 0xF4) {
        return byte < 0x80;
    }
    utf8->needed = (uint8_t)(1 + (byte >= 0xE0) + (byte >= 0xF0));
    utf8->low = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
    utf8->high = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
    return true;
}

/* Check the next n bytes of a text; false at the first wrong one. */
static bool
utf8_feed(Utf8 *utf8, const uint8_t *p, size_t n)
{
    const uint8_t *end = p + n;
    uint64_t word;

    while (p < end) {
        if (utf8->needed) {
            if (*p < utf8->low || *p > utf8->high) {
                return false;
            }
            utf8->needed--;
            utf8->low = 0x80;
            utf8->high = 0xBF;
            p++;
            continue;
        }
        while (end - p >= 8) {
            memcpy(&word, p, 8);
            if (word & ASCII_BITS) {
                break;
            }
            p += 8;
        }
        if (p < end && !utf8_begin(utf8, *p++)) {
            return false;
        }
    }
    return true;
}

/* ---- A buffer that grows ---- */

typedef struct {
    size_t start;     /* what is before it has been used up */
    size_t size;      /* end of the data, counted from data[0] */
    size_t capacity;
    uint8_t data[];
} Buffer;

/*
 * Make room for n more bytes, allocating twice what is needed but never more
 * than `most`. Return -1 with MemoryError set if there is no memory.
 */
static int
buffer_reserve(Buffer **buffer, size_t n, size_t most)
{
    Buffer *old = *buffer, *new;
    size_t size = old == NULL ? 0 : old->size;
    size_t needed = size + n, capacity;

    if (old != NULL && needed <= old->capacity) {
        return 0;
    }
    if (needed > NO_LIMIT / 2 - sizeof(Buffer)) {
        PyErr_NoMemory();
        return -1;
    }
    capacity = 2 * needed < most ? 2 * needed : most;
    capacity = capacity < needed ? needed : capacity;
    new = PyMem_Realloc(old, sizeof(Buffer) + capacity);
    if (new == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (old == NULL) {
        new->start = new->size = 0;
    }
    new->capacity = capacity;
    *buffer = new;
    return 0;
}

static void
buffer_free(Buffer **buffer)
{
    PyMem_Free(*buffer);
    *buffer = NULL;
}

/* ---- The decoder ---- */

typedef struct {
    PyObject_HEAD
    PyObject *controls;      /* NULL, None, or a list of (opcode, payload) */
    PyObject *error;         /* NULL or a RemoteProtocolError */
    PyObject *inflate;       /* NULL, None, or what inflates compressed payloads */
    Buffer *rest;            /* input that a limit left undecoded */
    Buffer *message;         /* unmasked payload of an incomplete message */
    Buffer *control;         /* unmasked payload of an incomplete control frame */
    Py_ssize_t max_message;
    Py_ssize_t decoded_bytes;
    uint64_t remaining;      /* payload of the current frame still to come */
    uint16_t empty;          /* the latest fragments, as far as they hold nothing */
    uint8_t header[MAX_HEADER];
    uint8_t header_size;     /* bytes of an incomplete header */
    uint8_t key[4];
    Utf8 utf8;
    uint8_t message_opcode;  /* TEXT or BINARY within a message, else CONT */
    uint8_t opcode;          /* of the current frame */
    bool fin;
    bool compressed;         /* the message that has begun last */
    bool masked;             /* peers must mask: the server role */
    bool in_frame;           /* the header has been read, the payload not */
    bool over;               /* closed or failed: all input is ignored */
    bool busy;               /* in decode */
} Decoder;

/* What one call to decode may return, and what it has so far. */
typedef struct {
    Py_ssize_t max_messages;
    Py_ssize_t max_bytes;
    Py_ssize_t bytes;
    PyObject *messages;      /* NULL or a list */
} Batch;

/* Whether the call has returned all it may. */
static inline bool
batch_is_full(const Batch *batch)
{
    Py_ssize_t count = batch->messages ? PyList_GET_SIZE(batch->messages) : 0;

    return count >= batch->max_messages || batch->bytes >= batch->max_bytes;
}

/* Add a message; takes over the reference, also when it fails. */
static int
batch_add(Batch *batch, PyObject *message, size_t size)
{
    int result = 0;

    batch->bytes += (Py_ssize_t)size;
    if (batch->messages == NULL) {
        batch->messages = PyList_New(1);
        if (batch->messages == NULL) {
            Py_DECREF(message);
            return -1;
        }
        PyList_SET_ITEM(batch->messages, 0, message);
        return 0;
    }
    result = PyList_Append(batch->messages, message);
    Py_DECREF(message);
    return result;
}

/* Give up all memory but the object itself. */
static void
decoder_free_buffers(Decoder *self)
{
    buffer_free(&self->rest);
    buffer_free(&self->message);
    buffer_free(&self->control);
}

/*
 * Note that the peer broke a rule. Always returns -1: decoding stops; with a
 * Python exception set only if the error could not be made.
 */
static int
decoder_fail(Decoder *self, const char *reason, int code)
{
    PyObject *module = PyType_GetModuleByDef(Py_TYPE(self), &module_def);
    State *state;

    self->over = true;
    if (module == NULL) {
        return -1;
    }
    state = PyModule_GetState(module);
    Py_XSETREF(self->error,
        PyObject_CallFunction(state->remote_protocol_error, "si", reason, code));
    return -1;
}

/* Note that the function which inflates has found a broken rule, if it has. */
static int
decoder_fail_inflating(Decoder *self)
{
    PyObject *module = PyType_GetModuleByDef(Py_TYPE(self), &module_def);
    PyObject *type, *error, *traceback;

    self->over = true;
    if (module == NULL) {
        return -1;
    }
    State *state = PyModule_GetState(module);
    if (!PyErr_ExceptionMatches(state->remote_protocol_error)) {
        return -1;
    }
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    /* Without the frames that it passed, and what they hold. */
    PyException_SetTraceback(error, Py_None);
    Py_XSETREF(self->error, error);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return -1;
}

/* Check the first two bytes of a header (section 5.2; RFC 7692, section 6). */
static int
decoder_check_start(Decoder *self, uint8_t first, uint8_t second)
{
    uint8_t opcode = first & 0x0F;
    bool fin = first & 0x80;
    bool can_be_compressed = self->inflate != NULL && self->inflate != Py_None
                             && (opcode == TEXT || opcode == BINARY);

    if (first & (can_be_compressed ? 0x30 : 0x70)) {
        return decoder_fail(self, "reserved bits are set", PROTOCOL_ERROR);
    }
    if ((opcode & 7) > 2) {
        return decoder_fail(self, "opcode is reserved", PROTOCOL_ERROR);
    }
    if ((second >> 7) != self->masked) {
        return decoder_fail(
            self, self->masked ? "frame is not masked" : "frame is masked",
            PROTOCOL_ERROR);
    }
    if (opcode >= CLOSE) {
        if (!fin) {
            return decoder_fail(self, "control frame is fragmented", PROTOCOL_ERROR);
        }
        if ((second & 0x7F) > MAX_CONTROL) {
            return decoder_fail(self, "control frame is too long", PROTOCOL_ERROR);
        }
    }
    else if (opcode == CONT && self->message_opcode == CONT) {
        return decoder_fail(self, "continuation without a start", PROTOCOL_ERROR);
    }
    else if (opcode != CONT && self->message_opcode != CONT) {
        return decoder_fail(self, "message within a message", PROTOCOL_ERROR);
    }
    return 0;
}

/* The longest payload of a message on the wire: what does not compress grows. */
static uint64_t
decoder_most(Decoder *self, bool compressed)
{
    uint64_t most = (uint64_t)self->max_message;

    return compressed ? most + most / 8 + 64 : most;
}

/* Check the length of a frame's payload (section 5.2) against the limit. */
static int
decoder_check_length(Decoder *self, uint8_t start, uint8_t first, uint64_t length)
{
    size_t so_far = self->message == NULL ? 0 : self->message->size;
    uint8_t opcode = first & 0x0F;
    bool compressed = first & RSV1 || (opcode == CONT && self->compressed);

    if (start == 126 ? length < 126 : start == 127 && length <= UINT16_MAX) {
        return decoder_fail(self, "length is not minimal", PROTOCOL_ERROR);
    }
    if (length >> 63) {
        return decoder_fail(self, "length has its top bit set", PROTOCOL_ERROR);
    }
    if (opcode < CLOSE && length > decoder_most(self, compressed) - so_far) {
        return decoder_fail(self, "message is too big", TOO_BIG);
    }
    return 0;
}

/*
 * Read a header from the n > 0 bytes at p and begin its frame. Return its size,
 * 0 if it is incomplete, -1 if it breaks a rule.
 */
static int
decoder_read_header(Decoder *self, const uint8_t *p, size_t n)
{
    uint8_t start;
    uint64_t length;
    size_t size = 2;

    if (n < size) {
        return 0;
    }
    if (decoder_check_start(self, p[0], p[1]) < 0) {
        return -1;
    }
    start = p[1] & 0x7F;
    length = start;
    if (start >= 126) {
        size += start == 126 ? 2 : 8;
        if (n < size) {
            return 0;
        }
        length = 0;
        for (size_t i = 2; i < size; i++) {
            length = length << 8 | p[i];
        }
    }
    if (decoder_check_length(self, start, p[0], length) < 0) {
        return -1;
    }
    if (self->masked) {
        size += 4;
        if (n < size) {
            return 0;
        }
        memcpy(self->key, p + size - 4, 4);
    }
    self->fin = p[0] & 0x80;
    self->opcode = p[0] & 0x0F;
    if (self->opcode == TEXT || self->opcode == BINARY) {
        self->compressed = p[0] & RSV1;
    }
    self->remaining = length;
    self->in_frame = true;
    return (int)size;
}

/* Return the payload of a complete text frame as a str; NULL: -1 or error. */
static PyObject *
decoder_read_text(Decoder *self, const uint8_t *p, size_t n)
{
    PyObject *text = PyUnicode_New((Py_ssize_t)n, 127), *decoded;
    uint8_t *data;

    if (text == NULL || n == 0) {
        return text;
    }
    data = PyUnicode_1BYTE_DATA(text);
    if (!mask_into(data, p, n, self->key)) {
        return text;
    }
    /* Not ASCII: the new str was but a place to unmask to. */
    decoded = PyUnicode_DecodeUTF8((char *)data, (Py_ssize_t)n, NULL);
    Py_DECREF(text);
    if (decoded == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
        decoder_fail(self, BAD_TEXT, INVALID_TEXT);
    }
    return decoded;
}

/* Return the payload of a complete frame as bytes. */
static PyObject *
decoder_read_bytes(Decoder *self, const uint8_t *p, size_t n)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)n);

    if (bytes != NULL && n > 0) {
        mask_into((uint8_t *)PyBytes_AS_STRING(bytes), p, n, self->key);
    }
    return bytes;
}

/*
 * Return the message that a compressed payload holds, and its size. Takes over the
 * payload. NULL: -1 or error.
 */
static PyObject *
decoder_inflate(Decoder *self, PyObject *payload, uint8_t opcode, size_t *size)
{
    PyObject *limit, *data, *text;

    if (payload == NULL) {
        return NULL;
    }
    limit = PyLong_FromSsize_t(self->max_message);
    if (limit == NULL) {
        Py_DECREF(payload);
        return NULL;
    }
    data = PyObject_CallFunctionObjArgs(self->inflate, payload, limit, NULL);
    Py_DECREF(limit);
    Py_DECREF(payload);
    if (data == NULL) {
        decoder_fail_inflating(self);
        return NULL;
    }
    if (!PyBytes_Check(data)) {
        Py_DECREF(data);
        return PyErr_Format(PyExc_TypeError, "inflate() does not return bytes");
    }
    *size = (size_t)PyBytes_GET_SIZE(data);
    if (opcode != TEXT) {
        return data;
    }
    text = PyUnicode_DecodeUTF8(PyBytes_AS_STRING(data), (Py_ssize_t)*size, NULL);
    Py_DECREF(data);
    if (text == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
        decoder_fail(self, BAD_TEXT, INVALID_TEXT);
    }
    return text;
}

/* Unmask the next n bytes of the frame into `buffer`; 0, or -1 and an error. */
static int
decoder_accumulate(
    Decoder *self, Buffer **buffer, const uint8_t *p, size_t n, size_t most)
{
    if (buffer_reserve(buffer, n, most) < 0) {
        return -1;
    }
    mask_into((*buffer)->data + (*buffer)->size, p, n, self->key);
    (*buffer)->size += n;
    rotate_key(self->key, n);
    self->remaining -= n;
    return 0;
}

/* Add a complete control frame to `controls`; takes over the payload. */
static int
decoder_add_control(Decoder *self, PyObject *payload)
{
    PyObject *pair, *controls;
    int result;

    if (payload == NULL) {
        return -1;
    }
    pair = Py_BuildValue("(iN)", self->opcode, payload);
    if (pair == NULL) {
        return -1;
    }
    if (self->controls == NULL || self->controls == Py_None) {
        Py_XSETREF(self->controls, PyList_New(0));
    }
    controls = self->controls;
    if (controls == NULL) {
        Py_DECREF(pair);
        return -1;
    }
    Py_INCREF(controls);
    result = PyList_Append(controls, pair);
    Py_DECREF(controls);
    Py_DECREF(pair);
    self->in_frame = false;
    self->over = self->opcode == CLOSE;
    return result < 0 || self->over ? -1 : 0;
}

/* Take n more bytes of a control frame that is not complete in the input. */
static int
decoder_feed_control(Decoder *self, const uint8_t *p, size_t n)
{
    PyObject *payload;
    Buffer *buffer;

    if (decoder_accumulate(self, &self->control, p, n, MAX_CONTROL) < 0) {
        return -1;
    }
    if (self->remaining > 0) {
        return 0;
    }
    buffer = self->control;
    payload = PyBytes_FromStringAndSize(
        (char *)buffer->data, (Py_ssize_t)buffer->size);
    buffer_free(&self->control);
    return decoder_add_control(self, payload);
}

/* Return the accumulated message and its size, and forget it. */
static PyObject *
decoder_take_message(Decoder *self, size_t *size)
{
    Buffer *buffer = self->message;
    uint8_t opcode = self->message_opcode;
    bool text = opcode == TEXT && !self->compressed;
    PyObject *message = (text ? PyUnicode_FromStringAndSize
                              : PyBytes_FromStringAndSize)(
        (char *)buffer->data, (Py_ssize_t)buffer->size);

    *size = buffer->size;
    buffer_free(&self->message);
    self->message_opcode = CONT;
    return self->compressed ? decoder_inflate(self, message, opcode, size) : message;
}

/* Take n more bytes of a message that is not one frame within the input. */
static int
decoder_feed_message(Decoder *self, const uint8_t *p, size_t n, Batch *batch)
{
    size_t so_far = self->message == NULL ? 0 : self->message->size;
    size_t most = self->fin ? so_far + self->remaining
                            : (size_t)decoder_most(self, self->compressed);

    if (self->opcode != CONT) {
        self->message_opcode = self->opcode;
    }
    self->empty = (uint16_t)(n > 0 || self->fin ? 0 : self->empty + 1);
    if (self->empty > MAX_EMPTY) {
        return decoder_fail(self, "too many empty fragments", POLICY_VIOLATION);
    }
    if (decoder_accumulate(self, &self->message, p, n, most) < 0) {
        return -1;
    }
    so_far += n;
    if (self->message_opcode == TEXT && !self->compressed
        && (!utf8_feed(&self->utf8, self->message->data + so_far - n, n)
            || (self->fin && self->remaining == 0 && self->utf8.needed))) {
        return decoder_fail(self, BAD_TEXT, INVALID_TEXT);
    }
    if (self->remaining > 0) {
        return 0;
    }
    self->in_frame = false;
    if (self->fin) {
        PyObject *message = decoder_take_message(self, &so_far);
        return message == NULL ? -1 : batch_add(batch, message, so_far);
    }
    return 0;
}

/* Return the message in n bytes that are all of its payload, and its size. */
static PyObject *
decoder_read_message(Decoder *self, const uint8_t *p, size_t n, size_t *size)
{
    *size = n;
    if (self->compressed) {
        PyObject *payload = decoder_read_bytes(self, p, n);
        return decoder_inflate(self, payload, self->opcode, size);
    }
    return self->opcode == TEXT ? decoder_read_text(self, p, n)
                                : decoder_read_bytes(self, p, n);
}

/*
 * Take what the n bytes at p hold of the current frame's payload. Return the
 * number of bytes taken, or -1 when decoding is over or failed.
 */
static Py_ssize_t
decoder_read_payload(Decoder *self, const uint8_t *p, size_t n, Batch *batch)
{
    bool whole = self->remaining <= n;
    int result;

    n = whole ? (size_t)self->remaining : n;
    if (self->opcode >= CLOSE) {
        result = whole && self->control == NULL
            ? decoder_add_control(self, decoder_read_bytes(self, p, n))
            : decoder_feed_control(self, p, n);
    }
    else if (whole && self->fin && self->message_opcode == CONT) {
        size_t size;
        PyObject *message = decoder_read_message(self, p, n, &size);
        self->in_frame = false;
        result = message == NULL ? -1 : batch_add(batch, message, size);
    }
    else {
        result = decoder_feed_message(self, p, n, batch);
    }
    return result < 0 ? -1 : (Py_ssize_t)n;
}

/*
 * Continue an incomplete header with the n > 0 bytes at p. Return the number of
 * bytes taken, or -1 if the header breaks a rule.
 */
static Py_ssize_t
decoder_feed_header(Decoder *self, const uint8_t *p, size_t n)
{
    size_t before = self->header_size, room = MAX_HEADER - before;
    int size;

    n = n < room ? n : room;
    memcpy(self->header + before, p, n);
    size = decoder_read_header(self, self->header, before + n);
    if (size == 0) {
        self->header_size = (uint8_t)(before + n);
        return (Py_ssize_t)n;
    }
    self->header_size = 0;
    return size < 0 ? -1 : size - (Py_ssize_t)before;
}

/*
 * Decode from p to end until the batch is full. Return where it stopped, or
 * NULL when all further input is to be ignored or an exception is set.
 */
static const uint8_t *
decoder_run(Decoder *self, const uint8_t *p, const uint8_t *end, Batch *batch)
{
    Py_ssize_t used;

    while (p < end && !batch_is_full(batch)) {
        if (!self->in_frame) {
            used = self->header_size
                ? 0 : decoder_read_header(self, p, (size_t)(end - p));
            if (used == 0) {
                used = decoder_feed_header(self, p, (size_t)(end - p));
            }
            if (used < 0) {
                return NULL;
            }
            p += used;
            if (!self->in_frame || (p == end && self->remaining > 0)) {
                continue;
            }
        }
        used = decoder_read_payload(self, p, (size_t)(end - p), batch);
        if (used < 0) {
            return NULL;
        }
        p += used;
    }
    return p;
}

/* Keep the undecoded input from p to end for the next call. */
static int
decoder_keep(Decoder *self, const uint8_t *p, const uint8_t *end)
{
    size_t size = (size_t)(end - p);

    if (size == 0) {
        buffer_free(&self->rest);
        return 0;
    }
    if (self->rest != NULL) {
        self->rest->start = self->rest->size - size;
        return 0;
    }
    if (buffer_reserve(&self->rest, size, size) < 0) {
        return -1;
    }
    memcpy(self->rest->data, p, size);
    self->rest->size = size;
    return 0;
}

/* Append input behind what is kept. */
static int
decoder_append(Decoder *self, const uint8_t *p, size_t n)
{
    Buffer *rest = self->rest;

    if (rest->start > 0) {
        rest->size -= rest->start;
        memmove(rest->data, rest->data + rest->start, rest->size);
        rest->start = 0;
    }
    if (buffer_reserve(&self->rest, n, SIZE_MAX) < 0) {
        return -1;
    }
    memcpy(self->rest->data + self->rest->size, p, n);
    self->rest->size += n;
    return 0;
}

/* Decode n bytes of new input; 0, or -1 with an exception set. */
static int
decoder_feed(Decoder *self, const uint8_t *p, size_t n, Batch *batch)
{
    const uint8_t *end;

    if (self->over) {
        return 0;
    }
    if (self->rest == NULL) {
        end = p + n;
        p = decoder_run(self, p, end, batch);
    }
    else if (n == 0 || decoder_append(self, p, n) == 0) {
        end = self->rest->data + self->rest->size;
        p = decoder_run(self, self->rest->data + self->rest->start, end, batch);
    }
    else {
        p = end = NULL;
    }
    if (p != NULL && decoder_keep(self, p, end) == 0) {
        return 0;
    }
    self->over = true;
    decoder_free_buffers(self);
    return PyErr_Occurred() ? -1 : 0;
}

PyDoc_STRVAR(decode_doc,
"decode(buffer, size, max_messages, max_bytes, /)\n--\n\n"
"Take the first size bytes of buffer and return the complete messages.");

static PyObject *
decoder_decode(Decoder *self, PyObject *const *args, Py_ssize_t nargs)
{
    Py_buffer view;
    Py_ssize_t size;
    Batch batch = {0};
    int result;

    if (nargs != 4) {
        return PyErr_Format(
            PyExc_TypeError, "decode() takes 4 arguments, not %zd", nargs);
    }
    size = PyLong_AsSsize_t(args[1]);
    batch.max_messages = PyLong_AsSsize_t(args[2]);
    batch.max_bytes = PyLong_AsSsize_t(args[3]);
    if (PyErr_Occurred() || PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    if (size < 0 || size > view.len || self->busy) {
        PyBuffer_Release(&view);
        return self->busy
            ? PyErr_Format(PyExc_RuntimeError, "decode() is already running")
            : PyErr_Format(PyExc_ValueError, "size is not within the buffer");
    }
    self->busy = true;
    result = decoder_feed(self, view.buf, (size_t)size, &batch);
    self->busy = false;
    self->decoded_bytes = batch.bytes;
    PyBuffer_Release(&view);
    if (result < 0) {
        Py_CLEAR(batch.messages);
        return NULL;
    }
    return batch.messages != NULL ? batch.messages : PyList_New(0);
}

static PyObject *
decoder_get_buffered(Decoder *self, void *Py_UNUSED(closure))
{
    Buffer *rest = self->rest;

    return PyLong_FromSize_t(rest == NULL ? 0 : rest->size - rest->start);
}

static PyObject *
decoder_get_pending(Decoder *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(self->rest != NULL);
}

static int
decoder_init(Decoder *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"max_message", "masked", "inflate", NULL};
    PyObject *max_message, *inflate = NULL;
    int masked = true;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|pO:FrameDecoder", names,
                                     &max_message, &masked, &inflate)) {
        return -1;
    }
    Py_XSETREF(self->inflate, Py_XNewRef(inflate));
    self->masked = masked;
    self->max_message = NO_LIMIT;
    if (max_message != Py_None) {
        self->max_message = PyLong_AsSsize_t(max_message);
        if (PyErr_Occurred()) {
            return -1;
        }
        if (self->max_message < 0) {
            PyErr_SetString(PyExc_ValueError, "max_message must not be negative");
            return -1;
        }
    }
    return 0;
}

static int
decoder_traverse(Decoder *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->controls);
    Py_VISIT(self->error);
    Py_VISIT(self->inflate);
    return 0;
}

static int
decoder_clear(Decoder *self)
{
    Py_CLEAR(self->controls);
    Py_CLEAR(self->error);
    Py_CLEAR(self->inflate);
    return 0;
}

static void
decoder_dealloc(Decoder *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    decoder_clear(self);
    decoder_free_buffers(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef decoder_methods[] = {
    {"decode", (PyCFunction)(void (*)(void))decoder_decode, METH_FASTCALL, decode_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef decoder_members[] = {
    {"controls", T_OBJECT, offsetof(Decoder, controls), 0,
     "None, or a list of (opcode, payload)."},
    {"inflate", T_OBJECT, offsetof(Decoder, inflate), 0,
     "None, or the function that inflates compressed payloads."},
    {"error", T_OBJECT, offsetof(Decoder, error), READONLY,
     "None, or the RemoteProtocolError that ended decoding."},
    {"decoded_bytes", T_PYSSIZET, offsetof(Decoder, decoded_bytes), READONLY,
     "Payload bytes, inflated, of the messages that the last decode() returned."},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef decoder_getset[] = {
    {"buffered", (getter)decoder_get_buffered, NULL,
     "Bytes of input that a limit left undecoded.", NULL},
    {"pending", (getter)decoder_get_pending, NULL,
     "Whether decode(b\"\", 0, ...) has something to go on with.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(decoder_doc,
"FrameDecoder(max_message, masked=True, inflate=None)\n--\n\n"
"Turn bytes into messages and control frames (see PureFrameDecoder).");

static PyType_Slot decoder_slots[] = {
    {Py_tp_doc, (void *)decoder_doc},
    {Py_tp_init, decoder_init},
    {Py_tp_traverse, decoder_traverse},
    {Py_tp_clear, decoder_clear},
    {Py_tp_dealloc, decoder_dealloc},
    {Py_tp_methods, decoder_methods},
    {Py_tp_members, decoder_members},
    {Py_tp_getset, decoder_getset},
    {0, NULL},
};

static PyType_Spec decoder_spec = {
    .name = "greenchannels.wire._speedups.FrameDecoder",
    .basicsize = sizeof(Decoder),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = decoder_slots,
};

/* ---- Encoding ---- */

/* Return an unmasked, final frame with room for n bytes, and where they go. */
static PyObject *
new_frame(uint8_t opcode, size_t n, uint8_t **payload)
{
    size_t extended = n <= 125 ? 0 : n <= UINT16_MAX ? 2 : 8;
    PyObject *frame;
    uint8_t *p;

    if (n > NO_LIMIT - MAX_HEADER) {
        return PyErr_NoMemory();
    }
    frame = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(2 + extended + n));
    if (frame == NULL) {
        return NULL;
    }
    p = (uint8_t *)PyBytes_AS_STRING(frame);
    p[0] = 0x80 | opcode;
    p[1] = extended == 0 ? (uint8_t)n : extended == 2 ? 126 : 127;
    for (size_t i = 0; i < extended; i++) {
        p[2 + i] = (uint8_t)((uint64_t)n >> 8 * (extended - 1 - i));
    }
    *payload = p + 2 + extended;
    return frame;
}

static PyObject *
encode_text(PyObject *text)
{
    PyObject *utf8, *frame;
    uint8_t *payload;
    size_t n;

    if (PyUnicode_IS_ASCII(text)) {
        n = (size_t)PyUnicode_GET_LENGTH(text);
        frame = new_frame(TEXT, n, &payload);
        if (frame != NULL) {
            memcpy(payload, PyUnicode_1BYTE_DATA(text), n);
        }
        return frame;
    }
    /* Not PyUnicode_AsUTF8: that would keep the UTF-8 as long as the str. */
    utf8 = PyUnicode_AsUTF8String(text);
    if (utf8 == NULL) {
        return NULL;
    }
    n = (size_t)PyBytes_GET_SIZE(utf8);
    frame = new_frame(TEXT, n, &payload);
    if (frame != NULL) {
        memcpy(payload, PyBytes_AS_STRING(utf8), n);
    }
    Py_DECREF(utf8);
    return frame;
}

PyDoc_STRVAR(encode_doc,
"encode(data, /)\n--\n\n"
"Return data as one unmasked frame: text for a str, else binary.");

static PyObject *
encode(PyObject *Py_UNUSED(module), PyObject *data)
{
    PyObject *frame;
    Py_buffer view;
    uint8_t *payload;

    if (PyUnicode_Check(data)) {
        return encode_text(data);
    }
    if (!PyBytes_Check(data) && !PyByteArray_Check(data)
        && !PyMemoryView_Check(data)) {
        return PyErr_Format(PyExc_TypeError,
            "a message is str, bytes, bytearray or memoryview, not %s"
            " (send_json() sends what JSON can hold)",
            Py_TYPE(data)->tp_name);
    }
    if (PyObject_GetBuffer(data, &view, PyBUF_FULL_RO) < 0) {
        return NULL;
    }
    frame = new_frame(BINARY, (size_t)view.len, &payload);
    if (frame != NULL && PyBuffer_ToContiguous(payload, &view, view.len, 'C') < 0) {
        Py_CLEAR(frame);
    }
    PyBuffer_Release(&view);
    return frame;
}

PyDoc_STRVAR(apply_mask_doc,
"apply_mask(data, key, /)\n--\n\n"
"Return data with the four bytes of key applied to it.");

static PyObject *
apply_mask(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *result = NULL;
    Py_buffer data, key;

    if (nargs != 2) {
        return PyErr_Format(
            PyExc_TypeError, "apply_mask() takes 2 arguments, not %zd", nargs);
    }
    if (PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    if (PyObject_GetBuffer(args[1], &key, PyBUF_SIMPLE) < 0) {
        PyBuffer_Release(&data);
        return NULL;
    }
    if (key.len != 4) {
        PyErr_Format(PyExc_ValueError, "a key has 4 bytes, not %zd", key.len);
    }
    else {
        result = PyBytes_FromStringAndSize(NULL, data.len);
    }
    if (result != NULL && data.len > 0) {
        mask_into((uint8_t *)PyBytes_AS_STRING(result), data.buf,
                  (size_t)data.len, key.buf);
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&key);
    return result;
}

/* ---- Heads (RFC 9110, section 5; RFC 9112, section 3) ---- */

/* grammar.py has the same in Python. */

/* For each byte: what it is in a field name, 0 if it may not be in one. */
static unsigned char name_bytes[256];

/* For each byte: whether it may be in a value. */
static bool value_bytes[256];

/* For each byte: whether it may be in a request's target. */
static bool target_bytes[256];

static void
fill_tables(void)
{
    for (const char *c = "!#$%&'*+-.^_`|~0123456789"; *c != '\0'; c++) {
        name_bytes[(unsigned char)*c] = (unsigned char)*c;
    }
    for (int c = 'a'; c <= 'z'; c++) {
        name_bytes[c] = (unsigned char)c;
        name_bytes[c - 'a' + 'A'] = (unsigned char)c;
    }
    for (int c = 0; c < 256; c++) {
        value_bytes[c] = c == '\t' || (c >= 0x20 && c != 0x7f && c != 0x85);
        target_bytes[c] = c > 0x20 && c < 0x7f && c != '#';
    }
}

static bool
is_blank(unsigned char byte)
{
    return byte == ' ' || byte == '\t';
}

/* Return a name in lower case as bytes. */
static PyObject *
lower_name(const unsigned char *name, Py_ssize_t size, bool *underscored)
{
    PyObject *result = PyBytes_FromStringAndSize(NULL, size);

    if (result != NULL) {
        unsigned char *lower = (unsigned char *)PyBytes_AS_STRING(result);
        for (Py_ssize_t i = 0; i < size; i++) {
            lower[i] = name_bytes[name[i]];
            *underscored |= name[i] == '_';
        }
    }
    return result;
}

/*
 * Read the field line at *at; return a tuple, or NULL with or without an error.
 * The byte behind a bytes object is 0, which is in no table: scans end there.
 */
static PyObject *
read_field(const unsigned char **at, const unsigned char *end, bool *underscored)
{
    const unsigned char *name = *at, *p = name, *name_end, *value, *value_end;
    PyObject *field, *first, *second;

    while (name_bytes[*p]) {
        p++;
    }
    if (p == name || *p != ':') {
        return NULL;
    }
    name_end = p++;
    while (is_blank(*p)) {
        p++;
    }
    value = p;
    while (value_bytes[*p]) {
        p++;
    }
    if (end - p < 2 || p[0] != '\r' || p[1] != '\n') {
        return NULL;
    }
    *at = p + 2;
    for (value_end = p; value_end > value && is_blank(value_end[-1]);) {
        value_end--;
    }
    first = lower_name(name, name_end - name, underscored);
    second = PyBytes_FromStringAndSize((const char *)value, value_end - value);
    field = first != NULL && second != NULL ? PyTuple_New(2) : NULL;
    if (field == NULL) {
        Py_XDECREF(first);
        Py_XDECREF(second);
        return NULL;
    }
    PyTuple_SET_ITEM(field, 0, first);
    PyTuple_SET_ITEM(field, 1, second);
    return field;
}

/* Add the value of a field to the list of its name. */
static int
add_value(PyObject *fields, PyObject *field)
{
    PyObject *name = PyTuple_GET_ITEM(field, 0), *value = PyTuple_GET_ITEM(field, 1);
    PyObject *values = PyDict_GetItemWithError(fields, name);
    int result;

    if (values != NULL) {
        return PyList_Append(values, value);
    }
    values = PyErr_Occurred() ? NULL : PyList_New(1);
    if (values == NULL) {
        return -1;
    }
    PyList_SET_ITEM(values, 0, Py_NewRef(value));
    result = PyDict_SetItem(fields, name, values);
    Py_DECREF(values);
    return result;
}

/*
 * Return the fields from p to the end of a head as a list, or NULL with or without
 * an error; those in known, unless that is NULL, are added to selected.
 */
static PyObject *
read_field_lines(const unsigned char *p, const unsigned char *end, PyObject *known,
                 PyObject *selected, bool *underscored)
{
    PyObject *fields = PyList_New(0);

    while (fields != NULL && !(end - p == 2 && p[0] == '\r' && p[1] == '\n')) {
        PyObject *field = read_field(&p, end, underscored);
        int found = field != NULL ? PyList_Append(fields, field) : -1;
        if (found == 0 && known != NULL) {
            found = PySet_Contains(known, PyTuple_GET_ITEM(field, 0));
        }
        if (found > 0) {
            found = add_value(selected, field);
        }
        Py_XDECREF(field);
        if (found < 0) {
            Py_CLEAR(fields);
        }
    }
    return fields;
}

static PyObject *
none_unless_error(void)
{
    if (PyErr_Occurred()) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(read_fields_doc,
"read_fields(head, start, /)\n--\n\n"
"Return the fields of a head from start on, or None if it is malformed.");

static PyObject *
read_fields(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *head, *fields;
    Py_ssize_t start;
    const unsigned char *p;
    bool underscored = false;

    if (!PyArg_ParseTuple(args, "O!n:read_fields", &PyBytes_Type, &head, &start)) {
        return NULL;
    }
    if (start < 0 || start > PyBytes_GET_SIZE(head)) {
        PyErr_SetString(PyExc_ValueError, "start is outside of the head");
        return NULL;
    }
    p = (const unsigned char *)PyBytes_AS_STRING(head);
    fields = read_field_lines(
        p + start, p + PyBytes_GET_SIZE(head), NULL, NULL, &underscored);
    return fields != NULL ? fields : none_unless_error();
}

typedef struct {
    const unsigned char *method, *method_end, *target, *target_end;
    bool is_1_1;
} RequestLine;

/* Read the request line at p; return what is behind it, or NULL. */
static const unsigned char *
read_request_line(const unsigned char *p, const unsigned char *end, RequestLine *line)
{
    line->method = p;
    while (name_bytes[*p]) {
        p++;
    }
    line->method_end = p;
    if (p == line->method || *p++ != ' ') {
        return NULL;
    }
    line->target = p;
    while (target_bytes[*p]) {
        p++;
    }
    line->target_end = p;
    if (p == line->target || end - p < 11 || memcmp(p, " HTTP/1.", 8) != 0
        || (p[8] != '0' && p[8] != '1') || p[9] != '\r' || p[10] != '\n') {
        return NULL;
    }
    line->is_1_1 = p[8] == '1';
    return p + 11;
}

/* Return the parts of a head; takes over headers and fields. */
static PyObject *
head_parts(const RequestLine *line, PyObject *headers, PyObject *fields,
           bool underscored)
{
    PyObject *parts[6] = {
        PyUnicode_DecodeASCII((const char *)line->method,
                              line->method_end - line->method, NULL),
        PyBytes_FromStringAndSize((const char *)line->target,
                                  line->target_end - line->target),
        PyBool_FromLong(line->is_1_1),
        headers,
        fields,
        PyBool_FromLong(underscored),
    };
    PyObject *result = parts[0] != NULL && parts[1] != NULL ? PyTuple_New(6) : NULL;

    for (Py_ssize_t i = 0; i < 6; i++) {
        if (result != NULL) {
            PyTuple_SET_ITEM(result, i, parts[i]);
        }
        else {
            Py_XDECREF(parts[i]);
        }
    }
    return result;
}

PyDoc_STRVAR(read_head_doc,
"read_head(head, known, /)\n--\n\n"
"Return the parts of a request's head, or None if it is malformed.");

static PyObject *
read_head(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    const unsigned char *p, *end;
    PyObject *headers, *fields;
    bool underscored = false;
    RequestLine line;

    if (nargs != 2 || !PyBytes_Check(args[0]) || !PyAnySet_Check(args[1])) {
        return PyErr_Format(PyExc_TypeError, "read_head() takes bytes and a set");
    }
    p = (const unsigned char *)PyBytes_AS_STRING(args[0]);
    end = p + PyBytes_GET_SIZE(args[0]);
    p = read_request_line(p, end, &line);
    if (p == NULL) {
        Py_RETURN_NONE;
    }
    fields = PyDict_New();
    headers =
        fields != NULL ? read_field_lines(p, end, args[1], fields, &underscored) : NULL;
    if (headers == NULL) {
        Py_XDECREF(fields);
        return none_unless_error();
    }
    return head_parts(&line, headers, fields, underscored);
}

/* ---- Fields that are sent (response.py has the same in Python) ---- */

/* Return the bytes of a field line, or -1 if it is not a well-formed field. */
static Py_ssize_t
field_size(PyObject *field)
{
    const unsigned char *p;
    Py_ssize_t size;

    if (!PyTuple_CheckExact(field) || PyTuple_GET_SIZE(field) != 2 ||
        !PyBytes_CheckExact(PyTuple_GET_ITEM(field, 0)) ||
        !PyBytes_CheckExact(PyTuple_GET_ITEM(field, 1))) {
        return -1;
    }
    p = (const unsigned char *)PyBytes_AS_STRING(PyTuple_GET_ITEM(field, 0));
    size = PyBytes_GET_SIZE(PyTuple_GET_ITEM(field, 0));
    if (size == 0) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < size; i++) {
        if (name_bytes[p[i]] == 0) {
            return -1;
        }
    }
    p = (const unsigned char *)PyBytes_AS_STRING(PyTuple_GET_ITEM(field, 1));
    size = PyBytes_GET_SIZE(PyTuple_GET_ITEM(field, 1));
    for (Py_ssize_t i = 0; i < size; i++) {
        if ((p[i] < 0x20 && p[i] != '\t') || p[i] == 0x7f) {
            return -1;
        }
    }
    return PyBytes_GET_SIZE(PyTuple_GET_ITEM(field, 0)) + size + 4;
}

static char *
put_bytes(char *to, PyObject *bytes)
{
    memcpy(to, PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes));
    return to + PyBytes_GET_SIZE(bytes);
}

static char *
put_fields(char *to, PyObject *fields)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(fields); i++) {
        PyObject *field = PyList_GET_ITEM(fields, i);
        to = put_bytes(to, PyTuple_GET_ITEM(field, 0));
        *to++ = ':';
        *to++ = ' ';
        to = put_bytes(to, PyTuple_GET_ITEM(field, 1));
        *to++ = '\r';
        *to++ = '\n';
    }
    return to;
}

PyDoc_STRVAR(join_fields_doc,
"join_fields(fields, /)\n--\n\n"
"Return field lines, or None if one would not be well-formed.");

static PyObject *
join_fields(PyObject *Py_UNUSED(module), PyObject *fields)
{
    Py_ssize_t size = 0, each;

    if (!PyList_CheckExact(fields)) {
        return PyErr_Format(PyExc_TypeError, "join_fields() takes a list");
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(fields); i++) {
        each = field_size(PyList_GET_ITEM(fields, i));
        if (each < 0) {
            Py_RETURN_NONE;
        }
        size += each;
    }
    PyObject *result = PyBytes_FromStringAndSize(NULL, size);
    if (result == NULL) {
        return NULL;
    }
    put_fields(PyBytes_AS_STRING(result), fields);
    return result;
}

/* Whether a name is that of a field that says how a message is framed. */
static bool
is_framing(PyObject *name)
{
    static const char *const names[] = {
        "connection", "date", "keep-alive", "transfer-encoding",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(PyBytes_AS_STRING(name), names[i]) == 0) {
            return true;
        }
    }
    return false;
}

PyDoc_STRVAR(join_response_doc,
"join_response(line, fields, date, length, body, /)\n--\n\n"
"Return a whole response, or None if it is not a plain one.");

static PyObject *
join_response(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    char length[48];
    bool has_length = false;
    Py_ssize_t size = 0, each, number;

    if (nargs != 5 || !PyBytes_Check(args[0]) || !PyList_CheckExact(args[1]) ||
        !PyBytes_Check(args[2]) || !PyBytes_Check(args[4])) {
        return PyErr_Format(PyExc_TypeError,
                            "join_response() takes bytes, a list and a number");
    }
    PyObject *line = args[0], *fields = args[1], *date = args[2], *body = args[4];
    number = PyLong_AsSsize_t(args[3]);
    if (number == -1 && PyErr_Occurred()) {
        return NULL;
    }
    int digits = sprintf(length, "content-length: %zd\r\n", number);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(fields); i++) {
        PyObject *field = PyList_GET_ITEM(fields, i);
        each = field_size(field);
        if (each < 0 || is_framing(PyTuple_GET_ITEM(field, 0))) {
            Py_RETURN_NONE;
        }
        if (strcmp(PyBytes_AS_STRING(PyTuple_GET_ITEM(field, 0)), "content-length") ==
            0) {
            PyObject *value = PyTuple_GET_ITEM(field, 1);
            if (has_length || PyBytes_GET_SIZE(value) != digits - 18 ||
                memcmp(PyBytes_AS_STRING(value), length + 16, (size_t)digits - 18)) {
                Py_RETURN_NONE;
            }
            has_length = true;
        }
        size += each;
    }
    if (has_length) {
        digits = 0;
    }
    PyObject *result = PyBytes_FromStringAndSize(
        NULL, PyBytes_GET_SIZE(line) + size + digits + PyBytes_GET_SIZE(date) + 2 +
                  PyBytes_GET_SIZE(body));
    if (result == NULL) {
        return NULL;
    }
    char *to = put_bytes(PyBytes_AS_STRING(result), line);
    to = put_fields(to, fields);
    memcpy(to, length, (size_t)digits);
    to = put_bytes(to + digits, date);
    *to++ = '\r';
    *to++ = '\n';
    put_bytes(to, body);
    return result;
}

/* ---- The module ---- */

static int
module_exec(PyObject *module)
{
    fill_tables();
    State *state = PyModule_GetState(module);
    PyObject *errors = PyImport_ImportModule("greenchannels.errors");
    PyObject *type;
    int result;

    if (errors == NULL) {
        return -1;
    }
    state->remote_protocol_error =
        PyObject_GetAttrString(errors, "RemoteProtocolError");
    Py_DECREF(errors);
    if (state->remote_protocol_error == NULL) {
        return -1;
    }
    type = PyType_FromModuleAndSpec(module, &decoder_spec, NULL);
    if (type == NULL) {
        return -1;
    }
    result = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return result;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    Py_VISIT(((State *)PyModule_GetState(module))->remote_protocol_error);
    return 0;
}

static int
module_clear(PyObject *module)
{
    Py_CLEAR(((State *)PyModule_GetState(module))->remote_protocol_error);
    return 0;
}

static PyMethodDef module_methods[] = {
    {"read_fields", read_fields, METH_VARARGS, read_fields_doc},
    {"read_head", (PyCFunction)(void (*)(void))read_head, METH_FASTCALL,
     read_head_doc},
    {"join_fields", join_fields, METH_O, join_fields_doc},
    {"join_response", (PyCFunction)(void (*)(void))join_response, METH_FASTCALL,
     join_response_doc},
    {"encode", encode, METH_O, encode_doc},
    {"apply_mask", (PyCFunction)(void (*)(void))apply_mask, METH_FASTCALL,
     apply_mask_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "greenchannels.wire._speedups",
    .m_doc = "Frames and heads in C (see greenchannels.wire.frames and grammar).",
    .m_size = sizeof(State),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&module_def);
}
