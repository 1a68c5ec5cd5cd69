"""A Flask site that pushes: forms are Flask's, news come over a socket."""

from flask import Flask, redirect, render_template, request

from greenchannels import EventStream, Group, http, websocket, wsgi

MAX_NOTE, MAX_NOTES = 200, 50

site = Flask(__name__)
notes = []  # the newest last; in a real site, a table of your database


@site.get("/")
def page():
    """Show all notes; this works without JavaScript, too."""
    return render_template("page.html", notes=notes, max_note=MAX_NOTE)


@site.post("/")
def add():
    """Take a note, and show it to everybody who has the page open."""
    text = " ".join(request.form.get("note", "").split())[:MAX_NOTE]
    if text:
        notes.append(text)
        del notes[:-MAX_NOTES]
        Group("notes").send(text)
    return redirect(request.script_root + "/", code=303)


def live(socket):
    """Send each new note to a page."""
    with Group("notes").joined(socket):
        socket.wait()


def feed(request):
    """Send each new note to whoever reads server-sent events: ``curl -N``."""
    return EventStream(Group("notes"))


routing = [
    websocket("/live", live),
    http("/feed", feed),
    wsgi("/", site),
]
