/*
 * The queue of frames that a transport writes, in C.
 *
 * A broadcast to a thousand members is a thousand times "queue this frame" and
 * a thousand times "send what is queued". Both are done here without a Python
 * frame, without joining strings, and without giving up the GIL for a call that
 * never blocks. outlet.py has the same in Python; both pass the same tests.
 */

#define _GNU_SOURCE /* accept4 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* Frames given to one sendmsg. */
#define MAX_VECTORS 128

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

/* The bytes travel in one segment with what follows at once: a file, or the FIN. */
#ifdef MSG_MORE
#define MORE_FOLLOWS MSG_MORE
#else
#define MORE_FOLLOWS 0
#endif

/* What waits in all outlets of a hub. */
typedef struct {
    PyObject_HEAD
    Py_ssize_t own;
    Py_ssize_t shared;
    Py_ssize_t limit;
    char over;
} Tally;

typedef struct {
    PyObject_HEAD
    PyObject *queue;  /* list of bytes: whole frames, in order */
    PyObject *dirty;  /* list of outlets to be written in this turn */
    Tally *tally;
    Py_ssize_t own;
    Py_ssize_t shared;
    int fd;
    char scheduled;
    char blocked;
    char closing;
    char ended;
    char heard;
    char more;
    char layered;
} Outlet;

typedef struct {
    PyTypeObject *outlet;
    PyTypeObject *tally;
} State;

static struct PyModuleDef module_def;

static PyObject *str_wake_writer, *str_wait_for_kernel, *str_written, *str_fail,
    *str_write_now, *str_overflow;

static int
Tally_init(Tally *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"limit", NULL};
    Py_ssize_t limit;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "n:Tally", names, &limit))
        return -1;
    self->own = self->shared = 0;
    self->limit = limit;
    self->over = 0;
    return 0;
}

static void
Tally_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef Tally_members[] = {
    {"own", T_PYSSIZET, offsetof(Tally, own), 0, NULL},
    {"shared", T_PYSSIZET, offsetof(Tally, shared), 0, NULL},
    {"limit", T_PYSSIZET, offsetof(Tally, limit), 0, NULL},
    {"over", T_BOOL, offsetof(Tally, over), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot Tally_slots[] = {
    {Py_tp_doc, "Tally(limit): what waits in all outlets of a hub."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, Tally_init},
    {Py_tp_dealloc, Tally_dealloc},
    {Py_tp_members, Tally_members},
    {0, NULL},
};

static PyType_Spec Tally_spec = {
    .name = "greenchannels.net._speedups.Tally",
    .basicsize = sizeof(Tally),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = Tally_slots,
};

/* Note that so many bytes of an outlet's own wait. */
static void
set_own(Outlet *self, Py_ssize_t own)
{
    if (self->tally != NULL)
        self->tally->own += own - self->own;
    self->own = own;
}

static int
Outlet_init(Outlet *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"fd", "dirty", "tally", NULL};
    int fd;
    PyObject *dirty, *tally;
    PyObject *module = PyType_GetModuleByDef(Py_TYPE(self), &module_def);

    if (module == NULL)
        return -1;
    State *state = PyModule_GetState(module);
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iO!O!:Outlet", names, &fd,
                                     &PyList_Type, &dirty, state->tally, &tally))
        return -1;
    PyObject *queue = PyList_New(0);
    if (queue == NULL)
        return -1;
    Py_XSETREF(self->queue, queue);
    Py_INCREF(dirty);
    Py_XSETREF(self->dirty, dirty);
    set_own(self, 0);
    Py_INCREF(tally);
    Py_XSETREF(self->tally, (Tally *)tally);
    self->fd = fd;
    self->shared = 0;
    self->scheduled = self->blocked = self->closing = self->ended = self->heard = 0;
    self->more = self->layered = 0;
    return 0;
}

static int
Outlet_traverse(Outlet *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->queue);
    Py_VISIT(self->dirty);
    Py_VISIT(self->tally);
    return 0;
}

static int
Outlet_clear(Outlet *self)
{
    Py_CLEAR(self->queue);
    Py_CLEAR(self->dirty);
    set_own(self, 0);
    Py_CLEAR(self->tally);
    return 0;
}

static void
Outlet_dealloc(Outlet *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Outlet_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* Have write_now called at the end of the hub's turn. */
static int
schedule(Outlet *self)
{
    if (PyList_GET_SIZE(self->dirty) == 0) {
        PyObject *done = PyObject_CallMethodNoArgs((PyObject *)self, str_wake_writer);
        if (done == NULL)
            return -1;
        Py_DECREF(done);
    }
    self->scheduled = 1;
    return PyList_Append(self->dirty, (PyObject *)self);
}

static int
is_ready(Outlet *self, PyObject *frame)
{
    if (self->queue == NULL || self->dirty == NULL || self->tally == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the outlet was not initialized");
        return 0;
    }
    if (!PyBytes_Check(frame)) {
        PyErr_Format(PyExc_TypeError, "a frame is bytes, not %.80s",
                     Py_TYPE(frame)->tp_name);
        return 0;
    }
    return 1;
}

static int
report_overflow(Tally *tally)
{
    PyObject *done = PyObject_CallMethodNoArgs((PyObject *)tally, str_overflow);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static PyObject *
Outlet_push(Outlet *self, PyObject *frame)
{
    if (!is_ready(self, frame))
        return NULL;
    if (self->closing || self->ended)
        return PyLong_FromLong(0);
    if (PyList_Append(self->queue, frame) < 0)
        return NULL;
    Tally *tally = self->tally;
    self->own += PyBytes_GET_SIZE(frame);
    tally->own += PyBytes_GET_SIZE(frame);
    if (tally->own + tally->shared > tally->limit && !tally->over &&
        report_overflow(tally) < 0)
        return NULL;
    if (!self->scheduled && schedule(self) < 0)
        return NULL;
    return PyLong_FromSsize_t(self->own);
}

static PyObject *
Outlet_push_shared(Outlet *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "push_shared takes a frame and a limit");
        return NULL;
    }
    Py_ssize_t limit = PyLong_AsSsize_t(args[1]);
    if (limit == -1 && PyErr_Occurred())
        return NULL;
    if (!is_ready(self, args[0]))
        return NULL;
    if (self->closing || self->ended)
        Py_RETURN_TRUE;
    if (self->own + self->shared > limit)
        Py_RETURN_FALSE;
    if (PyList_Append(self->queue, args[0]) < 0)
        return NULL;
    self->shared += PyBytes_GET_SIZE(args[0]);
    if (!self->scheduled && schedule(self) < 0)
        return NULL;
    Py_RETURN_TRUE;
}

/* Send up to MAX_VECTORS frames; return the bytes taken, or -1 with errno. */
static Py_ssize_t
send_queue(Outlet *self)
{
    struct iovec vectors[MAX_VECTORS];
    struct msghdr message;
    Py_ssize_t count = PyList_GET_SIZE(self->queue), i;
    int flags = MSG_NOSIGNAL | (self->closing || self->more ? MORE_FOLLOWS : 0);

    if (count == 1 && PyBytes_Check(PyList_GET_ITEM(self->queue, 0))) {
        PyObject *frame = PyList_GET_ITEM(self->queue, 0);
        return send(self->fd, PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame),
                    flags);
    }
    if (count > MAX_VECTORS)
        count = MAX_VECTORS;
    for (i = 0; i < count; i++) {
        PyObject *frame = PyList_GET_ITEM(self->queue, i);
        if (!PyBytes_Check(frame)) {
            errno = EINVAL;
            return -1;
        }
        vectors[i].iov_base = PyBytes_AS_STRING(frame);
        vectors[i].iov_len = (size_t)PyBytes_GET_SIZE(frame);
    }
    memset(&message, 0, sizeof message);
    message.msg_iov = vectors;
    message.msg_iovlen = (size_t)count;
    return sendmsg(self->fd, &message, flags);
}

static int
report_failure(Outlet *self)
{
    PyObject *error = NULL, *done = NULL;

    PyErr_SetFromErrno(PyExc_OSError);
#if PY_VERSION_HEX >= 0x030C0000
    error = PyErr_GetRaisedException();
#else
    PyObject *type, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    Py_XDECREF(type);
    Py_XDECREF(trace);
#endif
    if (error == NULL)
        return -1;
    done = PyObject_CallMethodOneArg((PyObject *)self, str_fail, error);
    Py_DECREF(error);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static int
write_outlet(Outlet *self)
{
    PyObject *done;
    Py_ssize_t sent, size;

    if (self->queue == NULL || self->blocked || self->ended ||
        PyList_GET_SIZE(self->queue) == 0)
        return 0;
    sent = send_queue(self);
    if (sent < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            return report_failure(self);
        sent = 0;
    }
    size = self->own + self->shared;
    if (sent < size) {
        PyObject *number = PyLong_FromSsize_t(sent);
        if (number == NULL)
            return -1;
        done = PyObject_CallMethodOneArg((PyObject *)self, str_wait_for_kernel, number);
        Py_DECREF(number);
        Py_XDECREF(done);
        return done == NULL ? -1 : 0;
    }
    set_own(self, 0);
    self->shared = 0;
    if (PyList_SetSlice(self->queue, 0, PyList_GET_SIZE(self->queue), NULL) < 0)
        return -1;
    if (self->closing) {
        done = PyObject_CallMethodNoArgs((PyObject *)self, str_written);
        Py_XDECREF(done);
        return done == NULL ? -1 : 0;
    }
    return 0;
}

static PyObject *
Outlet_write_now(Outlet *self, PyObject *Py_UNUSED(ignored))
{
    if (write_outlet(self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
Outlet_receive_into(Outlet *self, PyObject *buffer)
{
    Py_buffer view;
    Py_ssize_t size;

    if (PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE) < 0)
        return NULL;
    size = recv(self->fd, view.buf, (size_t)view.len, 0);
    PyBuffer_Release(&view);
    if (size < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromSsize_t(size);
}

static PyObject *
Outlet_send_bytes(Outlet *self, PyObject *data)
{
    Py_buffer view;
    Py_ssize_t size;
    int flags = MSG_NOSIGNAL | (self->closing || self->more ? MORE_FOLLOWS : 0);

    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    size = send(self->fd, view.buf, (size_t)view.len, flags);
    PyBuffer_Release(&view);
    if (size < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            return PyErr_SetFromErrno(PyExc_OSError);
        size = 0;
    }
    return PyLong_FromSsize_t(size);
}

static PyMethodDef Outlet_methods[] = {
    {"push", (PyCFunction)Outlet_push, METH_O, "push(frame) -> int"},
    {"push_shared", (PyCFunction)(void (*)(void))Outlet_push_shared, METH_FASTCALL,
     "push_shared(frame, limit) -> bool"},
    {"write_now", (PyCFunction)Outlet_write_now, METH_NOARGS, "write_now()"},
    {"receive_into", (PyCFunction)Outlet_receive_into, METH_O,
     "receive_into(buffer) -> int"},
    {"send_bytes", (PyCFunction)Outlet_send_bytes, METH_O, "send_bytes(data) -> int"},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef Outlet_members[] = {
    {"queue", T_OBJECT_EX, offsetof(Outlet, queue), READONLY, NULL},
    {"shared", T_PYSSIZET, offsetof(Outlet, shared), 0, NULL},
    {"fd", T_INT, offsetof(Outlet, fd), 0, NULL},
    {"scheduled", T_BOOL, offsetof(Outlet, scheduled), 0, NULL},
    {"blocked", T_BOOL, offsetof(Outlet, blocked), 0, NULL},
    {"closing", T_BOOL, offsetof(Outlet, closing), 0, NULL},
    {"ended", T_BOOL, offsetof(Outlet, ended), 0, NULL},
    {"heard", T_BOOL, offsetof(Outlet, heard), 0, NULL},
    {"more", T_BOOL, offsetof(Outlet, more), 0, NULL},
    {"layered", T_BOOL, offsetof(Outlet, layered), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyObject *
Outlet_get_own(Outlet *self, void *Py_UNUSED(closure))
{
    return PyLong_FromSsize_t(self->own);
}

static int
Outlet_set_own(Outlet *self, PyObject *value, void *Py_UNUSED(closure))
{
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "own cannot be deleted");
        return -1;
    }
    Py_ssize_t own = PyLong_AsSsize_t(value);
    if (own == -1 && PyErr_Occurred())
        return -1;
    set_own(self, own);
    return 0;
}

static PyGetSetDef Outlet_getset[] = {
    {"own", (getter)Outlet_get_own, (setter)Outlet_set_own, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot Outlet_slots[] = {
    {Py_tp_doc,
     "Outlet(fd, dirty, tally): the frames that wait to be written to a socket."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, Outlet_init},
    {Py_tp_dealloc, Outlet_dealloc},
    {Py_tp_traverse, Outlet_traverse},
    {Py_tp_clear, Outlet_clear},
    {Py_tp_methods, Outlet_methods},
    {Py_tp_members, Outlet_members},
    {Py_tp_getset, Outlet_getset},
    {0, NULL},
};

static PyType_Spec Outlet_spec = {
    .name = "greenchannels.net._speedups.Outlet",
    .basicsize = sizeof(Outlet),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = Outlet_slots,
};

/* What stands between queue and socket is written in Python. */
static int
call_write_now(PyObject *outlet)
{
    PyObject *done = PyObject_CallMethodNoArgs(outlet, str_write_now);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* write_each(outlets): write each one; those that fail say so themselves. */
static PyObject *
write_each(PyObject *module, PyObject *outlets)
{
    PyTypeObject *type = ((State *)PyModule_GetState(module))->outlet;
    Py_ssize_t i;

    if (!PyList_Check(outlets)) {
        PyErr_SetString(PyExc_TypeError, "write_each takes a list of outlets");
        return NULL;
    }
    for (i = 0; i < PyList_GET_SIZE(outlets); i++) {
        PyObject *each = PyList_GET_ITEM(outlets, i);
        if (!PyObject_TypeCheck(each, type)) {
            PyErr_SetString(PyExc_TypeError, "write_each takes a list of outlets");
            return NULL;
        }
        Py_INCREF(each);
        ((Outlet *)each)->scheduled = 0;
        int result = ((Outlet *)each)->layered ? call_write_now(each)
                                               : write_outlet((Outlet *)each);
        Py_DECREF(each);
        if (result < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}

/*
 * Each new greenlet gets a chunk of memory for its Python frames, by mmap, and
 * gives it back by munmap: with the page faults a third of what starting a
 * greenlet costs. Some chunks are kept here for the next one.
 */

#define FRAME_CHUNK (16 * 1024) /* DATA_STACK_CHUNK_SIZE of CPython */
#define MAX_KEPT 256

#ifndef Py_GIL_DISABLED
static PyObjectArenaAllocator system_allocator;
static void *kept[MAX_KEPT];
static int kept_count, kept_limit;

static void *
allocate_chunk(void *Py_UNUSED(context), size_t size)
{
    if (size == FRAME_CHUNK && kept_count > 0)
        return kept[--kept_count];
    return system_allocator.alloc(system_allocator.ctx, size);
}

static void
free_chunk(void *Py_UNUSED(context), void *chunk, size_t size)
{
    if (size == FRAME_CHUNK && kept_count < kept_limit)
        kept[kept_count++] = chunk;
    else
        system_allocator.free(system_allocator.ctx, chunk, size);
}
#endif

/* keep_frame_chunks(count): keep up to count chunks; for the whole process. */
static PyObject *
keep_frame_chunks(PyObject *Py_UNUSED(module), PyObject *number)
{
    long count = PyLong_AsLong(number);
    if (count == -1 && PyErr_Occurred())
        return NULL;
    if (count < 0 || count > MAX_KEPT) {
        PyErr_Format(PyExc_ValueError, "count is from 0 to %d", MAX_KEPT);
        return NULL;
    }
#ifndef Py_GIL_DISABLED
    PyObjectArenaAllocator ours = {NULL, allocate_chunk, free_chunk}, current;
    PyObject_GetArenaAllocator(&current);
    if (current.alloc != allocate_chunk) {
        system_allocator = current;
        PyObject_SetArenaAllocator(&ours);
    }
    kept_limit = (int)count;
    while (kept_count > kept_limit)
        system_allocator.free(system_allocator.ctx, kept[--kept_count], FRAME_CHUNK);
#endif
    Py_RETURN_NONE;
}

#ifdef __linux__
/* The address of a peer as Python's socket module has it. */
static PyObject *
make_address(struct sockaddr_storage *peer)
{
    char text[INET6_ADDRSTRLEN];

    if (peer->ss_family == AF_INET) {
        struct sockaddr_in *in = (struct sockaddr_in *)peer;
        inet_ntop(AF_INET, &in->sin_addr, text, sizeof text);
        return Py_BuildValue("si", text, ntohs(in->sin_port));
    }
    if (peer->ss_family == AF_INET6) {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)peer;
        inet_ntop(AF_INET6, &in6->sin6_addr, text, sizeof text);
        return Py_BuildValue("siII", text, ntohs(in6->sin6_port),
                             ntohl(in6->sin6_flowinfo), in6->sin6_scope_id);
    }
    return PyUnicode_FromString("");
}

/*
 * accept_connection(fd): return the descriptor and the address of the next
 * connection, non-blocking, or None when there is none.
 */
static PyObject *
accept_connection(PyObject *Py_UNUSED(module), PyObject *number)
{
    struct sockaddr_storage peer;
    socklen_t size = sizeof peer;
    long listening = PyLong_AsLong(number);
    int fd;

    if (listening == -1 && PyErr_Occurred())
        return NULL;
    if (listening < 0 || listening > INT_MAX)
        return PyErr_Format(PyExc_ValueError, "%ld is no descriptor", listening);
    memset(&peer, 0, sizeof peer);
    fd = accept4((int)listening, (struct sockaddr *)&peer, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ||
            errno == ECONNABORTED)
            Py_RETURN_NONE;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    PyObject *address = make_address(&peer);
    PyObject *result = address == NULL ? NULL : Py_BuildValue("iN", fd, address);
    if (result == NULL)
        close(fd);
    return result;
}
#endif

static PyMethodDef functions[] = {
#ifdef __linux__
    {"accept_connection", accept_connection, METH_O, "accept_connection(fd)"},
#endif
    {"keep_frame_chunks", keep_frame_chunks, METH_O, "keep_frame_chunks(count)"},
    {"write_each", write_each, METH_O, "write_each(outlets)"},
    {NULL, NULL, 0, NULL},
};

static int
exec_module(PyObject *module)
{
    State *state = PyModule_GetState(module);

    str_wake_writer = PyUnicode_InternFromString("wake_writer");
    str_wait_for_kernel = PyUnicode_InternFromString("wait_for_kernel");
    str_written = PyUnicode_InternFromString("written");
    str_fail = PyUnicode_InternFromString("fail");
    str_write_now = PyUnicode_InternFromString("write_now");
    str_overflow = PyUnicode_InternFromString("overflow");
    if (!str_wake_writer || !str_wait_for_kernel || !str_written || !str_fail ||
        !str_write_now || !str_overflow)
        return -1;
    state->tally =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &Tally_spec, NULL);
    if (state->tally == NULL || PyModule_AddType(module, state->tally) < 0)
        return -1;
    state->outlet =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &Outlet_spec, NULL);
    if (state->outlet == NULL)
        return -1;
    return PyModule_AddType(module, state->outlet);
}

static int
traverse_module(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
    Py_VISIT(state->outlet);
    Py_VISIT(state->tally);
    return 0;
}

static int
clear_module(PyObject *module)
{
    State *state = PyModule_GetState(module);
    Py_CLEAR(state->outlet);
    Py_CLEAR(state->tally);
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, exec_module},
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "greenchannels.net._speedups",
    .m_doc = "The write queue of transports; outlet.py has the same in Python.",
    .m_size = sizeof(State),
    .m_methods = functions,
    .m_slots = module_slots,
    .m_traverse = traverse_module,
    .m_clear = clear_module,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&module_def);
}
